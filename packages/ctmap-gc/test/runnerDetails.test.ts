/** What a runner passes on: terms, budget, limits, counts, metrics, and what it tells whom. */
import { assert, describe, it } from "@effect/vitest"
import {
  CtMapSources,
  Endpoints,
  type GcConfig,
  GcMetrics,
  type GcPass,
  GcRequest,
  GcRunner,
  Guard,
  type NatPass
} from "ctmap-gc"
import { CtMaps, Owner } from "ctmap-kernel"
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Metric from "effect/Metric"
import * as Scope from "effect/Scope"
import { TestClock } from "effect/testing"
import { alive, count, expired, host } from "./runnerHost.ts"
import * as Stage from "./stage.ts"

const four = ({ family }: { readonly family: string }): boolean => family === "ipv4"

const tight = { maxDeleteRatio: 0, maxDeleteFloor: 0 }

/** With a registry of its own, so that what was counted elsewhere is not counted here. */
const isolated = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.provideService(effect, Metric.MetricRegistry, new Map())

const turns = Effect.yieldNow.pipe(Effect.repeat({ times: 200 }))

describe("the terms of a request", () => {
  it.effect("come before those of the settings", () => {
    const { layer, fill, size } = host({ families: ["ipv4"], settings: tight })
    return Effect.gen(function* () {
      const runner = yield* GcRunner.GcRunner
      fill("cilium_ct4_global", alive(1))
      fill("cilium_snat_v4_external", Stage.nat({ to: [[9], 40_000] }))
      const limits = Guard.unlimited
      assert.strictEqual((yield* runner.purgeOrphans({ limits, choose: four })).deleted, 1)
      assert.strictEqual((yield* runner.run(GcRequest.everything, { limits, choose: four })).deleted, 1)
      assert.strictEqual(size("cilium_ct4_global"), 0)
    }).pipe(Effect.provide(layer))
  })

  it.effect("without a budget are those of the settings", () => {
    const { layer, control, fill } = host({ families: ["ipv4"], settings: { budget: 0.25 } })
    let now = 0n
    let slept = 0
    const clock: Clock.Clock = {
      currentTimeMillisUnsafe: () => 0,
      currentTimeMillis: Effect.succeed(0),
      currentTimeNanosUnsafe: () => now,
      currentTimeNanos: Effect.sync(() => now),
      monotonicTimeNanosUnsafe: () => now,
      monotonicTimeNanos: Effect.sync(() => now),
      // What is kept for later waits for minutes: that is no rest of a pass.
      sleep: (duration) =>
        Duration.toMinutes(duration) > 1
          ? Effect.never
          : Effect.sync(() => {
              slept += Duration.toMillis(duration)
              now += BigInt(Math.round(Duration.toMillis(duration) * 1e6))
            })
    }
    return Effect.gen(function* () {
      const runner = yield* GcRunner.GcRunner
      fill("cilium_ct4_global", alive(1))
      control.onCall((call) => {
        if (call === "lookupBatch") now += 10_000_000n
      })
      yield* runner.run(GcRequest.expired, { choose: four })
      assert.isAtLeast(slept, 30)
      const before = slept
      yield* runner.run(GcRequest.expired, { choose: four, budget: 1 })
      assert.strictEqual(slept, before)
    }).pipe(Effect.provideService(Clock.Clock, clock), Effect.provide(layer))
  })
})

describe("the engine of the settings", () => {
  const purgedBy = Effect.fnUntraced(function* (engine: GcConfig.Settings["engine"], withoutPrograms = false) {
    const ended = yield* Deferred.make<NatPass.NatPass>()
    const runner = { natEnded: (pass: NatPass.NatPass) => Effect.asVoid(Deferred.succeed(ended, pass)) }
    const { layer, control, fill } = host({ families: ["ipv4"], settings: { engine }, runner })
    return yield* Effect.gen(function* () {
      fill("cilium_snat_v4_external", Stage.nat({ to: [[9], 40_000] }))
      if (withoutPrograms) control.failEvery(1, "loadObjectAsync", 1)
      const { enable, initialScanDone } = yield* GcRunner.GcRunner
      yield* enable
      yield* initialScanDone
      yield* TestClock.adjust("2 hours")
      const { egressDeleted, stoppedBy } = yield* Deferred.await(ended)
      return { loads: control.count("loadObjectAsync"), deleted: egressDeleted, stoppedBy }
    }).pipe(Effect.provide(layer))
  })

  it.effect("is that of scheduled orphan purges too: portable loads no program", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* purgedBy("portable"), { loads: 0, deleted: 1, stoppedBy: undefined })
      assert.isAbove((yield* purgedBy("auto")).loads, 0)
    })
  )

  it.effect("hybrid and kernel purge by a program or not at all; auto goes on without", () =>
    Effect.gen(function* () {
      for (const engine of ["hybrid", "kernel"] as const) {
        const { deleted, stoppedBy } = yield* purgedBy(engine, true)
        assert.deepStrictEqual([deleted, stoppedBy], [0, "error"])
      }
      assert.strictEqual((yield* purgedBy("auto", true)).deleted, 1)
    })
  )
})

