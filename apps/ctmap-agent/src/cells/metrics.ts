/**
 * Metrics for Prometheus: of the collector, the tables, the cells, and of the process itself.
 *
 * @since 0.1.0
 */
import { Cell, Health, Job } from "ctmap-cell"
import * as Effect from "effect/Effect"
import * as HttpRouter from "effect/http/HttpRouter"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as Listener from "../api/Listener.ts"
import * as Routes from "../api/Routes.ts"
import * as Exposition from "../Exposition.ts"
import * as ProcessMetrics from "../ProcessMetrics.ts"

const config = Schema.Struct({
  prometheusServeAddr: Schema.optionalKey(
    Schema.String.check(
      Schema.makeFilter((text: string) =>
        Listener.parseHostPort(text, "::") === undefined
          ? "Expected HOST:PORT, or :PORT for all addresses, such as 127.0.0.1:9962"
          : undefined
      )
    ).annotate({ description: "serve /metrics, and nothing else, on HOST:PORT; :PORT is every address of the host" })
  )
})

/** @since 0.1.0 */
export const cell = Cell.make("metrics", {
  description: "metrics in the text format of Prometheus, under Cilium's names and ours",
  config,
  provides: [Exposition.Exposition],
  layer: ({ prometheusServeAddr: at }) => {
    const sampled = Layer.effectDiscard(
      Effect.gen(function* () {
        const sample = yield* ProcessMetrics.make
        yield* Job.timer("process", sample, { every: "10 seconds", immediately: true })
      })
    )
    const listen = at === undefined ? undefined : Listener.parseHostPort(at, "::")
    const served =
      listen === undefined
        ? Layer.empty
        : Layer.effectDiscard(Health.ok(`serves /metrics on ${at}`)).pipe(
            Layer.provide(
              HttpRouter.serve(Routes.layerMetrics, Routes.options).pipe(Layer.provide(Listener.layerTcp(listen)))
            )
          )
    return Layer.merge(served, sampled).pipe(Layer.provideMerge(Exposition.layer))
  }
})
