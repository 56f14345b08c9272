import { describe } from "@effect/vitest"
import * as BpfMemory from "ctmap-kernel/BpfMemory"
import * as KernelSweep from "ctmap-kernel/KernelSweep"
import { cases } from "./sweepCases.ts"

describe("the sweep on the twin", () => {
  cases(BpfMemory.layerTest({ objects: { [KernelSweep.object]: KernelSweep.twin } }))
})
