/**
 * What became of signals, counted as they are read and told once per read: to the metric, and in a warning a minute.
 */
import type { Family } from "ctmap-core"
import * as Effect from "effect/Effect"
import * as Metric from "effect/Metric"

/** What can become of a record. */
export type Status =
  | "received"
  | "lost"
  | "too short"
  | "unknown signal"
  | "unregistered"
  | "muted"
  | "channel overflow"
  | "parse error"
  | "error"

/** Cilium's, with its labels: names of signals, families and statuses, so their number is bounded. */
const handled = Metric.counter("cilium_datapath_signals_handled_total", {
  description: "Signals of the datapath by what became of them",
  incremental: true
})

const MINUTE = 60_000

interface Series {
  readonly metric: Metric.Counter<number>
  pending: number
}

interface Warning {
  readonly words: string
  times: number
}

/** New counts, none of them told yet. */
export const make = () => {
  const series = new Map<string, Series>()
  const warnings = new Map<Status, Warning>()
  const warnedAt = new Map<Status, number>()
  const add = (signal: string, data: Family.Family | "", status: Status, count = 1): void => {
    const key = `${signal} ${data} ${status}`
    const known = series.get(key)
    if (known !== undefined) known.pending += count
    else series.set(key, { metric: Metric.withAttributes(handled, { signal, data, status }), pending: count })
  }
  return {
    add,
    /** Counts what should not have come; only the first of its kind since the last warning says what it was. */
    warn: (signal: string, status: Status, words: () => string): void => {
      add(signal, "", status)
      const warning = warnings.get(status)
      if (warning === undefined) warnings.set(status, { words: words(), times: 1 })
      else warning.times += 1
    },
    flush: (now: number): Effect.Effect<void> =>
      Effect.gen(function* () {
        for (const one of series.values()) {
          if (one.pending === 0) continue
          const { pending } = one
          one.pending = 0
          yield* Metric.update(one.metric, pending)
        }
        for (const [status, { words, times }] of warnings) {
          if (now - (warnedAt.get(status) ?? Number.NEGATIVE_INFINITY) < MINUTE) continue
          warnings.delete(status)
          warnedAt.set(status, now)
          yield* Effect.logWarning(`${times} of the datapath's signals could not be used: ${status}`, words)
        }
      })
  }
}
