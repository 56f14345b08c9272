/**
 * The command line on the descriptors of this process: its exit code, and its end when a signal comes.
 *
 * @since 0.1.0
 */
import { writeSync } from "node:fs"
import { constants } from "node:os"
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Environment from "./Environment.ts"
import { exit } from "./Failure.ts"
import { main } from "./Main.ts"
import * as Output from "./Output.ts"

/** Which signal asked for the end. */
let signal: "SIGINT" | "SIGTERM" | undefined
for (const name of ["SIGINT", "SIGTERM"] as const) process.on(name, () => (signal ??= name))

main(process.argv.slice(2)).pipe(
  Effect.map((code) => {
    process.exitCode = code
  }),
  Effect.provide(Output.layer),
  Effect.provideContext(Environment.unused),
  // `main` never fails: the code stands, and what there was to say has been said.
  NodeRuntime.runMain({
    disableErrorReporting: true,
    teardown: (outcome, onExit) => {
      const isInterrupted = Exit.isFailure(outcome) && Cause.hasInterruptsOnly(outcome.cause)
      if (Exit.isFailure(outcome) && !isInterrupted) {
        writeSync(2, `ctmap: internal error, please report it: ${Cause.pretty(outcome.cause)}\n`)
      }
      const code = Number(process.exitCode ?? (isInterrupted ? exit.interrupted : exit.failed))
      if (Output.isWaiting()) endBy(signal ?? "SIGTERM")
      const isSignal = signal !== undefined && code === exit.interrupted
      const isWritten = Output.letGo()
      onExit(isSignal ? 128 + constants.signals[signal ?? "SIGTERM"] : isWritten ? code : exit.failed)
    }
  })
)

/** Ends as if nobody had listened for the signal: at once, even where a thread waits for a reader. */
const endBy = (name: NodeJS.Signals): void => {
  process.removeAllListeners(name)
  process.kill(process.pid, name)
}
