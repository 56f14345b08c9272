/** The decisions of the schedule: what is known and what has happened make what is known now and what to do next. */
import { type Family, GcInterval } from "ctmap-core"
import * as Duration from "effect/Duration"
import type { Trigger } from "../GcPass.ts"
import * as BackOff from "./scheduleBackOff.ts"
import {
  type Action,
  type Event,
  type Families,
  type Heard,
  type Options,
  type Outcome,
  perFamily,
  type Round,
  type State
} from "./scheduleState.ts"
import { type Why, why } from "./scheduleWhy.ts"

export const step = (
  options: Options,
  before: State,
  event: Event
): { readonly state: State; readonly action: Action } => {
  const { heard, now, result } = event
  const happened =
    result === undefined
      ? before
      : result._tag === "Round"
        ? roundEnded(options, before, now, result.outcome)
        : result._tag === "Purged"
          ? orphansPurged(options, before, now, result.families)
          : estimated(options, before, now, result.shares)
  return decide(options, hear(options, happened, now, heard), now)
}

/** A signal during a back-off is counted and no more; others wait for the next pass that may be. */
const hear = (options: Options, state: State, now: number, { ignored, requested, signals }: Heard): State => {
  const isDeaf = perFamily(
    (family) => !options.families.includes(family) || BackOff.isBackingOff(state.signal[family], now)
  )
  return {
    ...state,
    heard: perFamily((family) => state.heard[family] + signals[family] + ignored[family]),
    ignored: perFamily((family) => state.ignored[family] + ignored[family] + (isDeaf[family] ? signals[family] : 0)),
    pending: perFamily((family) => state.pending[family] + (isDeaf[family] ? 0 : signals[family])),
    requested: options.families.filter((family) => state.requested.includes(family) || requested.includes(family))
  }
}

const decide = (options: Options, state: State, now: number): { readonly state: State; readonly action: Action } => {
  const begin = (trigger: Trigger, families: Families) => begun(state, now, trigger, families)
  const { families } = options
  if (!state.initialScanDone) return begin("initial", families)
  if (now >= state.fullAt) return begin("interval", families)
  const added = families.filter((family) => state.startedAt[family] === undefined)
  if (added.length > 0) return begin("initial", added)
  if (state.requested.length > 0) return begin("request", state.requested)
  const ready = families.filter((family) => state.pending[family] > 0 && now >= state.signal[family].readyAt)
  if (ready.length > 0) return begin("signal", ready)
  if (state.over.length > 0) return begin("backlog", state.over)
  const orphaned = families.filter((family) => now >= state.orphansAt[family])
  if (orphaned.length > 0) return { state, action: { _tag: "Purge", families: orphaned } }
  if (now >= state.estimateAt) return { state, action: { _tag: "Estimate" } }
  return { state, action: wait(options, state, now) }
}

const wait = ({ families }: Options, state: State, now: number): Action => {
  const ignoring = families.filter((family) => BackOff.isBackingOff(state.signal[family], now))
  const holding = families.filter((family) => state.pending[family] > 0)
  return {
    _tag: "Wait",
    until: Math.min(
      state.fullAt,
      state.estimateAt,
      ...families.map((family) => state.orphansAt[family]),
      ...[...ignoring, ...holding].map((family) => state.signal[family].readyAt)
    ),
    ignoring,
    holding
  }
}

/** A round serves whatever was asked of its families, signals included. */
const begun = (before: State, now: number, trigger: Trigger, families: Families) => {
  const without = (others: Families) => others.filter((family) => !families.includes(family))
  const starts = families.map((family) => before.startedAt[family] ?? now)
  const round: Round = {
    trigger,
    families,
    orphans: trigger === "initial" ? [] : families.filter((family) => before.pending[family] > 0),
    startedAt: now,
    since: now - Math.min(...starts)
  }
  const state: State = {
    ...before,
    running: round,
    startedAt: perFamily((family) => (families.includes(family) ? now : before.startedAt[family])),
    pending: perFamily((family) => (round.orphans.includes(family) ? 0 : before.pending[family])),
    requested: without(before.requested),
    over: without(before.over)
  }
  return { state, action: { _tag: "Round", round } } as const
}

/** What a pass says about the interval that the backlog caused, or a family that was added: that it may stay as it is. */
const NEUTRAL = { actual: Duration.zero, ratio: 0.1 }

