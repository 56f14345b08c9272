/**
 * Run by the privileged test in a process of its own, with few capabilities: sweeps a map that it makes, and prints how
 * that went and what is open afterwards.
 */
import * as KernelSweep from "ctmap-kernel/KernelSweep"
import * as LibBpf from "ctmap-kernel/LibBpf"
import * as NatCleanUp from "ctmap-kernel/NatCleanUp"
import { FdLeak } from "ctmap-testing"
import * as Effect from "effect/Effect"
import { back, ct, ctValue, key, natValue, out, pair } from "./sweepCases.ts"

const program = Effect.gen(function* () {
  const maps = yield* pair("ipv6")
  maps.ct.put(key("ipv6", ct()), ctValue(1))
  maps.nat.put(key("ipv6", out), natValue("ipv6", 9, 5001))
  maps.nat.put(key("ipv6", back), natValue("ipv6", 1, 4001))
  const target = { ct: maps.ct.table, nat: maps.nat.table, family: "ipv6" } as const
  const sweep = yield* KernelSweep.make(target)
  const { engine } = yield* NatCleanUp.make(target)
  const { deleted, nat } = yield* sweep.run({ now: 2 })
  return { engine, deleted, egress: nat.egress, ingress: nat.ingress }
})

const result = await Effect.runPromise(Effect.scoped(program).pipe(Effect.provide(LibBpf.layer)))
process.stdout.write(JSON.stringify({ ...result, left: FdLeak.handles() }))
