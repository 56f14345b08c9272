/**
 * What passes did, a row for each map.
 *
 * @since 0.1.0
 */
import type { GcPass } from "ctmap-gc/GcPass"
import type { NatPass } from "ctmap-gc/NatPass"
import * as Report from "./Report.ts"

/** Prints a row for each CT map of some passes. @since 0.1.0 */
export const print = (as: Report.Format, passes: ReadonlyArray<GcPass>) => {
  const dryRun = passes.some((pass) => pass.dryRun)
  const hasNat = passes.some(({ nat }) => nat !== undefined)
  return Report.print(as, ctFields(dryRun, hasNat), passes.flatMap(ctRows))
}

const number = (key: string, title: string): Report.Field => ({ key, title, align: "right", show: Report.grouped })

const ctFields = (dryRun: boolean, hasNat: boolean): ReadonlyArray<Report.Field> => [
  { key: "map", title: "MAP" },
  { key: "engine", title: "ENGINE" },
  number("seen", "SEEN"),
  number("kept", "KEPT"),
  ...(dryRun
    ? [number("wanted", "WOULD DELETE")]
    : [
        number("deleted", "DELETED"),
        number("refreshed", "REFRESHED"),
        number("vanished", "VANISHED"),
        number("busy", "BUSY"),
        ...(hasNat ? [number("natDeleted", "NAT DELETED")] : [])
      ]),
  { key: "why", title: "BECAUSE" },
  { key: "millis", title: "MS", align: "right", show: (cell) => Number(cell).toFixed(1) }
]

/** A row of JSON is whole: everything that is known of the map, and what of the pass belongs to it. */
const ctRows = ({ family, owner, dryRun, now, maps, why: end }: GcPass): ReadonlyArray<Report.Row> =>
  maps.map(({ reasons, nat, ...map }) => ({
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
    why: Object.entries(reasons)
      .filter(([, count]) => count > 0)
      .map(([reason, count]) => `${reason} ${count.toLocaleString("en")}`),
    ...(end === undefined ? {} : { incomplete: end })
  }))

/** Prints a row for each NAT map of some passes. @since 0.1.0 */
export const printNat = (as: Report.Format, passes: ReadonlyArray<NatPass>) =>
  Report.print(
    as,
    natFields(passes.some(({ dryRun }) => dryRun)),
    passes.map(({ why: end, ...pass }) => ({
      ...pass,
      deleted: pass.ingressDeleted + pass.egressDeleted,
      ...(end === undefined ? {} : { incomplete: end })
    }))
  )

const natFields = (dryRun: boolean): ReadonlyArray<Report.Field> => [
  { key: "map", title: "MAP" },
  number("seen", "SEEN"),
  ...(dryRun
    ? [number("wanted", "WOULD DELETE")]
    : [
        number("ingressAlive", "IN ALIVE"),
        number("ingressDeleted", "IN DELETED"),
        number("egressAlive", "OUT ALIVE"),
        number("egressDeleted", "OUT DELETED"),
        number("refreshed", "REFRESHED"),
        number("vanished", "VANISHED")
      ]),
  { key: "millis", title: "MS", align: "right", show: (cell) => Number(cell).toFixed(1) }
]
