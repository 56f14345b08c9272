/**
 * How fast a pass may go: a share of one core, kept by sleeping between batches.
 *
 * Owns the arithmetic and the sleeping. Work is what passes between two calls on the monotonic clock, so time that other
 * fibers used in between counts as ours: a busy process collects more slowly, never faster than it was allowed to.
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"

/** A share of one core: above 0, up to 1. @since 0.1.0 */
export const Budget = Schema.Finite.check(
  Schema.makeFilter(
    (share: number) => (share > 0 && share <= 1) || "a CPU budget is a share of one core, above 0 and up to 1"
  )
)

/**
 * The pace of one pass.
 *
 * @since 0.1.0
 */
export interface Pace {
  /** Called after a piece of work: sleeps as long as the budget asks for. Interruptible. */
  readonly rest: Effect.Effect<void>
}

/** Sleeps shorter than this are saved up: a timer is no more exact. */
const SHORTEST_MILLIS = 1

/** So much of a sleep that was too long may be worked off without another. */
const MOST_CREDIT_MILLIS = 20

/**
 * How long to sleep after so much work, in the same unit.
 *
 * **Example** (A quarter of a core)
 *
 * ```ts
 * import { Pace } from "ctmap-gc"
 *
 * Pace.owed(10, 0.25) // => 30
 * Pace.owed(10, 1) // => 0
 * ```
 *
 * @since 0.1.0
 */
export const owed = (worked: number, budget: number): number => worked * (1 / budget - 1)

/**
 * A pace that begins now. With a budget of 1 it only lets others run.
 *
 * @since 0.1.0
 */
export const make = (budget: number): Effect.Effect<Pace> =>
  budget >= 1
    ? Effect.succeed({ rest: Effect.yieldNow })
    : Effect.map(Clock.monotonicTimeNanos, (started) => {
        let since = started
        let debt = 0
        return {
          rest: Effect.gen(function* () {
            const now = yield* Clock.monotonicTimeNanos
            debt += owed(Number(now - since) / 1e6, budget)
            since = now
            if (debt < SHORTEST_MILLIS) return yield* Effect.yieldNow
            yield* Effect.sleep(Duration.millis(debt))
            since = yield* Clock.monotonicTimeNanos
            // A timer that was late has slept for later work too.
            debt = Math.max(-MOST_CREDIT_MILLIS, debt - Number(since - now) / 1e6)
          })
        }
      })
