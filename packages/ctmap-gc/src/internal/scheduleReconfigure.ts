/** Other settings in the middle of a schedule: what is known stays, what is due moves. */
import { GcInterval } from "ctmap-core"
import * as Duration from "effect/Duration"
import * as BackOff from "./scheduleBackOff.ts"
import { type Options, perFamily, type State } from "./scheduleState.ts"
import { whyReconfigured } from "./scheduleWhy.ts"

/**
 * The state under `after` of a schedule that went by `before`. Times that follow from an interval are counted anew from
 * where it began, so a shorter one can be over at once. A round that runs is not touched.
 */
export const reconfigured = (before: Options, after: Options, state: State, now: number): State => {
  const kept = (family: keyof State["startedAt"]): boolean =>
    before.families.includes(family) && after.families.includes(family)
  const only = (families: State["requested"]) => families.filter((family) => after.families.includes(family))
  return {
    ...(isSameInterval(before, after) ? state : anotherInterval(after, state, now)),
    // A family that is added has never been collected: its first pass is an initial one.
    startedAt: perFamily((family) => (kept(family) ? state.startedAt[family] : undefined)),
    pending: perFamily((family) => (after.families.includes(family) ? state.pending[family] : 0)),
    requested: only(state.requested),
    over: after.backlogThreshold > 0 ? only(state.over) : [],
    signal: perFamily((family) => BackOff.under(state.signal[family], after.signalGaps, now)),
    backlog: perFamily((family) => BackOff.under(state.backlog[family], after.backlogGaps, now)),
    orphansAt: perFamily((family) =>
      kept(family)
        ? moved(state.orphansAt[family], before.orphansEvery, after.orphansEvery, state, now)
        : Number.POSITIVE_INFINITY
    ),
    estimateAt: moved(state.estimateAt, estimatedEvery(before), estimatedEvery(after), state, now)
  }
}

const estimatedEvery = ({ backlogEvery, backlogThreshold }: Options): number =>
  backlogThreshold > 0 ? backlogEvery : 0

/** When something is due that was due `at`, once every `was` milliseconds, and is to be every `is`; 0 is never. */
const moved = (at: number, was: number, is: number, { initialScanDone }: State, now: number): number => {
  if (was === is || !initialScanDone) return at
  if (is === 0) return Number.POSITIVE_INFINITY
  return Number.isFinite(at) ? at - was + is : now + is
}

const isSameInterval = ({ interval: a }: Options, { interval: b }: Options): boolean =>
  (["interval", "maxInterval"] as const).every((name) => millis(a[name]) === millis(b[name]))

const millis = (duration: Duration.Duration | undefined): number | undefined =>
  duration === undefined ? undefined : Duration.toMillis(duration)

const anotherInterval = ({ interval: options }: Options, state: State, now: number): State => {
  const { fullEndedAt, interval: before, last } = state
  // Nothing has been collected: the initial scan is next, whatever the interval.
  if (last === undefined) return state
  const grown = before.expected ?? GcInterval.START
  const capped = options.maxInterval === undefined ? grown : Duration.min(grown, options.maxInterval)
  const expected = options.interval ?? capped
  const length = Math.ceil(Duration.toMillis(expected))
  const fullPassDueAt = fullEndedAt === undefined ? before.fullPassDueAt : fullEndedAt + length
  // What a pass over one family has brought forward stays so, unless the interval is fixed; so does a retry.
  const isEarly = state.failedFull > 0 || (options.interval === undefined && state.fullAt < before.fullPassDueAt)
  const dueAt = fullEndedAt === undefined ? last.endedAt + length : fullPassDueAt
  return {
    ...state,
    interval: { ...before, expected, fullPassDueAt },
    fullAt: Math.max(now, isEarly ? Math.min(state.fullAt, dueAt) : dueAt),
    why: whyReconfigured(expected)
  }
}
