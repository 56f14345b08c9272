/**
 * What time it is for the tables, as far as that can be told.
 *
 * @since 0.1.0
 */
import type { CtTime } from "ctmap-core"
import type { KernelClock } from "ctmap-kernel"
import * as Effect from "effect/Effect"

/** @since 0.1.0 */
export interface Reading {
  readonly source: CtTime.ClockSource
  readonly now: number
}

/**
 * Nothing where the clock cannot be read: entries are told of all the same, without times that are relative to now. The
 * source is asked for after the time, for the clock may be found to be another one with it.
 *
 * @since 0.1.0
 */
export const reading = (clock: KernelClock.KernelClock["Service"]): Effect.Effect<Reading | undefined> =>
  Effect.match(clock.now, {
    onSuccess: (now) => ({ source: clock.source, now }),
    onFailure: () => undefined
  })
