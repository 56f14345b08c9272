import { assert, describe, it } from "@effect/vitest"
import { BpfError, BpfMemory } from "ctmap-kernel"
import { Vectors } from "ctmap-testing"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { ctValue, linesOf, natValue, openAll, recordedCases } from "./snapshotCases.ts"
import { ROOT, CT4, NAT4, keyOf, path, run, restore, line, lines, pinned, everything } from "./snapshotMemory.ts"

const { hex, toHex } = Vectors

recordedCases("in memory", { layer: BpfMemory.layer, root: ROOT })

describe("restoring", () => {
  const Entry = Schema.Tuple([Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 0xffff_fff0 })), Schema.Boolean])

  it.effect.prop("is the inverse of saving", { entries: Schema.Array(Entry), more: Schema.Array(Entry) }, (sample) =>
    run(
      Effect.gen(function* () {
        const text = (entries: ReadonlyArray<typeof Entry.Type>) =>
          entries.map(([i, global]) => line(i, global ? CT4 : "cilium_ct4_00007")).join("")
        yield* restore(text(sample.entries))
        const saved = yield* everything
        assert.deepStrictEqual(linesOf(saved), [...new Set(linesOf(text(sample.entries)))])
        const merged = yield* restore(text(sample.more))
        assert.strictEqual(
          merged.reduce((sum, { entries }) => sum + entries, 0),
          sample.more.length
        )
        yield* restore(saved, { replace: true })
        const maps = new Set(linesOf(saved).map((each) => each.split("\t")[0]))
        const now = linesOf(yield* everything).filter((each) => maps.has(each.split("\t")[0]))
        assert.deepStrictEqual(now, linesOf(saved))
      })
    )
  )

  it.effect("merges, or replaces what was there", () =>
    run(
      Effect.gen(function* () {
        yield* pinned(4096)
        yield* restore(lines(10))
        const [merged] = yield* restore(lines(10, 5))
        assert.deepStrictEqual(merged, {
          map: CT4,
          entries: 10,
          created: false,
          kept: 5,
          overwritten: 0,
          cleared: 0,
          evicted: 0,
          cut: 0,
          now: 15
        })
        const [replaced] = yield* restore(lines(3, 100), { replace: true })
        assert.deepStrictEqual(replaced, {
          map: CT4,
          entries: 3,
          created: false,
          kept: 0,
          overwritten: 0,
          cleared: 15,
          evicted: 0,
          cut: 0,
          now: 3
        })
        assert.deepStrictEqual(linesOf(yield* everything), linesOf(lines(3, 100)))
      })
    )
  )

  it.effect("makes maps as large as the limits say, and of the right type", () =>
    run(
      Effect.gen(function* () {
        yield* restore(line(1) + line(1, "cilium_ct_any4_00042") + line(1, "cilium_per_cluster_ct_tcp4_3"), {
          limits: { ctTcp: 2048, ctAny: 1024, nat: 1024 }
        })
        const found = (yield* openAll).map(({ name, info }) => [name, info.type, info.maxEntries])
        assert.deepStrictEqual(found, [
          [CT4, 9, 2048],
          ["cilium_ct_any4_00042", 9, 64_000],
          ["cilium_per_cluster_ct_tcp4_3", 9, 2048]
        ])
      })
    )
  )

  it.effect("refuses a pinned map of another layout, naming line and pin", () =>
    run(
      Effect.gen(function* () {
        yield* pinned(100, { valueSize: 48 })
        const error = yield* Effect.flip(restore(line(1, "cilium_ct_any4_global") + line(1)))
        assert.strictEqual(
          error.message,
          `line 2 of the snapshot has entries of map ${CT4}, and what is pinned at ${path(CT4)} is another: keys are 14 bytes and values 48, where 14 and 56 are known: restore it below another directory with --bpffs-root, or remove the pin`
        )
        assert.deepStrictEqual((yield* BpfMemory.Control).pins(), [path(CT4)])
      })
    )
  )

  it.effect.each(["unknown command", "not for this map"] as const)("writes one by one where batches are: %s", (batch) =>
    run(
      Effect.gen(function* () {
        const [restored] = yield* restore(lines(2500))
        assert.strictEqual(restored?.now, 2500)
        assert.deepStrictEqual(linesOf(yield* everything), linesOf(lines(2500)))
      }),
      { features: { batch } }
    )
  )

  it.effect("tries again what the kernel was too busy for", () =>
    run(
      Effect.gen(function* () {
        const control = yield* BpfMemory.Control
        control.failNext("updateBatch", 16, { times: 5 })
        assert.strictEqual((yield* restore(lines(1500)))[0]?.now, 1500)
        control.failNext("update", 11, { times: 100 })
        const error = yield* Effect.flip(restore(lines(10, 2000)))
        assert.strictEqual(error instanceof BpfError.BpfError && error.reason._tag, "Busy")
      })
    )
  )
})

