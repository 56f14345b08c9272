/** Moves the times of entries on their way from a snapshot into a map. */
import { CtEntry, type Family, type MapSpec } from "ctmap-core"
import type { Entries } from "./snapshotText.ts"

const MAX_U32 = 0xffff_ffff
const MAX_U64 = 0xffff_ffff_ffff_ffffn

/** Moves all times of a batch of CT values; how many had to be cut. See `Snapshot.RestoreOptions.shift`. */
const shiftCt = (values: DataView, count: number, by: number): number => {
  let cut = 0
  const moved = (time: number, least: number): number => {
    const to = Math.min(MAX_U32, Math.max(least, time + by))
    if (to !== time + by) cut++
    return to
  }
  for (let at = 0; at < count * CtEntry.SIZE; at += CtEntry.SIZE) {
    const lifetime = values.getUint32(at + CtEntry.offset.lifetime, true)
    if (lifetime !== MAX_U32) values.setUint32(at + CtEntry.offset.lifetime, moved(lifetime, 0), true)
    for (const report of reports) {
      const time = values.getUint32(at + report, true)
      if (time !== 0) values.setUint32(at + report, moved(time, 1), true)
    }
  }
  return cut
}

const reports = [CtEntry.offset.lastTxReport, CtEntry.offset.lastRxReport]

const shiftNat = (values: DataView, count: number, by: number, size: number): number => {
  let cut = 0
  for (let at = 0; at < count * size; at += size) {
    const to = values.getBigUint64(at, true) + BigInt(by)
    const kept = to < 0n ? 0n : to > MAX_U64 ? MAX_U64 : to
    if (kept !== to) cut++
    values.setBigUint64(at, kept, true)
  }
  return cut
}

/** What kind of entries a map of a snapshot holds. */
export interface Known {
  readonly table: "ct" | "nat"
  readonly family: Family.Family
  readonly spec: MapSpec.MapSpec
}

/** Moves all times of a batch in place; how many had to be cut. */
export const shiftTimes = ({ table, spec }: Known, { values, count }: Entries, by: number): number => {
  const view = new DataView(values.buffer, values.byteOffset, values.byteLength)
  return table === "ct" ? shiftCt(view, count, by) : shiftNat(view, count, by, spec.valueSize)
}
