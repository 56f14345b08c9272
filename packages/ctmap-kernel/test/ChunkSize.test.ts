import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Schema from "effect/Schema"
import * as ChunkSize from "../src/internal/chunkSize.ts"

const MILLI = 1_000_000
const size = (count: number) => ({ count, least: 64, most: 4096, target: MILLI })

describe("what a call may take", () => {
  it.each([
    [512, 1],
    [3_999_999, 1],
    [4_000_000, 2],
    [16_777_216, 2]
  ])("in a map of %i entries: %i ms", (maxEntries, millis) => {
    assert.strictEqual(Duration.toMillis(ChunkSize.targetOf(maxEntries)), millis)
  })
})

describe("how much is asked for next", () => {
  it("forgets a call that was late once: reads once stayed at half for good", () => {
    const chunk = ChunkSize.make(4096, 64, 4096, ChunkSize.iteratorTargetOf(524_288))
    const calls = [1, 9, 0.5, 1].map((millis) => {
      ChunkSize.called(chunk, millis * MILLI)
      return chunk.count
    })
    assert.deepStrictEqual(calls, [4096, 2048, 4096, 4096])
  })

  it.each([
    ["half as much after a call that took too long", 1024, MILLI + 1, 512],
    ["as much after one that took what it may", 1024, MILLI, 1024],
    ["as much after one that took nine twentieths of that", 1024, 0.45 * MILLI, 1024],
    ["twice as much after one that took less", 1024, 0.45 * MILLI - 1, 2048],
    ["no more than there is room for", 3000, 0, 4096],
    ["no less than the largest bucket needs", 100, 50 * MILLI, 64],
    ["whole entries", 129, 2 * MILLI, 64]
  ])("%s", (_, count, took, wanted) => {
    assert.strictEqual(ChunkSize.nextCount(size(count), took), wanted)
  })

  const between = (minimum: number, maximum: number) => Schema.Int.check(Schema.isBetween({ minimum, maximum }))

  it.prop(
    "stays within its limits, whatever calls take",
    [between(1, 10_000), between(1, 10_000), between(1, 10_000), Schema.Array(between(0, 10 * MILLI))],
    ([count, least, most, calls]) => {
      const chunk = ChunkSize.make(count, least, most, "1 millis")
      for (const took of [0, ...calls]) {
        ChunkSize.called(chunk, took)
        assert.isAtMost(chunk.count, most)
        assert.isAtLeast(chunk.count, Math.min(least, most))
      }
      assert.strictEqual(chunk.longest, Math.max(0, ...calls))
    }
  )

  it.prop(
    "comes to rest within seven calls where every entry takes the same time, and then calls are short enough if they can be",
    [between(1, 100_000), between(64, 4096)],
    ([nanosPerEntry, start]) => {
      const chunk = ChunkSize.make(start, 64, 4096, "1 millis")
      for (let call = 0; call < 7; call++) ChunkSize.called(chunk, chunk.count * nanosPerEntry)
      const rest = chunk.count
      ChunkSize.called(chunk, rest * nanosPerEntry)
      assert.strictEqual(chunk.count, rest)
      assert.isTrue(rest * nanosPerEntry <= MILLI || rest === 64)
      assert.isTrue(rest * nanosPerEntry >= 0.45 * MILLI || rest === 4096)
    }
  )
})
