/**
 * Passes as metrics: under Cilium's names and labels, where dashboards look for them, and ours under `ctmap_`.
 *
 * Owns which number of a pass goes into which series. Labels take few values, all known beforehand: families, protocols,
 * reasons, maps. Updates go to the registry of the fiber (`Metric.MetricRegistry`), from where `PrometheusMetrics` of
 * `effect/observability` makes the text that Prometheus reads. The gauges of tables are {@link MapPressure}'s.
 *
 * @since 0.1.0
 */
import { type Family, MapName } from "ctmap-core"
import type * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Metric from "effect/Metric"
import type * as Scope from "effect/Scope"
import type * as GcEvents from "./GcEvents.ts"
import type * as GcPass from "./GcPass.ts"
import * as GcReason from "./GcReason.ts"
import { counter, gauge, histogram, type Labels, type Writer, writeUnsafe, writing } from "./internal/vector.ts"
import * as NatPass from "./NatPass.ts"

/** Seconds; those that Cilium's histogram has, which are Prometheus' own. */
const boundaries = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10]

const metrics = {
  runs: counter("cilium_datapath_conntrack_gc_runs_total", "Passes over a CT map"),
  entries: gauge("cilium_datapath_conntrack_gc_entries", "Entries alive after, and deleted by, the last whole pass"),
  duration: histogram(
    "cilium_datapath_conntrack_gc_duration_seconds",
    "How long passes over a CT map took",
    boundaries
  ),
  fallbacks: counter("cilium_datapath_conntrack_gc_key_fallbacks_total", "Times a walk by next key went back one key"),
  resets: counter(
    "cilium_datapath_conntrack_dump_resets_total",
    "Times a walk by next key was thrown back to the start"
  ),
  interval: gauge("cilium_datapath_conntrack_gc_interval_seconds", "Time from one pass to the next, as last decided"),
  natEntries: gauge("cilium_datapath_nat_gc_entries", "NAT entries alive after, and deleted by, the last orphan purge"),
  operations: counter(
    "cilium_bpf_map_ops_total",
    "Entries that were deleted from maps and put back, and attempts that failed"
  ),
  deleted: counter("ctmap_gc_deleted_total", "CT entries that passes deleted, by reason"),
  natDeleted: counter("ctmap_gc_nat_deleted_total", "NAT entries that went with CT entries"),
  refreshed: counter(
    "ctmap_gc_refreshed_total",
    "Entries that were kept because they were refreshed after they were read"
  ),
  restored: counter(
    "ctmap_gc_restored_total",
    "Entries that were put back because they were refreshed, or their connection came back, as they were deleted"
  ),
  vanished: counter("ctmap_gc_vanished_total", "Entries that were gone when they were to be deleted"),
  busy: counter("ctmap_gc_busy_total", "Entries that the kernel could not delete because their bucket was locked"),
  guardStops: counter("ctmap_gc_guard_stops_total", "Passes that the guard stopped"),
  failedPairs: counter("ctmap_gc_pair_failures_total", "Times that the schedule could not collect or purge a pair"),
  lost: counter("ctmap_gc_lost_events_total", "Deleted entries that slow observers were not told of"),
  serial: gauge("ctmap_gc_pass_serial", "Number of the last pass"),
  nextRun: gauge("ctmap_gc_next_run_timestamp_seconds", "When the next pass is due, in seconds since the epoch"),
  longestCall: gauge("ctmap_gc_longest_call_seconds", "The longest single call into the kernel of the last pass")
}

/** Names of all series of this module, as Prometheus sees them. @since 0.1.0 */
export const names: ReadonlyArray<string> = Object.values(metrics).map(({ id }) => id)

/**
 * Adds a pass.
 *
 * **Details**
 *
 * A dry run changes nothing. A pass counts as `completed` map by map, where it ended without an error, and its duration
 * is the time it took, whichever engine it was. One that failed before its first map counts as `uncompleted` for both. The gauges of entries are set by whole passes over global maps only:
 * those of an endpoint or of a cluster have no label of their own there. `cilium_bpf_map_ops_total` counts an entry that
 * vanished as a deletion that failed, as Cilium does.
 *
 * **Example** (What a pass leaves)
 *
 * ```ts
 * import { GcMetrics, GcPass } from "ctmap-gc"
 * import * as Effect from "effect/Effect"
 * import * as Metric from "effect/Metric"
 *
 * const counts = { seen: 9, kept: 6, wanted: 3, deleted: 3, refreshed: 0, restored: 0, vanished: 0, busy: 0 }
 * const how = { engine: "hybrid", reads: 1, restarts: 0, fallbacks: 0, longestCallMillis: 1, millis: 2 } as const
 * const reasons = { expired: 3, "matched-address": 0, "matched-filter": 0, flushed: 0 }
 * const map = { map: "cilium_ct4_global", transport: "tcp", capacity: 1024, completed: true } as const
 * const pass: GcPass.GcPass = {
 *   ...{ serial: 1, family: "ipv4", owner: "global", dryRun: false, now: 100, startedAtMillis: 0, millis: 2 },
 *   ...{ completed: true, requests: [], maps: [{ ...map, ...counts, ...how, reasons, nat: GcPass.noNat }] }
 * }
 * const program = Effect.andThen(GcMetrics.record(pass), GcMetrics.snapshot)
 * const series = await Effect.runPromise(Effect.provideService(program, Metric.MetricRegistry, new Map()))
 * series.find(({ name }) => name === "cilium_datapath_conntrack_gc_runs_total")
 * // => { name: "cilium_datapath_conntrack_gc_runs_total", labels: { family: "ipv4", protocol: "TCP", status: "completed" }, value: 1 }
 * ```
 *
 * @since 0.1.0
 */
