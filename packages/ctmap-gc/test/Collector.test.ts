import { assert, describe, it } from "@effect/vitest"
import { FilterParser } from "ctmap-core"
import { Collector, type CtMapSources, GcEngine, GcEvents, type GcPass, GcRequest, Guard } from "ctmap-gc"
import { Bpf, BpfMemory, KernelClock, Owner } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Result from "effect/Result"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { TestClock } from "effect/testing"
import * as Stage from "./stage.ts"

const port = (number: number): GcRequest.GcRequest =>
  GcRequest.matching(Result.getOrThrow(FilterParser.parse(`dport ${number}`)))

/** A table in memory, a collector over it, and a way to stop passes half-way: between the batches of the table. */
const bench = Effect.gen(function* () {
  const { calls, control } = BpfMemory.make({ objects: Stage.objects! })
  const bpf = Layer.succeed(Bpf.Bpf, calls)
  const tcp = Array.from({ length: 4000 }, (_, i) => Stage.ct({ lifetime: 5000, dport: 1 + (i % 4), sport: i + 1 }))
  const pair = yield* Effect.provide(Stage.pair({ tcp, capacity: 65_536 }), bpf)
  let opened = 0
  const source: CtMapSources.PairSource = {
    family: "ipv4",
    owner: Owner.global,
    open: Effect.sync(() => {
      opened++
      return pair
    })
  }
  const six = yield* Effect.provide(
    Stage.pair({ family: "ipv6", tcp: [Stage.ct({ family: "ipv6", lifetime: 5000, dport: 1 })] }),
    bpf
  )
  const other: CtMapSources.PairSource = { family: "ipv6", owner: Owner.global, open: Effect.succeed(six) }
  const kernel = Layer.mergeAll(bpf, Layer.succeed(KernelClock.KernelClock, Stage.ktime(1000)))
  const layer = Collector.layer.pipe(
    Layer.provide(GcEngine.layer({ batchSize: 256 })),
    Layer.provideMerge(GcEvents.layer),
    Layer.provide(kernel)
  )
  const scope = yield* Scope.make()
  const context = yield* Layer.buildWithScope(layer, scope)
  const collector = yield* Effect.provide(Collector.Collector, context)
  const left = Effect.provide(
    Effect.map(Stage.keysOf(pair.tcp.map), (keys) => keys.length),
    bpf
  )
  return { collector, source, other, control, left, scope, opened: () => opened }
})

const limits = Guard.unlimited

