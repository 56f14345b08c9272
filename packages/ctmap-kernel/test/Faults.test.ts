import { assert, describe, it } from "@effect/vitest"
import { CtTime, MapKind, MapName, MapSpec } from "ctmap-core"
import {
  Bpf,
  BpfError,
  BpfMap,
  BpfMemory,
  CtMaps,
  MapIterator,
  NatMaps,
  Owner,
  Pins,
  RowScan,
  Scan,
  Upgrade
} from "ctmap-kernel"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import * as TestClock from "effect/testing/TestClock"

const EIO = 5
const path = MapName.pinPath("/sys/fs/bpf", "cilium_ct4_global")
const spec: MapSpec.MapSpec = { ...MapSpec.ct(MapKind.globals[0]), maxEntries: 512 }

const fill = Effect.gen(function* () {
  const bpf = yield* Bpf.Bpf
  const map = yield* BpfMap.openOrCreate(spec, path)
  const key = new Uint8Array(14)
  for (let i = 0; i < 100; i++) {
    new DataView(key.buffer).setUint32(0, i)
    bpf.update(map.map.fd, key, new Uint8Array(56).fill(i), Bpf.ANY)
  }
})

type Needs = Bpf.Bpf | CtMaps.CtMaps | NatMaps.NatMaps | BpfMemory.Control | Scope.Scope

const limits = { limits: { ctTcp: 512, ctAny: 512, nat: 512 } }
const both = Layer.mergeAll(CtMaps.layer(limits), NatMaps.layer(limits)).pipe(
  Layer.provideMerge(BpfMemory.layerTest({ objects: { [MapIterator.object]: MapIterator.twin } }))
)

/** What each action must leave behind when a call fails: nothing open, the old contents under the pin. */
const actions: Readonly<Record<string, Effect.Effect<unknown, { readonly message: string }, Needs>>> = {
  "open-or-create": BpfMap.openOrCreate(spec, path),
  "a scan": Effect.flatMap(BpfMap.open(path), (map) => Scan.count(map)),
  "a scan by iterator": Effect.flatMap(BpfMap.open(path), (map) =>
    RowScan.forEach(map, () => Effect.void, { method: "iterator" })
  ).pipe(Effect.provide(MapIterator.layer, { local: true })),
  "a scan by next key": Effect.flatMap(BpfMap.open(path), (map) => Scan.count(map, { method: "next-key" })),
  discovery: Pins.discover,
  "opening all maps": Effect.flatMap(CtMaps.CtMaps, (maps) => maps.openAll(Owner.global)),
  "opening a pair": NatMaps.openPair("ipv4", Owner.global),
  "delete-if-upgrade-needed": Upgrade.deleteIfUpgradeNeeded(Owner.global),
  migrating: Upgrade.migrate(path, { ...spec, maxEntries: 1024 }),
  "migrating the pin of somebody else into a smaller map, by the clock": Effect.gen(function* () {
    const control = yield* BpfMemory.Control
    control.chown(path, 1000, 1000)
    control.chmod(path, 0o660)
    const clock = { source: CtTime.ktime, now: Effect.succeed(1) }
    const done = yield* Upgrade.migrate(path, { ...spec, maxEntries: 256 }, { clock })
    assert.strictEqual(done.untimely?._tag, "ImplausibleClock")
  })
}

describe("when any one call to the kernel fails", () => {
  for (const [name, action] of Object.entries(actions)) {
    it.effect(`${name} fails with a clear error or not at all, and leaves nothing open and nothing lost`, () =>
      Effect.gen(function* () {
        let failures = 0
        // The call that fails moves one further each time, until the action needs no call that many.
        for (let skip = 0; skip < 5000; skip++) {
          const done = yield* Effect.gen(function* () {
            const control = yield* BpfMemory.Control
            yield* Effect.scoped(fill)
            for (const kind of MapKind.globals.slice(1, 2)) {
              yield* Effect.scoped(BpfMap.openOrCreate(spec, MapName.pinPath("/sys/fs/bpf", MapName.global(kind))))
            }
            const before = control.count()
            const pins = control.pins()
            control.failNext("any", EIO, { skip })
            const result = yield* Effect.result(Effect.scoped(action))
            const calls = control.count() - before
            control.clearFaults()
            if (result._tag === "Failure") {
              failures++
              assert.match(result.failure.message, /errno 5|cilium/, "the error says what failed")
            }
            assert.deepStrictEqual(control.openFds(), [], `${name}, call ${skip + 1}: an fd stayed open`)
            assert.deepStrictEqual(control.pins(), pins, `${name}, call ${skip + 1}: other pins than before`)
            const map = control.map(path)
            assert.isDefined(map, `${name}, call ${skip + 1}: the pin is gone`)
            assert.strictEqual(yield* Effect.scoped(Effect.flatMap(BpfMap.open(path), (m) => Scan.count(m))), 100)
            return calls <= skip
          }).pipe(Effect.provide(both))
          if (done) break
          assert.isBelow(skip, 4999, "the action ends")
        }
        if (name !== "delete-if-upgrade-needed") assert.isAbove(failures, 0)
      })
    )
  }
})

