/**
 * `ctmap stats`: what is in the tables, broken down, and how long the entries have left.
 *
 * @since 0.1.0
 */
import type { CtColumns } from "ctmap-core"
import * as CtEntryFlags from "ctmap-core/CtEntryFlags"
import * as CtTime from "ctmap-core/CtTime"
import * as Protocol from "ctmap-core/Protocol"
import * as TupleFlags from "ctmap-core/TupleFlags"
import * as Effect from "effect/Effect"
import * as Clock from "../Clock.ts"
import * as Entries from "../Entries.ts"
import * as Histogram from "../Histogram.ts"
import * as Kernel from "../Kernel.ts"
import type { ClockOptions, Selection as SelectionOptions } from "../Options.ts"
import * as Output from "../Output.ts"
import * as Report from "../render/Report.ts"
import * as Selection from "../Selection.ts"

/** @since 0.1.0 */
export interface StatsOptions extends SelectionOptions, ClockOptions {
  readonly where: string | undefined
  readonly output: Report.Format
}

/** One class of entries. */
interface Group {
  readonly protocol: number
  readonly direction: TupleFlags.Direction
  readonly state: State
  readonly service: boolean
  readonly release: CtColumns.CtColumns["release"]
  entries: number
  expired: number
  packets: number
  bytes: number
}

/** @since 0.1.0 */
export type State = "opening" | "established" | "half-closed" | "closed" | "active"

/** How far a connection is, by its flags: only TCP has a course. @since 0.1.0 */
export const stateOf = (protocol: number, flags: number): State => {
  const closing = flags & (CtEntryFlags.RxClosing | CtEntryFlags.TxClosing)
  if (closing === (CtEntryFlags.RxClosing | CtEntryFlags.TxClosing)) return "closed"
  if (closing !== 0) return "half-closed"
  if (protocol !== Protocol.TCP) return "active"
  return (flags & CtEntryFlags.SeenNonSyn) === 0 ? "opening" : "established"
}

const states: ReadonlyArray<State> = ["opening", "established", "half-closed", "closed", "active"]
const directions: ReadonlyArray<TupleFlags.Direction> = ["out", "in", "service"]

/** @since 0.1.0 */
export const stats = (root: string, options: StatsOptions) =>
  Kernel.provide(
    root,
    Effect.gen(function* () {
      yield* Entries.parse(options.where)
      const clock = yield* Clock.read(options)
      const sources = yield* Entries.ctSources(yield* Selection.ctMaps(options), options.where, clock)
      yield* Entries.warnOfClock(sources, clock)
      const groups = new Map<number, Group>()
      const lifetimes = new Histogram.Histogram()
      yield* Entries.forEachRow(sources, ({ columns }, { rows, count }) => {
        for (let i = 0; i < count; i++) {
          const row = rows[i]!
          const left = CtTime.remaining(clock.source, columns.lifetime(row), clock.now)
          lifetimes.add(left)
          const group = groupOf(groups, columns, row)
          group.entries++
          if (columns.lifetime(row) < clock.now) group.expired++
          group.packets += columns.packets(row)
          group.bytes += columns.bytes(row)
        }
      })
      yield* print(options.output, [...groups.values()], lifetimes.buckets())
    })
  )

const groupOf = (groups: Map<number, Group>, columns: CtColumns.CtColumns, row: number): Group => {
  const protocol = columns.nexthdr(row)
  const direction = TupleFlags.direction(columns.tupleFlags(row))
  const state = stateOf(protocol, columns.flags(row))
  const service = direction === "service" || columns.revNat(row) !== 0
  const id = ((protocol * 4 + directions.indexOf(direction)) * 8 + states.indexOf(state)) * 2 + (service ? 1 : 0)
  const known = groups.get(id)
  if (known !== undefined) return known
  const { release } = columns
  const fresh = { protocol, direction, state, service, release, entries: 0, expired: 0, packets: 0, bytes: 0 }
  groups.set(id, fresh)
  return fresh
}

const groupColumns: ReadonlyArray<Report.Field> = [
  { key: "protocol", title: "PROTO" },
  { key: "direction", title: "DIR" },
  { key: "state", title: "STATE" },
  { key: "service", title: "SERVICE", show: (cell) => (cell === true ? "yes" : "no") },
  { key: "entries", title: "ENTRIES", align: "right", show: Report.grouped },
  { key: "share", title: "SHARE", align: "right", show: Report.percent },
  { key: "expired", title: "EXPIRED", align: "right", show: Report.grouped },
  { key: "packets", title: "PACKETS", align: "right", show: Report.grouped },
  { key: "bytes", title: "BYTES", align: "right", show: Report.bytes }
]

const bucketColumns: ReadonlyArray<Report.Field> = [
  { key: "remaining", title: "REMAINING" },
  { key: "entries", title: "ENTRIES", align: "right", show: Report.grouped },
  { key: "share", title: "SHARE", align: "right", show: Report.percent },
  { key: "bar", title: "" }
]

const print = (output: Report.Format, groups: ReadonlyArray<Group>, buckets: ReadonlyArray<Histogram.Bucket>) => {
  const total = groups.reduce((sum, { entries }) => sum + entries, 0)
  const rows = groups
    .toSorted((a, b) => b.entries - a.entries)
    .map(({ release, protocol, direction, state, service, entries, expired, packets, bytes }) => {
      const name = Protocol.name(protocol, release)
      return { protocol: name, direction, state, service, entries, share: entries / total, expired, packets, bytes }
    })
  const lifetimes = buckets.map(({ title, count, share }) => ({ remaining: title, entries: count, share }))
  if (output === "json") {
    return Output.write(`${JSON.stringify({ entries: total, groups: rows, remaining: lifetimes }, undefined, 2)}\n`)
  }
  if (output === "ndjson") {
    return Report.print(
      output,
      [],
      [...rows.map((row) => ({ type: "group", ...row })), ...lifetimes.map((row) => ({ type: "remaining", ...row }))]
    )
  }
  // Without accounting, Cilium's default, the datapath counts no packets: two columns of zeros explain nothing.
  const counted = groups.some(({ packets }) => packets > 0)
  const shown = counted ? groupColumns : groupColumns.filter(({ key }) => key !== "packets" && key !== "bytes")
  const bars = lifetimes.map(({ remaining, entries, share }) => {
    return { remaining, entries, share, bar: Histogram.bar(share) || " " }
  })
  return Output.write(
    `${Report.format("table", shown, rows)}\n${Report.format("table", bucketColumns, bars)}` +
      `\n${Report.grouped(total)} entries${counted || total === 0 ? "" : "; packets are not counted (bpf-conntrack-accounting is off)"}\n`
  )
}
