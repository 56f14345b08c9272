import { assert, describe, it } from "@effect/vitest"
import { NatPurge } from "ctmap-gc"
import { Bpf, BpfMemory } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import { natCases } from "./natCases.ts"
import * as Stage from "./stage.ts"

for (const engine of ["program", "portable"] as const) natCases(Stage.memory, engine)

describe("the second look", () => {
  it.effect("spares a mapping whose connection has come back since the first", () =>
    Effect.gen(function* () {
      const { calls, control } = BpfMemory.make({ objects: Stage.objects! })
      const test = Effect.gen(function* () {
        const orphan = Stage.nat({ daddr: [2], saddr: [1], dport: 80, sport: 1000, to: [[9], 40_000] })
        const pair = yield* Stage.pair({ nat: [orphan] })
        const connection = Stage.ct({ daddr: [1], saddr: [2], dport: 80, sport: 1000, lifetime: 5000 })
        // The programs are loaded after the walk, before the first deletion: a moment between the two looks.
        control.onCall((call) => {
          if (call === "loadObject") control.map(pair.tcp.map.fd)?.update(connection.key, connection.value)
        })
        const pass = yield* NatPurge.orphans(pair, { serial: 1 })
        assert.deepStrictEqual([pass?.wanted, pass?.reprieved, pass?.egressDeleted, pass?.egressAlive], [1, 1, 0, 1])
        assert.strictEqual((yield* Stage.keysOf(pair.nat!.map)).length, 1)
      })
      yield* Effect.provideService(Effect.scoped(test), Bpf.Bpf, calls)
    })
  )

  it.effect("keeps a mapping that was made anew", () =>
    Effect.gen(function* () {
      const { calls, control } = BpfMemory.make({ objects: Stage.objects! })
      const test = Effect.gen(function* () {
        const orphan = Stage.nat({ to: [[9], 40_000], created: 5 })
        const pair = yield* Stage.pair({ nat: [orphan] })
        control.onCall((call) => {
          const anew = Stage.nat({ to: [[9], 40_001], created: 6 })
          if (call === "runProgram") control.map(pair.nat!.map.fd)?.update(anew.key, anew.value)
        })
        const pass = yield* NatPurge.orphans(pair, { serial: 1 })
        assert.deepStrictEqual([pass?.refreshed, pass?.egressDeleted, pass?.egressAlive], [1, 0, 0])
        assert.strictEqual((yield* Stage.keysOf(pair.nat!.map)).length, 1)
      })
      yield* Effect.provideService(Effect.scoped(test), Bpf.Bpf, calls)
    })
  )

  it.effect("a look-up that fails keeps the mapping", () =>
    Effect.gen(function* () {
      const { calls, control } = BpfMemory.make({ objects: Stage.objects! })
      const test = Effect.gen(function* () {
        const pair = yield* Stage.pair({ nat: [Stage.nat({ to: [[9], 40_000] })] })
        control.failEvery(1, "lookup", 5)
        const pass = yield* NatPurge.orphans(pair, { serial: 1 })
        assert.deepStrictEqual([pass?.wanted, pass?.egressAlive], [0, 1])
      })
      yield* Effect.provideService(Effect.scoped(test), Bpf.Bpf, calls)
    })
  )
})
