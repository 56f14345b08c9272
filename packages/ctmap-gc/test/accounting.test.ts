/** Counts that add up and limits that hold on the less common paths of a pass. */
import { assert, describe, it } from "@effect/vitest"
import { FilterParser, Rows } from "ctmap-core"
import { GcEngine, type GcEvents, type GcPass, GcRequest, Guard } from "ctmap-gc"
import { Bpf, BpfMemory, KernelClock, MapIterator } from "ctmap-kernel"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import { checkSums, sweep } from "./engineCases.ts"
import * as Stage from "./stage.ts"

const matching = (text: string) => GcRequest.matching(Result.getOrThrow(FilterParser.parse(text)))

const stage = <A, E>(
  use: (control: BpfMemory.Controls) => Effect.Effect<A, E, Stage.Needs>,
  options: BpfMemory.Options = {}
): Effect.Effect<A, E> => {
  const { calls, control } = BpfMemory.make({ objects: Stage.objects!, ...options })
  return Effect.provideService(Effect.scoped(use(control)), Bpf.Bpf, calls)
}

const entries = (count: number, about: Parameters<typeof Stage.ct>[0]) =>
  Array.from({ length: count }, (_, i) => Stage.ct({ sport: i + 1, ...about }))

/** An iterator that reads the whole table, and says at the end that it may have missed something. */
const inexact = (calls: Bpf.Calls): MapIterator.MapIterator["Service"] => ({
  start: ({ fd, info: { keySize, valueSize, maxEntries } }) =>
    Effect.sync(() => {
      let isDone = false
      return {
        next: Effect.sync(() => {
          if (isDone) return undefined
          isDone = true
          const keys = new Uint8Array(maxEntries * keySize)
          const values = new Uint8Array(maxEntries * valueSize)
          const count = Uint32Array.of(maxEntries)
          calls.lookupBatch(fd, null, new Uint8Array(keySize), keys, values, count)
          return Rows.separate(keys, values, { keySize, valueSize, count: count[0]! })
        }),
        isExact: () => !isDone,
        again: () => 0,
        longestCallMillis: () => 0
      }
    })
})

/** Sweeps a large table with an iterator whose walk has to be repeated by batch. */
const repeated = (plan: Partial<GcEngine.Plan>, tcp: ReadonlyArray<Stage.Entry>) => {
  const { calls, control } = BpfMemory.make({ objects: Stage.objects!, buckets: 64 })
  return Effect.gen(function* () {
    const pair = yield* Stage.pair({ tcp, capacity: 65_536 })
    const engine = yield* GcEngine.make({}).pipe(
      Effect.provideService(KernelClock.KernelClock, Stage.ktime(1000)),
      Effect.provideService(MapIterator.MapIterator, inexact(calls))
    )
    const pass = yield* engine.sweep(pair, {
      serial: 1,
      requests: [GcRequest.expired],
      limits: Guard.unlimited,
      transports: ["tcp"],
      ...plan
    })
    checkSums(pass)
    return { map: pass.maps[0]!, requests: pass.requests, left: yield* Stage.keysOf(pair.tcp.map), control }
  }).pipe(Effect.scoped, Effect.provideService(Bpf.Bpf, calls))
}

describe("a walk that is repeated, as some bucket changed too fast for an iterator", () => {
  it.effect("deletes each entry once, and counts it once", () =>
    Effect.gen(function* () {
      const tcp = [...entries(300, { lifetime: 1 }), ...entries(300, { lifetime: 5000, dport: 81 })]
      const { map, left } = yield* repeated({}, tcp)
      assert.deepStrictEqual([map.seen, map.kept, map.wanted, map.deleted, map.vanished], [600, 300, 300, 300, 0])
      assert.strictEqual(left.length, 300)
    })
  )

  it.effect("holds each candidate of a guarded pass once", () =>
    Effect.gen(function* () {
      const { map, requests, left } = yield* repeated(
        { requests: [matching("dport 80")] },
        entries(600, { lifetime: 5000 })
      )
      assert.deepStrictEqual([map.seen, map.wanted, map.deleted, map.vanished], [600, 600, 600, 0])
      assert.deepStrictEqual(requests, [{ wanted: 600, deleted: 600 }])
      assert.deepStrictEqual(left, [])
    })
  )

  it.effect("counts the reasons of a dry run once", () =>
    Effect.gen(function* () {
      const { map, left } = yield* repeated({ dryRun: true }, entries(600, { lifetime: 1 }))
      assert.deepStrictEqual([map.wanted, map.reasons.expired, left.length], [600, 600, 600])
    })
  )

  it.effect("tells of each entry that is kept once (G3)", () =>
    Effect.gen(function* () {
      let told = 0
      const emit: GcRequest.EmitKept = (_columns, _rows, count) => void (told += count)
      yield* repeated({ requests: [{ expired: true, emit }] }, entries(600, { lifetime: 5000 }))
      assert.strictEqual(told, 600)
    })
  )
})

