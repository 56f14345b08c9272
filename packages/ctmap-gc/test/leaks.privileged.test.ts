/** Passes on the kernel, over and over: no fd of a map, program or link is left behind. */
import { assert, describe, it } from "@effect/vitest"
import { GcRequest, Guard, NatPurge } from "ctmap-gc"
import { LibBpf } from "ctmap-kernel"
import { FdLeak, Privileged } from "ctmap-testing"
import * as Effect from "effect/Effect"
import { sweep } from "./engineCases.ts"
import * as Stage from "./stage.ts"

Privileged.suite(describe, "fifty passes", () => {
  for (const engine of ["hybrid", "walking", "kernel", "portable"] as const) {
    it.effect(`${engine}: done, stopped, or purging orphans, they leave no fd open`, () =>
      Effect.scoped(
        Effect.gen(function* () {
          const tcp = Array.from({ length: 40 }, (_, i) =>
            Stage.ct({ daddr: [1], saddr: [2], sport: i + 1, lifetime: i < 20 ? 1 : 5000 })
          )
          const nat = tcp.map((_, i) => Stage.nat({ daddr: [2], saddr: [1], sport: i + 1, to: [[9], 40_000] }))
          const pair = yield* Stage.pair({ tcp, nat })
          const once = Effect.gen(function* () {
            yield* sweep(engine, pair, { trustsClock: true })
            const limits = { ...Guard.unlimited, maxDeleteRatio: 0.1 }
            yield* Effect.flip(sweep(engine, pair, { requests: [GcRequest.everything], limits }))
            yield* NatPurge.orphans(pair, { serial: 1, engine: engine === "portable" ? "portable" : "program" })
          })
          yield* once
          // Other test files of this process have maps of their own: what grows with every pass is ours.
          const before = FdLeak.handles()
          for (let pass = 0; pass < 50; pass++) yield* once
          const more = FdLeak.since(before)
          assert.isBelow(more.length, 50, JSON.stringify(more.slice(0, 5)))
        })
      ).pipe(Effect.provide(LibBpf.layer))
    )
  }
})
