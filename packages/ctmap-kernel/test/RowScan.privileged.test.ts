import { assert, it } from "@effect/vitest"
import { CtEntry, MapKind, MapSpec } from "ctmap-core"
import { Bpf, BpfMap, LibBpf, MapIterator, RowScan } from "ctmap-kernel"
import { Privileged } from "ctmap-testing"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import { describe } from "vitest"
import { keysOf, values } from "./churn.ts"
import { contract } from "./contract/RowScan.contract.ts"

const kernel = MapIterator.layer.pipe(Layer.provideMerge(LibBpf.layer))
Privileged.suite(describe, "scans by rows on the kernel", () => {
  contract("of every kind of map", LibBpf.layer)

  for (const method of ["iterator", "batch", "next-key"] as const) {
    it.effect(`by ${method} in the smallest pieces sees every entry once`, () =>
      Effect.scoped(
        Effect.gen(function* () {
          const bpf = yield* Bpf.Bpf
          const map = yield* BpfMap.create({ ...MapSpec.ct(MapKind.globals[0]), maxEntries: 65_536 }, "pieces")
          bpf.updateBatch(map.fd, keysOf(0, 20_000), values(20_000), Uint32Array.of(20_000))
          const seen = new Set<number>()
          const report = yield* RowScan.forEach(
            map,
            ({ keys, keyStart, keyStride, count }) =>
              Effect.sync(() => {
                for (let row = 0; row < count; row++) seen.add(keys.getUint32(keyStart + row * keyStride))
              }),
            // No call is as short as that.
            { method, callTarget: "1 nanos" }
          )
          assert.deepStrictEqual([report.entries, seen.size, report.exact], [20_000, 20_000, true])
          // 64 entries a batch; an iterator looks at the clock every 128 buckets.
          assert.isAbove(report.batches, 150)
        })
      ).pipe(Effect.provide(kernel))
    )
  }

  it.effect("large maps are read by iterator, small ones and nearly empty ones by batch", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const bpf = yield* Bpf.Bpf
        const spec = MapSpec.ct(MapKind.globals[0])
        const large = yield* BpfMap.create({ ...spec, maxEntries: 65_536 }, "large")
        const small = yield* BpfMap.create({ ...spec, maxEntries: 32_768 }, "small")
        const empty = yield* BpfMap.create({ ...spec, maxEntries: 1_048_576 }, "empty")
        for (const { fd } of [large, small, empty])
          assert.strictEqual(bpf.updateBatch(fd, keysOf(0, 20_000), values(20_000), Uint32Array.of(20_000)), 0)
        const method = (map: BpfMap.BpfMap) =>
          Effect.map(
            RowScan.forEach(map, () => Effect.void),
            (report) => report.method
          )
        assert.deepStrictEqual(
          [yield* method(large), yield* method(small), yield* method(empty)],
          ["iterator", "batch", "batch"]
        )
      })
    ).pipe(Effect.provide(kernel))
  )

  it.effect("without a MapIterator a large map is read by batch", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const large = yield* BpfMap.create(MapSpec.ct(MapKind.globals[0]), "large")
        const report = yield* RowScan.forEach(large, () => Effect.void)
        assert.strictEqual(report.method, "batch")
      })
    ).pipe(Effect.provide(LibBpf.layer))
  )

  it.effect("a map of other sizes is refused an iterator by name, and read by batch unasked", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const odd = yield* BpfMap.create(
          { type: 1, keySize: 8, valueSize: CtEntry.SIZE, maxEntries: 100_000, flags: 0 },
          "odd"
        )
        const error = yield* Effect.flip(RowScan.forEach(odd, () => Effect.void, { method: "iterator" }))
        assert.include(error.message, "iterate of map odd: this kernel lacks an iterator for keys of 8")
        assert.strictEqual((yield* RowScan.forEach(odd, () => Effect.void)).method, "batch")
      })
    ).pipe(Effect.provide(kernel))
  )

  it.live("scans at the same time have memory of their own, and give it back", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const bpf = yield* Bpf.Bpf
        const spec = { ...MapSpec.ct(MapKind.globals[0]), maxEntries: 65_536 }
        const maps = yield* Effect.forEach([1, 2, 3], (seed) =>
          Effect.tap(BpfMap.create(spec, `m${seed}`), (map) =>
            Effect.sync(() => {
              const keys = new Uint8Array(20_000 * 14)
              for (let i = 0; i < 20_000; i++) new DataView(keys.buffer).setUint32(i * 14, i * seed)
              bpf.updateBatch(map.fd, keys, new Uint8Array(20_000 * 56).fill(seed), Uint32Array.of(20_000))
            })
          )
        )
        const scan = (map: BpfMap.BpfMap, seed: number) => {
          const seen = new Set<number>()
          return Effect.map(
            RowScan.forEach(map, (rows) =>
              Effect.sync(() => {
                for (let i = 0; i < rows.count; i++) {
                  seen.add(rows.keys.getUint32(rows.keyStart + i * rows.keyStride))
                  assert.strictEqual(rows.values.getUint8(rows.valueStart + i * rows.valueStride), seed)
                }
              })
            ),
            ({ entries, method }) => ({ entries, method, distinct: seen.size })
          )
        }
        for (let round = 0; round < 3; round++) {
          const reports = yield* Effect.forEach(maps, (map, i) => scan(map, i + 1), { concurrency: 3 })
          assert.deepStrictEqual(
            reports,
            maps.map(() => ({ entries: 20_000, method: "iterator" as const, distinct: 20_000 }))
          )
        }
      })
    ).pipe(Effect.provide(kernel))
  )

  /** Runs that are under way, and how many there were. */
  let [underWay, runs] = [0, 0]
  const watched = Layer.effect(
    Bpf.Bpf,
    Effect.map(Bpf.Bpf, (bpf) => ({
      ...bpf,
      runProgramAsync: (fd: number, context: Uint8Array, done: (rc: number) => void) => {
        underWay++
        runs++
        bpf.runProgramAsync(fd, context, (rc) => {
          underWay--
          done(rc)
        })
      }
    }))
  ).pipe(Layer.provide(LibBpf.layer))

  it.live("an interrupted scan waits for the run under way, and the next one starts from the beginning", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const bpf = yield* Bpf.Bpf
        const map = yield* BpfMap.create({ ...MapSpec.ct(MapKind.globals[0]), maxEntries: 65_536 }, "m")
        const keys = new Uint8Array(20_000 * 14)
        for (let i = 0; i < 20_000; i++) new DataView(keys.buffer).setUint32(i * 14, i)
        bpf.updateBatch(map.fd, keys, new Uint8Array(20_000 * 56), Uint32Array.of(20_000))
        yield* RowScan.forEach(map, () => Effect.void)
        for (let round = 0; round < 20; round++) {
          const fiber = yield* Effect.forkChild(
            RowScan.forEach(map, () => (round % 2 === 0 ? Effect.never : Effect.void)),
            { startImmediately: true }
          )
          if (round % 4 < 2) yield* Effect.sleep(2)
          yield* Fiber.interrupt(fiber)
          assert.strictEqual(underWay, 0)
        }
        assert.isAbove(runs, 20)
        const report = yield* RowScan.forEach(map, () => Effect.void)
        assert.deepStrictEqual([report.method, report.entries], ["iterator", 20_000])
      })
    ).pipe(Effect.provide(MapIterator.layer.pipe(Layer.provideMerge(watched))))
  )
})