describe("replacing a map of another size", () => {
  it.effect("whichever call fails, the old map or the new one is pinned, and nothing else", () =>
    Effect.gen(function* () {
      for (let skip = 0; skip < 100; skip++) {
        const done = yield* Effect.gen(function* () {
          const control = yield* BpfMemory.Control
          yield* Effect.scoped(fill)
          const before = control.count()
          control.failNext("any", EIO, { skip })
          const result = yield* Effect.result(Effect.scoped(BpfMap.openOrCreate({ ...spec, maxEntries: 1024 }, path)))
          const calls = control.count() - before
          control.clearFaults()
          assert.deepStrictEqual(control.pins(), [path], `call ${skip + 1}`)
          const entries = yield* Effect.scoped(Effect.flatMap(BpfMap.open(path), (map) => Scan.count(map)))
          if (result._tag === "Failure") assert.strictEqual(entries, 100, `call ${skip + 1}`)
          return calls <= skip
        }).pipe(Effect.provide(both))
        if (done) return
      }
      assert.fail("replacing never succeeded")
    })
  )
})

describe("interruption", () => {
  it.effect("takes hold between two batches and closes the map", () =>
    Effect.gen(function* () {
      const control = yield* BpfMemory.Control
      yield* Effect.scoped(fill)
      let batches = 0
      const scan = Effect.scoped(
        Effect.flatMap(BpfMap.open(path), (map) =>
          Scan.forEach(
            map,
            () =>
              Effect.andThen(
                Effect.sync(() => batches++),
                Effect.never
              ),
            { batchSize: 8 }
          )
        )
      )
      const fiber = yield* Effect.forkChild(scan, { startImmediately: true })
      yield* Effect.yieldNow
      yield* Fiber.interrupt(fiber)
      assert.strictEqual(batches, 1)
      assert.deepStrictEqual(control.openFds(), [])
    }).pipe(Effect.provide(both))
  )

  const migrations = {
    "into a larger map": Upgrade.migrate(path, { ...spec, maxEntries: 1024 }),
    "into a smaller map, by the clock": Upgrade.migrate(
      path,
      { ...spec, maxEntries: 256 },
      { clock: { source: CtTime.ktime, now: Effect.succeed(0) } }
    )
  }
  for (const [title, migration] of Object.entries(migrations)) {
    it.effect(`of a migration ${title} at any call leaves the old map pinned, or the new one whole`, () =>
      Effect.gen(function* () {
        for (let at = 1; at < 1000; at++) {
          const finished = yield* Effect.gen(function* () {
            const control = yield* BpfMemory.Control
            yield* Effect.scoped(fill)
            const before = control.count()
            const fiber = yield* Effect.forkChild(Effect.andThen(Effect.yieldNow, migration))
            while (control.count() - before < at && fiber.pollUnsafe() === undefined) yield* Effect.yieldNow
            const exit = yield* Effect.andThen(Fiber.interrupt(fiber), Fiber.await(fiber))
            assert.deepStrictEqual(control.openFds(), [])
            assert.deepStrictEqual(control.pins(), [path])
            assert.strictEqual(yield* Effect.scoped(Effect.flatMap(BpfMap.open(path), (m) => Scan.count(m))), 100)
            return exit._tag === "Success"
          }).pipe(Effect.provide(both))
          if (finished) return
        }
        assert.fail("the migration never finished")
      })
    )
  }
})

describe("a migration that waits for programs to be reloaded", () => {
  /** A migration that has swapped the pin and waits. */
  const waiting = Effect.gen(function* () {
    const control = yield* BpfMemory.Control
    yield* Effect.scoped(fill)
    const swapped = yield* Deferred.make<void>()
    const onPhase = ({ _tag }: Upgrade.Phase) =>
      _tag === "Swapped" ? Effect.asVoid(Deferred.succeed(swapped, undefined)) : Effect.void
    const options = { settle: Duration.hours(1), onPhase }
    const fiber = yield* Effect.forkChild(Effect.result(Upgrade.migrate(path, { ...spec, maxEntries: 1024 }, options)))
    yield* Deferred.await(swapped)
    return { control, fiber }
  })

  it.effect("leaves the new map with every entry when it is interrupted", () =>
    Effect.gen(function* () {
      const { control, fiber } = yield* waiting
      yield* TestClock.adjust("10 minutes")
      yield* Fiber.interrupt(fiber)
      assert.deepStrictEqual([control.pins(), control.openFds()], [[path], []])
      assert.strictEqual(control.map(path)?.properties.maxEntries, 1024)
      assert.strictEqual(control.map(path)?.size(), 100)
    }).pipe(Effect.provide(both))
  )

  it.effect("says that the new map is pinned, and what to do, when a call fails", () =>
    Effect.gen(function* () {
      const { control, fiber } = yield* waiting
      yield* TestClock.adjust("1 second")
      control.failNext("lookupBatch", EIO)
      yield* TestClock.adjust("1 minute")
      const result = yield* Fiber.join(fiber)
      assert.isTrue(result._tag === "Failure" && result.failure._tag === "CatchUpFailed")
      if (result._tag === "Failure") assert.match(result.failure.message, /new map is pinned.*errno 5.*reload them now/)
      assert.deepStrictEqual([control.pins(), control.openFds()], [[path], []])
      assert.strictEqual(control.map(path)?.size(), 100)
    }).pipe(Effect.provide(both))
  )
})

describe("what a user sees", () => {
  it.effect("an ordinary user is told which permission is missing", () =>
    Effect.gen(function* () {
      const control = yield* BpfMemory.Control
      yield* Effect.scoped(fill)
      control.chmod(path, 0o600)
      const back = control.asUser(1000)
      const error = yield* Effect.flip(Effect.scoped(BpfMap.open(path)))
      back()
      assert.instanceOf(error, BpfError.BpfError)
      assert.strictEqual(error.reason._tag, "NotPermitted")
      assert.include(error.message, path)
      assert.include(error.message, "CAP_DAC_OVERRIDE")
    }).pipe(Effect.provide(both))
  )
})
