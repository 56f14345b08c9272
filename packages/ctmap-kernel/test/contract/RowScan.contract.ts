/**
 * What scans by rows promise, of whatever kernel: each way reads what the others read.
 */
import { assert, describe, layer } from "@effect/vitest"
import { MapKind, MapSpec, type Rows } from "ctmap-core"
import { Bpf, type BpfError, BpfMap, MapIterator, RowScan } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import { keysOf, values } from "../churn.ts"

const shapes = [
  { name: "ipv4 CT", spec: MapSpec.ct(MapKind.globals[0]) },
  { name: "ipv6 CT", spec: MapSpec.ct(MapKind.globals[2]) },
  { name: "ipv4 NAT", spec: MapSpec.nat("ipv4") },
  { name: "ipv6 NAT", spec: MapSpec.nat("ipv6") }
]
const COUNT = 10_000
const methods = ["iterator", "batch", "next-key"] as const

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

/** Keys of which every byte is random. */
const randomKeys = (keySize: number): Uint8Array => {
  const keys = new Uint8Array(COUNT * keySize)
  for (let at = 0; at < keys.length; at += 65_536) crypto.getRandomValues(keys.subarray(at, at + 65_536))
  return keys
}

const numbered = (maxEntries: number, count: number) =>
  Effect.gen(function* () {
    const bpf = yield* Bpf.Bpf
    const map = yield* BpfMap.create({ ...MapSpec.ct(MapKind.globals[0]), maxEntries }, "rows")
    assert.strictEqual(bpf.updateBatch(map.fd, keysOf(0, count), values(count), Uint32Array.of(count)), 0)
    return map
  })

const numbers = (seen: Map<number, number>) => (rows: Rows.Rows) =>
  Effect.sync(() => {
    for (let row = 0; row < rows.count; row++) {
      const number = rows.keys.getUint32(rows.keyStart + row * rows.keyStride)
      seen.set(number, (seen.get(number) ?? 0) + 1)
    }
  })

const once = (seen: ReadonlyMap<number, number>, count: number): boolean =>
  seen.size === count && [...seen.values()].every((times) => times === 1)

/** The suite, over a kernel. */
export const contract = (name: string, kernel: Layer.Layer<Bpf.Bpf, BpfError.BpfError>): void => {
  describe(`${name}, by the contract`, () => {
    layer(MapIterator.layer.pipe(Layer.provideMerge(kernel)))((it) => {
      it.effect.each(shapes)("$name: the iterator reads what batches read", ({ spec }) =>
        Effect.scoped(
          Effect.gen(function* () {
            const bpf = yield* Bpf.Bpf
            const map = yield* BpfMap.create({ ...spec, maxEntries: 16_384 }, "rows")
            const contents = new Uint8Array(COUNT * spec.valueSize).map((_, i) => (i * 31) & 0xff)
            bpf.updateBatch(map.fd, randomKeys(spec.keySize), contents, Uint32Array.of(COUNT))
            const sums = []
            for (const method of methods) {
              const sum = { entries: 0, keys: 0n, values: 0n }
              const report = yield* RowScan.forEach(map, digest(sum, spec.keySize, spec.valueSize), { method })
              assert.deepStrictEqual([report.method, report.entries, report.completed], [method, COUNT, true])
              assert.isTrue(report.exact)
              sums.push(sum)
            }
            assert.deepStrictEqual(sums[0], sums[1])
            assert.deepStrictEqual(sums[0], sums[2])
          })
        )
      )

      for (const method of methods) {
        it.effect(`by ${method}, as a stream and twice in a row, every entry is seen once`, () =>
          Effect.scoped(
            Effect.gen(function* () {
              const map = yield* numbered(32_768, 20_000)
              for (let round = 0; round < 2; round++) {
                const seen = new Map<number, number>()
                yield* Stream.runForEach(RowScan.stream(map, { method }), numbers(seen))
                assert.isTrue(once(seen, 20_000))
              }
            })
          )
        )
      }

      it.effect("an empty map has no rows, and that is exact", () =>
        Effect.scoped(
          Effect.gen(function* () {
            const map = yield* numbered(64, 0)
            for (const method of methods) {
              const report = yield* RowScan.forEach(map, () => Effect.die("there are no rows"), { method })
              assert.deepStrictEqual([report.entries, report.exact], [0, true])
            }
          })
        )
      )

      it.effect("a consumer that stops early is no trouble to the next", () =>
        Effect.scoped(
          Effect.gen(function* () {
            const map = yield* numbered(32_768, 20_000)
            for (const method of methods) {
              yield* Stream.runDrain(Stream.take(RowScan.stream(map, { method }), 1))
              const seen = new Map<number, number>()
              yield* RowScan.forEach(map, numbers(seen), { method })
              assert.isTrue(once(seen, 20_000))
            }
          })
        )
      )
    })
  })
}
