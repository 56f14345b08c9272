import { assert, describe, it } from "@effect/vitest"
import { GcEvents } from "ctmap-gc"
import { Owner } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"

const batch = (serial: number, family: "ipv4" | "ipv6" = "ipv4", count = 2): GcEvents.Deleted => ({
  _tag: "Deleted",
  serial,
  dryRun: false,
  family,
  owner: Owner.global,
  map: "ct",
  release: "1.17",
  count,
  keys: new Uint8Array(count * (family === "ipv4" ? 14 : 38)).fill(serial),
  values: new Uint8Array(count * 56),
  reasons: new Uint8Array(count)
})

const collect = (stream: Stream.Stream<GcEvents.GcEvent>, count: number) =>
  Effect.forkChild(
    stream.pipe(
      Stream.take(count),
      Stream.map((event) => (event._tag === "Deleted" ? event.serial : `lost ${event.entries}`)),
      Stream.runCollect
    ),
    { startImmediately: true }
  )

describe("GcEvents", () => {
  it.effect("tells every subscriber of a family, and nobody of what was before", () =>
    Effect.gen(function* () {
      const events = yield* GcEvents.GcEvents
      events.publish(batch(1))
      const first = yield* collect(events.observe4, 2)
      const second = yield* collect(events.observe4, 2)
      const other = yield* collect(events.observe6, 1)
      events.publish(batch(2))
      events.publish(batch(3))
      events.publish(batch(4, "ipv6"))
      assert.deepStrictEqual(yield* Fiber.join(first), [2, 3])
      assert.deepStrictEqual(yield* Fiber.join(second), [2, 3])
      assert.deepStrictEqual(yield* Fiber.join(other), [4])
    }).pipe(Effect.provide(GcEvents.layer))
  )

  it.effect("tells a slow subscriber how many entries it lost, at the place where it lost them", () =>
    Effect.gen(function* () {
      const events = yield* GcEvents.GcEvents
      const watcher = yield* collect(events.observe4, GcEvents.BUFFER + 2)
      // The subscriber does not run before this fiber yields: it is slow.
      for (let serial = 1; serial <= GcEvents.BUFFER + 5; serial++) events.publish(batch(serial))
      assert.strictEqual(events.lost(), 10)
      yield* Effect.yieldNow
      events.publish(batch(900))
      const seen = yield* Fiber.join(watcher)
      assert.deepStrictEqual(
        seen.slice(0, GcEvents.BUFFER),
        Array.from({ length: GcEvents.BUFFER }, (_, i) => i + 1)
      )
      assert.deepStrictEqual(seen.slice(GcEvents.BUFFER), ["lost 10", 900])
    }).pipe(Effect.provide(GcEvents.layer))
  )

  it.effect("knows whether anybody listens", () =>
    Effect.gen(function* () {
      const events = yield* GcEvents.GcEvents
      assert.isFalse(events.isObserved("ipv4"))
      const watcher = yield* collect(events.observe4, 1)
      assert.deepStrictEqual([events.isObserved("ipv4"), events.isObserved("ipv6")], [true, false])
      yield* Fiber.interrupt(watcher)
      assert.isFalse(events.isObserved("ipv4"))
    }).pipe(Effect.provide(GcEvents.layer))
  )

  it.effect("ends with its layer, after what was published", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const context = yield* Layer.buildWithScope(GcEvents.layer, scope)
      const { publish, observe4 } = yield* Effect.provide(GcEvents.GcEvents, context)
      const watcher = yield* collect(observe4, 5)
      publish(batch(1))
      yield* Scope.close(scope, Exit.void)
      assert.deepStrictEqual(yield* Fiber.join(watcher), [1])
      assert.deepStrictEqual(yield* Stream.runCollect(observe4), [])
    })
  )

  it("binds a batch to columns", () => {
    const columns = GcEvents.columns(batch(7, "ipv6", 3))
    assert.deepStrictEqual([columns.count, columns.family, columns.dport(2)], [3, "ipv6", 0x0707])
  })
})
