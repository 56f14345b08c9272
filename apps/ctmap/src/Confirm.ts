/**
 * Asking before something is destroyed.
 *
 * @since 0.1.0
 */
import * as NodeServices from "@effect/platform-node/NodeServices"
import * as Prompt from "effect/cli/Prompt"
import * as Effect from "effect/Effect"
import { Refused } from "./Failure.ts"
import * as Output from "./Output.ts"

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
    const { terminals } = yield* Output.Output
    if (!terminals.stdin || !terminals.stdout) {
      return yield* new Refused({ why: `${question.what} and nobody is there to be asked: add --yes` })
    }
    const agreed = yield* Prompt.run(Prompt.Confirm({ message: question.message })).pipe(
      Effect.provide(NodeServices.layer)
    )
    if (!agreed) return yield* new Refused({ why: "nothing was changed" })
  })
