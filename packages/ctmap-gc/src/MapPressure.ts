/**
 * How full each table is, all the time: Cilium's `CalculateCTMapPressure`.
 *
 * Owns the loop and the gauges of tables. A table that cannot be opened or read never stops the others, and never gets a
 * value it does not have: its series keep the last one and their age grows. Looking is done by the loop, never by a
 * scrape. Which tables there are is the caller's to say, so further ones (those of clusters) come through the same list.
 *
 * @since 0.1.0
 */
import { MapKind, MapName, MapSpec } from "ctmap-core"
import { Bpf, type BpfError, BpfMap, KernelClock, Pins, type Scan } from "ctmap-kernel"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import { TableGauges } from "./internal/tableGauges.ts"
import * as TableEstimate from "./TableEstimate.ts"

/**
 * A table to look at.
 *
 * @since 0.1.0
 */
export interface Table {
  /** The name of its pin, which names its series. */
  readonly name: string
  /** Only entries of CT maps expire. */
  readonly kind: "ct" | "nat"
  readonly open: Effect.Effect<BpfMap.BpfMap, BpfError.BpfError, Bpf.Bpf | Scope.Scope>
}

/**
 * What was found of one table.
 *
 * @since 0.1.0
 */
export interface Pressure {
  readonly name: string
  readonly kind: Table["kind"]
  readonly capacity: number
  /** See {@link usable}. */
  readonly usable: number
  /** See {@link ratio}. */
  readonly pressure: number
  readonly estimate: TableEstimate.TableEstimate
  /** Milliseconds since the epoch. */
  readonly sampledAt: number
}

/**
 * The entries that a map is sure to hold before it turns any away or evicts one.
 *
 * **Details**
 *
 * In an LRU map every CPU keeps up to 128 free entries to itself, which another CPU cannot have: it starts to evict while
 * those are still free, and may never hold as many as its size says. (Since Linux 6.16 it is half of a CPU's share where
 * that is less.) A map with lists of its own for each CPU evicts when one of them is full, which its size does not tell;
 * a plain hash takes all it has room for.
 *
 * **Example** (Of 524,288 on 8 CPUs)
 *
 * ```ts
 * import { MapPressure } from "ctmap-gc"
 *
 * MapPressure.usable({ type: 9, flags: 0, maxEntries: 524_288 }, 8) // => 523264
 * MapPressure.usable({ type: 1, flags: 0, maxEntries: 524_288 }, 8) // => 524288
 * ```
 *
 * @see `kernel/bpf/bpf_lru_list.c` of Linux, `LOCAL_FREE_TARGET`
 * @since 0.1.0
 */
export const usable = (
  { type, flags, maxEntries }: Pick<MapSpec.Properties, "type" | "flags" | "maxEntries">,
  possibleCpus: number
): number => {
  if (type !== MapSpec.mapType.lruHash || (flags & MapSpec.NO_COMMON_LRU) !== 0) return maxEntries
  const kept = Math.min(LOCAL_FREE, Math.max(1, Math.floor(maxEntries / possibleCpus / 2)))
  return Math.max(1, maxEntries - kept * possibleCpus)
}

const LOCAL_FREE = 128

/**
 * Entries by capacity, where 1 means full.
 *
 * **Details**
 *
 * Cilium's ratio, with one difference: a table that cannot be told from a full one (its entries, with their standard
 * error, reach what is {@link usable}) reads 1, as an alert on "full" would never fire for an LRU map otherwise. An
 * empty one reads 0.
 *
 * **Example** (A full LRU map)
 *
 * ```ts
 * import { MapPressure } from "ctmap-gc"
 *
 * const table = { capacity: 1000, usable: 900 }
 * MapPressure.ratio({ ...table, entries: 250, error: 0 }) // => 0.25
 * MapPressure.ratio({ ...table, entries: 895, error: 4 }) // => 0.895
 * MapPressure.ratio({ ...table, entries: 895, error: 5 }) // => 1
 * ```
 *
 * @since 0.1.0
 */
export const ratio = (table: {
  readonly entries: number
  readonly error: number
  readonly capacity: number
  readonly usable: number
}): number => {
  const share = table.entries / table.capacity
  return table.entries + table.error >= table.usable ? Math.max(1, share) : share
}

/** From the end of a look to the start of the next. @since 0.1.0 */
export const INTERVAL: Duration.Duration = Duration.seconds(30)

