import { spawnSync } from "node:child_process"
import { closeSync, constants, mkdtempSync, openSync, readSync, rmSync } from "node:fs"
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import { BrokenPipe } from "../src/Failure.ts"
import * as Output from "../src/Output.ts"
import * as Progress from "../src/Progress.ts"

/** Both ends of a pipe that never blocks. */
const pipe = Effect.acquireRelease(
  Effect.sync(() => {
    const directory = mkdtempSync("/tmp/ctmap-test-")
    assert.strictEqual(spawnSync("sh", ["-c", "mkfifo $0/pipe", directory]).status, 0)
    const reader = openSync(`${directory}/pipe`, constants.O_RDONLY | constants.O_NONBLOCK)
    const writer = openSync(`${directory}/pipe`, constants.O_WRONLY | constants.O_NONBLOCK)
    return { directory, reader, writer }
  }),
  ({ directory, writer }) =>
    Effect.sync(() => {
      closeSync(writer)
      rmSync(directory, { recursive: true })
    })
)

/** How many bytes there were; none while the writer is not that far. */
const read = (reader: number, into: Uint8Array): number => {
  try {
    return readSync(reader, into)
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "EAGAIN") return 0
    throw error
  }
}

describe("writing", () => {
  it.live("waits where a pipe is full and does not block, and loses nothing", () =>
    Effect.gen(function* () {
      const { reader, writer } = yield* pipe
      const data = Uint8Array.from({ length: 300_000 }, (_, i) => i % 251)
      const writing = yield* Effect.forkChild(Output.writeAll(writer, "the pipe", data), { startImmediately: true })
      const taken = new Uint8Array(data.byteLength)
      for (let at = 0; at < taken.byteLength;) {
        yield* Effect.sleep(1)
        at += read(reader, taken.subarray(at, at + 20_000))
      }
      yield* Fiber.join(writing)
      closeSync(reader)
      assert.deepStrictEqual(taken, data)
    })
  )

  it.effect("tells a reader that went away from a failure", () =>
    Effect.gen(function* () {
      const { reader, writer } = yield* pipe
      closeSync(reader)
      const gone = yield* Effect.flip(Output.writeAll(writer, "the pipe", Uint8Array.of(1)))
      assert.strictEqual(gone._tag, "BrokenPipe")
      const failed = yield* Effect.flip(Output.writeAll(-1, "the moon", Uint8Array.of(1)))
      assert.match(String(failed), /cannot write the moon/)
    })
  )
})

describe("writing behind", () => {
  /** Writes end when the test says so: what was begun, and what became of it. */
  const stage = () => {
    const begun: Array<string> = []
    const ends: Array<(result: Effect.Effect<void, Output.WriteError>) => void> = []
    const output = Output.Output.of({
      write: (data) =>
        Effect.callback((resume) => {
          begun.push(String(data))
          ends.push(resume)
        }),
      note: () => Effect.void,
      progress: () => Effect.void,
      terminals: { stdin: false, stdout: false, stderr: false }
    })
    const made: Array<string> = []
    const start = <E>(use: (write: Output.WriteBehind) => Effect.Effect<void, E>) =>
      Effect.forkChild(Output.writingBehind(use).pipe(Effect.provideService(Output.Output, output)), {
        startImmediately: true
      })
    const settle = Effect.gen(function* () {
      for (let i = 0; i < 20; i++) yield* Effect.yieldNow
    })
    const end = (result: Effect.Effect<void, Output.WriteError> = Effect.void) =>
      Effect.andThen(
        Effect.sync(() => ends.shift()!(result)),
        settle
      )
    const three = (write: Output.WriteBehind) =>
      Effect.forEach(
        ["a", "b", "c"],
        (text) =>
          Effect.suspend(() => {
            made.push(text)
            return write(text)
          }),
        { discard: true }
      )
    return { begun, made, start, settle, end, three }
  }

  it.effect("makes the next piece while one is written, never two, and ends with the last", () =>
    Effect.gen(function* () {
      const { begun, made, start, settle, end, three } = stage()
      const fiber = yield* start(three)
      yield* settle
      assert.deepStrictEqual([made, begun], [["a", "b"], ["a"]])
      yield* end()
      assert.deepStrictEqual(
        [made, begun],
        [
          ["a", "b", "c"],
          ["a", "b"]
        ]
      )
      yield* end()
      assert.isUndefined(fiber.pollUnsafe())
      yield* end()
      assert.deepStrictEqual(begun, ["a", "b", "c"])
      yield* Fiber.join(fiber)
    })
  )

  it.effect("stops at the piece after one that could not be written", () =>
    Effect.gen(function* () {
      const { made, start, settle, end, three } = stage()
      const fiber = yield* start(three)
      yield* settle
      yield* end(Effect.fail(new BrokenPipe()))
      const error = yield* Effect.flip(Fiber.join(fiber))
      assert.deepStrictEqual([error._tag, made], ["BrokenPipe", ["a", "b"]])
    })
  )

  it.effect("fails where the very last piece cannot be written", () =>
    Effect.gen(function* () {
      const { start, settle, end } = stage()
      const fiber = yield* start((write) => write("all"))
      yield* settle
      assert.isUndefined(fiber.pollUnsafe())
      yield* end(Effect.fail(new BrokenPipe()))
      assert.strictEqual((yield* Effect.flip(Fiber.join(fiber)))._tag, "BrokenPipe")
    })
  )

  it.effect("what was made before an error is written before the error is told", () =>
    Effect.gen(function* () {
      const { start, settle, end } = stage()
      const fiber = yield* start((write) => Effect.andThen(write("some"), Effect.fail("the map went away")))
      yield* settle
      assert.isUndefined(fiber.pollUnsafe())
      yield* end()
      assert.strictEqual(yield* Effect.flip(Fiber.join(fiber)), "the map went away")
    })
  )

  it.effect("an interruption does not wait for a reader", () =>
    Effect.gen(function* () {
      const { start, settle, three } = stage()
      const fiber = yield* start(three)
      yield* settle
      yield* Fiber.interrupt(fiber)
      assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(fiber)))
    })
  )
})

describe("progress", () => {
  const watch = (terminals: { readonly stdout: boolean; readonly stderr: boolean }, mixes: boolean) =>
    Effect.gen(function* () {
      const shown: Array<string> = []
      const output = Output.Output.of({
        write: () => Effect.void,
        note: () => Effect.void,
        progress: (line) => Effect.sync(() => void shown.push(line)),
        terminals: { stdin: true, ...terminals }
      })
      const progress = yield* Progress.make({ mixes }).pipe(Effect.provideService(Output.Output, output))
      yield* progress.tick("m", 1000, 4096)
      yield* Effect.sleep(800)
      yield* progress.tick("m", 500, 4096)
      yield* progress.end
      return shown
    })

  it.live("shows on a terminal how far a long scan is, and wipes it", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* watch({ stdout: false, stderr: true }, true), [
        "m: 1,500 entries, room for 4,096",
        ""
      ])
    })
  )

  it.live("stays out of the way of data, and of logs", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* watch({ stdout: true, stderr: true }, true), [])
      assert.deepStrictEqual(yield* watch({ stdout: false, stderr: false }, false), [])
    })
  )
})
