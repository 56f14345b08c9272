/**
 * What was asked for goes to the standard output, all of it; what is wrong with a command line to the standard error.
 *
 * @since 0.1.0
 */
import { writeSync } from "node:fs"
import * as CliOutput from "effect/cli/CliOutput"
import * as Completions from "effect/cli/Completions"
import * as GlobalFlag from "effect/cli/GlobalFlag"
import * as TerminalCapabilities from "effect/cli/TerminalCapabilities"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"

/** The standard output does not take what was asked for. @since 0.1.0 */
class Unwritable extends Schema.TaggedError<Unwritable>()("Unwritable", { why: Schema.String }) {
  override get message(): string {
    return `cannot write the standard output: ${this.why}`
  }
}

/** Who read our output has enough, as `head` has: no failure of ours. @since 0.1.0 */
class BrokenPipe extends Schema.TaggedError<BrokenPipe>()("BrokenPipe", {}) {}

/** @since 0.1.0 */
export type WriteError = Unwritable | BrokenPipe

/** Writes text and the end of its line; the agent has nothing else to do meanwhile. @since 0.1.0 */
export const print = (text: string): Effect.Effect<void, WriteError> => {
  const bytes = Buffer.from(`${text}\n`)
  const from = (at: number): Effect.Effect<void, WriteError> =>
    at >= bytes.byteLength ? Effect.void : Effect.flatMap(write(bytes, at), from)
  return Effect.suspend(() => from(0))
}

/** How far it has come. */
const write = (bytes: Uint8Array, at: number): Effect.Effect<number, WriteError> =>
  Effect.suspend((): Effect.Effect<number, WriteError> => {
    try {
      return Effect.succeed(at + writeSync(1, bytes, at))
    } catch (error) {
      const { code, message } = error as NodeJS.ErrnoException
      // Somebody made the pipe non-blocking, and it is full.
      if (code === "EAGAIN") return Effect.as(Effect.sleep(2), at)
      return Effect.fail(code === "EPIPE" ? new BrokenPipe() : new Unwritable({ why: message }))
    }
  })

/** What Effect's command line presents: data, which cannot fail there, and mistakes in a line each. @since 0.1.0 */
export interface Presented {
  readonly presenter: CliOutput.Presenter
  readonly completions: typeof GlobalFlag.Completions
  /** Fails with what became of data that could not be written; run it at the end. */
  readonly written: Effect.Effect<void, WriteError>
}

/** @since 0.1.0 */
export const presented = (): Presented => {
  let failed: WriteError | undefined
  const data = (text: string): Effect.Effect<void> =>
    Effect.match(print(text), {
      onSuccess: () => undefined,
      onFailure: (error) => {
        failed ??= error
      }
    })
  return {
    presenter: {
      present: (event) => {
        switch (event._tag) {
          case "Help":
            return Effect.flatMap(TerminalCapabilities.TerminalCapabilities, ({ canColor }) =>
              data(CliOutput.defaultFormatter({ colors: canColor }).formatHelpDoc(event.helpDoc))
            )
          case "Version":
            return data(`${event.name} ${event.version}`)
          case "InvalidInvocation": {
            const mistakes = event.errors.map(({ message }) => `ctmap-agent: ${message}\n`).join("")
            return Effect.sync(() => void writeSync(2, `${mistakes}Try \`${event.commandPath.join(" ")} --help\`\n`))
          }
        }
      }
    },
    completions: {
      ...GlobalFlag.Completions,
      run: (shell, { command }) =>
        Option.match(shell, {
          onNone: () => Effect.void,
          onSome: (of) => data(Completions.generate(command.name, of, Completions.fromCommand(command)))
        })
    },
    written: Effect.suspend(() => (failed === undefined ? Effect.void : Effect.fail(failed)))
  }
}
