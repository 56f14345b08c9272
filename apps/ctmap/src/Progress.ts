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

/** A scan that is over sooner shows nothing. @since 0.1.0 */
export const QUIET_MS = 700
/** @since 0.1.0 */
export const EVERY_MS = 100

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