const roundEnded = (options: Options, before: State, now: number, outcome: Outcome): State => {
  const round = before.running
  if (round === undefined) return before
  const { families, orphans, trigger } = round
  const full = options.families.every((family) => families.includes(family))
  const initialScan = !before.initialScanDone
  const isAdded = trigger === "initial" && !initialScan
  const neutral = isAdded ? "a family that was added" : trigger === "backlog" ? "the backlog" : undefined
  const observed = neutral !== undefined ? NEUTRAL : { actual: Duration.millis(round.since), ratio: outcome.ratio }
  const about = { ...observed, now, full, initialScan, success: outcome.success }
  const failedFull = full ? (outcome.success ? 0 : before.failedFull + 1) : before.failedFull
  const next =
    full && !outcome.success
      ? retry(options, before.interval, now, failedFull)
      : GcInterval.after(before.interval, about, options.interval)
  const facts = { ...about, before: before.interval, wait: next.wait, neutral, options: options.interval }
  const useful = perFamily((family) => isUseful(options, outcome, family))
  const backOff = (gaps: BackOff.Gaps, of: State["signal"], asked: Families) =>
    perFamily((family) =>
      asked.includes(family)
        ? BackOff.asked(of[family], gaps, now, useful[family])
        : families.includes(family)
          ? BackOff.unasked(of[family], gaps, now, useful[family])
          : of[family]
    )
  const fullAt = now + Math.ceil(Duration.toMillis(next.wait))
  const isRetried = isAdded && !full && !outcome.success
  const state: State = {
    ...before,
    running: undefined,
    initialScanDone: true,
    interval: next.state,
    fullAt: isRetried ? Math.min(fullAt, now + Duration.toMillis(options.interval.min ?? GcInterval.MIN)) : fullAt,
    why: isRetried ? RETRIED : why(facts),
    fullEndedAt: full && outcome.success ? now : before.fullEndedAt,
    signal: backOff(options.signalGaps, before.signal, orphans),
    backlog: backOff(options.backlogGaps, before.backlog, trigger === "backlog" ? families : []),
    estimateAt: initialScan && options.backlogThreshold > 0 ? now + options.backlogEvery : before.estimateAt,
    rounds: before.rounds + 1,
    failures: outcome.success ? 0 : before.failures + 1,
    failedFull,
    last: {
      ...round,
      success: outcome.success,
      ratio: outcome.ratio,
      deleted: outcome.deleted,
      seen: outcome.seen,
      problems: outcome.problems,
      endedAt: now,
      orphansDeleted: Object.values(outcome.orphansOf).reduce((sum, count) => sum + count, 0)
    }
  }
  return orphansPurged(options, state, now, trigger === "initial" ? families : orphans)
}

const RETRIED: Why = { reason: "retry", text: "the first pass over a family that was added failed; all are tried soon" }

/**
 * A full pass that failed is tried again after the minimum, then twice that, and so on up to the interval: a family
 * without maps must not have the other one collected at full speed for ever.
 */
const retry = ({ interval: options }: Options, before: GcInterval.State, now: number, failedFull: number) => {
  const interval = Duration.toMillis(GcInterval.next120(before.expected, NEUTRAL, options))
  const min = Math.min(Duration.toMillis(options.min ?? GcInterval.MIN), interval)
  const retryFullAt = now + Math.min(min * 2 ** (failedFull - 1), interval)
  const millis = Math.min(interval, Math.max(before.fullPassDueAt, retryFullAt) - now)
  return { wait: Duration.millis(millis), state: { ...before, retryFullAt } }
}

/** Whether a pass was worth it: it succeeded, and freed more than next to nothing of what it has seen of the family. */
const isUseful = ({ minYield }: Options, outcome: Outcome, family: Family.Family): boolean => {
  const freed = (outcome.deletedOf[family] ?? outcome.deleted) + (outcome.orphansOf[family] ?? 0)
  const seen = outcome.seenOf[family] ?? outcome.seen ?? 0
  return outcome.success && freed > 0 && (seen === 0 || freed / seen >= minYield)
}

const orphansPurged = ({ orphansEvery }: Options, state: State, now: number, families: Families): State => ({
  ...state,
  orphansAt: perFamily((family) =>
    !families.includes(family)
      ? state.orphansAt[family]
      : orphansEvery > 0
        ? now + orphansEvery
        : Number.POSITIVE_INFINITY
  )
})

const estimated = (
  options: Options,
  state: State,
  now: number,
  shares: Partial<Record<Family.Family, number>>
): State => ({
  ...state,
  over: options.families.filter(
    (family) => (shares[family] ?? 0) >= options.backlogThreshold && now >= state.backlog[family].readyAt
  ),
  estimateAt: now + options.backlogEvery
})
