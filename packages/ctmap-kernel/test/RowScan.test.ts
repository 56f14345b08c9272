import { assert, describe, it } from "@effect/vitest"
import { Rows } from "ctmap-core"
import { Bpf, BpfMap, BpfMemory, MapIterator, RowScan } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import { KEY, keysOf, VALUE, values } from "./churn.ts"
import { contract } from "./contract/RowScan.contract.ts"

contract("scans by rows in memory", BpfMemory.layerTest({ objects: { [MapIterator.object]: MapIterator.twin } }))

describe("the choice between an iterator and batches", () => {
  it.each([
    ["a large map that is half full", 65_536, { entries: 256, buckets: 512 }, "iterator"],
    ["a large map with an entry in twenty buckets", 65_536, { entries: 256, buckets: 5120 }, "iterator"],
    ["a large map with fewer", 65_536, { entries: 256, buckets: 5121 }, "batch"],
    ["an empty map", 16_777_216, { entries: 0, buckets: 16_777_216 }, "batch"],
    ["a map that is full but not large", 65_535, { entries: 256, buckets: 256 }, "batch"]
  ] as const)("%s", (_, maxEntries, sample, method) => {
    assert.strictEqual(RowScan.choose(maxEntries, sample), method)
  })
})

/** An iterator that has one row to tell, which no map of these tests holds. */
const told = keysOf(0xffff, 1)
const iterator = (isExact: boolean, again = 0) =>
  Layer.succeed(MapIterator.MapIterator, {
    start: () =>
      Effect.sync(() => {
        const shape = { keySize: KEY, valueSize: VALUE, count: 1 }
        const left = [Rows.separate(told, values(1), shape)]
        const next = Effect.sync(() => left.pop())
        return { next, isExact: () => isExact, again: () => again, longestCallMillis: () => 1.5 }
      })
  })

const create = (maxEntries: number, count: number, type: 1 | 2 | 9 = 9) =>
  Effect.gen(function* () {
    const bpf = yield* Bpf.Bpf
    const keySize = type === 2 ? 4 : KEY
    const map = yield* BpfMap.create({ type, keySize, valueSize: VALUE, maxEntries, flags: 0 }, "rows")
    if (count > 0) bpf.updateBatch(map.fd, keysOf(0, count), values(count), Uint32Array.of(count))
    return map
  })

const count = (map: BpfMap.BpfMap, options?: RowScan.Options) => RowScan.forEach(map, () => Effect.void, options)

const withIterator = Layer.merge(iterator(true, 3), BpfMemory.layerTest())

