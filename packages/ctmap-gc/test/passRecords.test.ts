/** The records of passes: whatever becomes of a pass there is one, its metrics are never lost, and they do not pile up. */
import { assert, describe, it } from "@effect/vitest"
import { CtTime, FilterParser } from "ctmap-core"
import { Collector, CtMapSources, GcEngine, GcEvents, GcMetrics, GcRequest, GcRunner, Guard } from "ctmap-gc"
import { Bpf, BpfError, BpfMemory, KernelClock, Owner } from "ctmap-kernel"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Metric from "effect/Metric"
import * as Result from "effect/Result"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { TestClock } from "effect/testing"
import * as PassLog from "../src/internal/passLog.ts"
import { expired, host } from "./runnerHost.ts"
import * as Stage from "./stage.ts"

const filter = (text: string) => GcRequest.matching(Result.getOrThrow(FilterParser.parse(text)))

/** A collector over memory, in a registry of metrics of its own. */
const bench = Effect.gen(function* () {
  const { calls, control } = BpfMemory.make({ objects: Stage.objects! })
  const bpf = Layer.succeed(Bpf.Bpf, calls)
  const tcp = Array.from({ length: 600 }, (_, i) => Stage.ct({ lifetime: 1, sport: i + 1 }))
  const pair = yield* Effect.provide(Stage.pair({ tcp }), bpf)
  const sourceOf = (
    cluster: number,
    open: CtMapSources.PairSource["open"] = Effect.succeed(pair)
  ): CtMapSources.PairSource => ({ family: "ipv4", owner: Owner.cluster(cluster), open })
  const layer = Collector.layer.pipe(
    Layer.provide(GcEngine.layer({ batchSize: 64 })),
    Layer.provideMerge(GcEvents.layer),
    Layer.provide(Layer.mergeAll(bpf, Layer.succeed(KernelClock.KernelClock, Stage.ktime(1000))))
  )
  const scope = yield* Scope.make()
  const registry: typeof Metric.MetricRegistry.Service = new Map()
  const context = yield* Layer.buildWithScope(layer, scope).pipe(Effect.provideService(Metric.MetricRegistry, registry))
  const collector = yield* Effect.provide(Collector.Collector, context)
  const counted = (name: string, status?: string) =>
    Effect.map(Effect.provideService(GcMetrics.snapshot, Metric.MetricRegistry, registry), (series) =>
      series
        .filter((each) => each.name === name && (status === undefined || each.labels["status"] === status))
        .reduce((sum, { value }) => sum + Number(value), 0)
    )
  return { collector, sourceOf, control, scope, counted }
})

const RUNS = "cilium_datapath_conntrack_gc_runs_total"

describe("metrics of passes", () => {
  it.effect("are there when the caller hears of the pass, however many there are in a burst", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const { collector, sourceOf, counted } = yield* bench
        for (let pass = 1; pass <= 300; pass++) {
          yield* collector.collect(sourceOf(1), GcRequest.expired)
          if (pass % 100 === 0) assert.strictEqual(yield* counted(RUNS), 2 * pass)
        }
        assert.strictEqual(yield* counted("ctmap_gc_deleted_total"), 600)
      })
    )
  )

  it.effect("of a pass that is cut off by the end of the layer are counted too", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const { collector, sourceOf, counted, scope, control } = yield* bench
        let batches = 0
        control.onCall((call) => {
          if (call === "lookupBatch") batches++
        })
        yield* Effect.forkDetach(collector.collect(sourceOf(1), GcRequest.expired, { budget: 0.5 }), {
          startImmediately: true
        })
        yield* Effect.yieldNow.pipe(Effect.repeat({ until: () => batches >= 2, times: 1000 }))
        yield* Scope.close(scope, Exit.void)
        const [pass] = yield* collector.history
        assert.deepInclude(pass, { completed: false, why: "interrupted" })
        const deleted = pass!.maps.reduce((sum, map) => sum + map.deleted, 0)
        assert.isAbove(deleted, 0)
        assert.isBelow(deleted, 600)
        assert.strictEqual(yield* counted("ctmap_gc_deleted_total"), deleted)
      })
    )
  )

  it.effect("say that a pass failed which did not come to its first map", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const { collector, sourceOf, counted } = yield* bench
        const broken = sourceOf(1, Effect.fail(BpfError.fromErrno({ operation: "open pin", errno: 5 })))
        yield* Effect.exit(collector.collect(broken, GcRequest.expired))
        assert.strictEqual(yield* counted(RUNS, "uncompleted"), 2)
        assert.strictEqual(yield* counted("ctmap_gc_longest_call_seconds"), 0)
        assert.strictEqual(yield* counted("ctmap_gc_pass_serial"), 1)
      })
    )
  )
})

