/**
 * Work on several maps, of which some may fail.
 *
 * @since 0.1.0
 */
import * as Remedy from "ctmap-kernel/Remedy"
import * as Effect from "effect/Effect"
import { codeOf, exit } from "./Failure.ts"
import * as Output from "./Output.ts"

/**
 * Does something with each of `items`, whatever becomes of the others.
 *
 * **Details**
 *
 * Answers how it ended: an effect that fails with what went wrong, and that the caller runs once everything has been
 * reported. Of several errors that is a refusal if there was one, so that it decides the exit code; the others become
 * remarks right before, each sentence once. An interruption ends it at once.
 *
 * @since 0.1.0
 */
export const collect = <T, A, E, R>(
  items: ReadonlyArray<T>,
  use: (item: T) => Effect.Effect<A, E, R>
): Effect.Effect<Effect.Effect<void, E, Output.Output>, never, R> =>
  Effect.gen(function* () {
    const errors: Array<E> = []
    for (const item of items) {
      yield* Effect.matchEffect(use(item), {
        onSuccess: () => Effect.void,
        onFailure: (error) => Effect.sync(() => errors.push(error))
      })
    }
    const worst = errors.find((error) => codeOf(error) === exit.refused) ?? errors[0]
    if (worst === undefined) return Effect.void
    const others = new Set(errors.map(sentence))
    others.delete(sentence(worst))
    return Effect.andThen(
      Effect.forEach(others, (other) => Output.note(`ctmap: ${other}`), { discard: true }),
      Effect.fail(worst)
    )
  })

const sentence = (error: unknown): string => Remedy.sentence(error, "command")
