/**
 * The question itself, on the terminal: loaded when there is somebody to ask, for it brings the platform along.
 *
 * @since 0.1.0
 */
import * as NodeServices from "@effect/platform-node/NodeServices"
import * as Prompt from "effect/cli/Prompt"
import * as Effect from "effect/Effect"

/** Whether the answer was yes; no, where it was a bare Enter. @since 0.1.0 */
export const askTerminal = (message: string) =>
  Prompt.run(Prompt.Confirm({ message })).pipe(Effect.provide(NodeServices.layer))
