import { spawnSync } from "node:child_process"
import { availableParallelism } from "node:os"
import { fileURLToPath } from "node:url"
import { assert, it } from "@effect/vitest"
import { type MapSpec, type Rows } from "ctmap-core"
import { Bpf, BpfMap, LibBpf, MapIterator, RowScan } from "ctmap-kernel"
import { Privileged, TempBpfFs } from "ctmap-testing"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { describe } from "vitest"
import { jhash, KEY, keysOf, VALUE, values } from "./churn.ts"
import { churn } from "./churnProcess.ts"

const kernel = MapIterator.layer.pipe(Layer.provideMerge(LibBpf.layer))

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

/**
 * So many buckets must have changed under the iterator's feet: of a hundred of them, the kernel's own iterator misses an
 * entry of one.
 */
const ENOUGH = 300
const SCANS = 5000
/** Milliseconds: a machine that is too busy for so many scans does fewer, but until one bucket has changed. */
const LONG = 15_000

/** Scans until enough buckets have changed meanwhile; `check` is called after each scan that calls itself exact. */
const scanAll = (map: BpfMap.BpfMap, entries: number, check: (seen: Uint8Array, scan: number) => void) =>
  Effect.gen(function* () {
    const until = Date.now() + LONG
    let again = 0
    // On one CPU nobody else runs while a bucket is copied.
    const least = availableParallelism() > 1 ? 1 : 0
    const isEnough = (scan: number) => again >= ENOUGH || (again >= least && (scan >= SCANS || Date.now() >= until))
    for (let scan = 0; !isEnough(scan); scan++) {
      const seen = new Uint8Array(entries)
      const report = yield* RowScan.forEach(map, tally(seen), { method: "iterator" })
      again += report.again
      if (report.exact) check(seen, scan)
    }
  })

const isExact = (map: BpfMap.BpfMap) =>
  Effect.map(
    RowScan.forEach(map, () => Effect.void, { method: "iterator" }),
    (report) => report.exact
  )

/** Keys of the twins' map are longer than those the program reads, which are all that it can tell them apart by. */
const LONGER = 16
const [HOT, BUCKETS] = [1, 8]

/** Where a key goes: its bucket, and the part of the hash by which the program knows which keys may be the same. */
const placeOf = (key: DataView): number => {
  const hash = jhash(key)
  return (hash >>> 26) * BUCKETS + (hash & (BUCKETS - 1))
}

/**
 * A map as it is while an entry is being replaced: Linux puts the new one in front of the bucket before it takes out the
 * old one. Both stay here, as two entries whose keys differ behind what the program reads. In their bucket there are an
 * entry of another key and of the same place, and one that the other process replaces.
 */
const createTwins = Effect.gen(function* () {
  const bpf = yield* Bpf.Bpf
  const map = yield* create({ keySize: LONGER, maxEntries: BUCKETS, flags: ZERO_SEED }, 0)
  const keys = keysOf(HOT, 4, LONGER)
  const [hot, old, fresh, other] = [0, 1, 2, 3].map((i) => new DataView(keys.buffer, i * LONGER, LONGER)) as [
    DataView,
    DataView,
    DataView,
    DataView
  ]
  const bucket = placeOf(hot) % BUCKETS
  while (placeOf(old) % BUCKETS !== bucket) old.setUint32(0, old.getUint32(0) + 1)
  const place = placeOf(old)
  fresh.setUint32(0, old.getUint32(0))
  do fresh.setUint16(14, fresh.getUint16(14) + 1)
  while (placeOf(fresh) !== place)
  other.setUint32(0, old.getUint32(0) + 1)
  while (placeOf(other) !== place) other.setUint32(0, other.getUint32(0) + 1)
  for (const [i, key] of [hot, old, fresh, other].entries()) {
    const bytes = new Uint8Array(key.buffer, key.byteOffset, LONGER)
    // All bytes of a value are 1 but the last, which is the entry's.
    assert.strictEqual(bpf.update(map.fd, bytes, values(1).fill(i, VALUE - 1), 0), 0)
  }
  return {
    map,
    shown: { ...map, fd: map.fd, info: { ...map.info, keySize: KEY } },
    numbers: { twins: old.getUint32(0), other: other.getUint32(0) }
  }
})

