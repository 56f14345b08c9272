/**
 * The program: arguments in, exit code out. Stopping on SIGTERM or SIGINT is what it is told to do, and no failure.
 *
 * @since 0.1.0
 */
import { writeSync } from "node:fs"
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as NodeServices from "@effect/platform-node/NodeServices"
import * as Cause from "effect/Cause"
import * as CliConfig from "effect/cli/CliConfig"
import * as CliError from "effect/cli/CliError"
import * as CliOutput from "effect/cli/CliOutput"
import * as Command from "effect/cli/Command"
import * as GlobalFlag from "effect/cli/GlobalFlag"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import { cli } from "./Cli.ts"
import { presented } from "./Output.ts"
import { version } from "./Version.ts"

const usage = new Set(["SettingsError", "ConfigUnreadable", "UsageError"])

const codeOf = (cause: Cause.Cause<unknown>): number => {
  if (Cause.hasInterruptsOnly(cause)) return 0
  const error = Option.getOrUndefined(Cause.findErrorOption(cause))
  if (CliError.isCliError(error)) return error._tag === "ShowHelp" && error.errors.length === 0 ? 0 : 2
  const tag = typeof error === "object" && error !== null && "_tag" in error ? String(error._tag) : ""
  if (tag === "BrokenPipe") return 0
  const detail = process.env["CTMAP_DEBUG"] ? `\n${Cause.pretty(cause)}` : ""
  const message = error instanceof Error ? error.message : `internal error: ${Cause.pretty(cause)}`
  writeSync(2, `ctmap-agent: ${message}${detail}\n`)
  return usage.has(tag) ? 2 : 1
}

const { completions, presenter, written } = presented()

Command.runWith(cli(version), { version })(process.argv.slice(2)).pipe(
  Effect.andThen(written),
  Effect.provideService(CliOutput.Presenter, presenter),
  // `--log-level` is a setting of the agent.
  Effect.provideService(CliConfig.CliConfig, { builtIns: [GlobalFlag.Help, GlobalFlag.Version, completions] }),
  Effect.provide(NodeServices.layer),
  NodeRuntime.runMain({
    disableErrorReporting: true,
    teardown: (exit, onExit) => onExit(Exit.isSuccess(exit) ? 0 : codeOf(exit.cause))
  })
)
