/**
 * A question before something is changed that cannot be taken back.
 *
 * @since 0.1.0
 */
import * as NodeServices from "@effect/platform-node/NodeServices"
import * as Prompt from "effect/cli/Prompt"
import * as Effect from "effect/Effect"
import { Refused } from "./Failure.ts"
import { Output } from "./Output.ts"

/** Asks, and goes on if the answer is yes. Errors: `Refused`, with `unasked` where nobody is there. @since 0.1.0 */
export const confirm = (question: { readonly message: string; readonly unasked: string }) =>
  Effect.gen(function* () {
    const { terminals } = yield* Output
    if (!terminals.stdin || !terminals.stdout) return yield* new Refused({ why: question.unasked })
    const agreed = yield* Prompt.run(Prompt.Confirm({ message: question.message })).pipe(
      Effect.provide(NodeServices.layer)
    )
    if (!agreed) return yield* new Refused({ why: "nothing was changed" })
  })
