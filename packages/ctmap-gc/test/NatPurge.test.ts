import { assert, describe, it } from "@effect/vitest"
import { Guard, NatPass, NatPurge } from "ctmap-gc"
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
          if (call === "loadObjectAsync") control.map(pair.tcp.map.fd)?.update(connection.key, connection.value)
        })
        const pass = yield* NatPurge.orphans(pair, { serial: 1 })
        assert.deepStrictEqual([pass?.wanted, pass?.reprieved, pass?.egressDeleted, pass?.egressAlive], [1, 1, 0, 1])
        assert.strictEqual((yield* Stage.keysOf(pair.nat!.map)).length, 1)
      })
      yield* Effect.provideService(Effect.scoped(test), Bpf.Bpf, calls)
    })
  )

  for (const engine of ["program", "portable"] as const) {
    it.effect(`${engine}: is not the last, where the connection comes back as its mapping is deleted`, () =>
      Effect.gen(function* () {
        const { calls, control } = BpfMemory.make({ objects: Stage.objects! })
        const test = Effect.gen(function* () {
          const orphan = Stage.nat({ daddr: [2], saddr: [1], dport: 80, sport: 1000, to: [[9], 40_000] })
          const pair = yield* Stage.pair({ nat: [orphan] })
          const connection = Stage.ct({ daddr: [1], saddr: [2], dport: 80, sport: 1000, lifetime: 5000 })
          let runs = 0
          control.onCall((call) => {
            // The first run is that of loading, over no candidates.
            if (call === "lookupAndDelete" || (call === "runProgram" && ++runs === 2))
              control.map(pair.tcp.map.fd)?.update(connection.key, connection.value)
          })
          const pass = yield* NatPurge.orphans(pair, { serial: 1, engine })
          assert.deepStrictEqual(
            [pass?.egressDeleted, pass?.egressAlive, pass?.reprieved, pass?.restored],
            [0, 1, 1, 1]
          )
          assert.deepStrictEqual(yield* Stage.dump(pair.nat!.map), [[Stage.hex(orphan.key), Stage.hex(orphan.value)]])
        })
        yield* Effect.provideService(Effect.scoped(test), Bpf.Bpf, calls)
      })
    )
  }

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
        const nat = [0, 1].map((tupleFlags) => Stage.nat({ tupleFlags, to: [[9], 40_000] }))
        const pair = yield* Stage.pair({ nat })
        control.failEvery(1, "lookup", 5)
        const pass = yield* NatPurge.orphans(pair, { serial: 1 })
        assert.deepStrictEqual([pass?.wanted, pass?.egressAlive, pass?.ingressAlive], [0, 1, 1])
      })
      yield* Effect.provideService(Effect.scoped(test), Bpf.Bpf, calls)
    })
  )

  it.effect("the guard holds while orphans that are too many to be kept are found again", () =>
    Effect.gen(function* () {
      const { calls, control } = BpfMemory.make({ objects: Stage.objects! })
      const test = Effect.gen(function* () {
        const orphans = Array.from({ length: 17_000 }, (_, i) => Stage.nat({ sport: i + 1, to: [[9], 40_000] }))
        const mapped = Array.from({ length: 3000 }, (_, i) =>
          Stage.nat({ daddr: [2], saddr: [1], sport: i + 1, to: [[9], 40_000] })
        )
        const living = mapped.map((_, i) => Stage.ct({ daddr: [1], saddr: [2], sport: i + 1, lifetime: 5000 }))
        const nat = [
          ...orphans.map(({ key, value }) => ({ key: key.map((byte, i) => (i === 3 ? 77 : byte)), value })),
          ...mapped
        ]
        const pair = yield* Stage.pair({ tcp: living, nat, capacity: 65_536 })
        let isFlushed = false
        control.onCall((call) => {
          if (call !== "loadObjectAsync" || isFlushed) return
          isFlushed = true
          for (const { key } of living) control.map(pair.tcp.map.fd)?.delete(key)
        })
        let recorded: NatPass.NatPass | undefined
        const limits = { ...Guard.defaults, maxDeleteRatio: 0.9 }
        const recordedBy = { recorded: (pass: NatPass.NatPass) => (recorded = pass) }
        const error = yield* Effect.flip(NatPurge.orphans(pair, { serial: 1, limits, ...recordedBy }))
        assert.strictEqual(error._tag, "GuardStopped")
        assert.isAtMost(NatPass.deleted(recorded!), 18_000)
        assert.strictEqual((yield* Stage.keysOf(pair.nat!.map)).length, 20_000 - NatPass.deleted(recorded!))
      })
      yield* Effect.provideService(Effect.scoped(test), Bpf.Bpf, calls)
    })
  )

  it.effect("an absolute limit is reached exactly, whatever has come back meanwhile", () =>
    Effect.gen(function* () {
      const { calls, control } = BpfMemory.make({ objects: Stage.objects! })
      const test = Effect.gen(function* () {
        const nat = Array.from({ length: 20 }, (_, i) =>
          Stage.nat({ daddr: [2], saddr: [1], sport: i + 1, to: [[9], 40_000] })
        )
        const pair = yield* Stage.pair({ nat })
        control.onCall((call) => {
          if (call !== "loadObjectAsync") return
          for (const { key, value } of [1, 2, 3, 4, 5].map((sport) => Stage.ct({ daddr: [1], saddr: [2], sport })))
            control.map(pair.tcp.map.fd)?.update(key, value)
        })
        const limits = { ...Guard.defaults, maxDeletions: 20 }
        const pass = yield* NatPurge.orphans(pair, { serial: 1, limits })
        assert.deepStrictEqual([pass?.egressDeleted, pass?.reprieved, pass?.egressAlive], [15, 5, 5])
      })
      yield* Effect.provideService(Effect.scoped(test), Bpf.Bpf, calls)
    })
  )
})

