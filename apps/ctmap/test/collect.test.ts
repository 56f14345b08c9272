import { assert, describe, it } from "@effect/vitest"
import { Bpf, BpfMemory, CompareAndDelete, KernelSweep } from "ctmap-kernel"
import * as Layer from "effect/Layer"
import * as Collect from "./collectCases.ts"
import * as CollectNat from "./collectNatCases.ts"

const objects = { [CompareAndDelete.object]: CompareAndDelete.twin, [KernelSweep.object]: KernelSweep.twin }
const memory = BpfMemory.make({ mounts: ["/bpf"], time: 5_461_000_000_000n, objects })

describe("the commands that delete, in memory", () => {
  const place = { root: "/bpf", bpf: memory.calls, layer: Layer.succeed(Bpf.Bpf, memory.calls) }
  Collect.cases(place)
  CollectNat.cases(place)

  it("leaves no fd open", () => {
    assert.deepStrictEqual(memory.control.openFds(), [])
  })
})
