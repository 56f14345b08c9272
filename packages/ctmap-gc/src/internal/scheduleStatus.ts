/** The status of a schedule, from what it knows. */
import { Family, GcInterval } from "ctmap-core"
import * as Duration from "effect/Duration"
import * as Schema from "effect/Schema"
import { Trigger } from "../GcPass.ts"
import * as BackOff from "./scheduleBackOff.ts"
import { type Heard, type Options, perFamily, type State } from "./scheduleState.ts"
import { Why } from "./scheduleWhy.ts"

const Families = Schema.Array(Family.Family)

const RoundStatus = Schema.Struct({
  trigger: Trigger,
  families: Families,
  startedAtMillis: Schema.Number
})

const SignalStatus = Schema.Struct({
  /** Signals that came, ignored ones included. */
  heard: Schema.Int,
  /** Signals that came during a back-off. */
  ignored: Schema.Int,
  /** Passes for signals in a row that freed next to nothing. */
  useless: Schema.Int,
  /** Milliseconds between two passes for signals, as it is now. */
  gapMillis: Schema.Number,
  /** Until then signals are ignored; absent outside a back-off. */
  ignoredUntilMillis: Schema.optionalKey(Schema.Number)
})

export const Status = Schema.Struct({
  /** What decides: how much the last passes deleted, or the estimated share of expired entries. */
  schedule: Schema.Literals(["cilium", "backlog"]),
  families: Families,
  /** The loop runs. */
  active: Schema.Boolean,
  initialScanDone: Schema.Boolean,
  /** The pass that runs now. */
  running: Schema.optionalKey(RoundStatus),
  /** The next pass, if nothing comes before. Absent while a pass runs or the loop does not. */
  next: Schema.optionalKey(
    Schema.Struct({
      atMillis: Schema.Number,
      trigger: Trigger,
      families: Families,
      reason: Why.fields.reason,
      why: Schema.String
    })
  ),
  /** The interval that the schedule expects between two full passes. */
  intervalMillis: Schema.Number,
  last: Schema.optionalKey(
    Schema.Struct({
      ...RoundStatus.fields,
      endedAtMillis: Schema.Number,
      success: Schema.Boolean,
      ratio: Schema.Number,
      deleted: Schema.Int,
      orphansDeleted: Schema.Int,
      /** What kept tables from being collected, a sentence each. */
      problems: Schema.Array(Schema.String)
    })
  ),
  rounds: Schema.Int,
  consecutiveFailures: Schema.Int,
  signals: Schema.Struct({ ipv4: SignalStatus, ipv6: SignalStatus }),
  /** When orphans are looked for next without a signal; absent where never. */
  orphansAtMillis: Schema.optionalKey(Schema.Number),
  /** When the backlog is estimated next; absent where never. */
  estimateAtMillis: Schema.optionalKey(Schema.Number)
})
export type Status = typeof Status.Type

export interface Moment {
  readonly isActive: boolean
  /** What the schedule has not looked at yet. */
  readonly heard: Heard
  /** A time of the schedule's clock; `offset` more is the time of day. */
  readonly now: number
  readonly offset: number
}

export const statusOf = (options: Options, state: State, { heard, isActive, now, offset }: Moment): Status => {
  const { last, running } = state
  const at = (time: number): number => time + offset
  const orphansAt = Math.min(...options.families.map((family) => state.orphansAt[family]))
  return {
    schedule: options.backlogThreshold > 0 ? "backlog" : "cilium",
    families: options.families,
    active: isActive,
    initialScanDone: state.initialScanDone,
    ...(running === undefined
      ? {}
      : {
          running: { trigger: running.trigger, families: running.families, startedAtMillis: at(running.startedAt) }
        }),
    ...(isActive && state.initialScanDone && running === undefined ? { next: nextOf(options, state, at) } : {}),
    intervalMillis: Duration.toMillis(options.interval.interval ?? state.interval.expected ?? GcInterval.START),
    ...(last === undefined
      ? {}
      : {
          last: {
            trigger: last.trigger,
            families: last.families,
            startedAtMillis: at(last.startedAt),
            endedAtMillis: at(last.endedAt),
            success: last.success,
            ratio: last.ratio,
            deleted: last.deleted,
            orphansDeleted: last.orphansDeleted,
            problems: last.problems
          }
        }),
    rounds: state.rounds,
    consecutiveFailures: state.failures,
    signals: perFamily((family) => {
      const backOff = state.signal[family]
      return {
        heard: state.heard[family] + heard.signals[family] + heard.ignored[family],
        ignored: state.ignored[family] + heard.ignored[family],
        useless: backOff.useless,
        gapMillis: backOff.gap,
        ...(BackOff.isBackingOff(backOff, now) ? { ignoredUntilMillis: at(backOff.readyAt) } : {})
      }
    }),
    ...(Number.isFinite(orphansAt) ? { orphansAtMillis: at(orphansAt) } : {}),
    ...(Number.isFinite(state.estimateAt) ? { estimateAtMillis: at(state.estimateAt) } : {})
  }
}

/** The full pass, unless signals that wait come first. */
const nextOf = (options: Options, state: State, at: (time: number) => number): NonNullable<Status["next"]> => {
  const held = options.families.filter((family) => state.pending[family] > 0)
  const readyAt = Math.min(...held.map((family) => state.signal[family].readyAt))
  if (readyAt >= state.fullAt) {
    const { reason, text } = state.why
    return { atMillis: at(state.fullAt), trigger: "interval", families: options.families, reason, why: text }
  }
  return {
    atMillis: at(readyAt),
    trigger: "signal",
    families: held.filter((family) => state.signal[family].readyAt === readyAt),
    reason: "signal-gap",
    why: "signals wait for the gap after the last pass for signals"
  }
}
