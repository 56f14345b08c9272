/** The whole agent on the kernel in memory, under the test clock. */
import { assert, describe, it } from "@effect/vitest"
import { Lifecycle } from "ctmap-cell"
import { MapName } from "ctmap-core"
import { GcPass, GcRunner } from "ctmap-gc"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as References from "effect/References"
import * as Schema from "effect/Schema"
import { agent, healthOf, keysAfter, keysOf, makeKernel, names, pass, restore, ROOT } from "./stage.ts"

const whole = <A, E>(name: string, test: (twin: ReturnType<typeof makeKernel>) => Effect.Effect<A, E>) =>
  it.effect(name, () => Effect.suspend(() => test(makeKernel())))

const firstScan = Effect.flatMap(GcRunner.GcRunner, ({ initialScanDone }) => initialScanDone)

const ctNames = names.filter((name) => name.startsWith("cilium_ct"))

describe("an agent", () => {
  whole("leaves of the recorded tables exactly what Cilium's own collector left", (twin) =>
    Effect.gen(function* () {
      yield* restore(twin)
      const before = names.map((name) => keysOf(twin, name).size)
      yield* Effect.provide(firstScan, agent(twin))
      assert.notDeepEqual(
        before,
        names.map((name) => keysOf(twin, name).size)
      )
      for (const name of names) assert.deepStrictEqual(keysOf(twin, name), keysAfter(name), name)
    })
  )

  whole("is ready without tables, says that it waits for them, and collects them once they are pinned", (twin) =>
    Effect.gen(function* () {
      assert.isTrue(yield* (yield* Lifecycle.Lifecycle).isReady)
      yield* pass(twin, "1 minute", "5 seconds")
      assert.strictEqual(
        yield* healthOf("presence", "look"),
        `degraded, waiting for tables: no conntrack map is pinned below ${ROOT}/tc/globals`
      )
      yield* restore(twin, 60)
      yield* pass(twin, "10 seconds")
      assert.strictEqual(yield* healthOf("presence", "look"), "ok, 4 conntrack and 2 NAT maps are pinned")
      const { lastPasses } = yield* GcRunner.GcRunner
      assert.deepStrictEqual(
        (yield* lastPasses).map(({ family, completed }) => [family, completed]),
        [
          ["ipv4", true],
          ["ipv6", true]
        ]
      )
    }).pipe(Effect.provide(agent(twin)))
  )

  whole("collects other maps that take the place of those it knew, within seconds", (twin) =>
    Effect.gen(function* () {
      yield* restore(twin)
      yield* Effect.gen(function* () {
        yield* pass(twin, "20 seconds")
        const { lastPasses } = yield* GcRunner.GcRunner
        const serial = (yield* lastPasses).at(-1)!.serial
        for (const name of names) assert.strictEqual(twin.calls.unpin(MapName.pinPath(ROOT, name)), 0)
        yield* restore(twin, 20)
        const full = ctNames.map((name) => keysOf(twin, name).size)
        yield* pass(twin, "10 seconds")
        assert.isAbove((yield* lastPasses).at(-1)!.serial, serial)
        for (const [i, name] of ctNames.entries()) assert.isBelow(keysOf(twin, name).size, full[i]!, name)
      }).pipe(Effect.provide(agent(twin)))
    })
  )

  whole("deletes nothing of a table whose times do not fit the clock, and is degraded", (twin) =>
    Effect.gen(function* () {
      yield* restore(twin)
      twin.control.time = BigInt(90 * 86_400) * 1_000_000_000n
      const before = names.map((name) => keysOf(twin, name).size)
      yield* Effect.gen(function* () {
        yield* pass(twin, "1 minute")
        assert.match(yield* healthOf("gc", "pairs"), /^degraded, .*do not fit the ktime clock/)
      }).pipe(Effect.provide(agent(twin)))
      assert.deepStrictEqual(
        names.map((name) => keysOf(twin, name).size),
        before
      )
    })
  )

  whole("collects tables of which no NAT map is pinned", (twin) =>
    Effect.gen(function* () {
      yield* restore(twin)
      for (const name of names) {
        if (!name.startsWith("cilium_ct")) assert.strictEqual(twin.calls.unpin(MapName.pinPath(ROOT, name)), 0)
      }
      yield* Effect.provide(firstScan, agent(twin))
      for (const name of ctNames) assert.deepStrictEqual(keysOf(twin, name), keysAfter(name), name)
    })
  )

  whole("logs every pass with all its counts, for those who want to know", (twin) =>
    Effect.gen(function* () {
      yield* restore(twin)
      const logged: Array<unknown> = []
      const hear = Logger.make<unknown, void>(({ message, logLevel }) => {
        if (logLevel === "Debug" && Array.isArray(message)) logged.push(...message)
      })
      yield* pass(twin, "10 seconds").pipe(
        Effect.andThen(Effect.flatMap(GcRunner.GcRunner, ({ lastPasses }) => lastPasses)),
        Effect.map((last) => assert.deepStrictEqual(logged.filter(Schema.is(GcPass.GcPass)), [...last])),
        Effect.provide(Layer.provideMerge(agent(twin), Logger.layer([hear]))),
        Effect.provideService(References.MinimumLogLevel, "Debug")
      )
    })
  )

  whole("closes every fd, whenever it is stopped", (twin) =>
    Effect.gen(function* () {
      yield* restore(twin)
      const open = twin.control.openFds().length
      for (const seconds of [0, 1, 7]) {
        yield* Effect.provide(pass(twin, seconds * 1000), agent(twin))
        assert.strictEqual(twin.control.openFds().length, open)
      }
    })
  )
})
