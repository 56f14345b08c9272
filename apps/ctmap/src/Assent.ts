/**
 * What is asked before entries of live connections go: how many that would be, and whether that is meant.
 *
 * @since 0.1.0
 */
import * as FilterPrinter from "ctmap-core/FilterPrinter"
import type { Filter } from "ctmap-core/Filter"
import * as Effect from "effect/Effect"
import { canAsk, confirm } from "./Confirm.ts"
import * as Output from "./Output.ts"

/** @since 0.1.0 */
export interface Question {
  readonly yes: boolean
  /** Which entries; absent for all of them. */
  readonly filter: Filter | undefined
  /** Of which tables, as `Pairs.describe` says it. */
  readonly whose: string
  /** What becomes of what depends on them, for the end of a sentence. */
  readonly consequence: string
}

/** What a look at the tables found. @since 0.1.0 */
export interface Found {
  readonly seen: number
  readonly wanted: number
}

/**
 * Whether to go on: not where there is nothing to delete.
 *
 * **Details**
 *
 * A person is told how many entries would go, by `look`, and asked; whoever has said yes beforehand is told what is about
 * to happen. Errors: those of `look`; `Refused` where the answer is no, or nobody is there to be asked.
 *
 * @since 0.1.0
 */
export const ask = <E, R>({ consequence, filter, whose, yes }: Question, look: Effect.Effect<Found, E, R>) =>
  Effect.gen(function* () {
    const what = "this cuts live connections"
    const matching = filter === undefined ? undefined : `"${FilterPrinter.print(filter)}"`
    if (yes || !(yield* canAsk)) {
      const which = matching === undefined ? "every entry" : `every entry that matches ${matching}`
      yield* Output.note(`ctmap: deletes ${which} of ${whose}: ${consequence}`)
      yield* confirm({ yes, what, message: "" })
      return true
    }
    const { seen, wanted } = yield* look
    const all = `the ${counted(seen)} of ${whose}`
    if (wanted === 0) {
      const none = matching === undefined ? `${whose}: no entries` : `none of ${all} matches ${matching}`
      yield* Output.note(`ctmap: ${none}: nothing to delete`)
      return false
    }
    yield* Output.note(
      matching === undefined
        ? `ctmap: all of ${all} would go: ${consequence}`
        : `ctmap: ${wanted.toLocaleString("en")} of ${all} match ${matching} and would go: ${consequence}`
    )
    yield* confirm({ yes, what, message: `Delete ${counted(wanted)}?` })
    return true
  })

const counted = (entries: number): string => (entries === 1 ? "1 entry" : `${entries.toLocaleString("en")} entries`)
