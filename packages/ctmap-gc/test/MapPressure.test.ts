import { assert, describe, it } from "@effect/vitest"
import { CtTime, MapKind, MapName, MapSpec } from "ctmap-core"
import { MapPressure } from "ctmap-gc"
import { Bpf, BpfMap, BpfMemory, KernelClock } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as Metric from "effect/Metric"
import * as Scope from "effect/Scope"
import * as Exit from "effect/Exit"
import { TestClock } from "effect/testing"

const ROOT = "/sys/fs/bpf"
const NOW = 1000
const path = (name: string): string => MapName.pinPath(ROOT, name)

const kernel = Layer.provideMerge(KernelClock.layerFixed(CtTime.ktime, NOW), BpfMemory.layerTest())
/** A kernel and a registry of metrics of each test's own. */
const withKernel = <A, E, R>(
  effect: Effect.Effect<A, E, R>
): Effect.Effect<A, E, Exclude<R, Layer.Success<typeof kernel>>> =>
  effect.pipe(
    Effect.provide(kernel, { local: true }),
    Effect.provideService(Metric.MetricRegistry, new Map()),
    Effect.provide(Logger.layer([]))
  ) as Effect.Effect<A, E, Exclude<R, Layer.Success<typeof kernel>>>

const pinned = (name: string, maxEntries = 1024, spec: MapSpec.MapSpec = MapSpec.ct(MapKind.globals[0])) =>
  BpfMap.createPinned({ ...spec, maxEntries }, path(name))

const put = Effect.fnUntraced(function* (map: BpfMap.BpfMap, from: number, to: number, lifetime = NOW) {
  const bpf = yield* Bpf.Bpf
  for (let i = from; i < to; i++) {
    const key = new Uint8Array(map.info.keySize)
    const value = new Uint8Array(map.info.valueSize)
    new DataView(key.buffer).setUint32(0, i)
    if (value.byteLength === 56) new DataView(value.buffer).setUint32(32, lifetime, true)
    assert.strictEqual(bpf.update(map.fd, key, value, Bpf.ANY), 0)
  }
})

/** `name{label value}` to value, of the gauges asked for. */
const series = (prefix: string) =>
  Effect.map(Metric.snapshot, (all) =>
    Object.fromEntries(
      all.flatMap(({ id, attributes, state }) =>
        id.startsWith(prefix) && "value" in state
          ? [[`${id}{${Object.values(attributes ?? {}).join()}}`, Number(state.value)]]
          : []
      )
    )
  )

const table = (name: string, kind: MapPressure.Table["kind"] = "ct"): MapPressure.Table => ({
  name,
  kind,
  open: BpfMap.open(path(name))
})

const tables = (...names: ReadonlyArray<string>) => Effect.succeed(names.map((name) => table(name)))

