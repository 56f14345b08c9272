import { LibBpf } from "ctmap-kernel"
import { Privileged } from "ctmap-testing"
import { describe } from "vitest"
import { engineCases } from "./engineCases.ts"

Privileged.suite(describe, "passes on the kernel", () => {
  for (const engine of ["hybrid", "walking", "kernel", "portable"] as const) {
    engineCases({ name: "on the kernel", layer: LibBpf.layer }, engine)
  }
})
