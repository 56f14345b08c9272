import { LibBpf } from "ctmap-kernel"
import { Privileged, TempBpfFs } from "ctmap-testing"
import { afterAll, beforeAll, describe } from "vitest"
import { clusterCases } from "./clusterCases.ts"

Privileged.suite(describe, "remote clusters on the kernel", () => {
  const bpffs = TempBpfFs.make()
  beforeAll(bpffs.start)
  afterAll(bpffs.stop)
  let number = 0
  clusterCases({ name: "on the kernel", layer: () => LibBpf.layer, root: () => `${bpffs.path}/${number++}` })
})
