import { assert, describe, it } from "@effect/vitest"
import * as Schema from "effect/Schema"
import { TopK } from "../src/TopK.ts"

const Names = Schema.Array(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 40 })))

const truth = (names: ReadonlyArray<number>): ReadonlyMap<string, number> => {
  const counts = new Map<string, number>()
  for (const name of names) counts.set(String(name), (counts.get(String(name)) ?? 0) + 1)
  return counts
}

const summarise = (names: ReadonlyArray<number>, capacity: number): TopK => {
  const summary = new TopK(capacity)
  for (const name of names) summary.add(String(name))
  return summary
}

describe("TopK", () => {
  it.prop("is exact while every name has a counter", [Names], ([names]) => {
    const summary = summarise(names, 41)
    const counts = truth(names)
    assert.isTrue(summary.exact)
    for (const { name, count, error } of summary.top(41)) {
      assert.strictEqual(count, counts.get(name))
      assert.strictEqual(error, 0)
    }
    assert.strictEqual(summary.top(41).length, counts.size)
  })

  it.prop("never counts too low, and too high by at most what it says", [Names], ([names]) => {
    const counts = truth(names)
    for (const { name, count, error } of summarise(names, 5).top(5)) {
      const real = counts.get(name) ?? 0
      assert.isAtLeast(count, real)
      assert.isAtMost(count - error, real)
    }
  })

  it.prop("holds every name that makes up more than 1/capacity of the total", [Names], ([names]) => {
    const summary = summarise(names, 5)
    const held = new Set(summary.top(5).map(({ name }) => name))
    for (const [name, count] of truth(names)) if (count > names.length / 5) assert.isTrue(held.has(name))
  })

  it("keeps no more counters than it was given, whatever comes", () => {
    const summary = new TopK(10)
    for (let i = 0; i < 10_000; i++) summary.add(`name ${i}`, (i % 7) + 1)
    assert.strictEqual(summary.top(100).length, 10)
    assert.isFalse(summary.exact)
  })

  it("lists the heaviest first, and equals by name", () => {
    const summary = new TopK(4)
    summary.add("c", 5)
    summary.add("b", 9)
    summary.add("a", 5)
    assert.deepStrictEqual(
      summary.top(3).map(({ name }) => name),
      ["b", "a", "c"]
    )
  })

  it("refuses a capacity that counts nothing", () => {
    assert.throws(() => new TopK(0), RangeError)
  })
})