Privileged.suite(describe, "an iterator over a map that others change", () => {
  const cases = [
    { title: "a hash", changes: { type: HASH }, staying: 1024, deleted: 64, replaced: 1024 },
    { title: "an LRU hash", changes: { type: LRU_HASH }, staying: 1024, deleted: 256, replaced: 1024 },
    // An element that a replacement set free is used by the next one: so the same is first again after every other.
    { title: "an entry that is replaced all the time", changes: { type: HASH }, staying: 0, deleted: 0, replaced: 1 },
    {
      title: "two in a bucket that are replaced all the time",
      changes: { type: HASH, maxEntries: 2 },
      staying: 0,
      deleted: 0,
      replaced: 2
    }
  ] as const
  it.live.each(cases)(
    "$title: sees what stays and what is replaced exactly once, or says that it is not exact",
    ({ changes, staying, deleted, replaced }) =>
      Effect.scoped(
        Effect.gen(function* () {
          const count = staying + deleted + replaced
          const map = yield* create(changes, count)
          // An older kernel: nothing is promised.
          if (!(yield* isExact(map))) return
          yield* churn(map, staying, deleted, replaced)
          yield* scanAll(map, count, (seen, scan) => {
            const wrong = seen.findIndex(
              (times, number) => times !== 1 && (number < staying || number >= staying + deleted)
            )
            assert.strictEqual(wrong, -1, `scan ${scan}: seen ${seen[wrong]} times`)
          })
        })
      ).pipe(Effect.provide(kernel))
  )

  it.effect("an entry that is being replaced, old and new both in the bucket, is seen once, the new one", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const { shown, numbers } = yield* createTwins
        const found: Array<readonly [number: number, last: number]> = []
        const report = yield* RowScan.forEach(
          shown,
          (rows) =>
            Effect.sync(() => {
              for (let i = 0; i < rows.count; i++) {
                const last = rows.values.getUint8(rows.valueStart + i * rows.valueStride + VALUE - 1)
                found.push([rows.keys.getUint32(rows.keyStart + i * rows.keyStride), last])
              }
            }),
          { method: "iterator" }
        )
        if (!report.exact) return
        assert.deepStrictEqual(
          found.toSorted(([, one], [, another]) => one - another),
          [
            [HOT, 0],
            [numbers.twins, 2],
            [numbers.other, 3]
          ]
        )
      })
    ).pipe(Effect.provide(kernel))
  )

  it.live("and also where the bucket changes and is copied anew", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const { map, shown, numbers } = yield* createTwins
        if (!(yield* isExact(shown))) return
        yield* churn(map, HOT, 0, 1, LONGER)
        yield* scanAll(shown, Math.max(numbers.twins, numbers.other) + 1, (seen, scan) =>
          assert.deepStrictEqual(
            [seen[HOT], seen[numbers.twins], seen[numbers.other]],
            [1, 1, 1],
            `scan ${scan}: the one that is replaced, the twins, the other`
          )
        )
      })
    ).pipe(Effect.provide(kernel))
  )

  it.effect.each([
    {
      title: "a bucket for which there is no room left begins the next part",
      before: 3900,
      together: 200,
      exact: true
    },
    {
      title: "a bucket of more than 512 entries is read in two, and the report says so",
      before: 0,
      together: 700,
      exact: false
    }
  ])("$title", ({ before, together, exact }) =>
    Effect.scoped(
      Effect.gen(function* () {
        const bpf = yield* Bpf.Bpf
        const map = yield* create({ flags: ZERO_SEED }, 0)
        // So many entries in the first half of the buckets, and so many in one behind them.
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
        for (let round = 0; round < 2; round++) {
          const seen = new Uint8Array(number + 1)
          // In as few runs as the memory allows, even where something else takes the CPU meanwhile.
          const report = yield* RowScan.forEach(map, tally(seen), { method: "iterator", callTarget: "4 seconds" })
          assert.deepStrictEqual([report.entries, report.batches, report.exact], [count, 2, exact])
          assert.isTrue(seen.every((times) => times <= 1))
        }
      })
    ).pipe(Effect.provide(kernel))
  )

  it.effect("promises the same of every kind of map", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const promises: Array<boolean> = []
        for (const keySize of [14, 38]) promises.push(yield* isExact(yield* create({ keySize }, 0)))
        promises.push(yield* isExact(yield* create({ valueSize: 40 }, 0)))
        assert.deepStrictEqual(
          promises,
          promises.map(() => promises[0])
        )
      })
    ).pipe(Effect.provide(kernel))
  )

  it.effect("entries that are not preallocated are left to batches", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const map = yield* create({ flags: 1, maxEntries: 65_536 }, 30_000)
        const error = yield* Effect.flip(RowScan.forEach(map, () => Effect.void, { method: "iterator" }))
        assert.include(error.message, "an iterator for maps whose entries are not preallocated")
        const { method, entries } = yield* RowScan.forEach(map, () => Effect.void)
        assert.deepStrictEqual([method, entries], ["batch", 30_000])
      })
    ).pipe(Effect.provide(kernel))
  )

  it.effect("a map is not taken for another one that its fd was given to", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const [one, other] = [yield* create({}, 10), yield* create({}, 20)]
        const error = yield* Effect.flip(
          RowScan.forEach({ ...one, fd: other.fd }, () => Effect.void, { method: "iterator" })
        )
        assert.strictEqual(error.reason._tag, "FeatureUnsupported")
        for (const fd of [0, 1_000_000]) {
          yield* Effect.flip(RowScan.forEach({ ...one, fd }, () => Effect.void, { method: "iterator" }))
        }
      })
    ).pipe(Effect.provide(kernel))
  )

  it.effect("a map that may only be read is read", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const bpf = yield* Bpf.Bpf
        const mount = yield* Effect.acquireRelease(
          Effect.sync(() => {
            const made = TempBpfFs.make()
            made.start()
            return made
          }),
          (made) => Effect.sync(made.stop)
        )
        const map = yield* create({}, 1000)
        assert.strictEqual(bpf.pin(map.fd, `${mount.path}/map`), 0)
        const fd = yield* Effect.acquireRelease(
          Effect.sync(() => bpf.openPin(`${mount.path}/map`, Bpf.READ_ONLY)),
          (opened) => Effect.sync(() => bpf.close(opened))
        )
        assert.isBelow(bpf.update(fd, keysOf(0, 1), values(1), 0), 0)
        const seen = new Uint8Array(1000)
        const report = yield* RowScan.forEach({ ...map, fd }, tally(seen), { method: "iterator" })
        assert.deepStrictEqual([report.entries, report.exact], [1000, true])
      })
    ).pipe(Effect.provide(kernel))
  )

  it.each([
    { capabilities: "-all,+bpf,+perfmon", expected: { method: "iterator", entries: 40_000, exact: true } },
    { capabilities: "-all,+bpf", expected: { method: "batch", entries: 40_000, exact: true } }
  ])("with capabilities $capabilities and no more, a map is read by $expected.method", ({ capabilities, expected }) => {
    const limits = [`--bounding-set=${capabilities}`, `--inh-caps=${capabilities}`, "--no-new-privs"]
    const script = fileURLToPath(new URL("./rowScanChild.ts", import.meta.url))
    const command = [process.execPath, "--conditions=ctmap-source", script]
    const { stdout, stderr, status } = spawnSync("setpriv", [...limits, ...command], { encoding: "utf8" })
    assert.strictEqual(status, 0, stderr)
    assert.deepStrictEqual(JSON.parse(stdout), { ...expected, left: [] })
  })
})
