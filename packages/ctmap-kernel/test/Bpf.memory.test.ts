import { assert, describe, it } from "@effect/vitest"
import { Bpf } from "ctmap-kernel"
import * as BpfMemory from "ctmap-kernel/BpfMemory"
import * as Layer from "effect/Layer"
import { objects } from "./contract/bench.ts"
import { contract } from "./contract/Bpf.contract.ts"

const { calls, control } = BpfMemory.make({ objects })

contract("Bpf in memory", Layer.succeed(Bpf.Bpf, calls), { root: "/sys/fs/bpf", receive: control.receive })

describe("Bpf in memory, after the contract", () => {
  it("has no fd, pin, map or program left", () => {
    assert.deepStrictEqual([control.openFds(), control.pins(), control.living()], [[], [], []])
  })
})