describe("the guard", () => {
  for (const engine of ["hybrid", "walking", "kernel", "portable"] as const) {
    it.effect(`${engine}: speaks for both maps before an entry of either goes`, () =>
      stage(() =>
        Effect.gen(function* () {
          const pair = yield* Stage.pair({
            tcp: entries(5, { lifetime: 5000 }),
            any: entries(30, { lifetime: 5000, proto: 17 })
          })
          let recorded: GcPass.GcPass | undefined
          const error = yield* Effect.flip(
            sweep(engine, pair, {
              requests: [GcRequest.everything],
              limits: { ...Guard.defaults, floor: 10 },
              recorded: (pass) => (recorded = pass)
            })
          )
          assert.include(error.message, "cilium_ct_any4_global")
          assert.strictEqual((yield* Stage.keysOf(pair.tcp.map)).length, 5)
          assert.deepStrictEqual(
            recorded?.maps.map(({ seen, kept, wanted, deleted, completed }) => [
              seen,
              kept,
              wanted,
              deleted,
              completed
            ]),
            [
              [5, 5, 5, 0, false],
              [30, 30, 30, 0, false]
            ]
          )
        })
      )
    )
  }

  it.effect("holds while candidates that are too many to be kept are found again", () =>
    stage((control) =>
      Effect.gen(function* () {
        const pair = yield* Stage.pair({ tcp: entries(17_000, { lifetime: 5000, dport: 443 }), capacity: 65_536 })
        for (const { key, value } of entries(13_000, { lifetime: 5000, dport: 80, daddr: [3] }))
          control.map(pair.tcp.map.fd)?.update(key, value)
        let isSecond = false
        // Between the two looks the datapath exchanges what was not meant for what is.
        control.onCall((call) => {
          if (call !== "loadObjectAsync" || isSecond) return
          isSecond = true
          for (const { key } of entries(13_000, { dport: 80, daddr: [3] })) control.map(pair.tcp.map.fd)?.delete(key)
          for (const { key, value } of entries(13_000, { lifetime: 5000, dport: 443, daddr: [4] }))
            control.map(pair.tcp.map.fd)?.update(key, value)
        })
        let recorded: GcPass.GcPass | undefined
        const error = yield* Effect.flip(
          sweep("hybrid", pair, {
            requests: [matching("dport 443")],
            limits: { ...Guard.defaults, maxDeleteRatio: 0.6 },
            recorded: (pass) => (recorded = pass)
          })
        )
        assert.isTrue(isSecond)
        assert.strictEqual(error._tag, "GuardStopped")
        assert.isAtMost(recorded!.maps[0]!.deleted, 18_000)
        checkSums(recorded!)
      })
    )
  )

  it.effect("an absolute limit is reached exactly, whatever was refreshed meanwhile", () =>
    stage((control) =>
      Effect.gen(function* () {
        const pair = yield* Stage.pair({ tcp: entries(40, { lifetime: 1 }) })
        let isRefreshed = false
        control.onCall((call) => {
          if (call !== "runProgram" || isRefreshed) return
          isRefreshed = true
          for (const { key, value } of entries(5, { lifetime: 5000 })) control.map(pair.tcp.map.fd)?.update(key, value)
        })
        let recorded: GcPass.GcPass | undefined
        const limits = { ...Guard.defaults, maxDeletions: 35 }
        yield* Effect.exit(sweep("hybrid", pair, { limits, recorded: (made) => (recorded = made) }))
        assert.strictEqual(recorded!.maps[0]!.deleted, 35)
        checkSums(recorded!)
      })
    )
  )

  it.effect("an absolute limit that several requests share is known to be passed before anything goes", () =>
    stage(() =>
      Effect.gen(function* () {
        const pair = yield* Stage.pair({ tcp: entries(40, { lifetime: 1 }) })
        const requests = [GcRequest.expired, GcRequest.expired]
        const limits = { ...Guard.defaults, maxDeletions: 15 }
        const error = yield* Effect.flip(sweep("kernel", pair, { requests, limits }))
        assert.include(error.message, "nothing was deleted")
        assert.strictEqual((yield* Stage.keysOf(pair.tcp.map)).length, 40)
        const all = yield* sweep("kernel", pair, { requests, limits: { ...limits, maxDeletions: 40 } })
        assert.strictEqual(all.maps[0]!.deleted, 40)
      })
    )
  )
})