/** Every call of a purge fails once: what went is counted, and nothing stays open. */
describe("faults of a purge", () => {
  for (const engine of ["program", "portable"] as const) {
    it.effect(`${engine}: whichever call fails, every deletion is counted and the living stay`, () =>
      Effect.gen(function* () {
        let calm = 0
        for (let skip = 0; calm < 3; skip++) {
          const { calls, control } = BpfMemory.make({ objects: Stage.objects! })
          const test = Effect.gen(function* () {
            const halves = (n: number) => [
              Stage.nat({ daddr: [2], saddr: [1], sport: n, to: [[9], 40_000 + n] }),
              Stage.nat({ daddr: [9], saddr: [2], dport: 40_000 + n, sport: 80, tupleFlags: 1, to: [[1], n] })
            ]
            const pair = yield* Stage.pair({
              tcp: [1, 2, 3].map((sport) => Stage.ct({ daddr: [1], saddr: [2], sport })),
              nat: Array.from({ length: 10 }, (_, i) => halves(i + 1)).flat()
            })
            const before = control.count()
            // One connection is back once its mapping is deleted, so that putting back fails too.
            const returned = Stage.ct({ daddr: [1], saddr: [2], sport: 7 })
            control.onCall((call) => {
              if (call !== "runProgram" && call !== "lookupAndDelete") return
              const nat = control.map(pair.nat!.map.fd)
              if (halves(7).some(({ key }) => nat?.lookup(key) === undefined))
                control.map(pair.tcp.map.fd)?.update(returned.key, returned.value)
            }, "after")
            let recorded: NatPass.NatPass | undefined
            control.failNext("any", 5, { skip })
            const exit = yield* Effect.exit(
              NatPurge.orphans(pair, { serial: 1, engine, recorded: (pass) => (recorded = pass) })
            )
            const made = control.count() - before
            control.clearFaults()
            const { ingressAlive, ingressDeleted, egressAlive, egressDeleted, seen } = recorded!
            const { refreshed, vanished, busy } = recorded!
            const sum = ingressAlive + ingressDeleted + egressAlive + egressDeleted + refreshed + vanished + busy
            assert.strictEqual(seen, sum, `after fault ${skip}`)
            assert.strictEqual(recorded!.completed, exit._tag === "Success")
            const left = yield* Stage.keysOf(pair.nat!.map)
            assert.strictEqual(left.length, 20 - ingressDeleted - egressDeleted, `after fault ${skip}`)
            for (const entry of [1, 2, 3].flatMap(halves)) assert.include(left, Stage.keyHex(entry))
            return made
          })
          const made = yield* Effect.provideService(Effect.scoped(test), Bpf.Bpf, calls)
          assert.deepStrictEqual(control.openFds(), [], `after fault ${skip}`)
          if (skip >= made) calm++
        }
      })
    )
  }
})
