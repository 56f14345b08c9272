import { BpfMemory } from "ctmap-kernel"
import { contract } from "./contract/Maps.contract.ts"

contract("in memory", { layer: BpfMemory.layer, root: "/sys/fs/bpf" })
