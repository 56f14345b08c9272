import { BpfMemory } from "ctmap-kernel"
import { contract } from "./Range.contract.ts"

contract("in memory", { layer: BpfMemory.layer, root: "/sys/fs/bpf" })
