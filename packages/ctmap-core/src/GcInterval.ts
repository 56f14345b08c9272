/**
 * How long to wait until the next pass, from how much the last one deleted.
 *
 * Owns the interval maths of Cilium 1.17 and 1.20, pure: state goes in and comes out. Whoever runs the schedule keeps
 * it. Units are nanoseconds as plain numbers inside (exact far beyond the 12 hours that matter) and `Duration` outside.
 *
 * @see `pkg/maps/ctmap/gc` and `GetInterval` of Cilium
 * @since 0.1.0
 */
import * as Duration from "effect/Duration"

/** The interval before anything is known. @since 0.1.0 */
export const START: Duration.Duration = Duration.minutes(5)
/** No interval is shorter. @since 0.1.0 */
export const MIN: Duration.Duration = Duration.seconds(10)
/** No interval grows beyond. @since 0.1.0 */
export const MAX: Duration.Duration = Duration.hours(12)

/**
 * Limits and rounding of the maths. Cilium 1.20 takes them as parameters; the defaults are those of both releases.
 *
 * @since 0.1.0
 */
export interface Bounds {
  readonly min?: Duration.Duration
  readonly max?: Duration.Duration
  /** Intervals are rounded to a multiple of this, halves up. Default 1 s. */
  readonly rounding?: Duration.Duration
  /**
   * What a pass that deleted nothing does. Cilium keeps the interval for ever (`"keep"`), so an idle node stays at
   * five minutes; `"grow"` treats it as the smallest ratio. Default `"keep"`.
   */
  readonly whenNothingDeleted?: "keep" | "grow"
}

/**
 * The next interval from the last one and the share of a table that was deleted.
 *
 * **Details**
 *
 * Above a quarter, the interval shrinks by the ratio (at most nine tenths); below a twentieth it grows by half;
 * otherwise it stays.
 *
 * **Example** (Shrinking, keeping, growing)
 *
 * ```ts
 * import { GcInterval } from "ctmap-core"
 * import * as Duration from "effect/Duration"
 *
 * const next = (ratio: number) => Duration.toSeconds(GcInterval.calculate(Duration.seconds(60), ratio))
 * next(0.6) // => 24
 * next(0.1) // => 60
 * next(0.01) // => 90
 * ```
 *
 * @since 0.1.0
 */
export const calculate = (previous: Duration.Duration, ratio: number, bounds: Bounds = {}): Duration.Duration => {
  const { min = MIN, max = MAX, rounding = Duration.seconds(1), whenNothingDeleted = "keep" } = bounds
  const ns = nanos(previous)
  if (!(ratio > 0) && whenNothingDeleted === "keep") return previous
  if (ratio > 0.25) return fromNanos(Math.max(round(Math.trunc(ns * (1 - Math.min(ratio, 0.9))), rounding), nanos(min)))
  if (!(ratio >= 0.05)) return fromNanos(Math.min(grown(ns, rounding), nanos(max)))
  return previous
}

/**
 * What a schedule knows when it asks for the next interval.
 *
 * @since 0.1.0
 */
export interface Observation {
  /** Time since the pass before; zero on the first round. */
  readonly actual: Duration.Duration
  /** The largest share of a table that the pass deleted. */
  readonly ratio: number
}

/**
 * What the operator fixed.
 *
 * @since 0.1.0
 */
export interface Overrides {
  /** `conntrack-gc-interval`: always this. */
  readonly interval?: Duration.Duration | undefined
  /** `conntrack-gc-max-interval`: never longer than this. */
  readonly maxInterval?: Duration.Duration | undefined
}

/**
 * Cilium 1.17's `GetInterval`: the interval, and what the next call must be given as `cached`.
 *
 * **Details**
 *
 * A pass that was woken early counts for more: its ratio is scaled by expected over actual time. `cached` keeps the
 * value before it is clipped to the maximum, and is not touched by an override or by a pass that deleted nothing.
 *
 * **Example** (Woken after a quarter of the time)
 *
 * ```ts
 * import { GcInterval } from "ctmap-core"
 * import * as Duration from "effect/Duration"
 *
 * const early = { actual: Duration.seconds(15), ratio: 0.1 }
 * Duration.toSeconds(GcInterval.next117(Duration.seconds(60), early).interval) // => 36
 * Duration.toSeconds(GcInterval.next117(undefined, { ...early, ratio: 0 }).interval) // => 300
 * ```
 *
 * @since 0.1.0
 */
export const next117 = (
  cached: Duration.Duration | undefined,
  observed: Observation,
  overrides: Overrides = {}
): { readonly interval: Duration.Duration; readonly cached: Duration.Duration | undefined } => {
  if (overrides.interval !== undefined) return { interval: overrides.interval, cached }
  const interval = calculate(cached ?? START, adjusted(cached, observed))
  return { interval: clip(interval, overrides.maxInterval), cached: observed.ratio === 0 ? cached : interval }
}