describe("the clock of a table (G17)", () => {
  for (const engine of ["hybrid", "walking", "kernel", "portable"] as const) {
    it.effect(`${engine}: is looked for until an entry says something about it`, () =>
      stage(
        () =>
          Effect.gen(function* () {
            const bpf = yield* Bpf.Bpf
            const pair = yield* Stage.pair({ tcp: entries(6000, { lifetime: 0xffff_ffff }), capacity: 16_384 })
            // The last entries of the walk are the only ones with a time, and it is not of this clock.
            const order: Array<Uint8Array> = []
            const key = new Uint8Array(14)
            for (let next = bpf.nextKey(pair.tcp.map.fd, null, key); next === 0;) {
              order.push(key.slice())
              next = bpf.nextKey(pair.tcp.map.fd, order.at(-1)!, key)
            }
            assert.strictEqual(order.length, 6000)
            const { value } = Stage.ct({ lifetime: 7 })
            for (const last of order.slice(-3)) bpf.update(pair.tcp.map.fd, last, value, Bpf.ANY)
            const error = yield* Effect.flip(sweep(engine, pair, {}, 8 * 86_400))
            assert.strictEqual(error._tag, "ImplausibleClock")
            assert.strictEqual((yield* Stage.keysOf(pair.tcp.map)).length, 6000)
          }),
        { buckets: 4096 }
      )
    )
  }
})

describe("a pass with two looks", () => {
  it.effect("lets others run between the batches that it deletes", () =>
    stage((control) =>
      Effect.gen(function* () {
        const pair = yield* Stage.pair({ tcp: entries(8000, { lifetime: 5000 }), capacity: 16_384 })
        let turn = 0
        const turns: Array<number> = []
        control.onCall((call) => {
          if (call === "runProgram") turns.push(turn) // The first run is that of loading.
        })
        yield* Effect.forkChild(
          Effect.forever(
            Effect.andThen(
              Effect.sync(() => turn++),
              Effect.yieldNow
            ),
            { disableYield: true }
          ),
          { startImmediately: true }
        )
        yield* sweep("hybrid", pair, { requests: [GcRequest.everything], limits: Guard.unlimited })
        assert.isAtLeast(turns.length, 9)

        assert.strictEqual(new Set(turns.slice(1)).size, turns.length - 1, "two batches are never deleted in one turn")
      })
    )
  )

  it.effect("keeps to its budget while it deletes", () =>
    stage((control) =>
      Effect.gen(function* () {
        const pair = yield* Stage.pair({ tcp: entries(8000, { lifetime: 5000 }), capacity: 16_384 })
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
          // What is kept for later waits for minutes: that is no rest of the pass.
          sleep: (duration) =>
            Duration.toMinutes(duration) > 1
              ? Effect.never
              : Effect.sync(() => {
                  slept += Duration.toMillis(duration)
                  now += BigInt(Math.round(Duration.toMillis(duration) * 1e6))
                })
        }
        const requests = [GcRequest.everything]
        // Every run of a program takes ten milliseconds.
        control.onCall((call) => {
          if (call === "runProgram") now += 10_000_000n
        })
        const pass = sweep("hybrid", pair, { requests, limits: Guard.unlimited, budget: 0.25 })
        assert.strictEqual((yield* Effect.provideService(pass, Clock.Clock, played)).maps[0]!.deleted, 8000)
        assert.approximately(slept, 30 * control.count("runProgram"), 1)
      })
    )
  )
})