describe("what came of a request", () => {
  it.effect("counts a pass that the guard stopped, whichever way it was asked for", () => {
    const { layer, fill } = host({ families: ["ipv4"], settings: tight })
    return Effect.gen(function* () {
      const runner = yield* GcRunner.GcRunner
      fill("cilium_ct4_global", alive(1))
      const stops = count("ctmap_gc_guard_stops_total")
      assert.strictEqual(yield* stops, 0)
      yield* runner.run(GcRequest.everything, { choose: four })
      assert.strictEqual(yield* stops, 1)
      const { pairs } = yield* CtMapSources.CtMapSources
      yield* Effect.exit(runner.runPair((yield* pairs)[0]!, GcRequest.everything))
      assert.strictEqual(yield* stops, 2)
      yield* runner.run(GcRequest.expired, { choose: four })
      assert.strictEqual(yield* stops, 2)
    }).pipe(Effect.provide(layer), isolated)
  })

  it.effect("counts orphans of both directions, over all pairs", () => {
    const { layer, fill } = host({})
    return Effect.gen(function* () {
      const runner = yield* GcRunner.GcRunner
      const halves = (family: "ipv4" | "ipv6") =>
        [0, 1, 1].map((tupleFlags, i) => Stage.nat({ family, tupleFlags, sport: i + 1, to: [[9], 40_000] }))
      fill("cilium_snat_v4_external", ...halves("ipv4"))
      fill("cilium_snat_v6_external", ...halves("ipv6"))
      const ran = yield* runner.purgeOrphans()
      assert.strictEqual(ran.deleted, 6)
      const serials = ran.pairs.map(({ exit }) => (Exit.isSuccess(exit) ? exit.value?.serial : -1))
      assert.deepStrictEqual(serials, [1, 2])
      yield* runner.run(GcRequest.expired, { choose: four })
      const last: GcPass.GcPass | undefined = yield* runner.lastPass
      assert.strictEqual(last?.serial, 3, "one count of passes over CT and NAT maps")
    }).pipe(Effect.provide(layer))
  })

  it.effect("is what was deleted for it, summed, and the last pass is the last", () => {
    const { layer, fill } = host({})
    return Effect.gen(function* () {
      const runner = yield* GcRunner.GcRunner
      fill("cilium_ct4_global", expired(1), expired(2), expired(3))
      fill("cilium_ct6_global", expired(1, "ipv6"), expired(2, "ipv6"))
      assert.strictEqual((yield* runner.run(GcRequest.expired)).deleted, 5)
      assert.strictEqual((yield* runner.lastPass)?.family, "ipv6")
      assert.deepStrictEqual(
        (yield* runner.lastPasses).map(({ family }) => family),
        ["ipv4", "ipv6"]
      )
    }).pipe(Effect.provide(layer))
  })

  it.effect("waits for whoever purges the pair's orphans", () => {
    const { layer, control, fill } = host({ families: ["ipv4"] })
    return Effect.gen(function* () {
      const runner = yield* GcRunner.GcRunner
      const nat = Array.from({ length: 1500 }, (_, i) => Stage.nat({ sport: i + 1, to: [[9], 40_000] }))
      fill("cilium_snat_v4_external", ...nat)
      const order: Array<string> = []
      const purge = yield* Effect.forkChild(
        Effect.tap(runner.purgeOrphans({ limits: Guard.unlimited, choose: four }), () =>
          Effect.sync(() => order.push("purge"))
        ),
        { startImmediately: true }
      )
      yield* Effect.yieldNow.pipe(Effect.repeat({ until: () => control.count("lookupBatch") > 0, times: 100 }))
      const pass = yield* Effect.forkChild(
        Effect.tap(runner.run(GcRequest.expired, { choose: four }), () => Effect.sync(() => order.push("pass")))
      )
      yield* Fiber.join(purge)
      yield* Fiber.join(pass)
      assert.deepStrictEqual(order, ["purge", "pass"])
    }).pipe(Effect.provide(layer))
  })
})

