import { assert } from "@effect/vitest"
import { CtEntry, MapKind, MapSpec } from "ctmap-core"
import { Bpf, BpfMap, Scan } from "ctmap-kernel"
import { TableEstimate } from "ctmap-gc"
import * as Effect from "effect/Effect"
import * as Random from "effect/Random"

export const NOW = 1000

export interface Content {
  readonly slots: number
  readonly entries: number
  /** Share of the entries that have expired before {@link NOW}. */
  readonly expired: number
  readonly seed: number
}

const CHUNK = 16_384

/** A CT map with known content. The kernel evicts now and then as a map gets full: the entries are counted. */
export const filled = Effect.fnUntraced(function* ({ slots, entries, expired, seed }: Content) {
  const bpf = yield* Bpf.Bpf
  const map = yield* BpfMap.create({ ...MapSpec.ct(MapKind.globals[0]), maxEntries: slots }, "estimate")
  const { keySize, valueSize } = map.info
  for (let from = 0; from < entries; from += CHUNK) {
    const count = Math.min(CHUNK, entries - from)
    const keys = new DataView(new ArrayBuffer(count * keySize))
    const values = new DataView(new ArrayBuffer(count * valueSize))
    for (let i = 0; i < count; i++) {
      keys.setUint32(i * keySize, from + i)
      keys.setUint32(i * keySize + 4, seed)
      const isExpired = Math.floor((from + i + 1) * expired) > Math.floor((from + i) * expired)
      values.setUint32(i * valueSize + CtEntry.offset.lifetime, isExpired ? NOW - 1 : NOW, true)
    }
    const rc = bpf.updateBatch(
      map.fd,
      new Uint8Array(keys.buffer),
      new Uint8Array(values.buffer),
      Uint32Array.of(count)
    )
    assert.strictEqual(rc, 0)
  }
  return map
})

/** Estimates a filled map and compares with a count: within five of its own standard errors, and those are small. */
export const estimateHolds = (content: Content) =>
  Effect.scoped(
    Effect.gen(function* () {
      const map = yield* filled(content)
      const truth = yield* TableEstimate.count(map, { expiredBefore: NOW })
      assert.strictEqual(truth.entries, yield* Scan.count(map))
      const found = yield* TableEstimate.estimate(map, { expiredBefore: NOW }).pipe(Random.withSeed(content.seed))
      const about = JSON.stringify({ content, truth, found })
      if (found.method === "counted") {
        assert.deepStrictEqual({ ...found, reads: 0, millis: 0 }, { ...truth, reads: 0, millis: 0 }, about)
      } else {
        assert.isAtMost(Math.abs(found.entries - truth.entries), 5 * found.error, about)
        assert.isAtMost(found.error, 0.03 * truth.entries, about)
        const off = Math.abs((found.expiredRatio ?? 2) - (truth.expiredRatio ?? -2))
        assert.isAtMost(off, 5 * found.expiredRatioError, about)
        assert.isAtMost(found.expiredRatioError, 0.02, about)
        assert.isAtMost(found.entries, content.slots, about)
      }
      return { found, truth }
    })
  )

/** How far off the estimates of many seeds are together: their mean must be the truth. */
export const bias = (content: Content, seeds: number) =>
  Effect.scoped(
    Effect.gen(function* () {
      const map = yield* filled(content)
      const truth = yield* Scan.count(map)
      const found = yield* Effect.forEach(
        Array.from({ length: seeds }, (_, i) => i),
        (seed) => TableEstimate.estimate(map).pipe(Random.withSeed(seed))
      )
      const mean = found.reduce((sum, { entries }) => sum + entries, 0) / seeds
      const error = found.reduce((sum, each) => sum + each.error, 0) / seeds
      const spread = Math.sqrt(found.reduce((sum, { entries }) => sum + (entries - mean) ** 2, 0) / (seeds - 1))
      return { truth, mean, error, spread, methods: new Set(found.map(({ method }) => method)) }
    })
  )
