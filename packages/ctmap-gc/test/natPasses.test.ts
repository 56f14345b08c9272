/** What passes over NAT maps keep to besides what they take: refusals, limits, budget, turns, and who hears of them. */
import { assert, describe, it } from "@effect/vitest"
import { FilterParser } from "ctmap-core"
import { Guard, NatPurge } from "ctmap-gc"
import { Bpf, BpfMemory, CtPair } from "ctmap-kernel"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Stage from "./stage.ts"

const stage = <A, E>(use: (control: BpfMemory.Controls) => Effect.Effect<A, E, Stage.Needs>): Effect.Effect<A, E> => {
  const { calls, control } = BpfMemory.make({ objects: Stage.objects! })
  return Effect.provideService(Effect.scoped(use(control)), Bpf.Bpf, calls)
}

const orphans = (count: number) =>
  Array.from({ length: count }, (_, i) => Stage.nat({ sport: i + 1, to: [[9], 40_000] }))

const left = (pair: CtPair.CtPair) => Effect.map(Stage.keysOf(pair.nat!.map), (keys) => keys.length)

/** Counts turns that others get. */
const counting = Effect.gen(function* () {
  let turns = 0
  yield* Effect.forkChild(
    Effect.andThen(
      Effect.sync(() => turns++),
      Effect.yieldNow
    ).pipe(Effect.forever({ disableYield: true })),
    { startImmediately: true }
  )
  return () => turns
})

describe("an orphan purge", () => {
  for (const transport of ["tcp", "any"] as const) {
    it.effect(`is refused where the ${transport} map cannot be read (G1)`, () =>
      stage(() =>
        Effect.gen(function* () {
          const { tcp, any, nat } = yield* Stage.pair({ nat: orphans(1) })
          const layout = { _tag: "Unknown", why: "of neither release" } as const
          const pair = yield* CtPair.makeUnsafe(
            transport === "tcp" ? { ...tcp, layout } : tcp,
            transport === "any" ? { ...any, layout } : any,
            nat
          )
          const error = yield* Effect.flip(NatPurge.orphans(pair, { serial: 1 }))
          assert.strictEqual(error._tag, "UnknownLayout")
          assert.include(error.message, pair[transport].map.name)
          assert.strictEqual(yield* left(pair), 1)
        })
      )
    )
  }

  it.effect("keeps a mapping where only the second way to its connection fails", () =>
    stage((control) =>
      Effect.gen(function* () {
        const pair = yield* Stage.pair({ nat: orphans(1) })
        control.failEvery(2, "lookup", 5)
        const pass = yield* NatPurge.orphans(pair, { serial: 1 })
        assert.deepStrictEqual([pass?.wanted, pass?.egressAlive], [0, 1])
        assert.strictEqual(yield* left(pair), 1)
      })
    )
  )

  it.effect("lets others run after every batch that it reads", () =>
    stage((control) =>
      Effect.gen(function* () {
        const alive = Array.from({ length: 3000 }, (_, i) => Stage.ct({ daddr: [1], saddr: [2], sport: i + 1 }))
        const nat = Array.from({ length: 3000 }, (_, i) =>
          Stage.nat({ daddr: [2], saddr: [1], sport: i + 1, to: [[9], 40_000] })
        )
        const pair = yield* Stage.pair({ tcp: alive, nat, capacity: 8192 })
        const turns = yield* counting
        const at: Array<number> = []
        control.onCall((call) => {
          if (call === "lookupBatch") at.push(turns())
        })
        assert.strictEqual((yield* NatPurge.orphans(pair, { serial: 1 }))?.wanted, 0)
        assert.isAtLeast(at.length, 4)
        assert.strictEqual(new Set(at).size, at.length, "no two batches in one turn")
      })
    )
  )

  it.effect("keeps to its budget", () =>
    stage((control) =>
      Effect.gen(function* () {
        const pair = yield* Stage.pair({ nat: orphans(2000) })
        const clock = yield* Clock.Clock
        let now = 0n
        let slept = 0
        const played: Clock.Clock = {
          currentTimeMillisUnsafe: () => clock.currentTimeMillisUnsafe(),
          currentTimeMillis: clock.currentTimeMillis,
          currentTimeNanosUnsafe: () => clock.currentTimeNanosUnsafe(),
          currentTimeNanos: clock.currentTimeNanos,
          monotonicTimeNanosUnsafe: () => now,
          monotonicTimeNanos: Effect.sync(() => now),
          sleep: (duration) =>
            Effect.sync(() => {
              slept += Duration.toMillis(duration)
              now += BigInt(Math.round(Duration.toMillis(duration) * 1e6))
            })
        }
        // Every batch takes ten milliseconds.
        const sleptBefore: Array<number> = []
        control.onCall((call) => {
          if (call !== "lookupBatch") return
          sleptBefore.push(slept)
          now += 10_000_000n
        })
        const purge = NatPurge.orphans(pair, { serial: 1, budget: 0.25, limits: Guard.unlimited })
        assert.strictEqual((yield* Effect.provideService(purge, Clock.Clock, played))?.egressDeleted, 2000)
        assert.isAtLeast(sleptBefore.length, 3)
        assert.strictEqual(new Set(sleptBefore).size, sleptBefore.length, "it rests between any two batches")
        assert.approximately(slept, 30 * sleptBefore.length, 31)
      })
    )
  )

  it.effect("tells how far it is, map and entries seen, and says when it began", () =>
    stage(() =>
      Effect.gen(function* () {
        const pair = yield* Stage.pair({ nat: orphans(1200) })
        const heard: Array<readonly [string, number]> = []
        const clock = yield* Clock.Clock
        const later: Clock.Clock = Object.create(clock, { currentTimeMillis: { value: Effect.succeed(77) } })
        const progress = (map: string, seen: number) => void heard.push([map, seen])
        const pass = yield* Effect.provideService(
          NatPurge.orphans(pair, { serial: 1, progress, dryRun: true }),
          Clock.Clock,
          later
        )
        assert.strictEqual(pass?.startedAtMillis, 77)
        assert.isAtLeast(heard.length, 3)
        assert.deepStrictEqual(heard.at(-1), ["cilium_snat_v4_external", 1200])
        assert.isTrue(heard.every(([, seen], i) => i === 0 || seen >= heard[i - 1]![1]))
      })
    )
  )
})