describe("an LRU that is too small", () => {
  const EVICTED =
    `map ${CT4} has room for 1024 entries and evicted 1 while 1024 were restored: make the maps larger ` +
    `(--bpf-ct-global-tcp-max, --bpf-ct-global-any-max, --bpf-nat-global-max; an LRU needs some room to spare), or accept the loss (--allow-eviction)`

  const small = { limits: { ctTcp: 1024, ctAny: 1024, nat: 1024 } }

  it.effect("is an error that counts, and the map that was made for it goes", () =>
    run(
      Effect.gen(function* () {
        const control = yield* BpfMemory.Control
        // A free element that another CPU holds aside: one has to go although the map is not full.
        const off = control.onCall(() => {
          const map = control.map(path(CT4))
          if (map?.size() === 1024) map.delete(keyOf(0))
        })
        const error = yield* Effect.flip(restore(lines(1024), small))
        assert.strictEqual(error._tag, "EntriesEvicted")
        assert.strictEqual(error.message, EVICTED)
        assert.deepStrictEqual([control.pins(), control.living()], [[], []])
        off()
      })
    )
  )

  it.effect("is not made where the snapshot has more entries, unless their loss is accepted", () =>
    run(
      Effect.gen(function* () {
        const error = yield* Effect.flip(restore(lines(1100), small))
        assert.strictEqual(
          error.message,
          `map ${CT4}, to be made for 1024 entries, has no room for 1100; nothing was changed: make the maps larger ` +
            `(--bpf-ct-global-tcp-max, --bpf-ct-global-any-max, --bpf-nat-global-max), or accept that entries are ` +
            `evicted (--allow-eviction)`
        )
        const control = yield* BpfMemory.Control
        assert.deepStrictEqual([control.pins(), control.count("mapCreate")], [[], 0])
        const [restored] = yield* restore(lines(1100), { ...small, failOnEviction: false })
        assert.deepStrictEqual(restored, {
          map: CT4,
          entries: 1100,
          created: true,
          kept: 0,
          overwritten: 0,
          cleared: 0,
          evicted: 76,
          cut: 0,
          now: 1024
        })
      })
    )
  )

  it.effect("is counted exactly where the map was not empty", () =>
    run(
      Effect.gen(function* () {
        yield* pinned(1024)
        yield* restore(lines(1000), { failOnEviction: false })
        const [restored] = yield* restore(lines(100, 950), { failOnEviction: false })
        // 50 of the 100 were there, 50 are new, and 1000 + 50 - 1024 had to go.
        assert.deepStrictEqual([restored?.now, restored?.evicted, restored?.kept], [1024, 26, 50])
      })
    )
  )

  it.effect("is not what a text with every line twice looks like", () =>
    run(
      Effect.gen(function* () {
        yield* pinned(4096)
        const [restored] = yield* restore(lines(1000) + lines(1000))
        assert.deepStrictEqual(restored, {
          map: CT4,
          entries: 2000,
          created: false,
          kept: 1000,
          overwritten: 0,
          cleared: 0,
          evicted: 0,
          cut: 0,
          now: 1000
        })
      })
    )
  )
})

describe("moving times", () => {
  const text = (value: Uint8Array, map = CT4, i = 1): string =>
    `${line(i, map).split("\t").slice(0, 2).join("\t")}\t${toHex(value)}\n`
  const times = (shift: number, value: Uint8Array, map = CT4) =>
    run(
      Effect.gen(function* () {
        const [restored] = yield* restore(text(value, map), { shift })
        const saved = hex((yield* everything).trimEnd().split("\t")[2] ?? "")
        return { saved: toHex(saved), cut: restored?.cut }
      })
    )

  type Times = readonly [lifetime: number, lastTxReport: number, lastRxReport: number]
  it.effect.each([
    ["forward", 100, [1000, 900, 0], [1100, 1000, 0], 0],
    ["back", -100, [1000, 0, 900], [900, 0, 800], 0],
    ["below the scale: long expired, and a report once made stays one", -1000, [500, 500, 400], [0, 1, 1], 3],
    ["above the scale", 0xffff_ffff, [500, 1, 0], [0xffff_ffff, 0xffff_ffff, 0], 2],
    ["a lifetime without end stays one", -7, [0xffff_ffff, 8, 0], [0xffff_ffff, 1, 0], 0]
  ] satisfies ReadonlyArray<readonly [string, number, Times, Times, number]>)(
    "of a CT entry: %s",
    ([, shift, before, after, cut]) =>
      Effect.map(times(shift, ctValue(...before)), (found) =>
        assert.deepStrictEqual(found, { saved: toHex(ctValue(...after)), cut })
      )
  )

  it.effect.each([
    [100, 5000n, 5100n, 0],
    [-100, 50n, 0n, 1],
    [100, 0xffff_ffff_ffff_fff0n, 0xffff_ffff_ffff_ffffn, 1]
  ] as const)("of a NAT entry: %s", ([shift, before, after, cut]) =>
    Effect.map(times(shift, natValue(before), NAT4), (found) =>
      assert.deepStrictEqual(found, { saved: toHex(natValue(after)), cut })
    )
  )
})
