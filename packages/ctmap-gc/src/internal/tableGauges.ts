/** The series of tables in the registry of metrics: made when a table is first seen, removed when it is gone. */
import type * as Clock from "effect/Clock"
import type * as Context from "effect/Context"
import * as Metric from "effect/Metric"

/** What a table's series show. */
export interface Seen {
  readonly name: string
  readonly capacity: number
  readonly usable: number
  readonly pressure: number
  readonly estimate: {
    readonly entries: number
    readonly error: number
    readonly expiredRatio: number | undefined
  }
  readonly sampledAt: number
}

/** Cilium's size of a map that is not configured, exported once for all that have it. */
const DEFAULT_CAPACITY = 65_536

const gauge = (name: string, description: string): Metric.Gauge<number> => Metric.gauge(name, { description })

const pressure = gauge("cilium_bpf_map_pressure", "Entries by capacity of a map; 1 means full")
const capacity = gauge("cilium_bpf_map_capacity", "Capacity of maps by group; a group that is missing has the default")
const entries = gauge("ctmap_map_entries", "Entries of a map, counted or estimated")
const error = gauge("ctmap_map_entries_error", "Standard error of the entries of a map; 0 where they were counted")
const usable = gauge("ctmap_map_usable_entries", "Entries that a map is sure to hold before it evicts any")
const expired = gauge("ctmap_map_expired_ratio", "Share of the entries of a map that have expired and wait for a pass")
const age = gauge("ctmap_map_sample_age_seconds", "Time since the entries of a map were last counted or estimated")

/** Series read the newest value when they are exported, so a scrape does no work and sees one moment. */
export class TableGauges {
  readonly #context: Context.Context<never>
  readonly #clock: Clock.Clock
  readonly #tables = new Map<string, { seen: Seen; readonly series: Map<object, Metric.Registration> }>()

  readonly #default: Metric.Registration

  constructor(context: Context.Context<never>, clock: Clock.Clock) {
    this.#context = context
    this.#clock = clock
    this.#default = this.#register(capacity, { map_group: "default" }, () => DEFAULT_CAPACITY)
  }

  /** Removes every series. */
  close(): void {
    this.keep(new Set())
    this.#default.remove()
  }

  set(seen: Seen): void {
    const known = this.#tables.get(seen.name)
    const table = known ?? { seen, series: new Map<object, Metric.Registration>() }
    table.seen = seen
    if (known === undefined) this.#tables.set(seen.name, table)
    const labels = { map_name: seen.name.replace(/^cilium_/, "") }
    const show = (
      metric: Metric.Gauge<number>,
      attributes: Metric.Metric.Attributes,
      value: () => number,
      isShown = true
    ): void => {
      const shown = table.series.get(metric)
      if (isShown && shown === undefined) table.series.set(metric, this.#register(metric, attributes, value))
      if (isShown || shown === undefined) return
      shown.remove()
      table.series.delete(metric)
    }
    show(pressure, labels, () => table.seen.pressure)
    show(entries, labels, () => table.seen.estimate.entries)
    show(error, labels, () => table.seen.estimate.error)
    show(usable, labels, () => table.seen.usable)
    show(age, labels, () => (this.#clock.currentTimeMillisUnsafe() - table.seen.sampledAt) / 1000)
    const { expiredRatio } = seen.estimate
    show(expired, labels, () => table.seen.estimate.expiredRatio ?? 0, expiredRatio !== undefined)
    const isDefault = seen.capacity === DEFAULT_CAPACITY
    show(capacity, { map_group: seen.name }, () => table.seen.capacity, !isDefault)
  }

  /** Removes the series of all tables but these. */
  keep(names: ReadonlySet<string>): void {
    for (const [name, { series }] of this.#tables) {
      if (names.has(name)) continue
      for (const registration of series.values()) registration.remove()
      this.#tables.delete(name)
    }
  }

  #register(
    metric: Metric.Gauge<number>,
    attributes: Metric.Metric.Attributes,
    value: () => number
  ): Metric.Registration {
    return Metric.registerUnsafe(Metric.withAttributes(metric, attributes), this.#context, {
      get: () => ({ value: value() }),
      update: () => {},
      modify: () => {}
    })
  }
}
