import { assert, it } from "@effect/vitest"
import { TableEstimate } from "ctmap-gc"
import { Bpf, LibBpf } from "ctmap-kernel"
import { FdLeak, Privileged } from "ctmap-testing"
import * as Effect from "effect/Effect"
import { describe } from "vitest"
import { bias, estimateHolds } from "./estimateCases.ts"

/** Nearly empty to as full as an LRU gets, from small tables to large. */
const tables = [65_536, 100_000, 1_048_576].flatMap((slots) =>
  [1, 5, 30, 60, 90].map((percent) => ({ slots, percent, entries: Math.floor((slots * percent) / 100) }))
)

Privileged.suite(describe, "estimates on the kernel", () => {
  it.effect("the cursor is a bucket number here, and the trial leaves nothing behind", () =>
    Effect.gen(function* () {
      // Other test files may share this process and its fds: which maps are ours is known by their ids.
      const ours = new Set<number>()
      const bpf = yield* Bpf.Bpf
      const mapCreate: Bpf.Calls["mapCreate"] = (...args) => {
        const fd = bpf.mapCreate(...args)
        const info = bpf.mapInfo(fd)
        if (typeof info !== "number") ours.add(info.id)
        return fd
      }
      const obstacle = yield* Effect.provideService(TableEstimate.obstacle, Bpf.Bpf, { ...bpf, mapCreate })
      assert.isUndefined(obstacle)
      assert.isAbove(ours.size, 0)
      assert.deepStrictEqual(
        FdLeak.since([], ({ id, kind }) => kind === "map" && ours.has(id)),
        []
      )
    }).pipe(Effect.provide(LibBpf.layer))
  )

  it.effect.each(tables)(
    "$percent % of $slots slots are found within five standard errors",
    ({ slots, percent, entries }) =>
      Effect.gen(function* () {
        const { found } = yield* estimateHolds({ slots, entries, expired: 0.3, seed: slots + percent })
        // Where it matters it is sampled: most of a read of everything saves nothing. Near half of it, either may be.
        const { SAMPLES, ROOM } = TableEstimate
        if (entries > 3 * SAMPLES * ROOM) assert.strictEqual(found.method, "sampled")
        if (entries < SAMPLES * ROOM) assert.strictEqual(found.method, "counted")
      }).pipe(Effect.provide(LibBpf.layer))
  )

  it.effect("the mean of many estimates is the truth, and their spread what they say it is", () =>
    Effect.gen(function* () {
      const found = yield* bias({ slots: 524_288, entries: 300_000, expired: 0, seed: 9 }, 100)
      const about = JSON.stringify(found)
      assert.isAtMost(Math.abs(found.mean - found.truth), 4 * (found.spread / Math.sqrt(100)), about)
      assert.isAtMost(found.spread, 1.4 * found.error, about)
    }).pipe(Effect.provide(LibBpf.layer))
  )
})
