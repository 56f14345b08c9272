import { assert, describe, it } from "@effect/vitest"
import { Signal } from "ctmap-core"
import { GcConfig, type GcEvents, GcMetrics, GcRequest, GcRunner, SignalQueue, Signals, SignalSource } from "ctmap-gc"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import { TestClock } from "effect/testing"
import { alive, count, expired, host } from "./runnerHost.ts"
import { withWarnings } from "./scheduleRig.ts"
import * as Stage from "./stage.ts"

describe("GcRunner", () => {
  it.effect("collects at once when it is enabled, and again when the interval is over", () => {
    const { layer, fill, size } = host({ settings: { conntrackGcInterval: Duration.minutes(5) } })
    return Effect.gen(function* () {
      const runner = yield* GcRunner.GcRunner
      fill("cilium_ct4_global", expired(1), alive(2))
      fill("cilium_ct_any6_global", expired(1, "ipv6"))
      assert.isUndefined(yield* runner.lastPass)
      yield* runner.enable
      yield* runner.enable
      yield* runner.initialScanDone
      assert.deepStrictEqual([size("cilium_ct4_global"), size("cilium_ct_any6_global")], [1, 0])
      const passes = yield* runner.lastPasses
      assert.deepStrictEqual(
        passes.map(({ family, owner, completed }) => [family, owner, completed]),
        [
          ["ipv4", "global", true],
          ["ipv6", "global", true]
        ]
      )
      fill("cilium_ct4_global", expired(3))
      yield* TestClock.adjust("299 seconds")
      assert.strictEqual(size("cilium_ct4_global"), 2)
      yield* TestClock.adjust("2 seconds")
      yield* Effect.yieldNow.pipe(Effect.repeat({ until: () => size("cilium_ct4_global") === 1, times: 200 }))
      assert.strictEqual(size("cilium_ct4_global"), 1)
      const status = yield* runner.status
      assert.isTrue(status.active)
      const series = yield* GcMetrics.snapshot
      const value = (name: string) => series.find((each) => each.name === name)?.value
      assert.strictEqual(value("cilium_datapath_conntrack_gc_interval_seconds"), 300)
      assert.isDefined(value("ctmap_gc_next_run_timestamp_seconds"))
    }).pipe(Effect.provide(layer))
  })

  it.effect("tells observers of each family what was deleted, with NAT gone by then", () => {
    const { layer, fill, size } = host({})
    return Effect.gen(function* () {
      const runner = yield* GcRunner.GcRunner
      fill("cilium_ct4_global", Stage.ct({ daddr: [1], saddr: [2], lifetime: 1, sport: 1 }), alive(2))
      fill("cilium_snat_v4_external", Stage.nat({ daddr: [2], saddr: [1], sport: 1, to: [[9], 40_000] }))
      fill("cilium_ct6_global", expired(1, "ipv6"))
      const watch = (stream: Stream.Stream<GcEvents.GcEvent>) =>
        Effect.forkChild(
          stream.pipe(
            Stream.take(1),
            Stream.map((event) => [event._tag === "Deleted" ? event.count : -1, size("cilium_snat_v4_external")]),
            Stream.runCollect
          ),
          { startImmediately: true }
        )
      const four = yield* watch(runner.observe4)
      const six = yield* watch(runner.observe6)
      const ran = yield* runner.run(GcRequest.expired)
      assert.strictEqual(ran.deleted, 2)
      assert.deepStrictEqual(yield* Fiber.join(four), [[1, 0]])
      assert.deepStrictEqual(yield* Fiber.join(six), [[1, 0]])
    }).pipe(Effect.provide(layer))
  })

  it.effect("a signal brings a pass over its family and a purge of its orphans", () => {
    const signals = Signals.layerTest
    return Effect.gen(function* () {
      const subscription = yield* SignalQueue.subscribe()
      const source = yield* SignalSource.Control
      const { start } = yield* Signals.Signals
      yield* start
      const rig = host({ runner: { signals: subscription } })
      yield* Effect.gen(function* () {
        const runner = yield* GcRunner.GcRunner
        yield* runner.enable
        yield* runner.initialScanDone
        yield* TestClock.adjust("10 seconds")
        rig.fill("cilium_ct4_global", expired(1))
        rig.fill("cilium_ct6_global", expired(1, "ipv6"))
        rig.fill("cilium_snat_v4_external", Stage.nat({ to: [[9], 40_000], sport: 77 }))
        source.send(Signal.toBytes(new Signal.FillUp({ signal: "ct_fill_up", family: "ipv4" })))
        yield* Effect.yieldNow.pipe(
          Effect.repeat({ until: () => rig.size("cilium_snat_v4_external") === 0, times: 500 })
        )
        assert.deepStrictEqual(
          [rig.size("cilium_ct4_global"), rig.size("cilium_snat_v4_external"), rig.size("cilium_ct6_global")],
          [0, 0, 1]
        )
      }).pipe(Effect.provide(rig.layer))
    }).pipe(Effect.scoped, Effect.provide(signals))
  })

  it.effect("whoever wants to hears what came of each purge that the schedule made, and over which families", () => {
    const heard: Array<unknown> = []
    const purged: GcRunner.Options["purged"] = ({ deleted, pairs }, families) =>
      Effect.sync(() => void heard.push([families, pairs.map(({ exit, pair }) => [pair, exit._tag]), deleted]))
    const rig = host({ runner: { purged } })
    return Effect.gen(function* () {
      const runner = yield* GcRunner.GcRunner
      yield* runner.enable
      yield* runner.initialScanDone
      rig.fill("cilium_snat_v4_external", Stage.nat({ to: [[9], 40_000], sport: 77 }))
      yield* TestClock.adjust("61 minutes")
      yield* Effect.yieldNow.pipe(Effect.repeat({ until: () => heard.length > 0, times: 500 }))
      const pairs = [
        ["ipv4 global", "Success"],
        ["ipv6 global", "Success"]
      ]
      assert.deepStrictEqual(heard, [[["ipv4", "ipv6"], pairs, 1]])
      yield* runner.purgeOrphans()
      assert.strictEqual(heard.length, 1)
    }).pipe(Effect.provide(rig.layer))
  })

  it.effect("purges of orphans are on record, also those that failed, were stopped, or that nobody waited for", () => {
    const rig = host({ families: ["ipv4"] })
    const orphan = (sport: number) => Stage.nat({ to: [[9], 40_000], sport })
    const ENOMEM = 12
    return Effect.gen(function* () {
      const { natHistory, purgeOrphans } = yield* GcRunner.GcRunner
      rig.fill("cilium_snat_v4_external", ...Array.from({ length: 1500 }, (_, i) => orphan(i + 1)))
      const limits = { maxDeleteRatio: 1, floor: 0, maxDeletions: 9999 }
      yield* purgeOrphans()
      // It deletes 64 at a time, after a run that tries the program, and lets others run after 128.
      rig.control.failNext("runProgram", ENOMEM, { skip: 2 })
      yield* purgeOrphans({ limits })
      rig.control.clearFaults()
      const runs = rig.control.count("runProgram")
      const stop = rig.control.onCall(() => {
        if (rig.control.count("runProgram") > runs + 1) caller.interruptUnsafe()
      }, "after")
      const caller = yield* Effect.forkChild(purgeOrphans({ limits }))
      yield* Fiber.await(caller)
      stop()
      yield* purgeOrphans({ limits })
      const told = (yield* natHistory).map(({ completed, egressDeleted, why = "" }) => [completed, egressDeleted, why])
      assert.deepStrictEqual(
        told.map(([completed, deleted]) => [completed, deleted]),
        [
          [false, 0],
          [false, 64],
          [false, 128],
          [true, 1308]
        ]
      )
      assert.match(String(told[0]?.[2]), /the guard stopped/)
      assert.match(String(told[1]?.[2]), /run program/)
      assert.strictEqual(told[2]?.[2], "interrupted")
    }).pipe(Effect.provide(rig.layer))
  })

  it.effect("a family without maps is nothing to complain of, and does not count as a failed pass", () => {
    const { layer, fill, size } = host({ families: ["ipv4"] })
    return Effect.gen(function* () {
      const runner = yield* GcRunner.GcRunner
      fill("cilium_ct4_global", expired(1))
      yield* runner.enable
      yield* runner.initialScanDone
      assert.strictEqual(size("cilium_ct4_global"), 0)
      assert.isTrue((yield* runner.status).last?.success)
    }).pipe(Effect.provide(layer))
  })

  it.effect("a pair that fails does not keep the others from being collected", () => {
    const { layer, control, fill, size } = host({})
    return Effect.gen(function* () {
      const runner = yield* GcRunner.GcRunner
      fill("cilium_ct6_global", expired(1, "ipv6"))
      control.failNext("openPin", 5)
      const ran = yield* runner.run(GcRequest.expired)
      assert.deepStrictEqual(
        ran.pairs.map(({ pair, exit }) => [pair, Exit.isSuccess(exit)]),
        [
          ["ipv4 global", false],
          ["ipv6 global", true]
        ]
      )
      assert.strictEqual(size("cilium_ct6_global"), 0)
    }).pipe(Effect.provide(layer))
  })

  it.effect("closes the maps of a pass when it ends: their fds once belonged to the layer, and piled up", () => {
    const { layer, control } = host({})
    return Effect.gen(function* () {
      const runner = yield* GcRunner.GcRunner
      yield* runner.run(GcRequest.expired)
      const after = control.openFds().length
      for (let pass = 0; pass < 5; pass++) {
        yield* runner.run(GcRequest.expired)
        yield* runner.purgeOrphans()
      }
      assert.strictEqual(control.openFds().length, after)
    }).pipe(Effect.provide(layer))
  })

  it.effect("purges orphans of the families that are chosen", () => {
    const { layer, fill, size } = host({})
    return Effect.gen(function* () {
      const runner = yield* GcRunner.GcRunner
      fill("cilium_snat_v4_external", Stage.nat({ to: [[9], 40_000] }))
      fill("cilium_snat_v6_external", Stage.nat({ family: "ipv6", to: [[9], 40_000] }))
      const ran = yield* runner.purgeOrphans({ choose: ({ family }) => family === "ipv6" })
      assert.deepStrictEqual([ran.deleted, ran.pairs.length], [1, 1])
      assert.deepStrictEqual([size("cilium_snat_v4_external"), size("cilium_snat_v6_external")], [1, 0])
    }).pipe(Effect.provide(layer))
  })

  it.effect("maps that are not there yet are looked for again soon, not at ever longer intervals", () => {
    const { layer } = host({ families: [] })
    return Effect.gen(function* () {
      const runner = yield* GcRunner.GcRunner
      yield* runner.enable
      yield* runner.initialScanDone
      yield* Effect.yieldNow.pipe(Effect.repeat({ times: 20 }))
      const { last, next } = yield* runner.status
      assert.deepStrictEqual([last?.success, next?.reason], [false, "retry"])
    }).pipe(Effect.provide(layer))
  })

  it.effect("an orphan purge that the guard stops counts as a stop", () => {
    const { layer, fill, size } = host({ settings: { maxDeleteRatio: 0.1, maxDeleteFloor: 0 } })
    return Effect.gen(function* () {
      const runner = yield* GcRunner.GcRunner
      const before = yield* count("ctmap_gc_guard_stops_total")
      fill("cilium_snat_v4_external", ...[1, 2, 3].map((sport) => Stage.nat({ sport, to: [[9], 40_000] })))
      const ran = yield* runner.purgeOrphans({ choose: ({ family }) => family === "ipv4" })
      assert.isTrue(Exit.isFailure(ran.pairs[0]!.exit))
      assert.strictEqual(size("cilium_snat_v4_external"), 3)
      assert.strictEqual((yield* count("ctmap_gc_guard_stops_total")) - before, 1)
    }).pipe(Effect.provide(layer))
  })

  it.effect("what an orphan purge deleted before it failed is counted", () => {
    const { layer, control, fill, size } = host({})
    return Effect.gen(function* () {
      const runner = yield* GcRunner.GcRunner
      const natDeletions = { map_name: "snat_v4_external", operation: "delete", outcome: "success" }
      const before = yield* count("cilium_bpf_map_ops_total", natDeletions)
      const orphans = Array.from({ length: 600 }, (_, i) => Stage.nat({ sport: i + 1, to: [[9], 40_000] }))
      fill("cilium_snat_v4_external", ...orphans)
      control.onCall((call) => {
        if (call === "runProgram" && size("cilium_snat_v4_external") < 600) control.failNext("runProgram", 5)
      }, "after")
      const ran = yield* runner.purgeOrphans({ choose: ({ family }) => family === "ipv4" })
      assert.isTrue(Exit.isFailure(ran.pairs[0]!.exit))
      const gone = 600 - size("cilium_snat_v4_external")
      assert.isAbove(gone, 0)
      assert.strictEqual((yield* count("cilium_bpf_map_ops_total", natDeletions)) - before, gone)
    }).pipe(Effect.provide(layer))
  })

  it.effect("a large backlog is collected before the interval is over", () => {
    const { layer, fill, size } = host({
      settings: {
        conntrackGcInterval: Duration.hours(1),
        backlogThreshold: 0.25,
        backlogCheckInterval: Duration.seconds(30)
      }
    })
    return Effect.gen(function* () {
      const runner = yield* GcRunner.GcRunner
      yield* runner.enable
      yield* runner.initialScanDone
      fill(
        "cilium_ct4_global",
        ...Array.from({ length: 1500 }, (_, i) => (i % 2 === 0 ? expired(i + 1) : alive(i + 1)))
      )
      yield* TestClock.adjust("31 seconds")
      yield* Effect.yieldNow.pipe(Effect.repeat({ until: () => size("cilium_ct4_global") === 750, times: 1000 }))
      assert.strictEqual(size("cilium_ct4_global"), 750)
    }).pipe(Effect.provide(layer))
  })

  it.effect(
    "goes by other limits, another budget and other times from the next pass on when it is reconfigured",
    () => {
      const { layer, fill, size } = host({ settings: { conntrackGcInterval: Duration.hours(1) } })
      return Effect.gen(function* () {
        const runner = yield* GcRunner.GcRunner
        yield* runner.enable
        yield* runner.initialScanDone
        fill("cilium_ct4_global", ...[1, 2, 3].map(alive), expired(4))
        const settings = { maxDeleteRatio: 0, maxDeleteFloor: 1, conntrackGcInterval: Duration.minutes(2) }
        yield* runner.reconfigure(yield* GcConfig.make(settings))
        assert.strictEqual((yield* runner.settings).maxDeleteFloor, 1)
        const ran = yield* runner.run(GcRequest.everything, { choose: ({ family }) => family === "ipv4" })
        assert.strictEqual(Exit.findErrorOption(ran.pairs[0]!.exit).pipe(Option.getOrThrow)._tag, "GuardStopped")
        assert.strictEqual(size("cilium_ct4_global"), 4)
        yield* TestClock.adjust("2 minutes")
        yield* Effect.yieldNow.pipe(Effect.repeat({ until: () => size("cilium_ct4_global") === 3, times: 1000 }))
        assert.strictEqual(size("cilium_ct4_global"), 3)
        yield* runner.reconfigure(GcConfig.defaults)
        const again = yield* runner.run(GcRequest.everything, { choose: ({ family }) => family === "ipv4" })
        assert.strictEqual(again.deleted, 3)
      }).pipe(Effect.provide(layer))
    }
  )

  it.effect("an orphan purge goes by the limits that hold when it begins", () => {
    const { layer, fill, size } = host({ settings: { maxDeleteRatio: 0, maxDeleteFloor: 0 } })
    return Effect.gen(function* () {
      const runner = yield* GcRunner.GcRunner
      fill("cilium_snat_v4_external", Stage.nat({ to: [[9], 40_000] }))
      assert.strictEqual((yield* runner.purgeOrphans()).deleted, 0)
      yield* runner.reconfigure(GcConfig.defaults)
      assert.strictEqual((yield* runner.purgeOrphans()).deleted, 1)
      assert.strictEqual(size("cilium_snat_v4_external"), 0)
    }).pipe(Effect.provide(layer))
  })

  it.effect("a backlog threshold that is set later is heeded", () => {
    const { layer, fill, size } = host({ settings: { conntrackGcInterval: Duration.hours(1) } })
    return Effect.gen(function* () {
      const runner = yield* GcRunner.GcRunner
      yield* runner.enable
      yield* runner.initialScanDone
      fill("cilium_ct4_global", ...Array.from({ length: 1200 }, (_, i) => expired(i + 1)))
      const settings = { conntrackGcInterval: Duration.hours(1), backlogThreshold: 0.5 }
      yield* runner.reconfigure(yield* GcConfig.make(settings))
      yield* TestClock.adjust("31 seconds")
      yield* Effect.yieldNow.pipe(Effect.repeat({ until: () => size("cilium_ct4_global") === 0, times: 1000 }))
      assert.strictEqual(size("cilium_ct4_global"), 0)
    }).pipe(Effect.provide(layer))
  })

  it.effect("says that the engine cannot change while it runs, and keeps it", () => {
    const { layer } = host({ settings: { engine: "portable" } })
    return Effect.gen(function* () {
      const runner = yield* GcRunner.GcRunner
      const change = (engine: GcConfig.Engine) =>
        Effect.map(withWarnings(runner.reconfigure({ ...GcConfig.defaults, engine })), ({ warnings }) => warnings)
      assert.deepStrictEqual(yield* change("portable"), [])
      assert.deepStrictEqual(yield* change("kernel"), [
        "the engine is portable until the collector is started anew: it cannot become kernel meanwhile"
      ])
      assert.strictEqual((yield* runner.settings).engine, "portable")
    }).pipe(Effect.provide(layer))
  })

  it.effect(
    "does nothing where it is a fake, and its streams never end, as Cilium's: an end would mean a shutdown",
    () =>
      Effect.gen(function* () {
        const runner = yield* GcRunner.GcRunner
        yield* runner.enable
        assert.deepStrictEqual(yield* runner.run(GcRequest.everything), { pairs: [], deleted: 0 })
        for (const stream of [runner.observe4, runner.observe6, runner.passes]) {
          const observer = yield* Effect.forkChild(Stream.runDrain<unknown, never, never>(stream), {
            startImmediately: true
          })
          yield* TestClock.adjust("1 day")
          assert.isUndefined(observer.pollUnsafe())
          yield* Fiber.interrupt(observer)
        }
        assert.isUndefined(yield* runner.lastPass)
        assert.isFalse((yield* runner.status).active)
        yield* runner.reconfigure({ ...GcConfig.defaults, budget: 0.5 })
        assert.deepStrictEqual(yield* runner.settings, GcConfig.defaults)
      }).pipe(Effect.provide(GcRunner.layerNoop))
  )

  it.effect("does what a test tells it to", () =>
    Effect.gen(function* () {
      const runner = yield* GcRunner.GcRunner
      const control = yield* GcRunner.Control
      yield* control.answer({ pairs: [], deleted: 7 })
      assert.strictEqual((yield* runner.run(GcRequest.expired)).deleted, 7)
      assert.deepStrictEqual(yield* control.requests, [GcRequest.expired])
      assert.isFalse(yield* control.isEnabled)
      yield* runner.enable
      assert.isTrue(yield* control.isEnabled)
      const settings = { ...GcConfig.defaults, budget: 0.5 }
      yield* runner.reconfigure(settings)
      assert.deepStrictEqual([yield* runner.settings, yield* control.settings], [settings, [settings]])
    }).pipe(Effect.provide(GcRunner.layerTest))
  )
})