export const record = (pass: GcPass.GcPass): Effect.Effect<void> =>
  pass.dryRun ? Effect.void : writing((series) => recordPass(series, pass))

/**
 * As {@link record}, at once, in the registry of a context: no pass ends without it.
 *
 * @since 0.1.0
 */
export const recordUnsafe = (pass: GcPass.GcPass, context: Context.Context<never>): void => {
  if (!pass.dryRun) writeUnsafe(context, (series) => recordPass(series, pass))
}

const recordPass = (series: Writer, pass: GcPass.GcPass): void => {
  for (const map of pass.maps) recordMap(series, pass, map)
  if (pass.maps.length === 0) {
    for (const transport of ["tcp", "any"] as const) {
      series.add(metrics.runs, 1, labelsOf(pass.family, transport).uncompleted)
    }
  } else {
    const longest = Math.max(...pass.maps.map(({ longestCallMillis }) => longestCallMillis))
    series.set(metrics.longestCall, longest / 1000)
  }
  series.set(metrics.serial, pass.serial)
}

const recordMap = ({ add, observe, set }: Writer, pass: GcPass.GcPass, map: GcPass.MapPass): void => {
  const labels = labelsOf(pass.family, map.transport)
  const status = map.completed ? labels.completed : labels.uncompleted
  add(metrics.runs, 1, status)
  observe(metrics.duration, map.millis / 1000, status)
  if (map.completed && pass.owner === "global") {
    set(metrics.entries, map.kept + map.refreshed + map.busy, labels.alive)
    set(metrics.entries, map.deleted, labels.deleted)
  }
  add(metrics.fallbacks, map.fallbacks, labels.plain)
  add(metrics.resets, map.restarts, labels.resets)
  for (const reason of GcReason.names) add(metrics.deleted, map.reasons[reason], labels.reasons[reason])
  for (const direction of ["egress", "ingress"] as const) add(metrics.natDeleted, map.nat[direction], labels[direction])
  for (const outcome of ["refreshed", "restored", "vanished", "busy"] as const) add(metrics[outcome], map[outcome])
  operations({ add }, map.map, {
    "delete success": map.deleted + map.restored,
    "delete fail": map.vanished + map.busy,
    "update success": map.restored
  })
  if (pass.nat !== undefined) {
    const { egress, ingress, failed } = map.nat
    operations({ add }, pass.nat, { "delete success": egress + ingress, "delete fail": failed })
  }
}

/** All labels of a kind of map, made once. */
const labelsFor = (family: Family.Family, protocol: "TCP" | "non-TCP") => {
  const plain = { family, protocol }
  return {
    plain,
    completed: { ...plain, status: "completed" },
    uncompleted: { ...plain, status: "uncompleted" },
    alive: { ...plain, status: "alive" },
    deleted: { ...plain, status: "deleted" },
    resets: { area: "conntrack", name: "dump_interrupts", family },
    reasons: {
      expired: { ...plain, reason: "expired" },
      "matched-address": { ...plain, reason: "matched-address" },
      "matched-filter": { ...plain, reason: "matched-filter" },
      flushed: { ...plain, reason: "flushed" }
    } satisfies Record<GcReason.GcReason, Labels>,
    egress: { family, direction: "egress" },
    ingress: { family, direction: "ingress" }
  }
}

const allLabels = {
  ipv4: { tcp: labelsFor("ipv4", "TCP"), any: labelsFor("ipv4", "non-TCP") },
  ipv6: { tcp: labelsFor("ipv6", "TCP"), any: labelsFor("ipv6", "non-TCP") }
}

const labelsOf = (family: Family.Family, transport: GcPass.MapPass["transport"]) => allLabels[family][transport]

