import { assert, describe, it } from "@effect/vitest"
import { Cell, Health, Hive, Job } from "ctmap-cell"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { TestClock } from "effect/testing"
import { plain } from "./rig.ts"

const started = Effect.fnUntraced(function* (cells: ReadonlyArray<Cell.Cell<never, never>>) {
  const scope = yield* Scope.make()
  const context = yield* Layer.buildWithScope(Hive.layer(Hive.make("app", { cells })), scope)
  return { health: Context.get(context, Health.Health), close: Scope.close(scope, Exit.void) }
})

describe("health", () => {
  it.effect("is a tree of hive, cells, nested cells, jobs and parts, in the order of declaration", () =>
    Effect.gen(function* () {
      const inner = Cell.make("inner", {
        description: "",
        layer: Layer.effectDiscard(
          Effect.gen(function* () {
            const voice = yield* Health.Reporter
            const part = yield* voice.part("map tcp4")
            yield* part.degraded("nearly full")
            yield* Job.oneShot("scan", Effect.never)
          })
        )
      })
      const outer = Cell.make("outer", {
        description: "",
        layer: Layer.effectDiscard(Health.degraded("slow")),
        cells: [inner]
      })
      const { health } = yield* started([outer, plain("other")])
      assert.strictEqual(
        Health.render(yield* health.tree),
        [
          "app: ok",
          "  outer: degraded, slow",
          "    inner: ok",
          "      map tcp4: degraded, nearly full",
          "      scan: ok",
          "  other: ok"
        ].join("\n")
      )
      assert.strictEqual(Health.overall(yield* health.tree), "degraded")
      const json = Schema.encodeSync(Health.Node)(yield* health.tree)
      assert.deepStrictEqual(Schema.decodeUnknownSync(Health.Node)(json), yield* health.tree)
    })
  )

  it.effect("says since when, and to say the same again changes nothing", () =>
    Effect.gen(function* () {
      let voice: Health.Voice | undefined
      const cell = Cell.make("one", {
        description: "",
        layer: Layer.effectDiscard(Effect.map(Health.Reporter, (own) => void (voice = own)))
      })
      const { health } = yield* started([cell])
      const since = Effect.map(health.tree, ({ parts }) => parts[0]?.sinceMillis)
      yield* TestClock.adjust("1 second")
      yield* voice!.degraded("slow")
      yield* TestClock.adjust("1 second")
      yield* voice!.degraded("slow")
      assert.strictEqual(yield* since, 1000)
      yield* voice!.ok()
      assert.strictEqual(yield* since, 2000)
    })
  )

  it.effect("tells of changes, begins with the tree as it is, and ends with the hive", () =>
    Effect.gen(function* () {
      const job = Job.oneShot("scan", Effect.sleep("1 second"))
      const { close, health } = yield* started([Cell.make("one", { description: "", layer: Layer.effectDiscard(job) })])
      const seen: Array<string> = []
      const watch = Stream.runForEach(health.changes, (tree) => Effect.sync(() => void seen.push(Health.render(tree))))
      const fiber = yield* Effect.forkChild(watch, { startImmediately: true })
      yield* TestClock.adjust("1 second")
      yield* close
      yield* Fiber.join(fiber)
      assert.deepStrictEqual(
        [seen[0], seen[1], seen.at(-1)],
        [
          "app: ok\n  one: ok\n    scan: ok",
          "app: ok\n  one: ok\n    scan: stopped, done",
          "app: stopped\n  one: stopped\n    scan: stopped, done"
        ]
      )
    })
  )
})
