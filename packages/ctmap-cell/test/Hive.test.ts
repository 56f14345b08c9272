import { assert, describe, it } from "@effect/vitest"
import { Cell, Graph, Hive, HiveError, Lifecycle } from "ctmap-cell"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import { TestClock } from "effect/testing"
import { A, B, C, fail, key, noting, outcome, plain } from "./rig.ts"

/** For each of some cells, which others it needs: bits that are taken modulo the cells before it. */
const Dag = Schema.Array(Schema.Array(Schema.Natural)).check(Schema.isMaxLength(8))

/** Cells in an order of declaration that is not that of needs. */
const dagOf = (did: Array<string>, needs: typeof Dag.Type, shuffle: number, failing?: number) => {
  const cells = needs.map((picks, i) => {
    const id = `cell-${i}`
    const layer = noting(did, id, key(id))
    const broken = Layer.effect(key(id), fail("broken"))
    return Cell.make(id, {
      description: "",
      provides: [key(id)],
      needs: i === 0 ? [] : [...new Set(picks.map((pick) => `cell-${pick % i}`))].map(key),
      layer: i === failing ? Layer.merge(layer, broken) : layer
    })
  })
  const at = cells.length === 0 ? 0 : shuffle % cells.length
  return Hive.make("dag", { cells: [...cells.slice(at), ...cells.slice(0, at)].toReversed() })
}

describe("cells of any graph", () => {
  it.effect.prop(
    "start after what they need, and stop in reverse",
    { needs: Dag, shuffle: Schema.Natural },
    ({ needs, shuffle }) =>
      Effect.gen(function* () {
        const did: Array<string> = []
        const hive = dagOf(did, needs, shuffle)
        assert.strictEqual(yield* outcome(Hive.layer(hive)), "fine")
        const started = did.filter((line) => line.startsWith("+")).map((line) => line.slice(1))
        const stopped = did.filter((line) => line.startsWith("-")).map((line) => line.slice(1))
        assert.strictEqual(started.length, needs.length)
        for (const { id, needs: of } of Graph.make(hive).nodes)
          for (const { from } of of) assert.isBelow(started.indexOf(from ?? ""), started.indexOf(id))
        assert.deepStrictEqual(stopped, started.toReversed())
        assert.deepStrictEqual(started, Graph.make(hive).order)
      })
  )

  it.effect.prop(
    "are stopped again in reverse when one does not start, which is named",
    { needs: Dag.check(Schema.isMinLength(1)), shuffle: Schema.Natural, failing: Schema.Natural },
    ({ failing, needs, shuffle }) =>
      Effect.gen(function* () {
        const did: Array<string> = []
        const at = failing % needs.length
        const hive = dagOf(did, needs, shuffle, at)
        const scope = yield* Scope.make()
        const error = yield* Effect.flip(Layer.buildWithScope(Hive.layer(hive), scope))
        // Before anybody closes the scope around.
        const started = did.filter((line) => line.startsWith("+")).map((line) => line.slice(1))
        const stopped = did.filter((line) => line.startsWith("-")).map((line) => line.slice(1))
        assert.deepStrictEqual(stopped, started.toReversed())
        assert.strictEqual(started.at(-1), `cell-${at}`)
        assert.instanceOf(error, HiveError.StartError)
        assert.strictEqual(error.cell, `cell-${at}`)
        assert.deepStrictEqual(error.started, Graph.make(hive).order.slice(0, started.length - 1))
        yield* Scope.close(scope, Exit.void)
        assert.strictEqual(did.length, started.length * 2)
      })
  )
})

const provider = Cell.make("provider", { description: "", provides: [A], layer: Layer.succeed(A, "a") })

const hiveWith = (
  did: Array<string>,
  layer: Layer.Layer<never, unknown, Cell.Implicit>,
  options: { readonly startTimeout?: string } = {}
) =>
  Hive.make("app", {
    cells: [
      Cell.make("first", { description: "", layer: noting(did, "first") }),
      Cell.make("second", { description: "", layer: noting(did, "second") }),
      Cell.make("odd", { description: "", layer, ...(options as { readonly startTimeout?: "1 second" }) }),
      Cell.make("last", { description: "", layer: noting(did, "last") })
    ]
  })