describe("a scan by rows", () => {
  const scenarios = [
    { title: "takes the iterator for a large map that is well filled", entries: 30_000, method: "iterator" },
    { title: "takes batches for a large map that is nearly empty", entries: 1000, method: "batch" },
    { title: "takes batches for a large map of which one batch sees everything", entries: 100, method: "batch" }
  ] as const
  for (const { title, entries, method } of scenarios) {
    it.effect(title, () =>
      Effect.scoped(
        Effect.gen(function* () {
          const map = yield* create(65_536, entries)
          const report = yield* count(map)
          assert.deepStrictEqual([report.method, report.entries], [method, method === "iterator" ? 1 : entries])
          const rows = yield* Stream.runCollect(Stream.map(RowScan.stream(map), ({ count: found }) => found))
          assert.strictEqual(
            rows.reduce((sum, found) => sum + found, 0),
            report.entries
          )
        })
      ).pipe(Effect.provide(withIterator))
    )
  }

  it.effect("does what it is asked for", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const map = yield* create(1024, 10)
        for (const method of ["iterator", "batch", "next-key"] as const) {
          const report = yield* count(map, { method })
          assert.deepStrictEqual([report.method, report.entries], [method, method === "iterator" ? 1 : 10])
        }
      })
    ).pipe(Effect.provide(withIterator))
  )

  it.effect("hands the batch size on", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const map = yield* create(1024, 64)
        const { batches } = yield* count(map, { batchSize: 4 })
        assert.isAtLeast(batches, 16)
      })
    ).pipe(Effect.provide(BpfMemory.layerTest()))
  )

  it.effect("is as exact as the iterator says", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const map = yield* create(64, 0)
        for (const isExact of [true, false]) {
          const report = yield* count(map, { method: "iterator" }).pipe(Effect.provide(iterator(isExact, 7)))
          assert.deepStrictEqual([report.exact, report.again, report.batches], [isExact, 7, 1])
          assert.strictEqual(report.longestCallMillis, 1.5)
        }
      })
    ).pipe(Effect.provide(BpfMemory.layerTest()))
  )

  it.effect("by next key is not exact once it was thrown back to the start", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const control = yield* BpfMemory.Control
        const map = yield* create(64, 10)
        const quiet = yield* count(map, { method: "next-key" })
        assert.deepStrictEqual([quiet.exact, quiet.restarts], [true, 0])
        let calls = 0
        // The first key goes while the walk stands on it, before there is a way back.
        control.onCall((call, args) => {
          if (call === "lookup" && calls++ === 0) control.map(map.fd)!.delete(args[1] as Uint8Array)
        })
        const report = yield* count(map, { method: "next-key" })
        assert.deepStrictEqual([report.exact, report.completed, report.restarts], [false, true, 1])
      })
    ).pipe(Effect.provide(BpfMemory.layerTest()))
  )

  it.effect("does not look at a small map before it reads it", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const control = yield* BpfMemory.Control
        const map = yield* create(1024, 10)
        yield* count(map)
        assert.strictEqual(control.count("lookupBatch"), 1)
      })
    ).pipe(Effect.provide(withIterator))
  )

  it.effect("as a stream fails where a walk by next key gives up", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const control = yield* BpfMemory.Control
        const map = yield* create(64, 10)
        const inside = control.map(map.fd)!
        let number = 1000
        // Whatever the walk stands on is deleted, and something else is inserted.
        control.onCall((call, args) => {
          if (call !== "nextKey" || args[1] === null) return
          inside.delete(args[1] as Uint8Array)
          inside.update(keysOf(++number, 1), values(1))
        })
        const error = yield* Effect.flip(Stream.runDrain(RowScan.stream(map, { method: "next-key" })))
        assert.strictEqual(error._tag, "Incomplete")
        const report = yield* count(map, { method: "next-key" })
        assert.deepStrictEqual([report.completed, report.exact], [false, false])
      })
    ).pipe(Effect.provide(BpfMemory.layerTest()))
  )

  it.effect("refuses a map that is no hash without reading of it", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const control = yield* BpfMemory.Control
        const map = yield* create(65_536, 0, 2)
        const before = control.count("lookupBatch")
        const error = yield* Effect.flip(count(map))
        assert.strictEqual(error.reason._tag, "FeatureUnsupported")
        assert.strictEqual(control.count("lookupBatch"), before)
      })
    ).pipe(Effect.provide(withIterator))
  )

  it.effect("takes the iterator where the kernel has no batches", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const map = yield* create(65_536, 0)
        assert.strictEqual((yield* count(map)).method, "iterator")
      })
    ).pipe(Effect.provide(Layer.merge(iterator(true), BpfMemory.layerTest({ features: { batch: "unknown command" } }))))
  )

  it.effect("takes batches where an iterator cannot be started, unless it was asked for", () =>
    Effect.scoped(
      Effect.gen(function* () {
        // The twin has no iterators.
        const map = yield* create(65_536, 30_000)
        assert.strictEqual((yield* count(map)).method, "batch")
        const error = yield* Effect.flip(count(map, { method: "iterator" }))
        assert.deepStrictEqual([error.operation, error.reason._tag], ["load program", "FeatureUnsupported"])
      })
    ).pipe(Effect.provide(MapIterator.layer.pipe(Layer.provideMerge(BpfMemory.layerTest()))))
  )
})
