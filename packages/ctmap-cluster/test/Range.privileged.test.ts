import { LibBpf } from "ctmap-kernel"
import { Privileged, TempBpfFs } from "ctmap-testing"
import { afterAll, beforeAll, describe } from "vitest"
import { contract } from "./Range.contract.ts"

Privileged.suite(describe, "on the kernel", () => {
  const bpffs = TempBpfFs.make()
  beforeAll(bpffs.start)
  afterAll(bpffs.stop)
  contract("on the kernel", { layer: LibBpf.layer, root: bpffs.path })
})
