import { BpfMemory, CompareAndDelete, KernelSweep } from "ctmap-kernel"
import { clusterCases } from "./clusterCases.ts"

const objects = {
  [CompareAndDelete.object]: CompareAndDelete.twin,
  [KernelSweep.object]: KernelSweep.twin
}

clusterCases({ name: "in memory", layer: () => BpfMemory.layerTest({ objects }), root: () => "/sys/fs/bpf" })