/**
 * Cilium 1.20's `getInterval`: the same maths without a memory, its limits as parameters.
 *
 * @since 0.1.0
 */
export const next120 = (
  expected: Duration.Duration | undefined,
  observed: Observation,
  options: Overrides & Bounds = {}
): Duration.Duration =>
  options.interval !== undefined
    ? options.interval
    : clip(calculate(expected ?? START, adjusted(expected, observed), options), options.maxInterval)

/**
 * What a schedule remembers between rounds.
 *
 * @since 0.1.0
 */
export interface State {
  /** The interval to expect next; `undefined` before the first full pass. */
  readonly expected: Duration.Duration | undefined
  /** When the next pass over everything is due, in milliseconds of the schedule's clock. */
  readonly fullPassDueAt: number
  /** Not before this is a pass over everything tried again: the last one failed. Same clock. */
  readonly retryFullAt: number
}

/** The memory of a schedule that has not run. @since 0.1.0 */
export const initial: State = { expected: undefined, fullPassDueAt: 0, retryFullAt: 0 }

/**
 * What happened in a round.
 *
 * @since 0.1.0
 */
export interface Round extends Observation {
  /** When the round ended, in milliseconds of the schedule's clock. */
  readonly now: number
  /** Every table of the round was collected. */
  readonly success: boolean
  /** The round covered all families, not only those that a signal named. */
  readonly full: boolean
  /** It was the first round. */
  readonly initialScan: boolean
}

/**
 * How long to wait after a round: Cilium 1.20's bookkeeping, with its hot loop closed.
 *
 * **Details**
 *
 * A full and successful pass fixes when the next full pass is due. A partial pass may shorten the wait but never moves
 * that deadline, so signals of one family cannot starve the other: once it has passed, the wait is nothing. Only a full
 * pass that failed (a map that cannot be opened, say) is not tried again before the minimum interval is over, however
 * many partial passes there are meanwhile; Cilium waits for nothing at all there, and spins.
 *
 * **Example** (A partial pass keeps the deadline)
 *
 * ```ts
 * import { GcInterval } from "ctmap-core"
 * import * as Duration from "effect/Duration"
 *
 * const quiet = { actual: Duration.seconds(300), ratio: 0.1, success: true }
 * const full = GcInterval.after(GcInterval.initial, { ...quiet, now: 0, full: true, initialScan: true })
 * Duration.toSeconds(full.wait) // => 300
 * const partial = GcInterval.after(full.state, { ...quiet, now: 100_000, full: false, initialScan: false })
 * Duration.toSeconds(partial.wait) // => 200
 * ```
 *
 * @since 0.1.0
 */
export const after = (
  state: State,
  round: Round,
  options: Overrides & Bounds = {}
): { readonly wait: Duration.Duration; readonly state: State } => {
  const interval = next120(state.expected, round, options)
  if (round.success && round.full) {
    const fullPassDueAt = round.now + Duration.toMillis(interval)
    return { wait: interval, state: { expected: interval, fullPassDueAt, retryFullAt: 0 } }
  }
  if (round.initialScan) return { wait: interval, state }
  const floor = Duration.min(options.min ?? MIN, interval)
  const retryFullAt = round.full ? round.now + Duration.toMillis(floor) : state.retryFullAt
  const remaining = Duration.millis(Math.max(0, Math.max(state.fullPassDueAt, retryFullAt) - round.now))
  return Duration.isLessThan(remaining, interval)
    ? { wait: remaining, state: { ...state, retryFullAt } }
    : { wait: interval, state: { ...state, expected: interval, retryFullAt } }
}

const adjusted = (expected: Duration.Duration | undefined, { actual, ratio }: Observation): number => {
  if (expected === undefined) return ratio
  const actualNs = nanos(actual)
  return actualNs > 0 && actualNs < nanos(expected) ? (ratio * nanos(expected)) / actualNs : ratio
}

const clip = (interval: Duration.Duration, max: Duration.Duration | undefined): Duration.Duration =>
  max === undefined ? interval : Duration.min(interval, max)

const nanos = (duration: Duration.Duration): number => Duration.toMillis(duration) * 1e6

const fromNanos = (ns: number): Duration.Duration => Duration.millis(ns / 1e6)

/** Rounding a short interval can undo its growth, down to nothing: then it takes one step up. */
const grown = (ns: number, rounding: Duration.Duration): number => {
  const rounded = round(Math.trunc(ns * 1.5), rounding)
  return rounded > ns ? rounded : (Math.floor(ns / nanos(rounding)) + 1) * nanos(rounding)
}

const round = (ns: number, rounding: Duration.Duration): number => {
  const step = nanos(rounding)
  return step > 0 ? Math.floor(ns / step + 0.5) * step : ns
}
