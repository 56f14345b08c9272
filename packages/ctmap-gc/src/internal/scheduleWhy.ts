/** Why the next full pass is when it is: a word for programs, a sentence for people. */
import { GcInterval } from "ctmap-core"
import * as Duration from "effect/Duration"
import * as Schema from "effect/Schema"
import { format } from "./durationText.ts"

export const Why = Schema.Struct({
  reason: Schema.Literals([
    "initial-scan",
    "start",
    "fixed",
    "capped",
    "shrunk",
    "kept",
    "grown",
    "early",
    "deadline",
    "retry",
    "signal-gap",
    "reconfigured"
  ]),
  text: Schema.String
})
export type Why = typeof Why.Type

export interface Facts {
  readonly before: GcInterval.State
  readonly wait: Duration.Duration
  readonly ratio: number
  readonly full: boolean
  readonly success: boolean
  readonly initialScan: boolean
  /** What caused the round, where it found out nothing about the interval. */
  readonly neutral: string | undefined
  readonly options: GcInterval.Overrides & GcInterval.Bounds
  readonly now: number
}

export const why = (facts: Facts): Why => {
  const { before, full, options, success, wait } = facts
  const inTime = format(wait)
  if (!success && facts.initialScan)
    return { reason: "retry", text: `the initial scan failed; it is tried again after ${inTime}` }
  if (!success && full) return { reason: "retry", text: `the last full pass failed; it is tried again after ${inTime}` }
  if (!full && before.fullPassDueAt - facts.now <= Duration.toMillis(wait)) {
    return before.fullPassDueAt > facts.now
      ? { reason: "deadline", text: `a full pass is due in ${inTime}, whatever passes over one family do meanwhile` }
      : { reason: "retry", text: `a full pass is overdue and begins after ${inTime}` }
  }
  if (options.interval !== undefined) return { reason: "fixed", text: `conntrack-gc-interval fixes it at ${inTime}` }
  if (facts.neutral !== undefined)
    return { reason: "kept", text: `${facts.neutral} caused the last pass; the interval stays at ${inTime}` }
  const share = `${Number((facts.ratio * 100).toFixed(2))} % of a table`
  if (!full)
    return { reason: "early", text: `a pass over one family deleted ${share}, so all are collected after ${inTime}` }
  if (options.maxInterval !== undefined && Duration.equals(wait, options.maxInterval))
    return { reason: "capped", text: `conntrack-gc-max-interval caps it at ${inTime}` }
  const expected = before.expected ?? GcInterval.START
  if (Duration.isLessThan(wait, expected))
    return { reason: "shrunk", text: `the last pass deleted ${share}: down to ${inTime}` }
  if (Duration.isGreaterThan(wait, expected))
    return { reason: "grown", text: `the last pass deleted ${share}: up to ${inTime}` }
  return before.expected === undefined
    ? { reason: "start", text: `the first pass deleted ${share}; the first interval is ${inTime}` }
    : { reason: "kept", text: `the last pass deleted ${share}: it stays at ${inTime}` }
}

export const whyReconfigured = (interval: Duration.Duration): Why => ({
  reason: "reconfigured",
  text: `the settings changed: the interval is ${format(interval)} now`
})