describe("a scheduled pass", () => {
  it.effect("tells the owner of endpoints what it keeps of the global maps, and of no others", () => {
    const { layer, control, fill } = host({ families: ["ipv4"] })
    const kept: Array<number> = []
    const endpoints: Endpoints.Shape = {
      local: Effect.succeed([{ id: 7 }]),
      emitCtEntry: (columns, rows, total) => {
        for (let i = 0; i < total; i++) kept.push(columns.sport(rows[i]!))
      }
    }
    return Effect.gen(function* () {
      const runner = yield* GcRunner.GcRunner
      const { openOrCreate } = yield* CtMaps.CtMaps
      for (const transport of ["tcp", "any"] as const) {
        yield* Effect.scoped(openOrCreate({ family: "ipv4", transport, owner: Owner.endpoint(7) }))
      }
      fill("cilium_ct4_global", alive(11), expired(12))
      fill("cilium_ct4_00007", alive(71), expired(72))
      yield* runner.run(GcRequest.expired)
      assert.deepStrictEqual(kept, [])
      yield* runner.enable
      yield* runner.initialScanDone
      assert.deepStrictEqual(kept, [11])
      assert.strictEqual(control.map("/sys/fs/bpf/tc/globals/cilium_ct4_00007")?.size(), 1)
    }).pipe(Effect.provide(layer), Effect.provideService(Endpoints.Endpoints, endpoints))
  })

  it.effect("is announced: when the next is due, of which families, and the interval", () => {
    const { layer } = host({ families: ["ipv4"], settings: { families: ["ipv4"] } })
    return Effect.gen(function* () {
      const runner = yield* GcRunner.GcRunner
      yield* runner.enable
      yield* runner.initialScanDone
      yield* turns
      const named = (name: string) =>
        Effect.map(GcMetrics.snapshot, (series) =>
          series.filter((each) => each.name === name).map(({ labels, value }) => [labels, value])
        )
      // Nothing was deleted: five minutes have grown by half.
      assert.deepStrictEqual(yield* named("ctmap_gc_next_run_timestamp_seconds"), [[{ family: "ipv4" }, 450]])
      assert.deepStrictEqual(yield* named("cilium_datapath_conntrack_gc_interval_seconds"), [
        [{ global: "global" }, 450]
      ])
    }).pipe(Effect.provide(layer), isolated)
  })

  it.effect("collects and purges the families that it is for, no others", () => {
    const { layer, fill, size } = host({ settings: { families: ["ipv6"], orphanPurgeInterval: Duration.minutes(1) } })
    return Effect.gen(function* () {
      const runner = yield* GcRunner.GcRunner
      fill("cilium_ct4_global", expired(1))
      fill("cilium_ct6_global", expired(1, "ipv6"))
      fill("cilium_snat_v4_external", Stage.nat({ to: [[9], 40_000] }))
      fill("cilium_snat_v6_external", Stage.nat({ family: "ipv6", to: [[9], 40_000] }))
      yield* runner.enable
      yield* runner.initialScanDone
      yield* TestClock.adjust("61 seconds")
      yield* turns
      assert.deepStrictEqual([size("cilium_ct4_global"), size("cilium_ct6_global")], [1, 0])
      assert.deepStrictEqual([size("cilium_snat_v4_external"), size("cilium_snat_v6_external")], [1, 0])
    }).pipe(Effect.provide(layer))
  })

  it.effect("comes soon when it is asked for, and never again when the layer has closed", () => {
    const { layer, fill, size, control } = host({ families: ["ipv4"], settings: { families: ["ipv4"] } })
    return Effect.gen(function* () {
      const scope = yield* Scope.make()
      const context = yield* Layer.buildWithScope(layer, scope)
      const runner = yield* Effect.provide(GcRunner.GcRunner, context)
      const waiting = yield* Effect.forkChild(runner.initialScanDone, { startImmediately: true })
      yield* turns
      assert.isUndefined(waiting.pollUnsafe())
      yield* runner.enable
      yield* Fiber.join(waiting)
      fill("cilium_ct4_global", expired(1))
      yield* runner.request()
      yield* turns
      assert.strictEqual(size("cilium_ct4_global"), 0)
      yield* Scope.close(scope, Exit.void)
      const before = control.count("openPin")
      yield* TestClock.adjust("1 day")
      yield* turns
      assert.strictEqual(control.count("openPin"), before)
      assert.isFalse((yield* runner.status).active)
    })
  })
})

describe("the series of a runner", () => {
  it.effect("without labels are there before anything is counted", () =>
    Effect.gen(function* () {
      const names = (yield* GcMetrics.snapshot).map(({ name, value }) => [name, value])
      for (const name of ["refreshed", "restored", "vanished", "busy", "guard_stops", "lost_events"]) {
        assert.deepInclude(names, [`ctmap_gc_${name}_total`, 0])
      }
    }).pipe(Effect.provide(host({}).layer), isolated)
  )
})
