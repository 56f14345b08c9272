/**
 * Where data and remarks go: data to the standard output, everything else to the standard error.
 *
 * Owns the writing. Bytes go straight to the descriptor: a stream of Node would keep a copy of whatever the reader has
 * not taken yet, and a listing must not grow in memory because `less` is slow.
 *
 * @since 0.1.0
 */
import { closeSync, fstatSync, openSync, write as writeLater, writeSync } from "node:fs"
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
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

/** Hands bytes over, which must stay as they are until the call after the next. @since 0.1.0 */
export type WriteBehind = (data: Uint8Array | string) => Effect.Effect<void, WriteError>

/**
 * Data that is made while what was made before is being written: one write at a time is under way, and `write` waits
 * for it before it begins the next.
 *
 * **Details**
 *
 * Errors: of a write, at the next one or at the end. All is written when this succeeds, or fails with an error of
 * `use`; an interruption waits for nobody.
 *
 * @since 0.1.0
 */
export const writingBehind = <A, E, R>(
  use: (write: WriteBehind) => Effect.Effect<A, E, R>
): Effect.Effect<A, E | WriteError, R | Output> =>
  Effect.gen(function* () {
    const output = yield* Output
    let underWay: Fiber.Fiber<void, WriteError> | undefined
    const settled = Effect.suspend(() => (underWay === undefined ? Effect.void : Fiber.join(underWay)))
    const hand: WriteBehind = (data) =>
      Effect.flatMap(settled, () =>
        Effect.map(Effect.forkChild(output.write(data), { startImmediately: true }), (fiber) => {
          underWay = fiber
        })
      )
    const outcome = yield* Effect.exit(use(hand))
    if (Exit.isFailure(outcome)) {
      if (!Cause.hasInterrupts(outcome.cause)) yield* Effect.ignore(settled)
      return yield* outcome
    }
    yield* settled
    return outcome.value
  })

/**
 * Writes bytes to a descriptor, however little it takes at a time.
 *
 * A pipe, socket or terminal can keep a writer waiting for as long as its reader likes: it is written on another thread,
 * so that signals are heard meanwhile. Files take what they get at once.
 *
 * @since 0.1.0
 */
export const writeAll = (fd: number, path: string, bytes: Uint8Array): Effect.Effect<void, WriteError> => {
  const some = canBlock(fd) ? writeElsewhere : writeHere
  const from = (at: number): Effect.Effect<void, WriteError> =>
    at >= bytes.byteLength
      ? Effect.void
      : Effect.flatMap(some(fd, bytes, at), (written) => {
          if (typeof written === "number") return from(at + written)
          // Somebody made the pipe non-blocking, and it is full.
          if (written.code === "EAGAIN") return Effect.flatMap(Effect.sleep(2), () => from(at))
          if (written.code === "EPIPE") return Effect.fail(new BrokenPipe())
          return Effect.fail(new FileFailed({ path, action: "write", why: written.message }))
        })
  return Effect.suspend(() => from(0))
}

/** How many bytes were taken, or why none were. */
type WriteSome = (fd: number, bytes: Uint8Array, at: number) => Effect.Effect<number | NodeJS.ErrnoException>

const writeHere: WriteSome = (fd, bytes, at) =>
  Effect.sync(() => {
    try {
      return writeSync(fd, bytes, at)
    } catch (error) {
      return error as NodeJS.ErrnoException
    }
  })

/** Writes that another thread is in. */
let underWay = 0

const writeElsewhere: WriteSome = (fd, bytes, at) =>
  Effect.callback((resume) => {
    underWay++
    writeLater(fd, bytes, at, bytes.byteLength - at, null, (error, written) => {
      underWay--
      resume(Effect.succeed(error ?? written))
    })
  })

/**
 * Whether a write waits for a reader on another thread. It cannot be called off, and an orderly end of the process would
 * wait for that thread.
 *
 * @since 0.1.0
 */
export const isWaiting = (): boolean => underWay > 0

/**
 * Closes the standard output and the standard error of a process that is about to end, where they are files.
 *
 * **Details**
 *
 * What libbpf is called through flushes both to the disk as the process ends, which takes as long as the disk likes (0.3 s
 * for a listing of 64 MB), and complains where they are closed: they are /dev/null from here on. Answers whether all is
 * written: some file systems, those behind a network, say only at the closing that they had no room; it says so itself.
 *
 * @since 0.1.0
 */
export const letGo = (): boolean => {
  let isWritten = true
  for (const fd of [1, 2]) {
    try {
      if (!fstatSync(fd, { bigint: true }).isFile()) continue
    } catch {
      continue
    }
    try {
      closeSync(fd)
    } catch (error) {
      isWritten = false
      const why = error instanceof Error ? error.message : String(error)
      const { message } = new FileFailed({ path: "the standard output", action: "write", why })
      if (fd === 1) writeSync(2, `ctmap: ${message}\n`)
    }
    // The lowest that is free, which is a lower one only where this process was started without it.
    while (openSync("/dev/null", "r+") < fd);
  }
  return isWritten
}

// `bigint`, as the other form of `fstatSync` leaves what it found to whom comes next: of a pipe, Node 20 takes it for what is said
// of a directory, and does not find koffi.
const canBlock = (fd: number): boolean => {
  try {
    const found = fstatSync(fd, { bigint: true })
    return found.isFIFO() || found.isSocket() || isTerminal(fd)
  } catch {
    return false
  }
}

/** node:tty loads node:net, and `process.stdout` makes a stream of the descriptor: neither for a file or a pipe. */
const isTerminal = (fd: number): boolean => {
  try {
    return fstatSync(fd, { bigint: true }).isCharacterDevice() && process.getBuiltinModule("node:tty").isatty(fd)
  } catch {
    return false
  }
}
