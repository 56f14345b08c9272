/**
 * What passes did, a row for each map.
 *
 * @since 0.1.0
 */
import type { GcPass, MapPass } from "ctmap-gc/GcPass"
import * as Guard from "ctmap-gc/Guard"
import * as NatPass from "ctmap-gc/NatPass"
import type { Reader } from "ctmap-kernel/Remedy"
import * as Effect from "effect/Effect"
import * as Output from "../Output.ts"
import * as Report from "./Report.ts"

/** Prints a row for each CT map of some passes. @since 0.1.0 */
export const print = (as: Report.Format, passes: ReadonlyArray<GcPass>) =>
  printRows(
    as,
    passes.flatMap((pass) => pass.maps.map((map) => [ctRow(pass, map), { because: because(map.reasons) }] as const)),
    ctFields(passes.some(({ dryRun }) => dryRun))
  )

/** Says where a guard would have stopped passes that only looked, and what lets more go: by default a flag. @since 0.1.0 */
export const warn = (
  limits: Guard.Limits,
  maps: ReadonlyArray<{ readonly map: string; readonly seen: number; readonly wanted: number }>,
  reader: Reader = "command"
) =>
  Effect.forEach(
    maps,
    ({ map, seen, wanted }) => {
      const stopped = Guard.check(limits, { map, entries: seen, wanted, deleted: 0 })
      return stopped === undefined ? Effect.void : Output.note(warning(stopped, reader))
    },
    { discard: true }
  )

const warning = ({ allowed, entries, limit, map, wanted }: Guard.GuardStopped, reader: Reader): string =>
  `ctmap: the guard would stop this at ${map}: ${wanted.toLocaleString("en")} of its ${entries.toLocaleString("en")} ` +
  `entries would go, where at most ${allowed.toLocaleString("en")} may: more with ${Guard.remedies[reader].more(limit)}`

/** Prints a row for each NAT map of some passes. @since 0.1.0 */
export const printNat = (as: Report.Format, passes: ReadonlyArray<NatPass.NatPass>) =>
  printRows(
    as,
    passes.map((pass) => [natRow(pass), {}] as const),
    natFields(passes.some(({ dryRun }) => dryRun))
  )

/** A field, and whether its column is left out where it says nothing. */
interface Field extends Report.Field {
  readonly isRare?: true
}

/** What every row has. */
interface Row {
  readonly seen: number
  readonly wanted: number
  readonly completed: boolean
  /** Why the pass did not come to its end; `null` where it did. */
  readonly incomplete: string | null
}

/** JSON is whole and always of one shape; people get what there is to say, and how a map ended if it did not end well. */
const printRows = (
  as: Report.Format,
  rows: ReadonlyArray<readonly [row: Row & Report.Row, shownOnly: Report.Row]>,
  fields: ReadonlyArray<Field>
) => {
  if (as === "json" || as === "ndjson")
    return Report.print(
      as,
      [],
      rows.map(([row]) => row)
    )
  // The error that follows says why there is nothing.
  if (rows.length === 0) return Effect.void
  const shown = rows.map(([row, more]): Report.Row => ({ ...row, ...more, ...derived(row) }))
  const isFilled = ({ key }: Field): boolean => shown.some((row) => (row[key] ?? 0) !== 0)
  return Report.print(
    as,
    fields.filter((field) => field.isRare !== true || isFilled(field)),
    shown
  )
}

/** What people see of a row that stands in no JSON. */
const derived = ({ completed, incomplete, seen, wanted }: Row): Report.Row => ({
  share: seen === 0 ? null : wanted / seen,
  unmet: completed ? 0 : wanted,
  end: completed ? null : incomplete === "interrupted" ? "interrupted" : "stopped"
})

const number = (key: string, title: string): Field => ({ key, title, align: "right", show: Report.grouped })
const rare = (field: Field): Field => ({ ...field, isRare: true })

const wouldDelete: ReadonlyArray<Field> = [
  number("wanted", "WOULD DELETE"),
  { key: "share", title: "SHARE", align: "right", show: Report.percent }
]

const last: ReadonlyArray<Field> = [
  { key: "millis", title: "MS", align: "right", show: (cell) => Number(cell).toFixed(1) },
  rare(number("unmet", "WANTED")),
  rare({ key: "end", title: "END" })
]

const ctFields = (dryRun: boolean): ReadonlyArray<Field> => [
  { key: "map", title: "MAP" },
  ...(dryRun
    ? [number("seen", "SEEN"), ...wouldDelete]
    : [
        { key: "engine", title: "ENGINE" },
        number("seen", "SEEN"),
        number("kept", "KEPT"),
        number("deleted", "DELETED"),
        number("refreshed", "REFRESHED"),
        rare(number("vanished", "VANISHED")),
        rare(number("busy", "BUSY")),
        number("natDeleted", "NAT DELETED"),
        rare(number("natFailed", "NAT FAILED"))
      ]),
  { key: "because", title: "BECAUSE" },
  ...last
]

const ctRow = ({ family, owner, dryRun, now, why }: GcPass, { reasons, nat, ...map }: MapPass) => ({
  ...map,
  family,
  owner,
  dryRun,
  now,
  expired: reasons.expired,
  matchedAddress: reasons["matched-address"],
  matchedFilter: reasons["matched-filter"],
  flushed: reasons.flushed,
  natDeleted: nat.egress + nat.ingress,
  natEgress: nat.egress,
  natIngress: nat.ingress,
  natAbsent: nat.absent,
  natHalves: nat.halves,
  natKept: nat.kept,
  natFailed: nat.failed,
  incomplete: map.completed ? null : (why ?? null)
})

/** The reasons; how many of each, where there were several. */
const because = (reasons: MapPass["reasons"]): ReadonlyArray<string> => {
  const found = Object.entries(reasons).filter(([, count]) => count > 0)
  return found.map(([reason, count]) => (found.length === 1 ? reason : `${reason} ${count.toLocaleString("en")}`))
}

const natRow = ({ why, ...pass }: NatPass.NatPass) => ({
  ...pass,
  deleted: NatPass.deleted(pass),
  incomplete: why ?? null
})

const natFields = (dryRun: boolean): ReadonlyArray<Field> => [
  { key: "map", title: "MAP" },
  number("seen", "SEEN"),
  ...(dryRun
    ? wouldDelete
    : [
        number("ingressAlive", "IN ALIVE"),
        number("ingressDeleted", "IN DELETED"),
        number("egressAlive", "OUT ALIVE"),
        number("egressDeleted", "OUT DELETED"),
        number("refreshed", "REFRESHED"),
        rare(number("vanished", "VANISHED")),
        rare(number("busy", "BUSY"))
      ]),
  ...last
]
