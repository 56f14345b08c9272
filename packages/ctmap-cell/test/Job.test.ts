import { assert, describe, it } from "@effect/vitest"
import { Cell, Health, Hive, HiveError, Job, Lifecycle } from "ctmap-cell"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as Metric from "effect/Metric"
import * as Option from "effect/Option"
import * as References from "effect/References"
import * as Schedule from "effect/Schedule"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { TestClock } from "effect/testing"
import * as Tracer from "effect/Tracer"
import { fail, outcome } from "./rig.ts"

/** A hive of one cell that starts some jobs, running; its health as text, and how to stop it. */
const running = Effect.fnUntraced(function* (jobs: Effect.Effect<unknown, never, Cell.Implicit | Scope.Scope>) {
  const cell = Cell.make("worker", { description: "", layer: Layer.effectDiscard(jobs) })
  const scope = yield* Scope.make()
  const context = yield* Layer.buildWithScope(Hive.layer(Hive.make("app", { cells: [cell] })), scope)
  const { tree } = Context.get(context, Health.Health)
  return {
    context,
    /** Without the line of the hive. */
    health: Effect.map(tree, (node) => Health.render(node.parts[0] ?? node)),
    overall: Effect.map(tree, Health.overall),
    stop: Effect.gen(function* () {
      const fiber = yield* Effect.forkChild(Scope.close(scope, Exit.void), { startImmediately: true })
      yield* TestClock.adjust("1 minute")
      yield* Fiber.join(fiber)
    })
  }
})

/** Fails so often, then succeeds. Writes down when it ran, in seconds. */
const flaky = (failures: number, at: Array<number>) =>
  Effect.gen(function* () {
    at.push((yield* Effect.clockWith((clock) => clock.currentTimeMillis)) / 1000)
    if (at.length <= failures) return yield* fail(`failure ${at.length}`)
    return undefined
  })

const seriesOf = (name: string) =>
  Effect.map(Metric.snapshot, (all) =>
    all
      .filter(({ id }) => id === name)
      .map(({ attributes, state }): Record<string, unknown> =>
        Object.assign({}, attributes, {
          n: Number("count" in state ? state.count : "value" in state ? state.value : 0)
        })
      )
      .toSorted((a, b) => JSON.stringify(a).localeCompare(JSON.stringify(b)))
  )

/** With metrics of its own. */
const isolated = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.suspend(() => Effect.provideService(effect, Metric.MetricRegistry, new Map()))

describe("a one-shot job", () => {
  it.effect("runs beside the hive, which is ready before it is done", () =>
    Effect.gen(function* () {
      const { context, health } = yield* running(Job.oneShot("scan", Effect.sleep("1 hour")))
      assert.isTrue(yield* Context.get(context, Lifecycle.Lifecycle).isReady)
      assert.strictEqual(yield* health, "worker: ok\n  scan: ok")
      yield* TestClock.adjust("1 hour")
      assert.strictEqual(yield* health, "worker: ok\n  scan: stopped, done")
    })
  )

  it.effect("that fails is degraded, and its cell is not", () =>
    Effect.gen(function* () {
      const { health, overall } = yield* running(Job.oneShot("scan", fail("no map")))
      yield* TestClock.adjust("1 hour")
      assert.strictEqual(yield* health, "worker: ok\n  scan: degraded, no map")
      assert.strictEqual(yield* overall, "degraded")
    })
  )

  it.effect("is tried again as its policy says, what it throws included", () =>
    Effect.gen(function* () {
      const at: Array<number> = []
      const work = Effect.andThen(flaky(2, at), Effect.void).pipe(Effect.orDie)
      const retry = Schedule.exponential("1 second")
      const { health } = yield* running(Job.oneShot("scan", work, { retry }))
      yield* TestClock.adjust("2 seconds")
      assert.strictEqual(yield* health, "worker: ok\n  scan: degraded, failure 2")
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(at, [0, 1, 3])
      assert.strictEqual(yield* health, "worker: ok\n  scan: stopped, done")
    })
  )

  it.effect("that is essential ends a hive that was launched", () =>
    Effect.gen(function* () {
      const at: Array<number> = []
      const jobs = Job.oneShot("scan", flaky(9, at), { retry: Schedule.recurs(2), essential: true })
      const cell = Cell.make("worker", { description: "", layer: Layer.effectDiscard(jobs) })
      const error = yield* Effect.flip(Hive.launch(Hive.make("app", { cells: [cell] })))
      assert.instanceOf(error, HiveError.JobError)
      assert.strictEqual(error.message, 'job "scan" of cell "worker" failed for good after 3 attempts: failure 3')
    })
  )
})