describe("the record of a pass", () => {
  it.effect("is there when its maps do not open", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const { collector, sourceOf } = yield* bench
        yield* TestClock.adjust("7 seconds")
        const error = BpfError.fromErrno({ operation: "open pin", errno: 5, path: "/p" })
        const failing = collector.collect(sourceOf(3, Effect.fail(error)), GcRequest.expired, { dryRun: true })
        assert.strictEqual(yield* Effect.flip(failing), error)
        const [pass] = yield* collector.history
        assert.isAtLeast(pass!.millis, 0)
        assert.deepStrictEqual(
          { ...pass, millis: 0 },
          {
            serial: 1,
            family: "ipv4",
            owner: "cluster 3",
            dryRun: true,
            now: 0,
            startedAtMillis: 7000,
            millis: 0,
            completed: false,
            why: error.message,
            stoppedBy: "error",
            maps: [],
            requests: [{ wanted: 0, deleted: 0 }]
          }
        )
        assert.deepStrictEqual(yield* collector.lastPasses, yield* collector.history)
      })
    )
  )

  it.effect("is not made where no map is pinned, nor where nobody waited until the maps were open", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const { collector, sourceOf } = yield* bench
        const missing = BpfError.fromErrno({ operation: "open pin", errno: 2, path: "/p" })
        yield* Effect.exit(collector.collect(sourceOf(1, Effect.fail(missing)), GcRequest.expired))
        const waiting = yield* Effect.forkChild(collector.collect(sourceOf(2, Effect.never), GcRequest.expired), {
          startImmediately: true
        })
        yield* Effect.yieldNow
        yield* Fiber.interrupt(waiting)
        assert.deepStrictEqual(yield* collector.history, [])
      })
    )
  )

  it.effect("is there when the clock cannot be read", () => {
    const error = new CtTime.ClockError({ reason: "schedstat", value: "" })
    const clock = { source: { mode: "ktime" }, now: Effect.fail(error) } as const
    const { layer, fill, size } = host({ families: ["ipv4"], clock })
    return Effect.gen(function* () {
      const runner = yield* GcRunner.GcRunner
      fill("cilium_ct4_global", expired(1))
      yield* runner.run(GcRequest.expired)
      assert.deepInclude(yield* runner.lastPass, { completed: false, why: error.message, now: 0, maps: [] })
      assert.strictEqual(size("cilium_ct4_global"), 1)
    }).pipe(Effect.provide(layer))
  })

  it.effect("says what brought it about, the first of the requests where they share it", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const { collector, sourceOf } = yield* bench
        const terms = { limits: Guard.unlimited }
        const ask = (port: number, trigger?: "interval" | "request") =>
          Effect.forkChild(collector.collect(sourceOf(1), filter(`sport ${port}`), terms, { trigger }), {
            startImmediately: true
          })
        const callers = [yield* ask(1), yield* ask(2, "interval"), yield* ask(3, "request")]
        for (const caller of callers) yield* Fiber.join(caller)
        const triggers = (yield* collector.history).map(({ trigger }) => trigger)
        assert.include(triggers, "interval")
        assert.notInclude(triggers, "request")
      })
    )
  )

  it.effect("of scheduled passes and of those on request say which is which, in the order they ended", () => {
    const { layer } = host({ families: ["ipv4"], settings: { conntrackGcInterval: Duration.minutes(1) } })
    return Effect.gen(function* () {
      const runner = yield* GcRunner.GcRunner
      const follower = yield* Effect.forkChild(Stream.runCollect(Stream.take(runner.passes, 4)), {
        startImmediately: true
      })
      yield* runner.enable
      yield* runner.initialScanDone
      yield* runner.run(GcRequest.everything, { dryRun: true })
      yield* TestClock.adjust("61 seconds")
      yield* Effect.yieldNow.pipe(Effect.repeat({ times: 200 }))
      const { pairs } = yield* CtMapSources.CtMapSources
      yield* runner.runPair((yield* pairs)[0]!, GcRequest.expired)
      const history = yield* runner.history
      assert.deepStrictEqual(
        history.map(({ trigger, dryRun, serial }) => [trigger, dryRun, serial]),
        [
          ["initial", false, 1],
          ["request", true, 2],
          ["interval", false, 3],
          ["request", false, 4]
        ]
      )
      assert.deepStrictEqual(yield* Fiber.join(follower), history)
      assert.strictEqual(yield* runner.lastPass, history.at(-1))
    }).pipe(Effect.provide(layer))
  })

  it("is forgotten after 128 others, and that of a pair after 1,024 other pairs", () => {
    const log = PassLog.make()
    const pass = (serial: number) => ({ serial }) as Parameters<typeof log.add>[1]
    for (let i = 0; i < 1024; i++) log.add(`pair ${i}`, pass(i))
    log.add("pair 0", pass(1024))
    log.add("pair 1024", pass(1025))
    const last = log.last().map(({ serial }) => serial)
    assert.deepStrictEqual([last.length, last[0], last.at(-2), last.at(-1)], [1024, 2, 1024, 1025])
    const history = log.history().map(({ serial }) => serial)
    assert.deepStrictEqual([history.length, history[0], history.at(-1)], [128, 898, 1025])
  })
})

