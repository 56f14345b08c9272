/**
 * Where data and remarks go: data to the standard output, everything else to the standard error.
 *
 * Owns the writing. Bytes go straight to the descriptor: a stream of Node would keep a copy of whatever the reader has
 * not taken yet, and a listing must not grow in memory because `less` is slow.
 *
 * @since 0.1.0
 */
import { fstatSync, writeSync } from "node:fs"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { BrokenPipe, FileFailed } from "./Failure.ts"

/** @since 0.1.0 */
export type WriteError = BrokenPipe | FileFailed

/** @since 0.1.0 */
export class Output extends Context.Service<
  Output,
  {
    /** Writes all of it before it returns. */
    readonly write: (data: Uint8Array | string) => Effect.Effect<void, WriteError>
    /** A line for people. Never fails: there is nobody left to tell. */
    readonly note: (line: string) => Effect.Effect<void>
    /** Overwrites the current line of the terminal; call only where `terminals.stderr`. */
    readonly progress: (line: string) => Effect.Effect<void>
    /** Whether somebody looks at it. */
    readonly terminals: { readonly stdin: boolean; readonly stdout: boolean; readonly stderr: boolean }
  }
>()("ctmap/Output") {}

/** The descriptors of the process. @since 0.1.0 */
export const layer: Layer.Layer<Output> = Layer.sync(Output, () => {
  const remark = (text: string): Effect.Effect<void> =>
    Effect.ignore(writeAll(2, "the standard error", Buffer.from(text)))
  return Output.of({
    write: (data) => writeAll(1, "the standard output", typeof data === "string" ? Buffer.from(data) : data),
    note: (line) => remark(`${line}\n`),
    progress: (line) => remark(`\r\u001B[K${line}`),
    terminals: { stdin: isTerminal(0), stdout: isTerminal(1), stderr: isTerminal(2) }
  })
})

/** Writes text; a shorthand for `Output.use`. @since 0.1.0 */
export const write = (data: Uint8Array | string): Effect.Effect<void, WriteError, Output> =>
  Effect.flatMap(Output, (output) => output.write(data))

/** See {@link Output}. @since 0.1.0 */
export const note = (line: string): Effect.Effect<void, never, Output> =>
  Effect.flatMap(Output, (output) => output.note(line))

/** Writes bytes to a descriptor, however little it takes at a time. @since 0.1.0 */
export const writeAll = (fd: number, path: string, bytes: Uint8Array): Effect.Effect<void, WriteError> =>
  Effect.suspend(() => {
    let at = 0
    while (at < bytes.byteLength) {
      try {
        at += writeSync(fd, bytes, at)
      } catch (error) {
        const code = codeOf(error)
        if (code === "EPIPE") return Effect.fail(new BrokenPipe())
        // Somebody made the pipe non-blocking, and it is full.
        if (code === "EAGAIN") return Effect.andThen(Effect.sleep(2), writeAll(fd, path, bytes.subarray(at)))
        return Effect.fail(new FileFailed({ path, action: "write", why: reasonOf(error) }))
      }
    }
    return Effect.void
  })

/** A sentence for an error of the file system. @since 0.1.0 */
const reasonOf = (error: unknown): string => (error instanceof Error ? error.message : String(error))

const codeOf = (error: unknown): string =>
  typeof error === "object" && error !== null && "code" in error ? String(error.code) : ""

/** node:tty loads node:net, and `process.stdout` makes a stream of the descriptor: neither for a file or a pipe. */
const isTerminal = (fd: number): boolean => {
  try {
    return fstatSync(fd).isCharacterDevice() && process.getBuiltinModule("node:tty").isatty(fd)
  } catch {
    return false
  }
}