describe("a job that speaks of itself", () => {
  it.effect("keeps its word until the next run, which may be of another mind", () =>
    Effect.gen(function* () {
      let runs = 0
      const work = Effect.suspend(() => (++runs === 2 ? Health.degraded("one table failed") : Effect.void))
      const once = Job.oneShot("scan", Health.degraded("half of it"))
      const { health } = yield* running(Effect.andThen(once, Job.timer("tick", work, { every: "1 second" })))
      yield* TestClock.adjust("1 second")
      assert.strictEqual(yield* health, "worker: ok\n  scan: degraded, half of it\n  tick: ok")
      yield* TestClock.adjust("1 second")
      assert.strictEqual(yield* health, "worker: ok\n  scan: degraded, half of it\n  tick: degraded, one table failed")
      yield* TestClock.adjust("1 second")
      assert.strictEqual(yield* health, "worker: ok\n  scan: degraded, half of it\n  tick: ok")
    })
  )
})

describe("a timer", () => {
  it.effect("runs after each interval, one run at a time", () =>
    Effect.gen(function* () {
      const at: Array<number> = []
      yield* running(
        Job.timer("tick", Effect.andThen(flaky(0, at), Effect.sleep("5 seconds")), { every: "10 seconds" })
      )
      yield* TestClock.adjust("45 seconds")
      assert.deepStrictEqual(at, [10, 25, 40])
    })
  )

  it.effect("may run at once, and follows a schedule to its end", () =>
    Effect.gen(function* () {
      const at: Array<number> = []
      const every = Schedule.max([Schedule.exponential("1 second"), Schedule.recurs(2)])
      const { health } = yield* running(Job.timer("tick", flaky(0, at), { every, immediately: true }))
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(at, [0, 1, 3])
      assert.strictEqual(yield* health, "worker: ok\n  tick: stopped, the schedule has ended")
    })
  )

  it.effect("runs when it is triggered; triggers that wait share a run", () =>
    Effect.gen(function* () {
      const at: Array<number> = []
      let trigger = Effect.void
      const work = Effect.andThen(flaky(0, at), Effect.sleep("5 seconds"))
      yield* running(Effect.map(Job.timer("tick", work, { every: "1 hour" }), (job) => (trigger = job.trigger)))
      yield* TestClock.adjust("7 seconds")
      yield* trigger
      yield* TestClock.adjust("1 second")
      yield* trigger
      yield* trigger
      yield* trigger
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(at, [7, 12])
      // The wait began anew with the last run.
      yield* TestClock.adjust("1 hour")
      assert.deepStrictEqual(at, [7, 12, 3617])
    })
  )

  it.effect("that fails goes on, degraded until it succeeds", () =>
    Effect.gen(function* () {
      const at: Array<number> = []
      const { health } = yield* running(Job.timer("tick", flaky(1, at), { every: "10 seconds" }))
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual(yield* health, "worker: ok\n  tick: degraded, failure 1")
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual(yield* health, "worker: ok\n  tick: ok")
    })
  )
})