describe("a cell that does not start", () => {
  const cases: ReadonlyArray<readonly [string, Layer.Layer<never, unknown>, string]> = [
    [
      "because it fails",
      Layer.effectDiscard(fail("no disk")),
      'cell "odd" of hive "app" did not start: no disk (stopped again, in reverse: first, second)'
    ],
    [
      "because it throws",
      Layer.effectDiscard(
        Effect.sync(() => {
          throw new TypeError("undefined is no disk")
        })
      ),
      'cell "odd" of hive "app" did not start: undefined is no disk (stopped again, in reverse: first, second)'
    ],
    [
      "because it does not make what it says",
      Layer.empty,
      'cell "odd" of hive "app" did not start: its layer does not make "test/B", which the cell says it provides (stopped again, in reverse: first, second)'
    ]
  ]
  it.effect.each(cases)("%s", ([, layer, message]) =>
    Effect.gen(function* () {
      const did: Array<string> = []
      const hive = hiveWith(did, layer)
      const odd = Cell.make("odd", { description: "", provides: [B], layer: layer as Layer.Layer<B> })
      const cells = hive.cells.map((cell) => (cell.id === "odd" ? odd : cell))
      const error = yield* outcome(Hive.layer(Hive.make("app", { cells }) as Hive.Hive<never, never, never>))
      assert.strictEqual((error as Error).message, message)
      assert.deepStrictEqual(did, ["+first", "+second", "-second", "-first"])
    })
  )

  it.effect.each(["interruptible", "uninterruptible"] as const)("because it hangs, %s", (how) =>
    Effect.gen(function* () {
      const did: Array<string> = []
      let isInterrupted = false
      const hangs = Effect.onInterrupt(Effect.never, () => Effect.sync(() => void (isInterrupted = true)))
      const never = how === "interruptible" ? hangs : Effect.uninterruptible(hangs)
      const hive = hiveWith(did, Layer.effectDiscard(never), { startTimeout: "1 second" })
      const fiber = yield* Effect.forkChild(outcome(Hive.layer(hive)), { startImmediately: true })
      yield* TestClock.adjust("1 minute")
      const error = yield* Fiber.join(fiber)
      assert.instanceOf(error, HiveError.StartError)
      assert.strictEqual(error.reason, "timed-out")
      assert.include(error.message, 'cell "odd" of hive "app" did not start: it was not done within 1s')
      assert.strictEqual(isInterrupted, how === "interruptible")
      assert.deepStrictEqual(did, ["+first", "+second", "-second", "-first"])
    })
  )

  it.effect("releases what it had acquired itself", () =>
    Effect.gen(function* () {
      const did: Array<string> = []
      const layer = Layer.provide(Layer.effectDiscard(Effect.fail("late")), noting(did, "mine", C))
      yield* outcome(Hive.layer(hiveWith(did, layer)))
      assert.deepStrictEqual(did, ["+first", "+second", "+mine", "-mine", "-second", "-first"])
    })
  )

  it.effect("in time releases what it acquires afterwards", () =>
    Effect.gen(function* () {
      const did: Array<string> = []
      const note = (word: string) => Effect.sync(() => void did.push(word))
      const slow = Effect.acquireRelease(Effect.andThen(Effect.sleep("1 minute"), note("acquired")), () =>
        note("released")
      )
      const hive = hiveWith(did, Layer.effectDiscard(slow), { startTimeout: "1 second" })
      const fiber = yield* Effect.forkChild(outcome(Hive.layer(hive)), { startImmediately: true })
      yield* TestClock.adjust("30 seconds")
      assert.instanceOf(yield* Fiber.join(fiber), HiveError.StartError)
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(did, ["+first", "+second", "-second", "-first", "acquired", "released"])
    })
  )

  it.effect("lets an interruption stop what has started, and what was starting", () =>
    Effect.gen(function* () {
      const did: Array<string> = []
      const starting = Effect.onInterrupt(Effect.never, () => Effect.sync(() => void did.push("interrupted")))
      const layer = Hive.layer(hiveWith(did, Layer.effectDiscard(starting)))
      const fiber = yield* Effect.forkChild(outcome(layer), { startImmediately: true })
      yield* TestClock.adjust("1 second")
      yield* Fiber.interrupt(fiber)
      assert.deepStrictEqual(did, ["+first", "+second", "interrupted", "-second", "-first"])
    })
  )
})

