/**
 * Programs that could not be loaded, so that not every pass asks for them again: the verifier takes up to 60 ms to refuse
 * one. For what can be done without; where a program is demanded, every pass asks.
 */
import type { BpfError } from "ctmap-kernel"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"

export interface Refusals {
  /** Whether the program of this key was refused, and is not to be asked for again yet. */
  readonly stands: (place: string, key: string) => Effect.Effect<boolean>
  /** `place` names what the program is for, of which there is one at a time. */
  readonly note: (place: string, key: string, error: BpfError.BpfError) => Effect.Effect<void>
}

/** What may be otherwise later, as a want of memory, is asked for again after this. */
const AGAIN = Duration.toMillis(Duration.minutes(15))

/** The fd of a pass that is over: nothing is said of the program. */
export const EBADF = 9

/** `does` says what such a program does, in front of the place. */
export const make = (does: string): Refusals => {
  const known = new Map<string, { readonly key: string; readonly until: number }>()
  return {
    stands: (place, key) =>
      Effect.map(Clock.currentTimeMillis, (now) => {
        const refusal = known.get(place)
        return refusal?.key === key && now < refusal.until
      }),
    note: (place, key, error) =>
      Effect.gen(function* () {
        const isFinal = error.reason._tag === "FeatureUnsupported" || error.reason._tag === "NotPermitted"
        const isOfProgram = error.operation === "load program" || error.operation === "run program"
        if (error.errno === EBADF || !(isFinal || isOfProgram)) return
        const isNews = known.get(place)?.key !== key
        known.set(place, { key, until: isFinal ? Number.POSITIVE_INFINITY : (yield* Clock.currentTimeMillis) + AGAIN })
        if (isFinal || !isNews) return
        const meanwhile = "it is done without, which takes longer, and asked for again in 15 minutes"
        yield* Effect.logWarning(`the program that ${does} ${place} cannot be loaded: ${error.message}; ${meanwhile}`)
      })
  }
}
