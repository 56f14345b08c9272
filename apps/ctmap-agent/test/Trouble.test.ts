/** What the agent does about what goes wrong for a while: it goes on, says so, and is well again afterwards. */
import { assert, describe, it } from "@effect/vitest"
import { type Health, Hive, Lifecycle } from "ctmap-cell"
import { CtTime, FilterParser, MapKind, MapName, MapSpec } from "ctmap-core"
import { GcRunner, Guard } from "ctmap-gc"
import { KernelClock } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Result from "effect/Result"
import * as Clock from "../src/cells/clock.ts"
import * as Datapath from "./datapath.ts"
import { agent, limits, makeKernel, pass, type Twin, unwell } from "./stage.ts"

const often = ["--conntrack-gc-interval", "10s", "--orphan-purge-interval", "30s", "--signals"]

/** An agent on the tables of a host that collects every ten seconds. It must not have ended in the end. */
const troubled = <A, E>(
  name: string,
  test: (twin: Twin) => Effect.Effect<A, E, GcRunner.GcRunner | Lifecycle.Lifecycle | Health.Health>,
  flags: ReadonlyArray<string> = often,
  change?: (twin: Twin) => Parameters<typeof agent>[2]
) =>
  it.effect(name, () =>
    Effect.suspend(() => {
      const twin = makeKernel()
      Datapath.pinAll(twin)
      return Effect.gen(function* () {
        const { failure } = yield* Lifecycle.Lifecycle
        const end = yield* Effect.forkChild(Effect.exit(failure), { startImmediately: true })
        yield* (yield* GcRunner.GcRunner).initialScanDone
        yield* test(twin)
        assert.isUndefined(end.pollUnsafe(), "the agent goes on")
        yield* Fiber.interrupt(end)
      }).pipe(Effect.provide(agent(twin, () => flags, change?.(twin))))
    })
  )

/** Makes a connection of each family that expires at once, and an orphan. */
const connectAll = (twin: Twin): void => {
  for (const family of ["ipv4", "ipv6"] as const) {
    Datapath.connect(twin, 1, { family, life: 1 })
    Datapath.connect(twin, 2, { family, life: 86_400 })
    Datapath.connect(twin, 3, { family, life: 0, orphan: true })
  }
}

/** What is left once all is as it should be: a connection of each family, and both halves of its mapping. */
const tidy = { cilium_ct4_global: 1, cilium_ct6_global: 1, [Datapath.nat.ipv4]: 2, [Datapath.nat.ipv6]: 2 }
const sizes = (twin: Twin) => Object.fromEntries(Object.keys(tidy).map((name) => [name, Datapath.sizeOf(twin, name)]))

