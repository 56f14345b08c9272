/** What a pass refuses, what it leaves alone, and whom it lets run meanwhile. */
import { assert, describe, it } from "@effect/vitest"
import { FilterParser } from "ctmap-core"
import { GcEngine, GcRequest, Guard, type NatPass, NatPurge } from "ctmap-gc"
import { Bpf, BpfMemory, CtPair, KernelClock } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import { sweep } from "./engineCases.ts"
import * as Stage from "./stage.ts"

const stage = <A, E>(
  use: (control: BpfMemory.Controls) => Effect.Effect<A, E, Stage.Needs>,
  options: BpfMemory.Options = {}
): Effect.Effect<A, E> => {
  const { calls, control } = BpfMemory.make({ objects: Stage.objects!, ...options })
  return Effect.provideService(Effect.scoped(use(control)), Bpf.Bpf, calls)
}

const orphan = (sport: number, created = 1) => Stage.nat({ sport, to: [[9], 40_000], created })

/** A pair whose NAT map is of no layout that is known. */
const mismatched = ({ tcp, any, nat }: CtPair.CtPair): CtPair.CtPair =>
  Effect.runSync(CtPair.makeUnsafe(tcp, any, { ...nat!, mismatch: "values of 44 bytes" }))

describe("a NAT map of another layout", () => {
  for (const engine of ["hybrid", "kernel", "portable"] as const) {
    it.effect(`${engine}: ends a pass before an entry goes (G10)`, () =>
      stage(() =>
        Effect.gen(function* () {
          const pair = yield* Stage.pair({ tcp: [Stage.ct({ lifetime: 1 })], nat: [orphan(1)] })
          const error = yield* Effect.flip(sweep(engine, mismatched(pair)))
          assert.strictEqual(error._tag, "UnknownLayout")
          assert.include(error.message, "cilium_snat_v4_external")
          assert.strictEqual((yield* Stage.keysOf(pair.tcp.map)).length, 1)
        })
      )
    )
  }

  it.effect("is neither purged nor flushed", () =>
    stage(() =>
      Effect.gen(function* () {
        const pair = yield* Stage.pair({ nat: [orphan(1)] })
        for (const pass of [NatPurge.orphans, NatPurge.flush]) {
          assert.strictEqual((yield* Effect.flip(pass(mismatched(pair), { serial: 1 })))._tag, "UnknownLayout")
        }
        assert.strictEqual((yield* Stage.keysOf(pair.nat!.map)).length, 1)
      })
    )
  )
})

describe("an orphan purge", () => {
  it.effect("is refused against CT maps that cannot be read (G1)", () =>
    stage(() =>
      Effect.gen(function* () {
        const layout = { _tag: "Unknown", why: "of neither release" } as const
        const pair = yield* Stage.pair({ nat: [orphan(1)], layout })
        assert.strictEqual((yield* Effect.flip(NatPurge.orphans(pair, { serial: 1 })))._tag, "UnknownLayout")
        assert.strictEqual((yield* Stage.keysOf(pair.nat!.map)).length, 1)
      })
    )
  )

  it.effect("counts entries that the kernel could not delete as busy", () =>
    stage((control) =>
      Effect.gen(function* () {
        const pair = yield* Stage.pair({ nat: [orphan(1), orphan(2)] })
        control.failNext("lookupAndDelete", 16)
        const pass = yield* NatPurge.orphans(pair, { serial: 1, engine: "portable" })
        assert.deepStrictEqual([pass?.busy, pass?.egressDeleted, pass?.vanished], [1, 1, 0])
      })
    )
  )

  it.effect("lets others run between its slices", () =>
    stage((control) =>
      Effect.gen(function* () {
        const nat = Array.from({ length: 2000 }, (_, i) => orphan(i + 1))
        const pair = yield* Stage.pair({ nat })
        let turn = 0
        let last = -1
        let most = 0
        let inTurn = 0
        control.onCall((call) => {
          if (call !== "delete") return
          inTurn = turn === last ? inTurn + 1 : 1
          last = turn
          most = Math.max(most, inTurn)
        })
        yield* Effect.forkChild(
          Effect.andThen(
            Effect.sync(() => turn++),
            Effect.yieldNow
          ).pipe(Effect.forever({ disableYield: true })),
          { startImmediately: true }
        )
        const limits = Guard.unlimited
        const pass = yield* NatPurge.orphans(pair, { serial: 1, engine: "portable", limits })
        assert.strictEqual(pass?.egressDeleted, 2000)
        assert.isAtMost(most, 512)
      })
    )
  )
})

