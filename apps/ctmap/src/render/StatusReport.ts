/**
 * How an agent is: for people in four parts, for programs as one document.
 *
 * @since 0.1.0
 */
import type * as Status from "ctmap-api/Status"
import * as Health from "ctmap-cell/Health"
import { span } from "./entries.ts"
import * as Report from "./Report.ts"

/** @since 0.1.0 */
export interface Shown {
  /** Where it is: a path or a URL. */
  readonly at: string
  readonly status: Status.Status
  readonly maps: ReadonlyArray<Status.PinnedMap>
  /** Milliseconds since 1970, here. */
  readonly now: number
}

/** What the API says, with where that is from. @since 0.1.0 */
export const json = ({ at, maps, status }: Shown): string =>
  `${JSON.stringify({ agent: at, ...status, maps }, null, 2)}\n`

/** @since 0.1.0 */
export const text = (shown: Shown): string =>
  [
    head(shown),
    shown.status.passes.length === 0 ? "" : Report.format("table", passFields, passRows(shown)),
    shown.maps.length === 0 ? "" : Report.format("table", tableFields, tableRows(shown)),
    `${Health.render(shown.status.health)}\n`
  ]
    .filter((part) => part !== "")
    .join("\n")

const head = ({ at, now, status }: Shown): string => {
  const { clock, gc, pid, ready, uptimeMillis, version } = status
  const lines: ReadonlyArray<readonly [title: string, text: string]> = [
    ["agent", `ctmap-agent ${version}, pid ${pid}, at ${at}`],
    ["ready", `${ready ? "yes" : "no"}, up ${spanOf(uptimeMillis)}, ${status.status}`],
    [
      "clock",
      clock.now === undefined
        ? `${clock.source.mode}: ${clock.why ?? "cannot be read"}`
        : `${clock.source.mode}, now ${clock.now}`
    ],
    ["next", nextOf(gc, now)],
    ...(gc.last === undefined ? [] : [["last", lastOf(gc.last, now)] as const]),
    ...(gc.last?.problems ?? []).map((problem) => ["", problem] as const),
    ...(gc.consecutiveFailures === 0 ? [] : [["failed", `the last ${times(gc.consecutiveFailures)}`] as const])
  ]
  return lines.map(([title, line]) => `${title.padEnd(7)}${line}\n`).join("")
}

const nextOf = ({ active, families, next, running }: Status.Status["gc"], now: number): string => {
  if (running !== undefined) {
    return `a pass runs since ${spanOf(now - running.startedAtMillis)}: ${running.trigger}, ${running.families.join(" and ")}`
  }
  if (next === undefined) return active ? "not decided yet" : "never: the collector does not run"
  const when = next.atMillis <= now ? "now" : `in ${spanOf(next.atMillis - now)}`
  const which = next.families.length === families.length ? "" : `, ${next.families.join(" and ")}`
  return `${when}${which}: ${next.why}`
}

const lastOf = (last: NonNullable<Status.Status["gc"]["last"]>, now: number): string => {
  const { deleted, endedAtMillis, orphansDeleted, startedAtMillis, success, trigger } = last
  const orphans = orphansDeleted === 0 ? "" : `, ${Report.grouped(orphansDeleted)} NAT orphans`
  return (
    `${spanOf(now - endedAtMillis)} ago, ${trigger}${success ? "" : ", failed"}: ${Report.grouped(deleted)} deleted${orphans} ` +
    `in ${((endedAtMillis - startedAtMillis) / 1000).toFixed(1)} s`
  )
}

const times = (count: number): string => (count === 1 ? "pass" : `${count} passes`)

/** Clocks of two hosts may differ a little: nothing is in the future that has been. */
const spanOf = (millis: number): string => span(Math.max(0, Math.round(millis / 1000)))

const passFields: ReadonlyArray<Report.Field> = [
  { key: "pair", title: "PASS" },
  { key: "serial", title: "SERIAL", align: "right" },
  { key: "ago", title: "AGO", align: "right" },
  { key: "millis", title: "MS", align: "right", show: (cell) => Number(cell).toFixed(1) },
  { key: "seen", title: "SEEN", align: "right", show: Report.grouped },
  { key: "deleted", title: "DELETED", align: "right", show: Report.grouped },
  { key: "end", title: "END" }
]

const passRows = ({ now, status }: Shown): ReadonlyArray<Report.Row> =>
  status.passes.map((pass) => ({
    pair: `${pass.family} ${pass.owner}${pass.dryRun ? " (dry run)" : ""}`,
    serial: pass.serial,
    ago: spanOf(now - pass.startedAtMillis - pass.millis),
    millis: pass.millis,
    seen: pass.seen,
    deleted: pass.deleted,
    end: pass.completed ? "ok" : (pass.why ?? "stopped")
  }))

const tableFields: ReadonlyArray<Report.Field> = [
  { key: "map", title: "TABLE" },
  { key: "max", title: "MAX", align: "right", show: Report.grouped },
  { key: "entries", title: "ENTRIES", align: "right", show: Report.grouped },
  { key: "fill", title: "FILL", align: "right", show: Report.percent },
  { key: "expired", title: "EXPIRED", align: "right", show: Report.percent },
  { key: "health", title: "HEALTH", show: (cell) => (Array.isArray(cell) && cell.length > 0 ? cell.join("; ") : "ok") }
]

/** Tables only: maps of maps and of counters have no fill. */
const tableRows = ({ maps }: Shown): ReadonlyArray<Report.Row> =>
  maps
    .filter(({ fill, health, kind }) => kind === "ct" || kind === "nat" || fill !== undefined || health.length > 0)
    .map(({ capacity, fill, health, name }) => ({
      map: name,
      max: capacity ?? null,
      entries: fill === undefined ? null : Math.round(fill.entries),
      fill: fill?.pressure ?? null,
      expired: fill?.expiredRatio ?? null,
      health
    }))
