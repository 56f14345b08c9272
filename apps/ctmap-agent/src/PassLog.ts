/**
 * Passes in the log that deleted anything, or that a guard or somebody stopped: each once, those that the end of the agent cuts
 * off, too.
 *
 * @since 0.1.0
 */
import { GcPass } from "ctmap-gc"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"

/**
 * **Details**
 *
 * What is interrupted by the end of the collector is recorded when nobody can observe it any more. So `rest` is to be
 * built before the collector, hence is released after it, and writes what is left.
 *
 * @since 0.1.0
 */
export const make = () => {
  /** Serial numbers count up over all pairs, but passes over two pairs can end in another order. */
  const written = new Set<number>()
  let all: Effect.Effect<ReadonlyArray<GcPass.GcPass>> = Effect.succeed([])
  const write = (pass: GcPass.GcPass): Effect.Effect<void> =>
    Effect.suspend(() => {
      if (written.has(pass.serial)) return Effect.void
      written.add(pass.serial)
      if (written.size > REMEMBERED) written.delete([...written][0]!)
      // Nothing to tell but for those who look closely, and they have its record. What is wrong with a pair, rounds say.
      const isDull = pass.completed || pass.stoppedBy === "error"
      return isDull && GcPass.total(pass, "deleted") === 0 ? Effect.void : Effect.logInfo(sentence(pass))
    })
  return {
    write,
    /** Where the last passes can be asked for, also after the end. */
    follow: (lastPasses: typeof all) => Effect.sync(() => void (all = lastPasses)),
    rest: Layer.effectDiscard(
      Effect.addFinalizer(() =>
        Effect.flatMap(
          Effect.suspend(() => all),
          (passes) => Effect.forEach(passes, write)
        )
      )
    )
  }
}

/** As many pairs as there can be with clusters and endpoints, and then some. */
const REMEMBERED = 4096

/** A pass in one line. */
const sentence = (pass: GcPass.GcPass): string => {
  const count = (name: "seen" | "deleted" | "refreshed") => `${GcPass.total(pass, name)} ${name}`
  const what = `pass ${pass.serial} over ${pass.family} ${pass.owner}${pass.dryRun ? ", dry" : ""}`
  const end = pass.completed ? "" : ` is incomplete (${pass.why ?? "it stopped"})`
  return `${what}${end}: ${count("seen")}, ${count("deleted")}, ${count("refreshed")} in ${pass.millis.toFixed(0)} ms`
}
