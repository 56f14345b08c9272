import { spawnSync } from "node:child_process"
import { closeSync, constants, mkdtempSync, openSync, readSync, rmSync } from "node:fs"
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
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