/** One table may take so long. @since 0.1.0 */
export const DEADLINE: Duration.Duration = Duration.seconds(30)

/**
 * How long to wait after a look: the interval; after the nth failure in a row n seconds, but no longer than that.
 *
 * **Example** (Backing off)
 *
 * ```ts
 * import { MapPressure } from "ctmap-gc"
 * import * as Duration from "effect/Duration"
 *
 * const seconds = [0, 1, 2, 29, 500].map((failures) => Duration.toSeconds(MapPressure.delay(failures)))
 * seconds // => [30, 1, 2, 29, 30]
 * ```
 *
 * @since 0.1.0
 */
export const delay = (failures: number, interval: Duration.Duration = INTERVAL): Duration.Duration =>
  failures === 0 ? interval : Duration.min(Duration.seconds(failures), interval)

/**
 * Tables that could not be looked at; all others were.
 *
 * @since 0.1.0
 */
export class PressureFailed extends Schema.TaggedError<PressureFailed>()("PressureFailed", {
  failures: Schema.Array(Schema.Struct({ map: Schema.String, why: Schema.String }))
}) {
  override get message(): string {
    return this.failures.map(({ map, why }) => `failed to look at map ${map}: ${why}`).join("; ")
  }
}

/**
 * @since 0.1.0
 */
export interface Options<R = never> {
  /** The tables, asked for before every look. Default: {@link globalTables}. */
  readonly tables?: Effect.Effect<ReadonlyArray<Table>, never, R>
  /** Default {@link INTERVAL}. */
  readonly interval?: Duration.Duration
}

/**
 * Looks at tables.
 *
 * @since 0.1.0
 */
export class MapPressure extends Context.Service<
  MapPressure,
  {
    /**
     * Looks at every table now. A table that is not pinned is no failure: it has no series. Fails after the last one,
     * where any failed.
     */
    readonly look: Effect.Effect<ReadonlyArray<Pressure>, PressureFailed>
    /** What was last found of each table that is there, in the order of the list. */
    readonly latest: Effect.Effect<ReadonlyArray<Pressure>>
  }
>()("ctmap-gc/MapPressure") {}

/**
 * The service without its loop.
 *
 * @since 0.1.0
 */
export const make = Effect.fnUntraced(function* <R = never>(options: Options<R> = {}) {
  const context = yield* Effect.context<Bpf.Bpf | KernelClock.KernelClock | R>()
  const bpf = yield* Bpf.Bpf
  const clock = yield* Clock.Clock
  const gauges = new TableGauges(context, clock)
  const root = yield* Pins.BpfFsRoot
  const tables: Effect.Effect<ReadonlyArray<Table>, never, R> = options.tables ?? Effect.succeed(globalTables(root))
  let latest: ReadonlyArray<Pressure> = []
  yield* Effect.addFinalizer(() => Effect.sync(() => gauges.close()))

  const find = Effect.fnUntraced(function* ({ name, kind, open }: Table, expiredBefore: number | undefined) {
    const map = yield* open
    const estimate = yield* TableEstimate.estimate(map, kind === "ct" ? { expiredBefore } : {})
    const capacity = map.info.maxEntries
    const room = usable(map.info, bpf.possibleCpus())
    const pressure = ratio({ entries: estimate.entries, error: estimate.error, capacity, usable: room })
    const sampledAt = clock.currentTimeMillisUnsafe()
    return { name, kind, capacity, usable: room, pressure, estimate, sampledAt } satisfies Pressure
  }, Effect.scoped)

  const look = Effect.gen(function* () {
    const { now } = yield* KernelClock.KernelClock
    const failures: Array<{ readonly map: string; readonly why: string }> = []
    const time = yield* Effect.result(now)
    const listed = yield* tables
    const before = new Map(latest.map((pressure) => [pressure.name, pressure]))
    const found: Array<Pressure> = []
    for (const table of listed) {
      const result = yield* find(table, Result.getOrUndefined(time)).pipe(
        Effect.timeout(DEADLINE),
        Effect.catchReason("BpfError", "PinNotFound", () => Effect.succeed(undefined)),
        Effect.result
      )
      const kept = before.get(table.name)
      if (Result.isFailure(result)) {
        failures.push({ map: table.name, why: reasonOf(result.failure) })
        if (kept !== undefined) found.push(kept)
      } else if (result.success !== undefined) {
        found.push(result.success)
        gauges.set(result.success)
      }
    }
    // The age of what was not seen anew goes on growing; a table that is gone has no age.
    gauges.keep(new Set(found.map(({ name }) => name)))
    latest = found
    if (Result.isFailure(time)) failures.push({ map: "of the CT", why: `their clock: ${time.failure.message}` })
    return failures.length === 0 ? found : yield* new PressureFailed({ failures })
  }).pipe(Effect.provideContext(context))

  return MapPressure.of({ look, latest: Effect.sync(() => latest) })
})

