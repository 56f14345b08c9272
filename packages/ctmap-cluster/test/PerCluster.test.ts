import { BpfMemory } from "ctmap-kernel"
import { contract } from "./PerCluster.contract.ts"

contract("in memory", { layer: BpfMemory.layer, root: "/sys/fs/bpf" })
