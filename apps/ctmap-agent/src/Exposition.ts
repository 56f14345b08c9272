/**
 * Metrics as Prometheus reads them. A scrape formats what there is; nothing is measured for it.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as PrometheusMetrics from "effect/observability/PrometheusMetrics"

/** @since 0.1.0 */
export class Exposition extends Context.Service<Exposition, { readonly text: Effect.Effect<string> }>()(
  "ctmap-agent/Exposition"
) {}

/** @since 0.1.0 */
export const layer: Layer.Layer<Exposition> = Layer.effect(
  Exposition,
  Effect.map(Effect.context(), (context) => ({
    text: Effect.provideContext(PrometheusMetrics.format(), context)
  }))
)