describe("a cell that does not stop cleanly", () => {
  const stopping = (finalizer: Effect.Effect<void>) =>
    Effect.gen(function* () {
      const did: Array<string> = []
      const scope = yield* Scope.make()
      const layer = Layer.effectDiscard(Effect.addFinalizer(() => finalizer))
      const context = yield* Layer.buildWithScope(Hive.layer(hiveWith(did, layer)), scope)
      const fiber = yield* Effect.forkChild(Scope.close(scope, Exit.void), { startImmediately: true })
      yield* TestClock.adjust("1 minute")
      const exit = yield* Fiber.await(fiber)
      assert.isTrue(Exit.isSuccess(exit))
      assert.deepStrictEqual(did, ["+first", "+second", "+last", "-last", "-second", "-first"])
      const times = yield* Context.get(context, Lifecycle.Lifecycle).times
      assert.deepStrictEqual(
        times.map(({ cell, state }) => `${cell} ${state}`),
        ["first stopped", "second stopped", "odd stop-failed", "last stopped"]
      )
      return times[2]?.why
    })

  it.effect("keeps no other from being stopped, and is noted: one that throws", () =>
    Effect.gen(function* () {
      assert.strictEqual(yield* stopping(Effect.die(new Error("torn"))), "torn")
    })
  )

  it.effect("one that hangs", () =>
    Effect.gen(function* () {
      assert.strictEqual(yield* stopping(Effect.never), "its layer was not released within 5s")
    })
  )
})

describe("lifecycle", () => {
  it.effect("reports when each cell started and stopped, and how long that took", () =>
    Effect.gen(function* () {
      const slow = Layer.effectDiscard(
        Effect.acquireRelease(Effect.sleep("2 seconds"), () => Effect.sleep("1 second"), { interruptible: true })
      )
      const scope = yield* Scope.make()
      const fiber = yield* Effect.forkChild(
        Layer.buildWithScope(
          Hive.layer(
            Hive.make("app", { cells: [Cell.make("slow", { description: "", layer: slow }), plain("quick")] })
          ),
          scope
        ),
        { startImmediately: true }
      )
      yield* TestClock.adjust("2 seconds")
      const lifecycle = Context.get(yield* Fiber.join(fiber), Lifecycle.Lifecycle)
      assert.isTrue(yield* lifecycle.isReady)
      yield* TestClock.adjust("10 seconds")
      const closing = yield* Effect.forkChild(Scope.close(scope, Exit.void), { startImmediately: true })
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(closing)
      assert.isFalse(yield* lifecycle.isReady)
      assert.deepStrictEqual(yield* lifecycle.times, [
        {
          cell: "slow",
          state: "stopped",
          startedAtMillis: 0,
          startMillis: 2000,
          stoppedAtMillis: 13_000,
          stopMillis: 1000
        },
        {
          cell: "quick",
          state: "stopped",
          startedAtMillis: 2000,
          startMillis: 0,
          stoppedAtMillis: 12_000,
          stopMillis: 0
        }
      ])
      assert.strictEqual(
        Lifecycle.render(yield* lifecycle.times),
        "slow: stopped, start 2000 ms, stop 1000 ms\nquick: stopped, start 0 ms, stop 0 ms"
      )
    })
  )
})