const reasonOf = (failure: BpfError.BpfError | Scan.Incomplete | { readonly _tag: "TimeoutError" }): string =>
  failure._tag === "TimeoutError"
    ? `it took longer than ${Duration.toSeconds(DEADLINE)} s, and a partial count is none`
    : failure.message

/**
 * Looks at once, and again after every {@link delay}, until the layer closes.
 *
 * **Details**
 *
 * Series (`map_name` is the pin's name without `cilium_`): `cilium_bpf_map_pressure`, `ctmap_map_entries`,
 * `ctmap_map_entries_error`, `ctmap_map_usable_entries`, `ctmap_map_expired_ratio` (CT maps), `ctmap_map_sample_age_seconds`,
 * which is counted when it is read, and `cilium_bpf_map_capacity` by `map_group` (the pin's name), where as in Cilium a
 * size of 65,536 is exported once, for the group `default`. A series of Cilium vanishes with the table's last
 * entry; here it reads 0, and vanishes with the pin.
 *
 * Errors: none; what a look failed for is logged. Kernel: read access to the pins.
 *
 * **Example** (One look)
 *
 * ```ts
 * import { MapKind, MapName, MapSpec } from "ctmap-core"
 * import { BpfMap, BpfMemory, KernelClock } from "ctmap-kernel"
 * import { MapPressure } from "ctmap-gc"
 * import * as Effect from "effect/Effect"
 * import * as Layer from "effect/Layer"
 *
 * const path = MapName.pinPath("/sys/fs/bpf", MapName.TCP4_GLOBAL)
 * const program = Effect.gen(function* () {
 *   yield* BpfMap.createPinned({ ...MapSpec.ct(MapKind.globals[0]), maxEntries: 1024 }, path)
 *   const { look } = yield* MapPressure.MapPressure
 *   return (yield* look).map(({ name, pressure }) => [name, pressure])
 * })
 * const kernel = Layer.provideMerge(KernelClock.layerKtime, BpfMemory.layer)
 * const layer = Layer.provideMerge(MapPressure.layer(), kernel)
 * await Effect.runPromise(program.pipe(Effect.scoped, Effect.provide(layer))) // => [["cilium_ct4_global", 0]]
 * ```
 *
 * @since 0.1.0
 */
export const layer = <R = never>(
  options: Options<R> = {}
): Layer.Layer<MapPressure, never, Bpf.Bpf | KernelClock.KernelClock | R> =>
  Layer.effect(
    MapPressure,
    Effect.tap(make(options), ({ look }) => Effect.forkScoped(run(look, options.interval)))
  )

const run = Effect.fnUntraced(function* (look: MapPressure["Service"]["look"], interval: Duration.Duration = INTERVAL) {
  let said: string | undefined
  for (let failures = 0; ;) {
    const error = yield* look.pipe(
      Effect.as(undefined),
      Effect.catchTag("PressureFailed", (failed) => Effect.succeed(failed))
    )
    failures = error === undefined ? 0 : failures + 1
    // What stays wrong is said once: it is in the age of the samples, too.
    if (error !== undefined && error.message !== said) yield* Effect.logWarning(error.message)
    said = error?.message
    yield* Effect.sleep(delay(failures, interval))
  }
})

/**
 * The global CT and NAT maps of both families; those that are not pinned are passed over.
 *
 * @since 0.1.0
 */
export const globalTables = (bpffsRoot: string): ReadonlyArray<Table> => [
  ...MapKind.globals.map((kind) => pinned(bpffsRoot, MapName.global(kind), "ct")),
  ...(["ipv4", "ipv6"] as const).map((family) => pinned(bpffsRoot, MapName.nat(family), "nat"))
]

const pinned = (bpffsRoot: string, name: string, kind: Table["kind"]): Table => ({
  name,
  kind,
  open: BpfMap.open(MapName.pinPath(bpffsRoot, name))
})
