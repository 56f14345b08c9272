import { BpfMemory } from "ctmap-kernel"
import { contract } from "./Check.contract.ts"

contract("in memory", { layer: BpfMemory.layer, root: "/sys/fs/bpf" })
