/**
 * The last passes over NAT maps: those of the schedule, and those that somebody asked for.
 *
 * @since 0.1.0
 */
import type { GcRunner, NatPass } from "ctmap-gc"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"

/** As many as of passes over CT maps. */
const KEPT = 128

/** @since 0.1.0 */
export class NatPasses extends Context.Service<
  NatPasses,
  {
    readonly note: (pass: NatPass.NatPass) => void
    /** Newest last. */
    readonly latest: Effect.Effect<ReadonlyArray<NatPass.NatPass>>
  }
>()("ctmap-agent/NatPasses") {}

/** @since 0.1.0 */
export const layer: Layer.Layer<NatPasses> = Layer.sync(NatPasses, () => {
  const kept: Array<NatPass.NatPass> = []
  return NatPasses.of({
    note: (pass) => {
      kept.push(pass)
      if (kept.length > KEPT) kept.shift()
    },
    latest: Effect.sync(() => [...kept])
  })
})

/** Passes of a purge that ended; nothing of pairs without a NAT map, or that failed. @since 0.1.0 */
export const passesOf = ({ pairs }: GcRunner.RanNat): ReadonlyArray<NatPass.NatPass> =>
  pairs.flatMap(({ exit }) => (Exit.isSuccess(exit) && exit.value !== undefined ? [exit.value] : []))
