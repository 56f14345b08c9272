/**
 * Asking before something is destroyed.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import { Refused } from "./Failure.ts"
import { load } from "./Load.ts"
import * as Output from "./Output.ts"

/** Whether somebody is there to be asked. @since 0.1.0 */
export const canAsk: Effect.Effect<boolean, never, Output.Output> = Effect.map(
  Output.Output,
  ({ terminals }) => terminals.stdin && terminals.stdout
)

/**
 * Asks, unless `yes` has answered. Errors: `Refused` where the answer is no, or nobody is there to be asked.
 *
 * @since 0.1.0
 */
export const confirm = (question: {
  readonly yes: boolean
  /** What is about to happen, for `… and nobody is there to be asked`. */
  readonly what: string
  readonly message: string
}) =>
  Effect.gen(function* () {
    if (question.yes) return
    if (!(yield* canAsk)) {
      return yield* new Refused({ why: `${question.what} and nobody is there to be asked: add --yes` })
    }
    const { askTerminal } = yield* load(() => import("./askTerminal.ts"))
    const agreed = yield* askTerminal(question.message)
    if (!agreed) return yield* new Refused({ why: "nothing was changed" })
  })
