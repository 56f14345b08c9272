/**
 * One line on the terminal that says how far a long scan is; nothing where nobody looks.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import { Output } from "./Output.ts"

/** @since 0.1.0 */
export interface Progress {
  /** So many entries more of this map. */
  readonly tick: (map: string, entries: number, capacity: number) => Effect.Effect<void>
  /** Wipes the line. */
  readonly end: Effect.Effect<void>
}

const QUIET_MS = 700
const EVERY_MS = 100

/**
 * Progress of a scan whose output does (`mixes`) or does not appear between the lines of progress.
 *
 * @since 0.1.0
 */
export const make = (options: { readonly mixes: boolean }): Effect.Effect<Progress, never, Output> =>
  Effect.map(Output, ({ progress, terminals }) => {
    const visible = terminals.stderr && !(options.mixes && terminals.stdout)
    if (!visible) return { tick: () => Effect.void, end: Effect.void }
    let due = performance.now() + QUIET_MS
    let shown = false
    let current = ""
    let seen = 0
    return {
      tick: (map, entries, capacity) => {
        if (map !== current) [current, seen] = [map, 0]
        seen += entries
        if (performance.now() < due) return Effect.void
        due = performance.now() + EVERY_MS
        shown = true
        return progress(`${map}: ${seen.toLocaleString("en")} entries, room for ${capacity.toLocaleString("en")}`)
      },
      end: Effect.suspend(() => (shown ? progress("") : Effect.void))
    }
  })

/** Runs a pass that reports how many entries of a map it has seen; the line is wiped at its end. @since 0.1.0 */
export const during = <A, E, R>(
  pass: (progress: ((map: string, seen: number) => void) | undefined) => Effect.Effect<A, E, R>
): Effect.Effect<A, E, R | Output> =>
  Effect.flatMap(Output, ({ progress, terminals }) => {
    if (!terminals.stderr) return pass(undefined)
    let due = performance.now() + QUIET_MS
    let shown = false
    const hear = (map: string, seen: number): void => {
      if (performance.now() < due) return
      due = performance.now() + EVERY_MS
      shown = true
      Effect.runFork(progress(`${map}: ${seen.toLocaleString("en")} entries seen`))
    }
    return Effect.ensuring(
      pass(hear),
      Effect.suspend(() => (shown ? progress("") : Effect.void))
    )
  })
