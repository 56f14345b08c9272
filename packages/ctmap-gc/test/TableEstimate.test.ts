import { assert, describe, it } from "@effect/vitest"
import { Bpf, BpfMap, BpfMemory } from "ctmap-kernel"
import { MapKind, MapSpec } from "ctmap-core"
import { TableEstimate } from "ctmap-gc"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { bias, estimateHolds, filled, NOW } from "./estimateCases.ts"

const tables = {
  slots: Schema.Literals([20_000, 65_536, 100_000]),
  percent: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 90 })),
  expired: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 100 })),
  seed: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 1_000_000 }))
}

const reads = (control: BpfMemory.Controls) => control.count("lookupBatch")

describe("TableEstimate", () => {
  it.effect.prop(
    "is within five of its own standard errors, which are small, at any fill",
    tables,
    ({ slots, percent, expired, seed }) =>
      estimateHolds({ slots, entries: Math.floor((slots * percent) / 100), expired: expired / 100, seed }).pipe(
        Effect.provide(BpfMemory.layerTest({ seed }))
      ),
    { arbitrary: { runs: 12, seed: 7 } }
  )

  it.effect("has no bias: a read that stops before the bucket that does not fit is made up for", () =>
    Effect.gen(function* () {
      const seeds = 64
      const content = { slots: 65_536, entries: 50_000, expired: 0, seed: 1 }
      const { truth, mean, spread, error, methods } = yield* bias(content, seeds)
      assert.deepStrictEqual([...methods], ["sampled"])
      // The entry that each read misses would be 0.8 %, more than this leaves.
      assert.isAtMost(Math.abs(mean - truth), 4 * (spread / Math.sqrt(seeds)), JSON.stringify({ mean, truth, spread }))
      assert.isAtMost(spread, 1.3 * error)
      assert.isAtLeast(spread, 0.5 * error)
    }).pipe(Effect.provide(BpfMemory.layerTest()))
  )

  it.effect("samples a large table by 65 reads, and the same places for the same seed", () =>
    Effect.gen(function* () {
      const control = yield* BpfMemory.Control
      const map = yield* filled({ slots: 131_072, entries: 70_000, expired: 0.25, seed: 3 })
      assert.isUndefined(yield* TableEstimate.obstacle)
      const before = reads(control)
      const found = yield* TableEstimate.estimate(map, { expiredBefore: NOW })
      assert.strictEqual(reads(control) - before, TableEstimate.SAMPLES + 1)
      assert.strictEqual(found.method, "sampled")
      assert.strictEqual(found.reads, TableEstimate.SAMPLES)
    }).pipe(Effect.scoped, Effect.provide(BpfMemory.layerTest()))
  )

  it.effect("reads a nearly empty table once, and all of it", () =>
    Effect.gen(function* () {
      const control = yield* BpfMemory.Control
      const map = yield* filled({ slots: 524_288, entries: 100, expired: 0.5, seed: 3 })
      yield* TableEstimate.obstacle
      const before = reads(control)
      const { millis: _, ...found } = yield* TableEstimate.estimate(map, { expiredBefore: NOW })
      assert.strictEqual(reads(control) - before, 1)
      assert.deepStrictEqual(found, {
        method: "counted",
        entries: 100,
        error: 0,
        expired: 50,
        expiredRatio: 0.5,
        expiredRatioError: 0,
        reads: 1
      })
    }).pipe(Effect.scoped, Effect.provide(BpfMemory.layerTest()))
  )

  it.effect("of a huge table that is nearly empty it reads the end only, in one call, and says how sure that is", () =>
    Effect.gen(function* () {
      const control = yield* BpfMemory.Control
      const map = yield* filled({ slots: 16_777_216, entries: 1600, expired: 0, seed: 3 })
      yield* TableEstimate.obstacle
      const before = reads(control)
      const found = yield* TableEstimate.estimate(map)
      assert.strictEqual(reads(control) - before, 1)
      assert.strictEqual(found.method, "sampled")
      assert.isAtMost(Math.abs(found.entries - 1600), 5 * found.error)
      assert.isAbove(found.error, 100)
      assert.isUndefined(found.expired)
    }).pipe(Effect.scoped, Effect.provide(BpfMemory.layerTest()))
  )

  it.effect("an empty table has none, expired or not", () =>
    Effect.gen(function* () {
      const map = yield* filled({ slots: 65_536, entries: 0, expired: 0, seed: 3 })
      const found = yield* TableEstimate.estimate(map, { expiredBefore: NOW })
      assert.deepStrictEqual([found.entries, found.expired, found.expiredRatio, found.error], [0, 0, 0, 0])
    }).pipe(Effect.scoped, Effect.provide(BpfMemory.layerTest()))
  )

  it.effect("an entry on the limit has not expired", () =>
    Effect.gen(function* () {
      const map = yield* filled({ slots: 1024, entries: 10, expired: 0.5, seed: 3 })
      assert.strictEqual((yield* TableEstimate.estimate(map, { expiredBefore: NOW })).expired, 5)
      assert.strictEqual((yield* TableEstimate.estimate(map, { expiredBefore: NOW + 1 })).expired, 10)
      assert.strictEqual((yield* TableEstimate.estimate(map, { expiredBefore: 0 })).expired, 0)
    }).pipe(Effect.scoped, Effect.provide(BpfMemory.layerTest()))
  )

  it.effect("the trial map is made once and dropped, however many tables are estimated", () =>
    Effect.gen(function* () {
      const control = yield* BpfMemory.Control
      const map = yield* filled({ slots: 65_536, entries: 40_000, expired: 0, seed: 3 })
      const made = control.count("mapCreate")
      yield* TableEstimate.estimate(map)
      yield* TableEstimate.estimate(map)
      assert.strictEqual(control.count("mapCreate"), made + 1)
      assert.strictEqual(control.living().length, 1)
    }).pipe(Effect.scoped, Effect.provide(BpfMemory.layerTest()))
  )

  const refusals: ReadonlyArray<{
    readonly name: string
    readonly why: RegExp
    readonly kernel?: BpfMemory.Options
    readonly alter?: (bpf: Bpf.Calls) => Bpf.Calls
  }> = [
    {
      name: "a map may not be made",
      why: /could not be used: .*not permitted/i,
      alter: (bpf) => ({ ...bpf, mapCreate: () => -1 })
    },
    { name: "there are no batches", why: /lookup batch of map/, kernel: { features: { batch: "unknown command" } } },
    {
      name: "the hash does not spread",
      why: /saw \d+ of 1500 entries/,
      kernel: { hash: (key) => Math.min(2047, new DataView(key.buffer, key.byteOffset).getUint32(0, true)) }
    },
    { name: "there are more buckets than the size says", why: /no bucket number/, kernel: { buckets: 8192 } },
    {
      name: "the cursor is a token",
      why: /no bucket number/,
      alter: (bpf) => ({
        ...bpf,
        lookupBatch: (fd, cursor, next, keys, values, count) => {
          const plain = cursor?.map((byte, i) => (i < 4 ? byte ^ 0x5a : byte)) ?? null
          const rc = bpf.lookupBatch(fd, plain, next, keys, values, count)
          for (let i = 0; i < 4; i++) next[i] = (next[i] ?? 0) ^ 0x5a
          return rc
        }
      })
    },
    {
      name: "any cursor starts at the front",
      why: /walk|estimates|no bucket/,
      alter: (bpf) => {
        let last = 0
        return {
          ...bpf,
          lookupBatch: (fd, cursor, next, keys, values, count) => {
            const at = cursor === null ? 0 : new DataView(cursor.buffer).getUint32(0, true)
            const rc = bpf.lookupBatch(fd, at === last ? cursor : new Uint8Array(8), next, keys, values, count)
            last = new DataView(next.buffer).getUint32(0, true)
            return rc
          }
        }
      }
    }
  ]

  it.effect.each(refusals)("counts where $name", ({ why, kernel = {}, alter = (bpf) => bpf }) =>
    Effect.gen(function* () {
      const altered = alter(yield* Bpf.Bpf)
      // The table itself is an ordinary one: whether it is sampled depends on the trial alone.
      const { method, entries, error } = yield* Effect.gen(function* () {
        const real = yield* Bpf.Bpf
        const map = yield* BpfMap.create({ ...MapSpec.ct(MapKind.globals[0]), maxEntries: 65_536 }, "ct").pipe(
          Effect.provideService(Bpf.Bpf, { ...real, mapCreate: (yield* Bpf.Bpf).mapCreate })
        )
        for (let i = 0; i < 3000; i++) {
          const key = new Uint8Array(14)
          new DataView(key.buffer).setUint32(0, i)
          real.update(map.fd, key, new Uint8Array(56), Bpf.ANY)
        }
        return yield* TableEstimate.estimate(map).pipe(Effect.provideService(Bpf.Bpf, altered))
      })
      assert.match((yield* TableEstimate.obstacle.pipe(Effect.provideService(Bpf.Bpf, altered))) ?? "none", why)
      assert.deepStrictEqual([method, entries, error], ["counted", 3000, 0])
    }).pipe(Effect.scoped, Effect.provide(BpfMemory.layerTest(kernel)))
  )

  it.effect("a trial that failed for want of memory is tried again", () =>
    Effect.gen(function* () {
      const control = yield* BpfMemory.Control
      control.failNext("mapCreate", 12)
      assert.include((yield* TableEstimate.obstacle) ?? "", "could not be used")
      assert.isUndefined(yield* TableEstimate.obstacle)
    }).pipe(Effect.provide(BpfMemory.layerTest()))
  )

  it.effect("a read that fails is an error with the map's name, not a smaller table", () =>
    Effect.gen(function* () {
      const control = yield* BpfMemory.Control
      const map = yield* filled({ slots: 65_536, entries: 40_000, expired: 0, seed: 3 })
      yield* TableEstimate.obstacle
      control.failNext("lookupBatch", 5, { skip: 10 })
      const error = yield* Effect.flip(TableEstimate.estimate(map))
      assert.include(error.message, "lookup batch of map estimate")
      control.failNext("lookupBatch", 4, { skip: 10, times: 3 })
      assert.strictEqual((yield* TableEstimate.estimate(map)).method, "sampled")
    }).pipe(Effect.scoped, Effect.provide(BpfMemory.layerTest()))
  )

  it.effect("a walk by next key that gave up is no count", () =>
    Effect.gen(function* () {
      const bpf = yield* Bpf.Bpf
      const map = yield* filled({ slots: 1024, entries: 64, expired: 0, seed: 3 })
      // Whatever is looked at is gone, and what is gone leads back to the start.
      const error = yield* TableEstimate.count(map).pipe(
        Effect.provideService(Bpf.Bpf, {
          ...bpf,
          lookupBatch: () => -22,
          lookup: () => -2,
          nextKey: (fd, _, next) => bpf.nextKey(fd, null, next)
        }),
        Effect.flip
      )
      assert.strictEqual(error._tag, "Incomplete")
    }).pipe(Effect.scoped, Effect.provide(BpfMemory.layerTest()))
  )
})
