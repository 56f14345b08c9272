import { BpfMemory } from "ctmap-kernel"
import { objects } from "./collectorRig.ts"
import { contract } from "./Scale.contract.ts"

contract("in memory", { layer: BpfMemory.layerTest({ objects }), root: "/sys/fs/bpf" })
