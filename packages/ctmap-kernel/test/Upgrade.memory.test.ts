import { BpfMemory } from "ctmap-kernel"
import { objects } from "./contract/bench.ts"
import { contract } from "./contract/Upgrade.contract.ts"

contract("in memory", { layer: BpfMemory.layerTest({ objects }), root: "/sys/fs/bpf" })