describe("a flush of NAT entries", () => {
  it.effect("holds to an absolute limit, and says how far it came", () =>
    stage(() =>
      Effect.gen(function* () {
        const pair = yield* Stage.pair({ nat: [1, 2, 3].map((sport) => orphan(sport)) })
        const limits = { ...Guard.unlimited, maxDeletions: 2 }
        let recorded: NatPass.NatPass | undefined
        const error = yield* Effect.flip(
          NatPurge.flush(pair, { serial: 1, limits, recorded: (pass) => (recorded = pass) })
        )
        assert.deepStrictEqual([error._tag, recorded?.completed], ["GuardStopped", false])
        assert.strictEqual((yield* Stage.keysOf(pair.nat!.map)).length, 3)
      })
    )
  )

  it.effect("by a filter spares a mapping that was made anew, one of everything does not", () =>
    stage((control) =>
      Effect.gen(function* () {
        const pair = yield* Stage.pair({ nat: [orphan(1, 5)] })
        let created = 6
        control.onCall((call) => {
          const { key, value } = orphan(1, created++)
          if (call === "runProgram") control.map(pair.nat!.map.fd)?.update(key, value)
        })
        const filter = Result.getOrThrow(FilterParser.parse("dport 80"))
        const some = yield* NatPurge.flush(pair, { serial: 1, filter })
        assert.deepStrictEqual([some?.refreshed, some?.egressDeleted], [1, 0])
        assert.strictEqual((yield* NatPurge.flush(pair, { serial: 2 }))?.egressDeleted, 1)
      })
    )
  )
})

describe("a pass over CT maps", () => {
  it.effect("that is dry is not stopped by the guard", () =>
    stage(() =>
      Effect.gen(function* () {
        const pair = yield* Stage.pair({ tcp: [1, 2].map((sport) => Stage.ct({ lifetime: 5000, sport })) })
        const limits = { maxDeleteRatio: 0, floor: 0, maxDeletions: 0 }
        const requests = [GcRequest.everything, GcRequest.expired]
        const pass = yield* sweep("hybrid", pair, { dryRun: true, limits, requests })
        assert.deepStrictEqual([pass.maps[0]!.wanted, pass.maps[0]!.kept], [2, 2])
        assert.deepStrictEqual(pass.requests, [
          { wanted: 2, deleted: 0 },
          { wanted: 0, deleted: 0 }
        ])
      })
    )
  )

  it.effect("tells of what it keeps once, though its candidates are too many to be kept", () =>
    stage(() =>
      Effect.gen(function* () {
        const tcp = Array.from({ length: 18_000 }, (_, i) =>
          Stage.ct({ lifetime: 5000, sport: i + 1, dport: i < 17_000 ? 443 : 80 })
        )
        const pair = yield* Stage.pair({ tcp, capacity: 65_536 })
        let told = 0
        const emit: GcRequest.EmitKept = (_columns, _rows, count) => void (told += count)
        const request = { ...GcRequest.matching(Result.getOrThrow(FilterParser.parse("dport 443"))), emit }
        const progress: Array<number> = []
        const pass = yield* sweep("hybrid", pair, {
          requests: [request],
          limits: Guard.unlimited,
          progress: (_map, seen) => progress.push(seen)
        })
        assert.deepStrictEqual([told, pass.maps[0]!.deleted], [1000, 17_000])
        assert.strictEqual(progress.filter((seen) => seen === 18_000).length, 2, "both looks are told of")
        assert.strictEqual(pass.maps[0]!.reads, progress.length)
      })
    )
  )

  it.effect("by single calls lets others run between its slices", () =>
    stage((control) =>
      Effect.gen(function* () {
        const pair = yield* Stage.pair({ tcp: Array.from({ length: 1000 }, (_, i) => Stage.ct({ sport: i + 1 })) })
        let turn = 0
        let last = -1
        let most = 0
        let inTurn = 0
        control.onCall((call) => {
          if (call !== "delete") return
          inTurn = turn === last ? inTurn + 1 : 1
          last = turn
          most = Math.max(most, inTurn)
        })
        yield* Effect.forkChild(
          Effect.andThen(
            Effect.sync(() => turn++),
            Effect.yieldNow
          ).pipe(Effect.forever({ disableYield: true })),
          { startImmediately: true }
        )
        assert.strictEqual((yield* sweep("portable", pair)).maps[0]!.deleted, 1000)
        assert.isAtMost(most, 256)
      })
    )
  )

  it.effect("does not let the kernel engine at a table above its size", () =>
    stage(() =>
      Effect.gen(function* () {
        const pair = yield* Stage.pair({ tcp: [Stage.ct({ lifetime: 1 })], capacity: 4096 })
        const run = (kernelMaxEntries: number) =>
          GcEngine.make({ engine: "kernel", kernelMaxEntries }).pipe(
            Effect.provideService(KernelClock.KernelClock, Stage.ktime(1000)),
            Effect.flatMap((engine) => engine.sweep(pair, { serial: 1, requests: [GcRequest.expired] })),
            Effect.map(({ maps }) => maps[0]!.engine)
          )
        assert.deepStrictEqual([yield* run(4096), yield* run(4095)], ["kernel", "hybrid"])
      })
    )
  )
})
