import { assert, describe, it } from "@effect/vitest"
import { GcMetrics, GcPass, type NatPass } from "ctmap-gc"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Metric from "effect/Metric"
import { PrometheusMetrics } from "effect/observability"

const map: GcPass.MapPass = {
  map: "cilium_ct4_global",
  transport: "tcp",
  engine: "hybrid",
  capacity: 524_288,
  seen: 1000,
  kept: 700,
  wanted: 300,
  deleted: 280,
  refreshed: 12,
  restored: 2,
  vanished: 5,
  busy: 3,
  reasons: { expired: 270, "matched-address": 10, "matched-filter": 0, flushed: 0 },
  nat: { ...GcPass.noNat, egress: 90, ingress: 85, failed: 1 },
  reads: 2,
  restarts: 0,
  fallbacks: 0,
  longestCallMillis: 1.5,
  millis: 40,
  completed: true
}

const none = {
  seen: 0,
  kept: 0,
  wanted: 0,
  deleted: 0,
  refreshed: 0,
  restored: 0,
  vanished: 0,
  busy: 0,
  reasons: { expired: 0, "matched-address": 0, "matched-filter": 0, flushed: 0 },
  nat: GcPass.noNat
}

const other: GcPass.MapPass = {
  ...map,
  ...none,
  map: "cilium_ct_any4_global",
  transport: "any",
  seen: 50,
  kept: 50,
  restarts: 4,
  fallbacks: 7,
  longestCallMillis: 0.5,
  millis: 3,
  completed: false
}

const pass: GcPass.GcPass = {
  serial: 17,
  family: "ipv4",
  owner: "global",
  nat: "cilium_snat_v4_external",
  dryRun: false,
  now: 5000,
  startedAtMillis: 0,
  millis: 44,
  completed: false,
  why: "the map changed too fast",
  maps: [map, other],
  requests: []
}

const purge: NatPass.NatPass = {
  serial: 20,
  kind: "orphans",
  family: "ipv6",
  owner: "global",
  map: "cilium_snat_v6_external",
  capacity: 1024,
  dryRun: false,
  seen: 39,
  wanted: 18,
  ingressAlive: 10,
  ingressDeleted: 1,
  egressAlive: 11,
  egressDeleted: 2,
  refreshed: 4,
  vanished: 5,
  busy: 6,
  reprieved: 8,
  restored: 7,
  startedAtMillis: 0,
  millis: 1,
  completed: true
}

const text = (labels: Readonly<Record<string, string>>): string =>
  Object.entries(labels)
    .map(([label, value]) => `${label}=${value}`)
    .join()

/** Every series as `name{labels}`, with the value; histograms as count and sum. */
const table = Effect.map(GcMetrics.snapshot, (series) =>
  Object.fromEntries(
    series.map(({ name, labels, value }) => [
      `${name}{${text(labels)}}`,
      typeof value === "number" ? value : `${value.count} of ${value.sum} s`
    ])
  )
)

const isolated = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.provideService(effect, Metric.MetricRegistry, new Map())

