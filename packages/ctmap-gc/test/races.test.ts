/** What the datapath does between two calls of a pass, played in memory. */
import { assert, describe, it } from "@effect/vitest"
import type { GcPass } from "ctmap-gc"
import { Bpf, BpfMemory } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import { checkSums, sweep } from "./engineCases.ts"
import * as Stage from "./stage.ts"

const expired = (n: number) => Stage.ct({ daddr: [1], saddr: [2], lifetime: 1, sport: n })
const fresh = (n: number) => Stage.ct({ daddr: [1], saddr: [2], lifetime: 5000, sport: n })
const mapping = (n: number) => Stage.nat({ daddr: [2], saddr: [1], sport: n, to: [[9], 40_000] })

/** When an engine has decided and not yet deleted. */
const decided: Readonly<Record<GcPass.Engine, BpfMemory.Call>> = {
  hybrid: "runProgram",
  portable: "lookup",
  kernel: "runProgramAsync"
}

const stage = <A, E>(use: (control: BpfMemory.Controls) => Effect.Effect<A, E, Stage.Needs>): Effect.Effect<A, E> => {
  const { calls, control } = BpfMemory.make({ objects: Stage.objects! })
  return Effect.provideService(Effect.scoped(use(control)), Bpf.Bpf, calls)
}

for (const engine of ["hybrid", "portable"] as const) {
  describe(`${engine}, while the datapath goes on`, () => {
    it.effect("an entry that was refreshed after it was read is kept, with its mapping (G2)", () =>
      stage((control) =>
        Effect.gen(function* () {
          const pair = yield* Stage.pair({ tcp: [expired(1), expired(2)], nat: [mapping(1), mapping(2)] })
          control.onCall((call) => {
            if (call === decided[engine]) control.map(pair.tcp.map.fd)?.update(fresh(1).key, fresh(1).value)
          })
          const pass = yield* sweep(engine, pair)
          checkSums(pass)
          const { deleted, refreshed, nat } = pass.maps[0]!
          assert.deepStrictEqual([deleted, refreshed, nat.egress], [1, 1, 1])
          assert.deepStrictEqual(yield* Stage.keysOf(pair.tcp.map), [Stage.keyHex(fresh(1))])
          assert.deepStrictEqual(yield* Stage.keysOf(pair.nat!.map), [Stage.keyHex(mapping(1))])
        })
      )
    )

    it.effect(
      "an entry that the LRU took first is counted as vanished, and its mapping is left to the purge (G9)",
      () =>
        stage((control) =>
          Effect.gen(function* () {
            const pair = yield* Stage.pair({ tcp: [expired(1), expired(2)], nat: [mapping(1)] })
            control.onCall((call) => {
              if (call === decided[engine]) control.map(pair.tcp.map.fd)?.delete(expired(1).key)
            })
            const pass = yield* sweep(engine, pair)
            checkSums(pass)
            assert.deepStrictEqual([pass.maps[0]!.deleted, pass.maps[0]!.vanished], [1, 1])
            assert.strictEqual((yield* Stage.keysOf(pair.nat!.map)).length, 1)
          })
        )
    )
  })
}

describe("the record of a pass", () => {
  it.effect("counts the longest call, also where it only read", () =>
    stage((control) =>
      Effect.gen(function* () {
        const pair = yield* Stage.pair({ tcp: [fresh(1)], any: [] })
        control.onCall((call, args) => {
          if (call === "lookupBatch" && args[0] === pair.tcp.map.fd) control.time += 3_600_000_000_000n
        })
        const pass = yield* sweep("hybrid", pair)
        const [tcp, any] = pass.maps.map(({ longestCallMillis }) => longestCallMillis)
        assert.deepStrictEqual([tcp, any], [3_600_000, 0])
      })
    )
  )
})

describe("a connection that is back", () => {
  it.effect("keeps its mapping, though its old entry was deleted (G2)", () =>
    stage((control) =>
      Effect.gen(function* () {
        const pair = yield* Stage.pair({ tcp: [expired(1)], nat: [mapping(1)] })
        // The second run of a program in a pass is that of the clean-up: right before it, the connection begins anew.
        let runs = 0
        control.onCall((call) => {
          if (call !== "runProgram") return
          runs++
          if (control.map(pair.tcp.map.fd)?.lookup(expired(1).key) === undefined) {
            control.map(pair.tcp.map.fd)?.update(fresh(1).key, fresh(1).value)
          }
        })
        const pass = yield* sweep("hybrid", pair)
        assert.isAtLeast(runs, 2)
        assert.deepStrictEqual([pass.maps[0]!.deleted, pass.maps[0]!.nat.kept, pass.maps[0]!.nat.egress], [1, 1, 0])
        assert.strictEqual((yield* Stage.keysOf(pair.nat!.map)).length, 1)
      })
    )
  )
})

describe("faults", () => {
  for (const engine of ["hybrid", "walking", "kernel", "portable"] as const) {
    it.effect(`${engine}: whichever call fails, nothing is lost uncounted and no fd stays open`, () =>
      Effect.gen(function* () {
        for (let skip = 0; skip < 80; skip++) {
          const { calls, control } = BpfMemory.make({ objects: Stage.objects! })
          const test = Effect.gen(function* () {
            const tcp = Array.from({ length: 30 }, (_, i) => (i % 3 === 0 ? fresh(i + 1) : expired(i + 1)))
            const pair = yield* Stage.pair({ tcp, nat: [mapping(2), mapping(3)] })
            let recorded: GcPass.GcPass | undefined
            control.failNext("any", 5, { skip })
            const exit = yield* Effect.exit(sweep(engine, pair, { recorded: (pass) => (recorded = pass) }))
            const hit = control.count()
            control.clearFaults()
            checkSums(recorded!)
            assert.strictEqual(recorded!.completed, exit._tag === "Success")
            const { deleted = 0 } = recorded!.maps[0] ?? {}
            assert.strictEqual((yield* Stage.keysOf(pair.tcp.map)).length, 30 - deleted, `after fault ${skip}`)
            for (const n of [1, 4, 7]) {
              assert.include(yield* Stage.keysOf(pair.tcp.map), Stage.keyHex(fresh(n)))
            }
            return hit
          })
          yield* Effect.provideService(Effect.scoped(test), Bpf.Bpf, calls)
          assert.deepStrictEqual(control.openFds(), [], `after fault ${skip}`)
        }
      })
    )
  }
})
