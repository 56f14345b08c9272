import { assert, it } from "@effect/vitest"
import { CtEntry, MapKind, MapSpec, type Rows } from "ctmap-core"
import { Bpf, BpfMap, LibBpf, MapIterator, RowScan } from "ctmap-kernel"
import { Privileged } from "ctmap-testing"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { describe } from "vitest"

const kernel = MapIterator.layer.pipe(Layer.provideMerge(LibBpf.layer))
const shapes = [
  { name: "ipv4 CT", spec: MapSpec.ct(MapKind.globals[0]) },
  { name: "ipv6 CT", spec: MapSpec.ct(MapKind.globals[2]) },
  { name: "ipv4 NAT", spec: MapSpec.nat("ipv4") },
  { name: "ipv6 NAT", spec: MapSpec.nat("ipv6") }
]
const COUNT = 10_000

/** Sums over keys and values that depend on every byte and on nothing else. */
const digest =
  (sums: { entries: number; keys: bigint; values: bigint }, keySize: number, valueSize: number) => (rows: Rows.Rows) =>
    Effect.sync(() => {
      for (let i = 0; i < rows.count; i++) {
        sums.entries++
        const [key, value] = [rows.keyStart + i * rows.keyStride, rows.valueStart + i * rows.valueStride]
        for (let at = 0; at < keySize; at++) sums.keys += BigInt(rows.keys.getUint8(key + at) * (at + 1)) ** 2n
        for (let at = 0; at < valueSize; at++) sums.values += BigInt(rows.values.getUint8(value + at) * (at + 1)) ** 2n
      }
    })

Privileged.suite(describe, "scans by rows on the kernel", () => {
  it.effect.each(shapes)("$name: the iterator reads what batches read", ({ spec }) =>
    Effect.scoped(
      Effect.gen(function* () {
        const bpf = yield* Bpf.Bpf
        const map = yield* BpfMap.create(spec, "rows")
        const keys = crypto.getRandomValues(
          new Uint8Array(COUNT * spec.keySize).subarray(0, 65_536 - (65_536 % spec.keySize))
        )
        const count = keys.byteLength / spec.keySize
        const values = new Uint8Array(count * spec.valueSize).map((_, i) => (i * 31) & 0xff)
        bpf.updateBatch(map.fd, keys, values, Uint32Array.of(count))
        const sums = []
        for (const method of ["iterator", "batch", "next-key"] as const) {
          const sum = { entries: 0, keys: 0n, values: 0n }
          const report = yield* RowScan.forEach(map, digest(sum, spec.keySize, spec.valueSize), { method })
          assert.deepStrictEqual([report.method, report.entries, report.completed], [method, count, true])
          sums.push(sum)
        }
        assert.deepStrictEqual(sums[0], sums[1])
        assert.deepStrictEqual(sums[0], sums[2])
      })
    ).pipe(Effect.provide(kernel))
  )

  it.effect("large maps are read by iterator, small ones by batch, and without a MapIterator all by batch", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const large = yield* BpfMap.create(MapSpec.ct(MapKind.globals[0]), "large")
        const small = yield* BpfMap.create({ ...MapSpec.ct(MapKind.globals[0]), maxEntries: 1024 }, "small")
        const method = (map: BpfMap.BpfMap) =>
          Effect.map(
            RowScan.forEach(map, () => Effect.void),
            (report) => report.method
          )
        assert.deepStrictEqual([yield* method(large), yield* method(small)], ["iterator", "batch"])
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
})
