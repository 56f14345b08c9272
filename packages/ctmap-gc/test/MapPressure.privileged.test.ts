import { assert, it } from "@effect/vitest"
import { MapKind, MapSpec } from "ctmap-core"
import { MapPressure, TableEstimate } from "ctmap-gc"
import { Bpf, BpfMap, LibBpf } from "ctmap-kernel"
import { Privileged } from "ctmap-testing"
import * as Effect from "effect/Effect"
import { describe } from "vitest"

Privileged.suite(describe, "pressure on the kernel", () => {
  it.effect.each([4096, 65_536])("an LRU of %i slots that evicts holds what it is sure to hold, and reads 1", (slots) =>
    Effect.gen(function* () {
      const bpf = yield* Bpf.Bpf
      const map = yield* BpfMap.create({ ...MapSpec.ct(MapKind.globals[0]), maxEntries: slots }, "pressure")
      const keys = new DataView(new ArrayBuffer(2 * slots * 14))
      for (let i = 0; i < 2 * slots; i++) keys.setUint32(i * 14, i)
      const count = Uint32Array.of(2 * slots)
      assert.strictEqual(bpf.updateBatch(map.fd, new Uint8Array(keys.buffer), new Uint8Array(2 * slots * 56), count), 0)
      const { entries, error } = yield* TableEstimate.count(map)
      const usable = MapPressure.usable(map.info, bpf.possibleCpus())
      assert.isAtLeast(entries, usable)
      assert.isAtMost(entries, slots)
      assert.strictEqual(MapPressure.ratio({ entries, error, capacity: slots, usable }), 1)
    }).pipe(Effect.scoped, Effect.provide(LibBpf.layer))
  )
})
