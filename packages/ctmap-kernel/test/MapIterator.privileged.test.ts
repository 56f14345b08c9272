import { type ChildProcess, spawn } from "node:child_process"
import { availableParallelism } from "node:os"
import { fileURLToPath } from "node:url"
import { assert, it } from "@effect/vitest"
import { type MapSpec, type Rows } from "ctmap-core"
import { Bpf, BpfMap, LibBpf, MapIterator, RowScan } from "ctmap-kernel"
import { Privileged } from "ctmap-testing"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { describe } from "vitest"
import { jhash, keysOf, VALUE, values } from "./churn.ts"

const kernel = MapIterator.layer.pipe(Layer.provideMerge(LibBpf.layer))

/** A kernel before 6.2: it takes none of the programs that check what they copied. */
const older = MapIterator.layer.pipe(
  Layer.provideMerge(
    Layer.effect(
      Bpf.Bpf,
      Effect.map(Bpf.Bpf, (bpf) => ({
        ...bpf,
        loadObject: (spec: Bpf.ObjectSpec) =>
          spec.programs.some((name) => name.startsWith("exact")) ? { errno: 22, log: "" } : bpf.loadObject(spec)
      }))
    ).pipe(Layer.provide(LibBpf.layer))
  )
)

const HASH = 1
const LRU_HASH = 9
/** `BPF_F_ZERO_SEED`: the order is the same everywhere. */
const ZERO_SEED = 0x40
const create = (changes: Partial<MapSpec.Properties>, count: number) =>
  Effect.gen(function* () {
    const bpf = yield* Bpf.Bpf
    const spec = { type: HASH, keySize: 14, valueSize: VALUE, maxEntries: 8192, flags: 0, ...changes } as const
    const map = yield* BpfMap.create(spec, "exact")
    assert.strictEqual(bpf.updateBatch(map.fd, keysOf(0, count), values(count), Uint32Array.of(count)), 0)
    return map
  })

/** Counts the entries of a scan by their number. */
const tally = (seen: Uint8Array) => (rows: Rows.Rows) =>
  Effect.sync(() => {
    let torn = 0
    for (let i = 0; i < rows.count; i++) {
      if (rows.values.getUint32(rows.valueStart + i * rows.valueStride) !== 0x0101_0101) torn++
      seen[rows.keys.getUint32(rows.keyStart + i * rows.keyStride)]!++
    }
    assert.strictEqual(torn, 0)
  })

/** The other process: deletes and inserts entries from number `from` on, and replaces those behind them. */
const churn = (map: BpfMap.BpfMap, from: number, deleted: number, replaced: number) =>
  Effect.acquireRelease(
    Effect.promise(
      () =>
        new Promise<ChildProcess>((started, failed) => {
          const script = fileURLToPath(new URL("./churnChild.ts", import.meta.url))
          const words = ["--conditions=ctmap-source", script, `${from}`, `${deleted}`, `${replaced}`]
          const child = spawn(process.execPath, words, { stdio: ["ignore", "pipe", "inherit", map.fd] })
          child.once("exit", (code) => failed(new Error(`the other process ended with ${code}`)))
          child.stdout!.once("data", () => started(child))
        })
    ),
    (child) => Effect.sync(() => child.kill("SIGKILL"))
  )

/**
 * So many buckets must have changed under the iterator's feet: of a hundred of them, the kernel's own iterator misses an
 * entry of one.
 */
const ENOUGH = 300
const SCANS = 5000

Privileged.suite(describe, "an iterator over a map that others change", () => {
  const cases = [
    { title: "a hash", type: HASH, deleted: 64 },
    { title: "an LRU hash", type: LRU_HASH, deleted: 256 }
  ] as const
  it.live.each(cases)(
    "$title: sees what stays and what is replaced exactly once, or says that it is not exact",
    ({ type, deleted }) =>
      Effect.scoped(
        Effect.gen(function* () {
          const [staying, replaced] = [1024, 1024]
          const count = staying + deleted + replaced
          const map = yield* create({ type }, count)
          const first = yield* RowScan.forEach(map, () => Effect.void, { method: "iterator" })
          // An older kernel: nothing is promised.
          if (!first.exact) return
          yield* churn(map, staying, deleted, replaced)
          let again = 0
          for (let scan = 0; again < ENOUGH && scan < SCANS; scan++) {
            const seen = new Uint8Array(count)
            const report = yield* RowScan.forEach(map, tally(seen), { method: "iterator" })
            again += report.again
            if (!report.exact) continue
            const wrong = seen.findIndex(
              (times, number) => times !== 1 && (number < staying || number >= staying + deleted)
            )
            assert.strictEqual(wrong, -1, `scan ${scan}: seen ${seen[wrong]} times`)
          }
          // On one CPU nobody else runs while a bucket is copied.
          if (availableParallelism() > 1) assert.isAbove(again, 0, "no bucket changed under the iterator")
        })
      ).pipe(Effect.provide(kernel)),
    60_000
  )

  it.effect("a bucket too long for the room that is left is read in two, and the report says so", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const bpf = yield* Bpf.Bpf
        const map = yield* create({ flags: ZERO_SEED }, 0)
        // 4,000 entries in the first half of the buckets, and 200 in one behind them: no half has room for those.
        const [before, together] = [4000, 200]
        const keys = keysOf(0, before + together)
        let [number, low, same] = [0, 0, 0]
        const key = keysOf(0, 1)
        const view = new DataView(key.buffer)
        while (low < before || same < together) {
          view.setUint32(0, ++number)
          const bucket = jhash(view) & 8191
          if (bucket < 4096 && low < before) keys.set(key, low++ * key.length)
          if (bucket === 5000 && same < together) keys.set(key, (before + same++) * key.length)
        }
        const count = before + together
        assert.strictEqual(bpf.updateBatch(map.fd, keys, values(count), Uint32Array.of(count)), 0)
        const seen = new Uint8Array(number + 1)
        const report = yield* RowScan.forEach(map, tally(seen), { method: "iterator" })
        assert.deepStrictEqual([report.entries, report.batches, report.exact], [count, 2, false])
        assert.isTrue(seen.every((times) => times <= 1))
      })
    ).pipe(Effect.provide(kernel))
  )

  it.effect("an empty map has no rows, and that is exact", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const map = yield* create({}, 0)
        const report = yield* RowScan.forEach(map, () => Effect.die("there are no rows"), { method: "iterator" })
        assert.deepStrictEqual([report.entries, report.batches, report.exact], [0, 0, true])
      })
    ).pipe(Effect.provide(kernel))
  )

  it.effect("entries that are not preallocated are read, without the promise", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const map = yield* create({ flags: 1 }, 5000)
        const seen = new Uint8Array(5000)
        const report = yield* RowScan.forEach(map, tally(seen), { method: "iterator" })
        assert.deepStrictEqual([report.entries, report.exact], [5000, false])
        assert.isTrue(seen.every((times) => times === 1))
      })
    ).pipe(Effect.provide(kernel))
  )

  it.effect("a kernel before 6.2 reads a quiet map whole, without the promise", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const map = yield* create({ maxEntries: 16_384 }, 16_000)
        const seen = new Uint8Array(16_000)
        const report = yield* RowScan.forEach(map, tally(seen), { method: "iterator" })
        assert.deepStrictEqual([report.method, report.entries, report.exact], ["iterator", 16_000, false])
        assert.isTrue(seen.every((times) => times === 1))
      })
    ).pipe(Effect.provide(older))
  )
})