describe("NAT clean-up that breaks off", () => {
  for (const engine of ["hybrid", "portable"] as const) {
    it.effect(`${engine}: what was done is counted, and the rest as failed`, () =>
      stage((control) =>
        Effect.gen(function* () {
          const tcp = entries(4, { lifetime: 1, daddr: [1], saddr: [2] })
          const nat = tcp.map((_, i) => Stage.nat({ daddr: [2], saddr: [1], sport: i + 1, to: [[9], 40_000] }))
          const pair = yield* Stage.pair({ tcp: [...tcp, Stage.ct({ lifetime: 1, tupleFlags: 1 })], nat })
          let recorded: GcPass.GcPass | undefined
          const told: Array<GcEvents.Deleted> = []
          // Of hybrid the second program, of portable the second deletion from the NAT map.
          if (engine === "hybrid")
            control.onCall((call) => {
              if (call === "runProgram" && control.map(pair.tcp.map.fd)?.size() === 0) control.failNext("runProgram", 5)
            }, "after")
          else control.failNext("delete", 5, { skip: 1 })
          const exit = yield* Effect.exit(
            sweep(engine, pair, { recorded: (pass) => (recorded = pass), publish: (event) => told.push(event) })
          )
          assert.strictEqual(exit._tag, "Failure")
          checkSums(recorded!)
          const { deleted, nat: counts } = recorded!.maps[0]!
          const left = (yield* Stage.keysOf(pair.nat!.map)).length
          assert.deepStrictEqual([deleted, told.reduce((sum, { count }) => sum + count, 0)], [5, 5])
          assert.strictEqual(counts.egress, 4 - left)
          assert.strictEqual(counts.egress + counts.failed, 4)
          assert.isAbove(counts.failed, 0)
        })
      )
    )
  }
})

/** A kernel without batches, in which entries are deleted right before they are looked up. */
const nextKey = (...deletedAt: ReadonlyArray<number>) => {
  const { calls, control } = BpfMemory.make({ objects: Stage.objects!, features: { batch: "unknown command" } })
  let lookups = 0
  const racing: Bpf.Calls = {
    ...calls,
    lookup: (fd, key, value) => {
      if (deletedAt.includes(lookups++)) control.map(fd)?.delete(key)
      return calls.lookup(fd, key, value)
    }
  }
  return Effect.gen(function* () {
    const pair = yield* Stage.pair({ tcp: tableEntries, capacity: 64 })
    let recorded: GcPass.GcPass | undefined
    const recordedBy = { recorded: (pass: GcPass.GcPass) => (recorded = pass) }
    yield* sweep("hybrid", pair, { transports: ["tcp"], trustsClock: true, ...recordedBy })
    checkSums(recorded!)
    return { pass: recorded!, map: recorded!.maps[0]! }
  }).pipe(Effect.scoped, Effect.provideService(Bpf.Bpf, racing))
}

const tableEntries = entries(30, { lifetime: 5000 })

describe("a walk by next key (G18)", () => {
  it.effect("counts how often it went back one key", () =>
    Effect.gen(function* () {
      const { map, pass } = yield* nextKey(5)
      assert.deepStrictEqual([map.fallbacks, map.restarts, pass.completed], [1, 0, true])
    })
  )

  it.effect("counts how often it was thrown back to the start", () =>
    Effect.gen(function* () {
      const { map, pass } = yield* nextKey(5, 6)
      assert.deepStrictEqual([map.fallbacks, map.restarts, pass.completed], [1, 1, true])
    })
  )
})

describe("events", () => {
  for (const engine of ["hybrid", "walking", "kernel", "portable"] as const) {
    it.effect(`${engine}: hold what they held, whatever comes after them`, () =>
      stage(
        () =>
          Effect.gen(function* () {
            const tcp = entries(2500, { lifetime: 1 })
            const pair = yield* Stage.pair({ tcp })
            const told: Array<GcEvents.Deleted> = []
            const pass = yield* sweep(engine, pair, { publish: (event) => told.push(event) })
            const keys = told.flatMap((event) =>
              Array.from({ length: event.count }, (_, i) => Stage.hex(event.keys.subarray(i * 14, (i + 1) * 14)))
            )
            assert.isAbove(told.length, 1)
            assert.deepStrictEqual(keys.toSorted(), tcp.map(Stage.keyHex).toSorted())
            assert.isAbove(pass.maps[0]!.longestCallMillis, 0)
          }),
        { buckets: 1024 }
      )
    )
  }
})
