import { assert, describe, it } from "@effect/vitest"
import { ClusterRange } from "ctmap-cluster"
import { Bpf, BpfMemory } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import { contract } from "./Range.contract.ts"
import * as Rig from "./rig.ts"

contract("in memory", { layer: BpfMemory.layer, root: "/sys/fs/bpf" })

const EIO = 5
const holding = "/sys/fs/bpf/tc/globals/cilium_per_cluster_snat_v6_external_301"

describe("whichever call fails while clusters above the range are taken away", () => {
  it.live("no entry is lost, no fd stays open, it is told, and the next time does the rest", () =>
    Effect.gen(function* () {
      let failures = 0
      for (let skip = 0; ; skip++) {
        const isOver = yield* Effect.gen(function* () {
          const control = yield* BpfMemory.Control
          yield* Rig.life(Effect.andThen(Rig.openBoth, Effect.forEach([300, 301], Rig.createBoth)), { max: 511 })
          const bpf = yield* Bpf.Bpf
          const fd = bpf.openPin(holding)
          assert.strictEqual(bpf.update(fd, new Uint8Array(38).fill(1), new Uint8Array(56), Bpf.ANY), 0)
          bpf.close(fd)

          const remove = Effect.provide(ClusterRange.remove([300, 301]), Rig.mapsLayer())
          const calls = control.count()
          control.failNext("any", EIO, { skip })
          const first = yield* Effect.result(remove)
          const made = control.count() - calls
          control.clearFaults()
          if (first._tag === "Failure" || first.success.some(({ outcome }) => outcome === "failed")) failures++
          assert.strictEqual(control.map(holding)?.size(), 1, `call ${skip + 1}`)
          assert.deepStrictEqual(control.openFds(), [], `call ${skip + 1}`)

          const again = yield* remove
          assert.deepStrictEqual(
            again.map(({ outcome, entries }) => [outcome, entries]),
            [
              ["deleted", 0],
              ["left", 1]
            ],
            `call ${skip + 1}`
          )
          const pins = yield* Rig.pins
          assert.deepStrictEqual(
            ["_300", "_301"].map((end) => pins.filter((pin) => pin.endsWith(end)).length),
            [0, 6],
            `call ${skip + 1}`
          )
          return made <= skip
        }).pipe(Effect.provide(BpfMemory.layerTest()))
        if (isOver) break
        assert.isBelow(skip, 2000)
      }
      assert.isAbove(failures, 0)
    })
  )
})