describe("an agent in trouble", () => {
  troubled(
    "is degraded while a NAT map is of another shape, deletes nothing of its pair, and goes on with the other",
    (twin) =>
      Effect.gen(function* () {
        Datapath.pin(twin, Datapath.nat.ipv4, { ...MapSpec.nat("ipv4", { limits }), valueSize: 48 })
        for (const family of ["ipv4", "ipv6"] as const) Datapath.connect(twin, 1, { family, life: 1, mapped: false })
        yield* pass(twin, "1 minute", "5 seconds")
        assert.strictEqual(Datapath.sizeOf(twin, "cilium_ct4_global"), 1)
        assert.strictEqual(Datapath.sizeOf(twin, "cilium_ct6_global"), 0)
        assert.match((yield* unwell).join(), /^gc\/pairs: .*ipv4.*cilium_snat_v4_external/)

        Datapath.pin(twin, Datapath.nat.ipv4, MapSpec.nat("ipv4", { limits }))
        connectAll(twin)
        yield* pass(twin, "1 minute", "5 seconds")
        assert.deepStrictEqual(sizes(twin), tidy)
        assert.deepStrictEqual(yield* unwell, [])
      })
  )

  troubled("deletes nothing while the clock is months ahead of the tables, and goes on once it is right", (twin) =>
    Effect.gen(function* () {
      connectAll(twin)
      yield* pass(twin, "12 seconds", "1 second")
      const { time } = twin.control
      twin.control.time += BigInt(90 * 86_400) * 1_000_000_000n
      yield* pass(twin, "5 minutes", "10 seconds")
      assert.strictEqual(Datapath.sizeOf(twin, "cilium_ct4_global"), 1)
      assert.match((yield* unwell).join(), /^gc\/pairs: .*do not fit the ktime clock/)

      twin.control.time = time
      connectAll(twin)
      yield* pass(twin, "2 minutes", "10 seconds")
      assert.deepStrictEqual(sizes(twin), tidy)
      assert.deepStrictEqual(yield* unwell, [])
    })
  )

  troubled("is degraded while the guard keeps it from purging most of a NAT map, and well once it may", (twin) =>
    Effect.gen(function* () {
      for (let i = 0; i < 1500; i++) Datapath.connect(twin, i, { life: 0, orphan: true })
      yield* pass(twin, "70 seconds", "5 seconds")
      assert.strictEqual(Datapath.sizeOf(twin, Datapath.nat.ipv4), 3000)
      assert.match((yield* unwell).join(), /^gc\/pairs: the last purge of NAT entries of ipv4 global: .*3000/)
      for (let i = 0; i < 1500; i++) Datapath.connect(twin, i, { life: 86_400 })
      yield* pass(twin, "70 seconds", "5 seconds")
      assert.strictEqual(Datapath.sizeOf(twin, Datapath.nat.ipv4), 3000)
      assert.deepStrictEqual(yield* unwell, [])
    })
  )

  troubled(
    "is degraded once the guard has stopped what somebody asked for, until a pass over that pair ends well",
    (twin) =>
      Effect.gen(function* () {
        for (let i = 0; i < 1500; i++) Datapath.connect(twin, i, { life: 86_400, mapped: false })
        const { run } = yield* GcRunner.GcRunner
        const { pairs } = yield* run({ filter: Result.getOrThrow(FilterParser.parse("tcp")) })
        assert.isTrue(pairs.some(({ exit }) => Exit.isFailure(exit)))
        assert.strictEqual(Datapath.sizeOf(twin, "cilium_ct4_global"), 1500)
        yield* pass(twin, "1 second", "1 second")
        const [told, ...rest] = yield* unwell
        assert.match(
          told ?? "",
          /^gc\/pairs: the last pass over ipv4 global: the guard stopped .*the setting max-delete-ratio/
        )
        assert.deepStrictEqual(rest, [])
        yield* pass(twin, "12 seconds", "1 second")
        assert.deepStrictEqual(yield* unwell, [])
      })
  )

  troubled(
    "is degraded once the guard has stopped a purge of orphans on request, until one of that pair ends well",
    (twin) =>
      Effect.gen(function* () {
        for (let i = 0; i < 1500; i++) Datapath.connect(twin, i, { life: 0, orphan: true })
        const { purgeOrphans } = yield* GcRunner.GcRunner
        yield* purgeOrphans()
        assert.match(
          (yield* unwell).join(),
          /^gc\/pairs: the last purge of NAT entries of ipv4 global: the guard stopped/
        )
        yield* purgeOrphans({ limits: Guard.unlimited })
        assert.strictEqual(Datapath.sizeOf(twin, Datapath.nat.ipv4), 0)
        assert.deepStrictEqual(yield* unwell, [])
      })
  )

  let isClockBroken = false
  troubled(
    "deletes nothing while the clock cannot be read, says so, and goes on once it can",
    (twin) =>
      Effect.gen(function* () {
        connectAll(twin)
        isClockBroken = true
        yield* pass(twin, "5 minutes", "10 seconds")
        assert.strictEqual(Datapath.sizeOf(twin, "cilium_ct4_global"), 2)
        assert.match((yield* unwell).join(), /^gc\/pairs: .*ipv4 global.*schedstat.*ipv6 global.*schedstat/)
        isClockBroken = false
        yield* pass(twin, "1 minute", "10 seconds")
        assert.deepStrictEqual(sizes(twin), tidy)
        assert.deepStrictEqual(yield* unwell, [])
      }),
    often,
    ({ calls }) =>
      Hive.replace(
        Clock.cell,
        Layer.succeed(KernelClock.KernelClock, {
          source: CtTime.ktime,
          now: Effect.suspend(() =>
            isClockBroken
              ? Effect.fail(new CtTime.ClockError({ reason: "schedstat", value: "" }))
              : Effect.succeed(Number(calls.monotonic() / 1_000_000_000n))
          )
        })
      )
  )

  troubled(
    "goes on with each map that is there as pins go one by one, and with all of them as they come back",
    (twin) =>
      Effect.gen(function* () {
        const kinds = MapKind.globals.map((kind) => ({
          name: MapName.global(kind),
          spec: MapSpec.ct(kind, { limits })
        }))
        for (const { name } of kinds) {
          Datapath.unpin(twin, name)
          yield* pass(twin, "30 seconds", "5 seconds")
        }
        assert.match((yield* unwell).join(), /^presence\/look: waiting for tables/)
        for (const { name, spec } of kinds) {
          Datapath.pin(twin, name, spec)
          yield* pass(twin, "30 seconds", "5 seconds")
        }
        connectAll(twin)
        yield* pass(twin, "1 minute", "5 seconds")
        assert.deepStrictEqual(sizes(twin), tidy)
        assert.deepStrictEqual(yield* unwell, [])
      })
  )

  troubled("waits for a bpffs that was unmounted, and goes on with the tables of the next one", (twin) =>
    Effect.gen(function* () {
      const maps = twin.control.living().filter(({ kind }) => kind === "map")
      assert.strictEqual(twin.control.unmount("/sys/fs/bpf"), 0)
      yield* pass(twin, "1 minute", "5 seconds")
      assert.include((yield* unwell).join(), "presence/look")
      twin.control.mount("/sys/fs/bpf")
      Datapath.pinAll(twin)
      connectAll(twin)
      yield* pass(twin, "90 seconds", "5 seconds")
      assert.deepStrictEqual(sizes(twin), tidy)
      assert.deepStrictEqual(yield* unwell, [])
      // Nothing keeps the old ones, and the memory that they have, alive.
      const known = new Set(maps.map(({ id }) => id))
      assert.deepStrictEqual(
        twin.control.living().filter(({ id, kind }) => kind === "map" && known.has(id)),
        []
      )
    })
  )

  troubled(
    "survives a storm of signals that lead to nothing: few passes, none lost at the interval, and one once it is over",
    (twin) =>
      Effect.gen(function* () {
        const { history, status } = yield* GcRunner.GcRunner
        const before = (yield* history).length
        let sent = 0
        for (let second = 0; second < 600; second++) {
          for (const family of ["ipv4", "ipv6"] as const)
            sent += Datapath.signal(twin, family, { cpu: second % 2, count: 16 })
          yield* pass(twin, "1 second")
        }
        const made = (yield* history).slice(before)
        const heard = (yield* status).signals
        assert.isAbove(sent, 5000)
        assert.isAtMost(heard.ipv4.heard + heard.ipv6.heard, sent)
        assert.isAbove(heard.ipv4.heard, 100)
        const forSignals = made.filter(({ trigger }) => trigger === "signal").length
        // Two families, and gaps of 1, 2, 4 ... 256 s: ten minutes hold nine or ten passes over each.
        assert.isAtMost(forSignals, 24)
        assert.isAtLeast(forSignals, 16)
        assert.isAtLeast(made.filter(({ trigger }) => trigger === "interval").length, 2)

        // After a while without any, a signal is worth a pass again.
        yield* pass(twin, "20 minutes", "10 seconds")
        connectAll(twin)
        yield* pass(twin, "2 seconds")
        Datapath.signal(twin, "ipv4")
        yield* pass(twin, "2 seconds")
        assert.strictEqual(Datapath.sizeOf(twin, "cilium_ct4_global"), 1)
        assert.deepStrictEqual(yield* unwell, [])
      }),
    ["--signals", "--conntrack-gc-interval", "4m"]
  )
})