describe("GcMetrics", () => {
  it.effect("a pass leaves exactly these values", () =>
    isolated(
      Effect.gen(function* () {
        yield* GcMetrics.record(pass)
        const tcp = "family=ipv4,protocol=TCP"
        const any = "family=ipv4,protocol=non-TCP"
        assert.deepStrictEqual(yield* table, {
          [`cilium_datapath_conntrack_gc_runs_total{${tcp},status=completed}`]: 1,
          [`cilium_datapath_conntrack_gc_runs_total{${any},status=uncompleted}`]: 1,
          [`cilium_datapath_conntrack_gc_duration_seconds{${tcp},status=completed}`]: "1 of 0.04 s",
          [`cilium_datapath_conntrack_gc_duration_seconds{${any},status=uncompleted}`]: "1 of 0.003 s",
          [`cilium_datapath_conntrack_gc_entries{${tcp},status=alive}`]: 715,
          [`cilium_datapath_conntrack_gc_entries{${tcp},status=deleted}`]: 280,
          [`cilium_datapath_conntrack_gc_key_fallbacks_total{${tcp}}`]: 0,
          [`cilium_datapath_conntrack_gc_key_fallbacks_total{${any}}`]: 7,
          "cilium_datapath_conntrack_dump_resets_total{area=conntrack,name=dump_interrupts,family=ipv4}": 4,
          "cilium_bpf_map_ops_total{map_name=ct4_global,operation=delete,outcome=success}": 282,
          "cilium_bpf_map_ops_total{map_name=ct4_global,operation=delete,outcome=fail}": 8,
          "cilium_bpf_map_ops_total{map_name=ct4_global,operation=update,outcome=success}": 2,
          "cilium_bpf_map_ops_total{map_name=snat_v4_external,operation=delete,outcome=success}": 175,
          "cilium_bpf_map_ops_total{map_name=snat_v4_external,operation=delete,outcome=fail}": 1,
          [`ctmap_gc_deleted_total{${tcp},reason=expired}`]: 270,
          [`ctmap_gc_deleted_total{${tcp},reason=matched-address}`]: 10,
          [`ctmap_gc_deleted_total{${tcp},reason=matched-filter}`]: 0,
          [`ctmap_gc_deleted_total{${tcp},reason=flushed}`]: 0,
          [`ctmap_gc_deleted_total{${any},reason=expired}`]: 0,
          [`ctmap_gc_deleted_total{${any},reason=matched-address}`]: 0,
          [`ctmap_gc_deleted_total{${any},reason=matched-filter}`]: 0,
          [`ctmap_gc_deleted_total{${any},reason=flushed}`]: 0,
          "ctmap_gc_nat_deleted_total{family=ipv4,direction=egress}": 90,
          "ctmap_gc_nat_deleted_total{family=ipv4,direction=ingress}": 85,
          "ctmap_gc_refreshed_total{}": 12,
          "ctmap_gc_restored_total{}": 2,
          "ctmap_gc_vanished_total{}": 5,
          "ctmap_gc_busy_total{}": 3,
          "ctmap_gc_pass_serial{}": 17,
          "ctmap_gc_longest_call_seconds{}": 0.0015
        })
      })
    )
  )

  it.effect("counters add up over passes, gauges show the last", () =>
    isolated(
      Effect.gen(function* () {
        yield* GcMetrics.record({ ...pass, maps: [map] })
        yield* GcMetrics.record({
          ...pass,
          serial: 18,
          maps: [{ ...map, ...none, seen: 800, kept: 800, millis: 60, longestCallMillis: 0.25 }]
        })
        const found = yield* table
        const labels = "family=ipv4,protocol=TCP"
        assert.strictEqual(found[`cilium_datapath_conntrack_gc_runs_total{${labels},status=completed}`], 2)
        assert.strictEqual(
          found[`cilium_datapath_conntrack_gc_duration_seconds{${labels},status=completed}`],
          "2 of 0.1 s"
        )
        assert.strictEqual(found[`cilium_datapath_conntrack_gc_entries{${labels},status=alive}`], 800)
        assert.strictEqual(found[`cilium_datapath_conntrack_gc_entries{${labels},status=deleted}`], 0)
        assert.strictEqual(found[`ctmap_gc_deleted_total{${labels},reason=expired}`], 270)
        assert.strictEqual(found["ctmap_gc_pass_serial{}"], 18)
        assert.strictEqual(found["ctmap_gc_longest_call_seconds{}"], 0.00025)
      })
    )
  )

  it.effect("a dry run changes nothing", () =>
    isolated(
      Effect.gen(function* () {
        yield* GcMetrics.record({ ...pass, dryRun: true })
        assert.deepStrictEqual(yield* Metric.snapshot, [])
      })
    )
  )

  it.effect("a batch pass that failed is uncompleted, with its time, and leaves the entries as they were (G5)", () =>
    isolated(
      Effect.gen(function* () {
        yield* GcMetrics.record({ ...pass, maps: [map] })
        yield* GcMetrics.record({ ...pass, maps: [{ ...map, seen: 3, kept: 3, millis: 7, completed: false }] })
        const found = yield* table
        const labels = "family=ipv4,protocol=TCP"
        assert.strictEqual(found[`cilium_datapath_conntrack_gc_runs_total{${labels},status=uncompleted}`], 1)
        assert.strictEqual(
          found[`cilium_datapath_conntrack_gc_duration_seconds{${labels},status=uncompleted}`],
          "1 of 0.007 s"
        )
        assert.strictEqual(found[`cilium_datapath_conntrack_gc_entries{${labels},status=alive}`], 715)
      })
    )
  )

  it.effect("passes over the maps of a cluster count, and do not overwrite the entries of the global ones", () =>
    isolated(
      Effect.gen(function* () {
        yield* GcMetrics.record({ ...pass, maps: [map] })
        const { nat: _, ...rest } = pass
        const inner = { ...map, map: "cilium_per_cluster_ct_tcp4_3", kept: 1 }
        yield* GcMetrics.record({ ...rest, owner: "cluster 3", maps: [inner] })
        const found = yield* table
        const labels = "family=ipv4,protocol=TCP"
        assert.strictEqual(found[`cilium_datapath_conntrack_gc_entries{${labels},status=alive}`], 715)
        assert.strictEqual(found[`cilium_datapath_conntrack_gc_runs_total{${labels},status=completed}`], 2)
        const operations = Object.keys(found).filter((name) => name.includes("map_ops") && name.includes("cluster"))
        // One series for all clusters: labels are bounded.
        assert.deepStrictEqual(operations, [
          "cilium_bpf_map_ops_total{map_name=per_cluster_ct_tcp4,operation=delete,outcome=success}",
          "cilium_bpf_map_ops_total{map_name=per_cluster_ct_tcp4,operation=delete,outcome=fail}",
          "cilium_bpf_map_ops_total{map_name=per_cluster_ct_tcp4,operation=update,outcome=success}"
        ])
      })
    )
  )

  it.effect("the interval, the next run, the guard and what observers lost", () =>
    isolated(
      Effect.gen(function* () {
        let lost = 3
        yield* GcMetrics.exportLost({ lost: () => lost })
        yield* GcMetrics.recordInterval(Duration.minutes(5))
        yield* GcMetrics.recordNextRun("ipv6", 1_700_000_000_500)
        yield* GcMetrics.recordGuardStop
        lost = 8
        assert.deepStrictEqual(yield* table, {
          "ctmap_gc_lost_events_total{}": 8,
          "cilium_datapath_conntrack_gc_interval_seconds{global=global}": 300,
          "ctmap_gc_next_run_timestamp_seconds{family=ipv6}": 1_700_000_000.5,
          "ctmap_gc_guard_stops_total{}": 1
        })
      })
        .pipe(Effect.scoped, (body) =>
          Effect.andThen(
            body,
            Effect.map(table, (left) => Object.keys(left))
          )
        )
        .pipe(Effect.map((left) => assert.notInclude(left, "ctmap_gc_lost_events_total{}")))
    )
  )

  it.effect("an orphan purge shows what it left and deleted; a dry run, a flush and an incomplete one do not", () =>
    isolated(
      Effect.gen(function* () {
        yield* GcMetrics.recordNat({ ...purge, dryRun: true })
        assert.deepStrictEqual(yield* Metric.snapshot, [])
        yield* GcMetrics.recordNat(purge)
        const expected = {
          "cilium_datapath_nat_gc_entries{family=ipv6,direction=ingress,status=alive}": 10,
          "cilium_datapath_nat_gc_entries{family=ipv6,direction=ingress,status=deleted}": 1,
          "cilium_datapath_nat_gc_entries{family=ipv6,direction=egress,status=alive}": 11,
          "cilium_datapath_nat_gc_entries{family=ipv6,direction=egress,status=deleted}": 2,
          "ctmap_gc_refreshed_total{}": 4,
          "ctmap_gc_restored_total{}": 7,
          "ctmap_gc_vanished_total{}": 5,
          "ctmap_gc_busy_total{}": 6,
          "cilium_bpf_map_ops_total{map_name=snat_v6_external,operation=update,outcome=success}": 7,
          "cilium_bpf_map_ops_total{map_name=snat_v6_external,operation=delete,outcome=success}": 10,
          "cilium_bpf_map_ops_total{map_name=snat_v6_external,operation=delete,outcome=fail}": 11,
          "ctmap_gc_pass_serial{}": 20
        }
        assert.deepStrictEqual(yield* table, expected)
        const nothing = {
          refreshed: 0,
          restored: 0,
          vanished: 0,
          busy: 0,
          ingressDeleted: 0,
          egressDeleted: 0,
          egressAlive: 99
        }
        yield* GcMetrics.recordNat({ ...purge, ...nothing, completed: false })
        yield* GcMetrics.recordNat({ ...purge, ...nothing, kind: "flush" })
        yield* GcMetrics.recordNat({ ...purge, ...nothing, owner: "cluster 3" })
        assert.deepStrictEqual(yield* table, expected)
      })
    )
  )

  it.effect("what has no labels exists with 0 before the first pass", () =>
    isolated(
      Effect.gen(function* () {
        yield* GcMetrics.initialise
        const found = yield* table
        assert.deepStrictEqual(found["ctmap_gc_guard_stops_total{}"], 0)
        assert.deepStrictEqual(found["ctmap_gc_pair_failures_total{family=ipv4}"], 0)
        assert.strictEqual(Object.keys(found).length, 7)
      })
    )
  )

  it.effect("effect's own formatter keeps names and labels as they are", () =>
    isolated(
      Effect.gen(function* () {
        yield* GcMetrics.record(pass)
        const exported = yield* PrometheusMetrics.format()
        for (const line of [
          "# TYPE cilium_datapath_conntrack_gc_runs_total counter",
          'cilium_datapath_conntrack_gc_runs_total{family="ipv4",protocol="TCP",status="completed"} 1',
          'cilium_datapath_conntrack_gc_duration_seconds_bucket{family="ipv4",protocol="TCP",status="completed",le="0.025"} 0',
          'cilium_datapath_conntrack_gc_duration_seconds_bucket{family="ipv4",protocol="TCP",status="completed",le="0.05"} 1',
          'cilium_datapath_conntrack_gc_duration_seconds_bucket{family="ipv4",protocol="TCP",status="completed",le="+Inf"} 1',
          "ctmap_gc_pass_serial 17"
        ]) {
          assert.include(exported.split("\n"), line)
        }
        for (const name of GcMetrics.names) assert.match(name, /^(cilium|ctmap)_[a-z_]+[a-z]$/)
      })
    )
  )
})