describe("Collector", () => {
  it.effect("requests that arrive while a pass runs share the next one, and each gets its own counts (G12)", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const { collector, source, left, opened } = yield* bench
        const callers = yield* Effect.forEach([1, 2, 3], (number) =>
          Effect.forkChild(collector.collect(source, port(number), { limits }), { startImmediately: true })
        )
        const outcomes = yield* Effect.forEach(callers, (caller) => Fiber.join(caller))
        assert.deepStrictEqual(
          outcomes.map(({ counts }) => counts),
          Array(3).fill({ wanted: 1000, deleted: 1000 })
        )
        const serials = outcomes.map(({ pass }) => pass.serial)
        assert.strictEqual(serials[1], serials[2])
        assert.isAtMost(opened(), 2)
        assert.strictEqual(yield* left, 1000)
      })
    )
  )

  it.effect("a dry run never shares a pass with one that deletes", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const { collector, source, left } = yield* bench
        const ask = (number: number, dryRun: boolean) =>
          Effect.forkChild(collector.collect(source, port(number), { limits, dryRun }), { startImmediately: true })
        const callers = [yield* ask(1, true), yield* ask(2, false), yield* ask(3, true), yield* ask(4, false)]
        const outcomes = yield* Effect.forEach(callers, (caller) => Fiber.join(caller))
        assert.deepStrictEqual(
          outcomes.map(({ pass, counts }) => [pass.dryRun, counts.deleted]),
          [
            [true, 0],
            [false, 1000],
            [true, 0],
            [false, 1000]
          ]
        )
        assert.strictEqual(yield* left, 2000)
      })
    )
  )

  it.effect("where the guard stops a shared pass, only the request that asked for too much fails", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const { collector, source, left } = yield* bench
        const tight = { ...Guard.defaults, floor: 1000, maxDeleteRatio: 0 }
        const ask = (request: GcRequest.GcRequest) =>
          Effect.forkChild(Effect.result(collector.collect(source, request, { limits: tight })), {
            startImmediately: true
          })
        const first = yield* ask(port(9))
        const callers = [yield* ask(port(1)), yield* ask(GcRequest.everything), yield* ask(port(2))]
        yield* Fiber.join(first)
        const outcomes = yield* Effect.forEach(callers, (caller) => Fiber.join(caller))
        assert.deepStrictEqual(
          outcomes.map((outcome) =>
            Result.isSuccess(outcome) ? outcome.success.counts.deleted : outcome.failure._tag
          ),
          [1000, "GuardStopped", 1000]
        )
        assert.strictEqual(yield* left, 2000)
      })
    )
  )

  it.effect("a pass that nobody waits for any more stops between two batches, and is recorded as incomplete", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const { collector, source, control, left } = yield* bench
        let batches = 0
        control.onCall((call) => {
          if (call === "lookupBatch") batches++
        })
        const caller = yield* Effect.forkChild(
          collector.collect(source, { expired: true, everything: true }, { limits }),
          {
            startImmediately: true
          }
        )
        yield* Effect.yieldNow.pipe(Effect.repeat({ until: () => batches >= 4 }))
        yield* Fiber.interrupt(caller)
        const passes = yield* collector.lastPasses
        assert.deepStrictEqual([passes.length, passes[0]?.completed, passes[0]?.why], [1, false, "interrupted"])
        const { seen, kept, deleted, refreshed, vanished, busy } = passes[0]!.maps[0]!
        assert.strictEqual(seen, kept + deleted + refreshed + vanished + busy)
        assert.isBelow(seen, 4000)
        assert.strictEqual(yield* left, 4000 - deleted)
        const next = yield* collector.collect(source, GcRequest.everything, { limits })
        assert.isTrue(next.pass.completed)
        assert.strictEqual(yield* left, 0)
      })
    )
  )

  it.effect("one caller less does not stop a pass that others wait for", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const { collector, source } = yield* bench
        const ask = (number: number) =>
          Effect.forkChild(collector.collect(source, port(number), { limits }), { startImmediately: true })
        const first = yield* ask(1)
        const gone = yield* ask(2)
        const stays = yield* ask(3)
        yield* Fiber.join(first)
        yield* Effect.yieldNow
        yield* Fiber.interrupt(gone)
        assert.strictEqual((yield* Fiber.join(stays)).counts.deleted, 1000)
      })
    )
  )

  for (const [when, call, most] of [
    ["looks at the table", "lookupBatch", 0],
    ["deletes what it has found", "runProgram", 500]
  ] as const) {
    it.effect(`what a caller wanted who left while a shared pass ${when} stays, and others get theirs`, () =>
      Effect.scoped(
        Effect.gen(function* () {
          const { collector, source, control, left, opened } = yield* bench
          const ask = (request: GcRequest.GcRequest) =>
            Effect.forkChild(collector.collect(source, request, { limits }), { startImmediately: true })
          const gone = yield* ask(port(2))
          const stays = yield* ask(port(3))
          let calls = 0
          control.onCall((name) => {
            if (name === call && ++calls === 3) gone.interruptUnsafe()
          }, "after")
          const { counts, pass } = yield* Fiber.join(stays)
          assert.deepStrictEqual([opened(), pass.requests.length, pass.completed], [1, 2, true])
          assert.deepStrictEqual(counts, { wanted: 1000, deleted: 1000 })
          const [, withdrawn] = pass.requests.map(({ deleted }) => deleted).toSorted((a, b) => b - a)
          const { deleted, kept, seen: all } = pass.maps[0]!
          assert.strictEqual(deleted, 1000 + withdrawn!)
          assert.isAtMost(withdrawn!, most)
          assert.strictEqual(withdrawn! > 0, most > 0)
          assert.strictEqual(all, kept + deleted)
          assert.strictEqual(yield* left, 4000 - deleted)
        })
      )
    )
  }

  it.effect("passes have rising numbers, and their records can be followed", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const { collector, source } = yield* bench
        const follower = yield* Effect.forkChild(Stream.runCollect(Stream.take(collector.passes, 2)), {
          startImmediately: true
        })
        const serials: Array<number> = []
        for (const number of [1, 2]) {
          serials.push((yield* collector.collect(source, port(number), { limits })).pass.serial)
        }
        assert.deepStrictEqual(serials, [1, 2])
        const followed: ReadonlyArray<GcPass.GcPass> = yield* Fiber.join(follower)
        assert.deepStrictEqual(
          followed.map(({ serial }) => serial),
          [1, 2]
        )
        assert.strictEqual((yield* collector.lastPasses)[0]?.serial, 2)
      })
    )
  )

  it.effect("nobody sweeps a pair that is used exclusively", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const { collector, source, control } = yield* bench
        const before = control.count("lookupBatch")
        const waiting = yield* collector.exclusively(
          source,
          Effect.gen(function* () {
            const caller = yield* Effect.forkDetach(collector.collect(source, port(1), { limits }))
            for (let turn = 0; turn < 20; turn++) yield* Effect.yieldNow
            assert.strictEqual(control.count("lookupBatch"), before)
            return caller
          })
        )
        assert.strictEqual((yield* Fiber.join(waiting)).counts.deleted, 1000)
      })
    )
  )

  it.effect("who holds one pair keeps nobody from another (G12)", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const { collector, source, other, left } = yield* bench
        const { counts } = yield* collector.exclusively(source, collector.collect(other, port(1), { limits }))
        assert.deepStrictEqual([counts.deleted, yield* left], [1, 4000])
      })
    )
  )

  it.effect("callers of a layer that closes are interrupted, not left waiting", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const { collector, source, scope } = yield* bench
        const callers = yield* Effect.forEach([1, 2], (number) =>
          Effect.forkChild(collector.collect(source, port(number), { limits }), { startImmediately: true })
        )
        yield* Effect.yieldNow
        yield* Scope.close(scope, Exit.void)
        for (const caller of callers) {
          const exit = yield* Fiber.await(caller)
          assert.isTrue(Exit.isFailure(exit) || exit.value.pass.completed)
        }
      })
    )
  )

  it.effect("a caller of a layer that has closed is interrupted, not left waiting", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const { collector, source, scope, left } = yield* bench
        yield* Scope.close(scope, Exit.void)
        const caller = yield* Effect.forkChild(collector.collect(source, port(1), { limits }), {
          startImmediately: true
        })
        yield* Effect.yieldNow.pipe(Effect.repeat({ times: 50 }))
        const exit = caller.pollUnsafe()
        assert.isTrue(exit !== undefined && Exit.hasInterrupts(exit))
        assert.strictEqual(yield* left, 4000)
      })
    )
  )

  it.effect("a request that was withdrawn while another was tried alone is not carried out", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const { collector, source, left } = yield* bench
        const tight = { ...Guard.defaults, floor: 1000, maxDeleteRatio: 0 }
        const alone: Array<() => void> = []
        const ask = (request: GcRequest.GcRequest, progress?: () => void) =>
          Effect.forkChild(
            Effect.result(collector.collect(source, request, { limits: tight }, { ...(progress && { progress }) })),
            {
              startImmediately: true
            }
          )
        let asked = 0
        const first = yield* ask(port(1), () => {
          asked++
          // 16 batches are looked at together; whatever follows is the first request alone.
          if (asked > 16) for (const go of alone.splice(0)) go()
        })
        const gone = yield* ask(port(2))
        yield* ask(GcRequest.everything)
        alone.push(() => gone.interruptUnsafe())
        const outcome = yield* Fiber.join(first)
        assert.isTrue(Result.isSuccess(outcome) && outcome.success.counts.deleted === 1000)
        yield* Fiber.await(gone)
        yield* Effect.yieldNow.pipe(Effect.repeat({ times: 200 }))
        assert.isAbove(asked, 16)
        assert.strictEqual(yield* left, 3000)
      })
    )
  )

  it.effect("a pair is opened the way that the one who asks says", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const { collector, source, opened } = yield* bench
        yield* collector.collect(source, port(1), { limits })
        let reopened = 0
        const replaced = { ...source, open: Effect.tap(source.open, () => Effect.sync(() => reopened++)) }
        yield* collector.collect(replaced, port(2), { limits })
        assert.deepStrictEqual([opened(), reopened], [2, 1])
      })
    )
  )

  it.effect("a defect reaches everybody whose pass it ended, and the next request is served", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const { collector, source, left } = yield* bench
        const broken = () => {
          throw new Error("no progress bar")
        }
        const callers = [
          yield* Effect.forkChild(collector.collect(source, port(1), { limits }, { progress: broken }), {
            startImmediately: true
          }),
          yield* Effect.forkChild(collector.collect(source, port(2), { limits }), { startImmediately: true })
        ]
        for (const caller of callers) assert.isTrue(Exit.hasDies(yield* Fiber.await(caller)))
        const dies = { ...source, open: Effect.die(new Error("nothing to open")) }
        assert.isTrue(Exit.hasDies(yield* Effect.exit(collector.collect(dies, port(3), { limits }))))
        const { counts } = yield* collector.collect(source, port(4), { limits })
        assert.deepStrictEqual([counts.deleted, yield* left], [1000, 3000])
      })
    )
  )

  const others: ReadonlyArray<readonly [what: string, terms: Collector.Terms]> = [
    ["budget", { limits, budget: 0.999 }],
    ["trust in the clock", { limits, trustsClock: true }],
    ["absolute limit", { limits: { ...limits, maxDeletions: 1_000_000 } }],
    ["maps", { limits, transports: ["tcp"] }]
  ]
  for (const [what, terms] of others) {
    it.effect(`requests with another ${what} do not share a pass`, () =>
      Effect.scoped(
        Effect.gen(function* () {
          const { collector, source } = yield* bench
          const one = yield* Effect.forkChild(collector.collect(source, port(1), { limits }))
          const other = yield* Effect.forkChild(
            collector.collect(source, port(2), { ...terms, budget: terms.budget ?? 1 })
          )
          const like = yield* Effect.forkChild(collector.collect(source, port(3), { limits, budget: 1 }))
          yield* TestClock.adjust("1 minute")
          const serials = [one, like, other].map((fiber) => Effect.map(Fiber.join(fiber), ({ pass }) => pass.serial))
          const [first, same, different] = yield* Effect.all(serials)
          assert.deepStrictEqual([first === same, first === different], [true, false])
        })
      )
    )
  }
})
