import { LibBpf } from "ctmap-kernel"
import { Privileged } from "ctmap-testing"
import { describe } from "vitest"
import { natReturns } from "./natReturns.ts"

Privileged.suite(describe, "connections that come back during a purge on the kernel", () => {
  for (const engine of ["program", "portable"] as const)
    natReturns({ name: "on the kernel", layer: LibBpf.layer }, engine)
})