describe("a pair that nobody wants anything of any more", () => {
  it.effect("leaves nothing behind in the collector but its last record", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const { collector, sourceOf } = yield* bench
        for (let cluster = 1; cluster <= 50; cluster++) {
          yield* collector.collect(sourceOf(cluster), GcRequest.expired)
          yield* collector.exclusively(sourceOf(cluster), Effect.void)
        }
        yield* Effect.exit(collector.exclusively(sourceOf(1), Effect.fail("no")))
        yield* Effect.yieldNow.pipe(Effect.repeat({ times: 20 }))
        assert.strictEqual(yield* collector.busy, 0)
      })
    )
  )

  it.effect("is not forgotten while somebody uses it, or waits", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const { collector, sourceOf } = yield* bench
        const order: Array<string> = []
        const use = (name: string) =>
          collector.exclusively(
            sourceOf(1),
            Effect.gen(function* () {
              order.push(`${name} begins`)
              yield* Effect.sleep("1 second")
              order.push(`${name} ends`)
            })
          )
        const uses = [yield* Effect.forkChild(use("first")), yield* Effect.forkChild(use("second"))]
        yield* Effect.yieldNow
        const pass = yield* Effect.forkChild(
          Effect.tap(collector.collect(sourceOf(1), GcRequest.expired), () => Effect.sync(() => order.push("pass")))
        )
        yield* TestClock.adjust("500 millis")
        assert.strictEqual(yield* collector.busy, 1)
        yield* TestClock.adjust("2 seconds")
        for (const fiber of [...uses, pass]) yield* Fiber.await<unknown, unknown>(fiber)
        assert.deepStrictEqual(order, ["first begins", "first ends", "second begins", "second ends", "pass"])
      })
    )
  )
})

describe("a table that does not fit the clock", () => {
  const late = 1000 + 8 * 86_400

  const sweep = (request: GcRequest.GcRequest) =>
    Effect.gen(function* () {
      const { calls } = BpfMemory.make({ objects: Stage.objects! })
      return yield* Effect.scoped(
        Effect.gen(function* () {
          const pair = yield* Stage.pair({ tcp: [Stage.ct({ lifetime: 1000, flags: 1, revNat: 7 })] })
          const engine = yield* Effect.provideService(GcEngine.make({}), KernelClock.KernelClock, Stage.ktime(late))
          return yield* engine.sweep(pair, { serial: 1, requests: [request] })
        })
      ).pipe(Effect.provideService(Bpf.Bpf, calls))
    })

  for (const text of ["packets < 5", "flag 0x1", "revnat 7", "ipv4", "dir out", "not service"]) {
    it.effect(`does not keep a filter that reads no time from being used: ${text}`, () =>
      Effect.gen(function* () {
        assert.strictEqual((yield* sweep(filter(text))).maps[0]!.deleted, 1)
      })
    )
  }

  for (const text of ["expired", "not alive", "lifetime < 5s", "packets < 5 or idle > 1s"]) {
    it.effect(`is refused to a filter that does: ${text}`, () =>
      Effect.gen(function* () {
        assert.strictEqual((yield* Effect.flip(sweep(filter(text))))._tag, "ImplausibleClock")
      })
    )
  }
})
