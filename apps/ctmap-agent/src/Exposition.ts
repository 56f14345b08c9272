/**
 * Metrics as Prometheus reads them. A scrape formats what there is; nothing is measured for it.
 *
 * Owns that a scrape of many series does not hold up anybody else: it is made a few hundred series at a time.
 *
 * @since 0.1.0
 */
import * as Arr from "effect/Array"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Metric from "effect/Metric"
import * as PrometheusMetrics from "effect/observability/PrometheusMetrics"

/** @since 0.1.0 */
export class Exposition extends Context.Service<Exposition, { readonly text: Effect.Effect<string> }>()(
  "ctmap-agent/Exposition"
) {}

/** Series that are formatted in one turn: about a millisecond. */
const SERIES = 200

/** @since 0.1.0 */
export const layer: Layer.Layer<Exposition> = Layer.effect(
  Exposition,
  Effect.map(Effect.context(), (context) => ({ text: formatted(context) }))
)

/** The same text as all at once. */
const formatted = Effect.fnUntraced(function* (context: Context.Context<never>) {
  const registry = Context.get(context, Metric.MetricRegistry)
  const families = Arr.groupBy(registry, ([, { id }]) => id)
  const texts: Array<string> = []
  let turn = 0
  for (const series of Object.values(families)) {
    for (let from = 0; from < series.length; from += SERIES) {
      const some = series.slice(from, from + SERIES)
      const part = Context.add(context, Metric.MetricRegistry, new Map(some))
      const text = PrometheusMetrics.formatUnsafe(part)
      // Help and type stand before the first series of a family only.
      texts.push(from === 0 ? text : text.replace(/^(?:#.*\n)+/, ""))
      turn += some.length
      if (turn < SERIES) continue
      turn = 0
      yield* Effect.yieldNow
    }
  }
  return texts.join("")
})
