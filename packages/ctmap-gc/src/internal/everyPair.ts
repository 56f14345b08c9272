/** Something done with one pair after the other, whatever becomes of each. */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import { type CtMapSources, nameOf, type OpenError, type PairSource, warn } from "../CtMapSources.ts"
import type { Choice, Ran } from "../GcRunner.ts"

export const everyPair = (list: CtMapSources["Service"]["list"]) => {
  /** What was said of sources that cannot tell. */
  let said: ReadonlySet<string> = new Set()
  return <A, E>(
    choose: Choice,
    use: (source: PairSource) => Effect.Effect<A, E>,
    deletedOf: (result: A) => number
  ): Effect.Effect<Ran<A, E>, OpenError> =>
    Effect.gen(function* () {
      const ran: Array<Ran<A, E>["pairs"][number]> = []
      const { pairs, refusals } = yield* list
      yield* warn(refusals.filter(({ message }) => !said.has(message)))
      said = new Set(refusals.map(({ message }) => message))
      for (const source of pairs.filter(choose)) {
        const exit = yield* Effect.exit(use(source))
        ran.push({ pair: nameOf(source), source, exit })
      }
      const deleted = ran.reduce((sum, { exit }) => sum + (Exit.isSuccess(exit) ? deletedOf(exit.value) : 0), 0)
      return { pairs: ran, deleted, ...(refusals.length === 0 ? {} : { unlisted: refusals }) }
    })
}