describe("an observer", () => {
  it.effect("does something for everything that it is shown, and is done with the stream", () =>
    Effect.gen(function* () {
      const seen: Array<number> = []
      const { health } = yield* running(
        Job.observer("watch", Stream.make(1, 2, 3), (n) => Effect.sync(() => seen.push(n)))
      )
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(seen, [1, 2, 3])
      assert.strictEqual(yield* health, "worker: ok\n  watch: stopped, the stream has ended")
      assert.deepStrictEqual(yield* seriesOf("cell_job_items_total"), [{ cell: "worker", job: "watch", n: 3 }])
    }).pipe(isolated)
  )

  it.effect("subscribes again when the stream or the work fails; the wait begins anew after something was done", () =>
    Effect.gen(function* () {
      const at: Array<number> = []
      const stream = Stream.concat(
        Stream.fromEffect(Effect.andThen(flaky(4, at), Effect.succeed(at.length))),
        Stream.fromEffect(fail("lost"))
      )
      const { health } = yield* running(
        Job.observer("watch", stream, () => Effect.void, { retry: Schedule.exponential("1 second") })
      )
      yield* TestClock.adjust("14 seconds")
      // Four failures wait 1, 2, 4 and 8 s; what fails after a success waits 1 s again.
      assert.deepStrictEqual(at, [0, 1, 3, 7])
      assert.strictEqual(yield* health, "worker: ok\n  watch: degraded, failure 4")
      yield* TestClock.adjust("3 seconds")
      assert.deepStrictEqual(at, [0, 1, 3, 7, 15, 16, 17])
    })
  )

  it.effect("is patient by default", () =>
    Effect.gen(function* () {
      const at: Array<number> = []
      yield* running(Job.observer("watch", Stream.fromEffect(flaky(99, at)), () => Effect.void))
      yield* TestClock.adjust("10 minutes")
      const waits = at.slice(1).map((second, i) => Math.round((second - (at[i] ?? 0)) * 10) / 10)
      assert.deepStrictEqual(waits.slice(0, 4), [0.1, 0.2, 0.4, 0.8])
      assert.deepStrictEqual([...new Set(waits.slice(10))], [30])
    })
  )
})

describe("jobs stop with their cell", () => {
  it.effect("before its layer is released", () =>
    Effect.gen(function* () {
      const did: Array<string> = []
      const note = (word: string) => Effect.sync(() => void did.push(word))
      const jobs = Effect.gen(function* () {
        yield* Effect.addFinalizer(() => note("layer released"))
        yield* Job.oneShot(
          "scan",
          Effect.onInterrupt(Effect.never, () => note("job stopped"))
        )
      })
      const { health, stop } = yield* running(jobs)
      yield* TestClock.adjust("1 second")
      yield* stop
      assert.deepStrictEqual(did, ["job stopped", "layer released"])
      assert.strictEqual(yield* health, "worker: stopped\n  scan: stopped")
    })
  )

  it.effect("within a deadline, after which they are named and left alone", () =>
    Effect.gen(function* () {
      const stubborn = Effect.uninterruptible(Effect.never)
      const jobs = Effect.andThen(Job.oneShot("stubborn", stubborn), Job.oneShot("meek", Effect.never))
      const { context, health, stop } = yield* running(jobs)
      yield* TestClock.adjust("1 second")
      yield* stop
      const [times] = yield* Context.get(context, Lifecycle.Lifecycle).times
      assert.deepInclude(times, {
        state: "stop-failed",
        stopMillis: 5000,
        why: 'job "stubborn" did not stop within 5s'
      })
      assert.strictEqual(
        yield* health,
        'worker: degraded, job "stubborn" did not stop within 5s\n  stubborn: degraded, did not stop in time\n  meek: stopped'
      )
    })
  )

  it.effect("those of a cell that does not start, too", () =>
    Effect.gen(function* () {
      let isStopped = false
      const job = Effect.onInterrupt(Effect.never, () => Effect.sync(() => void (isStopped = true)))
      const start = Effect.gen(function* () {
        yield* Job.oneShot("scan", job)
        yield* Effect.sleep("1 second")
        return yield* fail("no")
      })
      const cell = Cell.make("worker", { description: "", layer: Layer.effectDiscard(start) })
      const fiber = yield* Effect.forkChild(outcome(Hive.layer(Hive.make("app", { cells: [cell] }))), {
        startImmediately: true
      })
      yield* TestClock.adjust("1 second")
      assert.instanceOf(yield* Fiber.join(fiber), HiveError.StartError)
      assert.isTrue(isStopped)
    })
  )
})