describe("a flush of a NAT map", () => {
  it.effect("of everything is not limited by share, however large the map", () =>
    stage(() =>
      Effect.gen(function* () {
        const pair = yield* Stage.pair({ nat: orphans(2500) })
        const pass = yield* NatPurge.flush(pair, { serial: 1 })
        assert.strictEqual(pass?.egressDeleted, 2500)
        assert.strictEqual(yield* left(pair), 0)
      })
    )
  )

  it.effect("by a filter is limited by share, and by what is allowed", () =>
    stage(() =>
      Effect.gen(function* () {
        const pair = yield* Stage.pair({ nat: orphans(2500) })
        const filter = Result.getOrThrow(FilterParser.parse("sport 1-2000"))
        const error = yield* Effect.flip(NatPurge.flush(pair, { serial: 1, filter }))
        assert.strictEqual(error._tag, "GuardStopped")
        const pass = yield* NatPurge.flush(pair, { serial: 2, filter, limits: Guard.unlimited })
        assert.strictEqual(pass?.egressDeleted, 2000)
      })
    )
  )

  it.effect("by a filter reads the time that it is given", () =>
    stage(() =>
      Effect.gen(function* () {
        const old = Stage.nat({ sport: 1, to: [[9], 40_000], created: 10 })
        const young = Stage.nat({ sport: 2, to: [[9], 40_000], created: 990 })
        const pair = yield* Stage.pair({ nat: [old, young] })
        const filter = Result.getOrThrow(FilterParser.parse("age > 100s"))
        const options = { serial: 1, filter, limits: Guard.unlimited }
        const error = yield* Effect.flip(NatPurge.flush(pair, options))
        assert.strictEqual(error._tag, "FilterUnsupported")
        const context = { release: "1.17", now: 1000, secondsPerUnit: 1 } as const
        assert.strictEqual((yield* NatPurge.flush(pair, { ...options, context }))?.wanted, 1)
      })
    )
  )
})
