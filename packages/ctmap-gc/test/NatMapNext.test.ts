import { assert, describe, it } from "@effect/vitest"
import { type GcEvents, GcPass, NatMapNext } from "ctmap-gc"
import { Owner } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import * as Stage from "./stage.ts"

const event = (entries: ReadonlyArray<Stage.Entry>, changes: Partial<GcEvents.Deleted> = {}): GcEvents.Deleted => ({
  _tag: "Deleted",
  serial: 1,
  dryRun: false,
  family: "ipv4",
  owner: Owner.global,
  map: "cilium_ct4_global",
  release: "1.17",
  count: entries.length,
  keys: Uint8Array.from(entries.flatMap(({ key }) => [...key])),
  values: Uint8Array.from(entries.flatMap(({ value }) => [...value])),
  reasons: new Uint8Array(entries.length),
  ...changes
})

/** A connection and both halves of its mapping. */
const flow = (sport: number) => ({
  ct: Stage.ct({ daddr: [1], saddr: [2], dport: 80, sport }),
  nat: [
    Stage.nat({ daddr: [2], saddr: [1], dport: 80, sport, to: [[9], sport] }),
    Stage.nat({ daddr: [9], saddr: [2], dport: sport, sport: 80, tupleFlags: 1, to: [[1], sport] })
  ]
})

for (const engine of ["program", "portable"] as const) {
  describe(`NatMapNext, ${engine}`, () => {
    it.effect("takes both halves of what somebody else deleted, however many there are", () =>
      Effect.scoped(
        Effect.gen(function* () {
          const flows = Array.from({ length: 1500 }, (_, i) => flow(i + 1))
          const pair = yield* Stage.pair({ nat: flows.flatMap(({ nat }) => nat) })
          const next = yield* NatMapNext.make(pair, { transport: "tcp", engine })
          const counts = yield* next(event(flows.map(({ ct }) => ct)))
          assert.deepStrictEqual(counts, { ...GcPass.noNat, egress: 1500, ingress: 1500 })
          assert.deepStrictEqual(yield* Stage.keysOf(pair.nat!.map), [])
        })
      ).pipe(Effect.provide(Stage.memory.layer))
    )

    it.effect("passes over what is of the other family, or was not really deleted, and a pair without a NAT map", () =>
      Effect.scoped(
        Effect.gen(function* () {
          const { ct, nat } = flow(1)
          const pair = yield* Stage.pair({ nat })
          const next = yield* NatMapNext.make(pair, { transport: "tcp", engine })
          assert.deepStrictEqual(yield* next(event([ct], { dryRun: true })), GcPass.noNat)
          assert.deepStrictEqual(yield* next(event([ct], { family: "ipv6" })), GcPass.noNat)
          assert.strictEqual((yield* Stage.keysOf(pair.nat!.map)).length, 2)
          const without = yield* NatMapNext.make(yield* Stage.pair({}), { transport: "tcp", engine })
          assert.deepStrictEqual(yield* without(event([ct])), GcPass.noNat)
        })
      ).pipe(Effect.provide(Stage.memory.layer))
    )
  })
}