describe("names of jobs", () => {
  it.effect.each<readonly [string, string, string]>([
    ["that are not kebab-case", "Scan", 'the name of job "Scan" of cell "worker" is not kebab-case'],
    ["that are taken", "scan", 'cell "worker" has two jobs named "scan": names are unique in a cell']
  ])("%s stop the start", ([, name, message]) =>
    Effect.gen(function* () {
      const jobs = Effect.andThen(Job.oneShot("scan", Effect.void), Job.oneShot(name, Effect.void))
      const cell = Cell.make("worker", { description: "", layer: Layer.effectDiscard(jobs) })
      const error = yield* outcome(Hive.layer(Hive.make("app", { cells: [cell] })))
      assert.include((error as Error).message, message)
    })
  )
})

describe("what a job leaves behind", () => {
  it.effect("is counted by how its runs ended", () =>
    Effect.gen(function* () {
      const at: Array<number> = []
      const jobs = Effect.andThen(
        Job.timer("tick", flaky(2, at), { every: "10 seconds" }),
        Job.oneShot("scan", Effect.never)
      )
      const { stop } = yield* running(jobs)
      yield* TestClock.adjust("51 seconds")
      const runningNow = seriesOf("cell_job_running")
      assert.deepStrictEqual(yield* runningNow, [
        { cell: "worker", job: "scan", n: 1 },
        { cell: "worker", job: "tick", n: 0 }
      ])
      yield* stop
      assert.deepStrictEqual(
        (yield* runningNow).map((series) => series["n"]),
        [0, 0]
      )
      assert.deepStrictEqual(yield* seriesOf("cell_job_runs_total"), [
        { cell: "worker", job: "scan", outcome: "interrupted", n: 1 },
        { cell: "worker", job: "tick", outcome: "failure", n: 2 },
        { cell: "worker", job: "tick", outcome: "success", n: 3 }
      ])
    }).pipe(isolated)
  )

  it.effect("carries cell and job in logs and spans, and so does the layer of a cell", () =>
    Effect.gen(function* () {
      const logged: Array<unknown> = []
      const logger = Logger.make(({ fiber, message }) => {
        logged.push([message, fiber.getRef(References.CurrentLogAnnotations)])
      })
      const spans: Array<unknown> = []
      const tracer = Tracer.make({
        span(options) {
          const span = new Tracer.NativeSpan(options)
          spans.push(span)
          return span
        }
      })
      const work = Effect.withSpan(Effect.logWarning("working"), "work")
      const watch = Job.observer("watch", Stream.make(1), () => Effect.withSpan(Effect.void, "seen"))
      const jobs = Effect.andThen(Effect.logWarning("starting"), Effect.andThen(Job.oneShot("scan", work), watch))
      yield* running(jobs).pipe(
        Effect.andThen(TestClock.adjust("1 second")),
        Effect.provide(Logger.layer([logger])),
        Effect.withTracer(tracer)
      )
      assert.deepStrictEqual(logged, [
        [["starting"], { cell: "worker" }],
        [["working"], { cell: "worker", job: "scan" }]
      ])
      assert.deepStrictEqual(
        spans.map((span) => {
          const { attributes, name, parent } = span as Tracer.Span
          return [name, Object.fromEntries(attributes), Option.map(parent, (above) => (above as Tracer.Span).name)]
        }),
        [
          ["cell.start", { cell: "worker" }, Option.none()],
          ["worker.scan", { cell: "worker", job: "scan" }, Option.none()],
          ["work", { cell: "worker", job: "scan" }, Option.some("worker.scan")],
          ["seen", { cell: "worker", job: "watch" }, Option.none()]
        ]
      )
    })
  )
})
