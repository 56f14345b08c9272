/** The command line on the descriptors of this process. @since 0.1.0 */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Environment from "./Environment.ts"
import { exit } from "./Failure.ts"
import { main } from "./Main.ts"
import * as Output from "./Output.ts"

main(process.argv.slice(2)).pipe(
  Effect.map((code) => {
    process.exitCode = code
  }),
  Effect.provide(Output.layer),
  Effect.provideContext(Environment.unused),
  // The code stands already, and what there was to say has been said.
  NodeRuntime.runMain({
    disableErrorReporting: true,
    teardown: (outcome, onExit) =>
      onExit(
        Number(
          process.exitCode ??
            (Exit.isFailure(outcome) && Cause.hasInterruptsOnly(outcome.cause) ? exit.interrupted : exit.failed)
        )
      )
  })
)
