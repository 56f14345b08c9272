/**
 * One run of the program: arguments in, exit code out. Errors end as one sentence on the standard error.
 *
 * @since 0.1.0
 */
import { readFileSync } from "node:fs"
import * as Remedy from "ctmap-kernel/Remedy"
import * as Cause from "effect/Cause"
import * as CliConfig from "effect/cli/CliConfig"
import * as CliError from "effect/cli/CliError"
import * as CliOutput from "effect/cli/CliOutput"
import * as Command from "effect/cli/Command"
import * as Completions from "effect/cli/Completions"
import * as GlobalFlag from "effect/cli/GlobalFlag"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import { joinAgent } from "./Arguments.ts"
import { cli } from "./Cli.ts"
import { codeOf, exit, firstLine } from "./Failure.ts"
import { Output, type WriteError } from "./Output.ts"

/** Runs, and answers the exit code; never fails. @since 0.1.0 */
export const main = (args: ReadonlyArray<string>): Effect.Effect<number, never, Output | Command.Environment> =>
  Effect.gen(function* () {
    const output = yield* Output
    let unwritten: WriteError | undefined
    /** Help and its like cannot fail; what became of them is known at the end. */
    const data = (text: string): Effect.Effect<void> =>
      Effect.match(output.write(text), {
        onSuccess: () => undefined,
        onFailure: (error) => {
          unwritten ??= error
        }
      })
    const code = yield* Command.runWith(cli, { version: version() })(joinAgent(args)).pipe(
      Effect.as(exit.done),
      Effect.catchCause((cause) => ended(cause, output)),
      Effect.provideService(CliOutput.Presenter, presenter(output, data)),
      Effect.provideService(CliConfig.CliConfig, {
        builtIns: [GlobalFlag.Help, GlobalFlag.Version, completions(data)]
      })
    )
    return code === exit.done && unwritten !== undefined ? yield* ended(Cause.fail(unwritten), output) : code
  })

/** One level below the package, from `src` and from `dist`. Nothing else needs the file: it may be missing. */
const version = (): string => {
  try {
    const text = readFileSync(new URL("../package.json", import.meta.url), "utf8")
    return (JSON.parse(text) as { readonly version: string }).version
  } catch {
    return "unknown"
  }
}

/** Help was asked for and is data; what is wrong with a command line is not, and pages of help would hide it. */
const presenter = (output: Output["Service"], data: WriteData): CliOutput.Presenter => {
  const formatter = CliOutput.defaultFormatter({ colors: output.terminals.stdout && knowsColours(process.env) })
  return {
    present: (event) => {
      switch (event._tag) {
        case "Help":
          return data(`${formatter.formatHelpDoc(event.helpDoc)}\n`)
        case "Version":
          return data(`${event.name} ${event.version}\n`)
        case "InvalidInvocation":
          return Effect.andThen(
            Effect.forEach(event.errors, ({ message }) => output.note(`ctmap: ${message}`), { discard: true }),
            output.note(`Try \`${event.commandPath.join(" ")} --help\``)
          )
      }
    }
  }
}

type WriteData = (text: string) => Effect.Effect<void>

/** By what is set for every program of a terminal: https://no-color.org. */
const knowsColours = (env: NodeJS.ProcessEnv): boolean => !env["NO_COLOR"] && env["TERM"] !== "dumb"

/** As Effect's own, but written like all other data. */
const completions = (data: WriteData): typeof GlobalFlag.Completions => ({
  ...GlobalFlag.Completions,
  run: (shell, { command }) =>
    Option.match(shell, {
      onNone: () => Effect.void,
      onSome: (of) => data(`${Completions.generate(command.name, of, Completions.fromCommand(command))}\n`)
    })
})

const ended = (cause: Cause.Cause<unknown>, output: Output["Service"]): Effect.Effect<number> => {
  if (Cause.hasInterruptsOnly(cause)) return Effect.succeed(exit.interrupted)
  const error = Option.getOrUndefined(Cause.findErrorOption(cause))
  if (error === undefined) {
    const what = firstLine(Cause.squash(cause))
    const report = `ctmap: internal error: ${what}: please report it, with what CTMAP_DEBUG=1 makes it say`
    return Effect.as(output.note(report + details(cause)), exit.failed)
  }
  if (CliError.isCliError(error) && error._tag === "ShowHelp") {
    return Effect.succeed(error.errors.length > 0 ? exit.usage : exit.done)
  }
  const code = codeOf(error)
  return code === exit.done
    ? Effect.succeed(code)
    : Effect.as(output.note(`ctmap: ${Remedy.sentence(error, "command")}${details(cause)}`), code)
}

/** Where it failed: for who looks for a mistake of ours, with CTMAP_DEBUG=1. */
const details = (cause: Cause.Cause<unknown>): string => (process.env["CTMAP_DEBUG"] ? `\n${Cause.pretty(cause)}` : "")