describe("MapPressure", () => {
  it.effect("exports entries by capacity, the share that has expired, and the age of both", () =>
    withKernel(
      Effect.gen(function* () {
        yield* put(yield* pinned(MapName.TCP4_GLOBAL), 0, 256)
        yield* put(yield* pinned(MapName.ANY4_GLOBAL, 2048), 0, 100, NOW - 1)
        const nat = yield* pinned(MapName.nat("ipv4"), 4096, MapSpec.nat("ipv4"))
        yield* put(nat, 0, 1024)
        yield* put(yield* pinned(MapName.TCP6_GLOBAL, 65_536, MapSpec.ct(MapKind.globals[2])), 0, 0)
        const { look } = yield* MapPressure.make()
        yield* look
        yield* TestClock.adjust("5 seconds")
        assert.deepStrictEqual(yield* series("cilium_"), {
          "cilium_bpf_map_pressure{ct4_global}": 0.25,
          "cilium_bpf_map_pressure{ct_any4_global}": 100 / 2048,
          "cilium_bpf_map_pressure{ct6_global}": 0,
          "cilium_bpf_map_pressure{snat_v4_external}": 0.25,
          "cilium_bpf_map_capacity{default}": 65_536,
          "cilium_bpf_map_capacity{cilium_ct4_global}": 1024,
          "cilium_bpf_map_capacity{cilium_ct_any4_global}": 2048,
          "cilium_bpf_map_capacity{cilium_snat_v4_external}": 4096
        })
        const ours = yield* series("ctmap_")
        assert.strictEqual(ours["ctmap_map_entries{ct_any4_global}"], 100)
        assert.strictEqual(ours["ctmap_map_entries{ct6_global}"], 0)
        assert.strictEqual(ours["ctmap_map_entries_error{ct4_global}"], 0)
        assert.strictEqual(ours["ctmap_map_usable_entries{ct4_global}"], 1024 - 2 * 128)
        assert.strictEqual(ours["ctmap_map_expired_ratio{ct_any4_global}"], 1)
        assert.strictEqual(ours["ctmap_map_expired_ratio{ct4_global}"], 0)
        assert.notProperty(ours, "ctmap_map_expired_ratio{snat_v4_external}")
        assert.strictEqual(ours["ctmap_map_sample_age_seconds{snat_v4_external}"], 5)
      }).pipe(Effect.scoped)
    )
  )

  it.effect("looks at once, and again 30 s after a look has ended", () =>
    withKernel(
      Effect.gen(function* () {
        const control = yield* BpfMemory.Control
        yield* pinned("one")
        const opened = () => control.count("openPin")
        const start = opened()
        yield* Layer.build(MapPressure.layer({ tables: tables("one") }))
        yield* TestClock.adjust(0)
        assert.strictEqual(opened() - start, 1)
        yield* TestClock.adjust("29 seconds")
        assert.strictEqual(opened() - start, 1)
        yield* TestClock.adjust("1 second")
        assert.strictEqual(opened() - start, 2)
        yield* TestClock.adjust("5 minutes")
        assert.strictEqual(opened() - start, 12)
      }).pipe(Effect.scoped)
    )
  )

  it.effect("after the nth failure in a row it waits n seconds, and the interval again once all is well", () =>
    withKernel(
      Effect.gen(function* () {
        const control = yield* BpfMemory.Control
        yield* pinned("one")
        control.failNext("openPin", 24, { times: 3 })
        const start = control.count("openPin")
        const opened = () => control.count("openPin") - start
        yield* Layer.build(MapPressure.layer({ tables: tables("one") }))
        const times: Array<number> = []
        for (let second = 0; second <= 40; second++) {
          const before = opened()
          yield* TestClock.adjust(second === 0 ? 0 : "1 second")
          if (opened() > (second === 0 ? 0 : before)) times.push(second)
        }
        assert.deepStrictEqual(times, [0, 1, 3, 6, 36])
      }).pipe(Effect.scoped)
    )
  )

  it.effect("one table that cannot be opened and one that cannot be read stop no other, and are named together", () =>
    withKernel(
      Effect.gen(function* () {
        const control = yield* BpfMemory.Control
        for (const name of ["a", "b", "c"]) yield* put(yield* pinned(name), 0, 512)
        const openBad = Effect.tap(BpfMap.open(path("b")), () => Effect.sync(() => control.failNext("lookupBatch", 5)))
        const { look } = yield* MapPressure.make({
          tables: Effect.succeed([table("a"), { ...table("b"), open: openBad }, table("c")])
        })
        control.failNext("openPin", 24)
        const error = yield* Effect.flip(look)
        assert.deepStrictEqual(
          error.failures.map(({ map }) => map),
          ["a", "b"]
        )
        assert.match(error.message, /^failed to look at map a: open pin .*; failed to look at map b: lookup batch /)
        assert.deepStrictEqual(yield* series("cilium_bpf_map_pressure"), { "cilium_bpf_map_pressure{c}": 0.5 })
      }).pipe(Effect.scoped)
    )
  )

  it.effect("a count that was cut short is never exported: the last value stays and its age grows (G16)", () =>
    withKernel(
      Effect.gen(function* () {
        const control = yield* BpfMemory.Control
        const map = yield* pinned("one", 8192)
        yield* put(map, 0, 4096)
        const { look, latest } = yield* MapPressure.make({ tables: tables("one") })
        yield* look
        yield* put(map, 4096, 5000)
        yield* TestClock.adjust("30 seconds")
        // The second batch fails: some 500 entries have been counted by then.
        control.failNext("lookupBatch", 5, { skip: 1 })
        yield* Effect.flip(look)
        assert.deepStrictEqual(yield* series("cilium_bpf_map_pressure"), { "cilium_bpf_map_pressure{one}": 0.5 })
        assert.deepStrictEqual(yield* series("ctmap_map_sample_age"), { "ctmap_map_sample_age_seconds{one}": 30 })
        assert.strictEqual((yield* latest)[0]?.estimate.entries, 4096)
        yield* look
        assert.strictEqual((yield* series("ctmap_"))["ctmap_map_entries{one}"], 5000)
      }).pipe(Effect.scoped)
    )
  )

  it.effect("an empty table reads 0, and one whose pin is gone has no series (G16)", () =>
    withKernel(
      Effect.gen(function* () {
        const map = yield* pinned("one")
        const { look, latest } = yield* MapPressure.make({ tables: tables("one", "never there") })
        yield* look
        assert.deepStrictEqual(yield* series("cilium_bpf_map_pressure"), { "cilium_bpf_map_pressure{one}": 0 })
        yield* BpfMap.unpin(map.path ?? "")
        assert.deepStrictEqual(yield* look, [])
        assert.deepStrictEqual(yield* latest, [])
        assert.deepStrictEqual(yield* series("ctmap_map"), {})
        assert.deepStrictEqual(yield* series("cilium_"), { "cilium_bpf_map_capacity{default}": 65_536 })
      }).pipe(Effect.scoped)
    )
  )

  it.effect("a full LRU map reads 1, though its CPUs keep free entries to themselves", () =>
    withKernel(
      Effect.gen(function* () {
        const map = yield* pinned("one", 4096)
        yield* put(map, 0, 4096 - 257)
        const { look } = yield* MapPressure.make({ tables: tables("one") })
        assert.strictEqual((yield* look)[0]?.pressure, (4096 - 257) / 4096)
        yield* put(map, 4096 - 257, 4096 - 256)
        assert.strictEqual((yield* look)[0]?.pressure, 1)
      }).pipe(Effect.scoped)
    )
  )

  it.effect("a table that hangs is given up after 30 s, and the others are looked at", () =>
    withKernel(
      Effect.gen(function* () {
        yield* pinned("good")
        const { look } = yield* MapPressure.make({
          tables: Effect.succeed([{ ...table("slow"), open: Effect.never }, table("good")])
        })
        const looking = yield* Effect.forkChild(Effect.flip(look), { startImmediately: true })
        yield* TestClock.adjust("30 seconds")
        assert.include((yield* Fiber.join(looking)).message, "map slow: it took longer than 30 s")
        assert.deepStrictEqual(yield* series("cilium_bpf_map_pressure"), { "cilium_bpf_map_pressure{good}": 0 })
      }).pipe(Effect.scoped)
    )
  )

  it.effect("closing the layer ends the loop in the middle of a look, closes the map and removes every series", () =>
    withKernel(
      Effect.gen(function* () {
        const control = yield* BpfMemory.Control
        yield* pinned("one")
        const scope = yield* Scope.make()
        const open = control.openFds().length
        const hanging = Effect.andThen(BpfMap.open(path("one")), Effect.never)
        yield* Layer.buildWithScope(
          MapPressure.layer({ tables: Effect.succeed([table("one"), { ...table("hangs"), open: hanging }]) }),
          scope
        )
        yield* TestClock.adjust("1 second")
        assert.strictEqual(control.openFds().length, open + 1)
        assert.property(yield* series("cilium_"), "cilium_bpf_map_pressure{one}")
        yield* Scope.close(scope, Exit.void)
        assert.strictEqual(control.openFds().length, open)
        assert.deepStrictEqual(yield* Metric.snapshot, [])
        const calls = control.count()
        yield* TestClock.adjust("5 minutes")
        assert.strictEqual(control.count(), calls)
      }).pipe(Effect.scoped)
    )
  )

  it.effect("without a clock the fill is exported and the expired share is not", () =>
    withKernel(
      Effect.gen(function* () {
        yield* put(yield* pinned("one"), 0, 512)
        let isBroken = false
        const { look } = yield* MapPressure.make({ tables: tables("one") }).pipe(
          Effect.provideService(KernelClock.KernelClock, {
            source: CtTime.ktime,
            now: Effect.suspend(() =>
              isBroken ? Effect.fail(new CtTime.ClockError({ reason: "schedstat", value: "" })) : Effect.succeed(NOW)
            )
          })
        )
        yield* look
        assert.property(yield* series("ctmap_"), "ctmap_map_expired_ratio{one}")
        isBroken = true
        assert.include((yield* Effect.flip(look)).message, "clock")
        assert.notProperty(yield* series("ctmap_"), "ctmap_map_expired_ratio{one}")
        assert.deepStrictEqual(yield* series("cilium_bpf_map_pressure"), { "cilium_bpf_map_pressure{one}": 0.5 })
      }).pipe(Effect.scoped)
    )
  )
})