describe("what a cell sees", () => {
  it.effect("is what it needs, not what else there is", () =>
    Effect.gen(function* () {
      let seen: ReadonlyArray<boolean> = []
      const nosy = Cell.make("nosy", {
        description: "",
        needs: [A],
        layer: Layer.effectDiscard(
          Effect.map(Effect.context(), ({ mapUnsafe }) => void (seen = [mapUnsafe.has(A.key), mapUnsafe.has(B.key)]))
        )
      })
      const other = Cell.make("other", { description: "", provides: [B], layer: Layer.succeed(B, "") })
      assert.strictEqual(yield* outcome(Hive.layer(Hive.make("app", { cells: [other, provider, nosy] }))), "fine")
      assert.deepStrictEqual(seen, [true, false])
    })
  )

  it.effect("private services reach nested cells, and do not leave the hive", () =>
    Effect.gen(function* () {
      const inner = Cell.make("inner", { description: "", needs: [A], provides: [B], layer: Layer.effect(B, A) })
      const box = Cell.make("box", { description: "", private: [A], layer: Layer.succeed(A, "secret"), cells: [inner] })
      const context = yield* Layer.build(Hive.layer(Hive.make("app", { cells: [box] })))
      assert.strictEqual(Context.get(context, B), "secret")
      assert.isFalse(context.mapUnsafe.has(A.key))
    })
  )

  it.effect("what a nested cell makes does not leave the cell that keeps it private", () =>
    Effect.gen(function* () {
      const maker = Cell.make("maker", {
        description: "",
        provides: [A, B],
        layer: Layer.merge(Layer.succeed(A, ""), Layer.succeed(B, ""))
      })
      const box = Cell.make("box", { description: "", private: [A], cells: [maker] })
      const context = yield* Layer.build(Hive.layer(Hive.make("app", { cells: [box] })))
      assert.deepStrictEqual([context.mapUnsafe.has(A.key), context.mapUnsafe.has(B.key)], [false, true])
    })
  )

  it.effect("given services come from outside, and their absence is told before anything starts", () =>
    Effect.gen(function* () {
      const user = Cell.make("user", { description: "", needs: [A], provides: [B], layer: Layer.effect(B, A) })
      const layer = Hive.layer(Hive.make("app", { cells: [user], given: [A] }))
      const context = yield* Layer.build(Layer.provide(layer, Layer.succeed(A, "from outside")))
      assert.strictEqual(Context.get(context, B), "from outside")
      const error = yield* outcome(layer as Layer.Layer<B, HiveError.HiveError>)
      assert.include((error as Error).message, 'the service "test/A" is to be given from outside, but nobody gives it')
    })
  )

  it.effect("layers are shared within a cell, not between cells", () =>
    Effect.gen(function* () {
      const did: Array<string> = []
      const use = Layer.provide(Layer.effectDiscard(C), noting(did, "shared", C))
      const again = Layer.provide(Layer.effectDiscard(C), noting(did, "own", C))
      const cell = (id: string) =>
        Cell.make(id, { description: "", layer: Layer.mergeAll(use, Layer.provide(use, again)) })
      yield* outcome(Hive.layer(Hive.make("app", { cells: [cell("one"), cell("two")] })))
      assert.deepStrictEqual(did.filter((line) => line.startsWith("+")).toSorted(), [
        "+own",
        "+own",
        "+shared",
        "+shared"
      ])
    })
  )
})

describe("a stand-in", () => {
  const real = Cell.make("real", {
    description: "",
    needs: [C],
    provides: [A],
    layer: Layer.effect(A, Effect.die("the real one")),
    cells: [Cell.make("nested", { description: "", provides: [B], layer: Layer.effect(B, Effect.die("the real one")) })]
  })
  const user = Cell.make("user", { description: "", needs: [A], layer: Layer.effectDiscard(A) })

  it.effect("takes the place of a cell and all that is nested in it, and needs nothing", () =>
    Effect.gen(function* () {
      const hive = Hive.make("app", { cells: [user, real], given: [C] })
      const double = Layer.merge(Layer.succeed(A, "double"), Layer.succeed(B, "double"))
      const tested = Hive.replace(hive, real, double)
      assert.deepStrictEqual(Graph.make(tested).order, ["real", "user"])
      assert.deepStrictEqual(Graph.make(tested).problems, [])
      const context = yield* Layer.build(Layer.provide(Hive.layer(tested), Layer.succeed(C, "")))
      assert.strictEqual(Context.get(context, A), "double")
    })
  )

  it("for a nested cell goes where that was", () => {
    const box = Cell.make("box", { description: "", private: [A], cells: [provider, user] })
    const tested = Hive.make("app", { cells: [box] }).pipe(Hive.replace(provider, Layer.succeed(A, "double")))
    assert.deepStrictEqual(
      Graph.make(tested).nodes.map(({ id, parent }) => [id, parent]),
      [
        ["box", undefined],
        ["provider", "box"],
        ["user", "box"]
      ]
    )
  })

  it("for a cell that is not in the hive is a mistake", () => {
    const tested = Hive.make("app", { cells: [] }).pipe(Hive.replace(provider, Layer.succeed(A, "")))
    assert.deepStrictEqual(
      Graph.make(tested).problems.map(({ message }) => message),
      ['a stand-in was given for cell "provider", which is not in this hive: replace a cell that is']
    )
  })
})

describe("launch", () => {
  it.effect("runs until it is interrupted, and stops the cells then", () =>
    Effect.gen(function* () {
      const did: Array<string> = []
      const started = yield* Deferred.make<void>()
      const hive = hiveWith(did, Layer.effectDiscard(Deferred.succeed(started, undefined)))
      const fiber = yield* Effect.forkChild(Hive.launch(hive), { startImmediately: true })
      yield* Deferred.await(started)
      yield* TestClock.adjust("1 day")
      assert.isUndefined(fiber.pollUnsafe())
      yield* Fiber.interrupt(fiber)
      assert.deepStrictEqual(did, ["+first", "+second", "+last", "-last", "-second", "-first"])
    })
  )
})