const operations = ({ add }: Pick<Writer, "add">, map: string, counts: Readonly<Record<string, number>>): void => {
  for (const [what, count] of Object.entries(counts)) {
    if (count === 0) continue
    const [operation = "", outcome = ""] = what.split(" ")
    add(metrics.operations, count, { map_name: MapName.common(map), operation, outcome })
  }
}

/**
 * Adds a pass over a NAT map. A dry run changes nothing; the gauges of entries are those of whole orphan purges of the
 * global maps.
 *
 * @since 0.1.0
 */
export const recordNat = (pass: NatPass.NatPass): Effect.Effect<void> =>
  pass.dryRun
    ? Effect.void
    : writing((series) => {
        const { add, set } = series
        const { family } = pass
        if (pass.completed && pass.kind === "orphans" && pass.owner === "global") {
          for (const direction of ["ingress", "egress"] as const) {
            set(metrics.natEntries, pass[`${direction}Alive`], { family, direction, status: "alive" })
            set(metrics.natEntries, pass[`${direction}Deleted`], { family, direction, status: "deleted" })
          }
        }
        for (const outcome of ["refreshed", "restored", "vanished", "busy"] as const) {
          add(metrics[outcome], pass[outcome])
        }
        operations(series, pass.map, {
          "delete success": NatPass.deleted(pass) + pass.restored,
          "delete fail": pass.vanished + pass.busy,
          "update success": pass.restored
        })
        set(metrics.serial, pass.serial)
      })

/** Counts a pass that the guard stopped. @since 0.1.0 */
export const recordGuardStop: Effect.Effect<void> = writing(({ add }) => add(metrics.guardStops, 1))

/** Counts a pair that could not be collected, or purged, when that was due. @since 0.1.0 */
export const recordFailedPair = (family: Family.Family): Effect.Effect<void> =>
  writing(({ add }) => add(metrics.failedPairs, 1, { family }))

/** Sets the interval that was decided, under Cilium's label `global`. @since 0.1.0 */
export const recordInterval = (interval: Duration.Duration): Effect.Effect<void> =>
  writing(({ set }) => set(metrics.interval, Duration.toSeconds(interval), { global: "global" }))

/** Sets when a family's next pass is due, in milliseconds since the epoch. @since 0.1.0 */
export const recordNextRun = (family: Family.Family, atMillis: number): Effect.Effect<void> =>
  writing(({ set }) => set(metrics.nextRun, atMillis / 1000, { family }))

/**
 * Exports how many entries slow observers were not told of, until the scope closes. Read when it is asked for.
 *
 * @since 0.1.0
 */
export const exportLost = ({
  lost
}: Pick<GcEvents.GcEvents["Service"], "lost">): Effect.Effect<void, never, Scope.Scope> =>
  Effect.flatMap(Effect.context(), (context) =>
    Effect.acquireRelease(
      Effect.sync(() =>
        Metric.registerUnsafe(metrics.lost.of(), context, {
          get: () => ({ count: lost(), incremental: true }),
          update: () => {},
          modify: () => {}
        })
      ),
      (registration) => Effect.sync(registration.remove)
    )
  )

/**
 * Makes the series that have no labels, and failures of pairs, exist with 0 before anything is counted, so that a first increase is seen as one.
 *
 * @since 0.1.0
 */
export const initialise: Effect.Effect<void> = writing(({ add }) => {
  for (const name of ["refreshed", "restored", "vanished", "busy", "guardStops"] as const) add(metrics[name], 0)
  for (const family of ["ipv4", "ipv6"] as const) add(metrics.failedPairs, 0, { family })
})

/** The value of one series: for a histogram, how often it was observed and the sum. @since 0.1.0 */
export interface Series {
  readonly name: string
  readonly labels: Labels
  readonly value: number | { readonly count: number; readonly sum: number }
}

/**
 * The series of this module in the registry, for an API or a status command.
 *
 * @since 0.1.0
 */
export const snapshot: Effect.Effect<ReadonlyArray<Series>> = Effect.map(Metric.snapshot, (all) =>
  all.flatMap((each): ReadonlyArray<Series> => {
    if (!names.includes(each.id)) return []
    const value = valueOf(each)
    return value === undefined ? [] : [{ name: each.id, labels: each.attributes ?? {}, value }]
  })
)

const valueOf = (snapshotted: Metric.Metric.Snapshot): Series["value"] | undefined => {
  switch (snapshotted.type) {
    case "Counter":
      return Number(snapshotted.state.count)
    case "Gauge":
      return Number(snapshotted.state.value)
    case "Histogram":
      return { count: snapshotted.state.count, sum: snapshotted.state.sum }
    default:
      return undefined
  }
}
