/**
 * NAT clean-up for one CT entry, step by step as `clean_nat` of `bpf/sweep.bpf.c` does it: for the portable engine over
 * system calls, and for the twins over the maps themselves.
 */
import { CtEntryFlags, type Family, NatDerivation, NatEntry, Tuple } from "ctmap-core"
import { type NatTotals, natVerdict } from "./sweepLayout.ts"

const ENOENT = -2

/** The two maps: 0 or more, or -errno. */
export interface Maps {
  /** Whether the CT map has the key. */
  readonly hasCt: (key: Uint8Array) => number
  /** Reads a NAT entry. */
  readonly lookup: (key: Uint8Array, value: Uint8Array) => number
  /** Deletes a NAT entry; an errno that stands for an entry, not for the map, counts as failed. */
  readonly delete: (key: Uint8Array) => number
  /** Whether a deletion failed for this entry only. */
  readonly isPassing: (rc: number) => boolean
}

/** Cleans up after a CT entry: a verdict, or -errno where a map cannot be used at all. */
export type Clean = (key: Uint8Array, entryFlags: number, isDry: boolean, totals: NatTotals) => number

export const cleanNat = (family: Family.Family, maps: Maps): Clean => {
  const tuple = Tuple.shape(family)
  const nat = NatEntry.shape(family)
  const out = new Uint8Array(tuple.size)
  const back = new Uint8Array(tuple.size)
  const value = new Uint8Array(nat.size)
  const reverse = new Uint8Array(nat.size)

  const failed = (rc: number, totals: NatTotals): number => {
    if (!maps.isPassing(rc)) return rc
    totals.failed++
    return natVerdict.failed
  }
  const absent = (totals: NatTotals): number => {
    totals.absent++
    return natVerdict.absent
  }
  const swapped = (key: Uint8Array, isDry: boolean, totals: NatTotals): number => {
    NatDerivation.swappedNatOutOfCt(tuple, key, out)
    const rc = isDry ? maps.lookup(out, value) : maps.delete(out)
    if (rc === ENOENT) return absent(totals)
    if (rc < 0) return isDry ? rc : failed(rc, totals)
    totals.egress++
    return natVerdict.swapped
  }
  /** Whether the reverse half leads to where the OUT half starts. */
  const leadsBack = (): boolean => {
    for (let i = 0; i < nat.addressSize; i++) if (reverse[nat.address + i] !== out[tuple.saddr + i]) return false
    return reverse[nat.port] === out[tuple.sport] && reverse[nat.port + 1] === out[tuple.sport + 1]
  }
  const mapping = (key: Uint8Array, isDry: boolean, totals: NatTotals): number => {
    NatDerivation.natOutOfCt(tuple, key, out)
    const found = maps.lookup(out, value)
    if (found === ENOENT) return absent(totals)
    if (found < 0) return found
    NatDerivation.natInOfNatOut(tuple, { key: out, value }, back)
    const other = maps.lookup(back, reverse)
    if (other < 0 && other !== ENOENT) return other
    const isWhole = other >= 0 && leadsBack()
    const deleted = isDry ? 0 : maps.delete(out)
    if (deleted === ENOENT) return absent(totals)
    if (deleted < 0) return failed(deleted, totals)
    totals.egress++
    const rc = !isWhole ? ENOENT : isDry ? 0 : maps.delete(back)
    if (rc === ENOENT) {
      totals.halves++
      return natVerdict.outOnly
    }
    if (rc < 0) return failed(rc, totals)
    totals.ingress++
    return natVerdict.mapping
  }
  return (key, entryFlags, isDry, totals) => {
    const what = NatDerivation.cleanUp(key[tuple.flags] ?? 0, entryFlags & CtEntryFlags.DSRInternal)
    if (what === "none") return natVerdict.none
    const isBack = isDry ? ENOENT : maps.hasCt(key)
    if (isBack >= 0) {
      totals.kept++
      return natVerdict.kept
    }
    if (isBack !== ENOENT) return isBack
    return what === "swapped-mapping" ? swapped(key, isDry, totals) : mapping(key, isDry, totals)
  }
}
