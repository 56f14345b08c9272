import { LibBpf } from "ctmap-kernel"
import { Privileged } from "ctmap-testing"
import { describe } from "vitest"
import { natCases } from "./natCases.ts"

Privileged.suite(describe, "passes over NAT maps on the kernel", () => {
  for (const engine of ["program", "portable"] as const)
    natCases({ name: "on the kernel", layer: LibBpf.layer }, engine)
})
