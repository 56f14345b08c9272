/**
 * Twins of the programs in `bpf/sweep.bpf.c` and `bpf/walk.bpf.c`, for `BpfMemory`: same contexts, same records, same verdicts.
 */
import { type Family, Tuple } from "ctmap-core"
import { NOEXIST } from "../Bpf.ts"
import { cleanNat, type Clean } from "./cleanNat.ts"
import type { MapView, ObjectTwin, Program } from "./memoryPrograms.ts"
import {
  clean,
  CT_VALUE,
  ENTRY_FLAGS,
  LIFETIME,
  noNatTotals,
  option,
  record,
  sweep,
  writeNatTotals
} from "./sweepLayout.ts"
import * as WorkList from "./workList.ts"

const ENOENT = -2
const EINVAL = -22

const cleaner = (family: Family.Family, table: MapView, nat: MapView): Clean =>
  cleanNat(family, {
    hasCt: (key) => (table.lookup(key) === undefined ? ENOENT : 0),
    lookup: (key, value) => {
      const found = nat.lookup(key)
      if (found === undefined) return ENOENT
      value.set(found)
      return 0
    },
    delete: (key) => nat.delete(key),
    isPassing: () => true
  })

/** The words of a context, and the way back: they may not start at a multiple of four. */
const wordsOf = (bytes: Uint8Array): Uint32Array<ArrayBuffer> => new Uint32Array(bytes.slice().buffer)
const giveBack = (words: Uint32Array<ArrayBuffer>, bytes: Uint8Array): number => {
  bytes.set(new Uint8Array(words.buffer))
  return 0
}

const indexKey = (index: number): Uint8Array => new Uint8Array(Uint32Array.of(index).buffer)
const u32 = (bytes: Uint8Array, at: number): number =>
  new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength).getUint32(at, true)

/** A record with its key and value, as they are now. */
const write = (to: Uint8Array, key: Uint8Array, value: Uint8Array): void => {
  to.fill(0, 0, record.value)
  to.set(key)
  to.set(value.subarray(0, CT_VALUE), record.value)
}

type Count = "kept" | "deleted" | "refreshed" | "vanished" | "busy"

/** Deletes an expired entry, and puts it back where the datapath refreshed it meanwhile. */
const remove = (table: MapView, key: Uint8Array, value: Uint8Array, now: number): Count | "restored" => {
  const lifetime = u32(value, LIFETIME)
  if (lifetime >= now) return "refreshed"
  const rc = table.delete(key)
  if (rc !== 0) return rc === ENOENT ? "vanished" : "busy"
  const left = u32(value, LIFETIME)
  const isBack = left !== lifetime && left >= now && table.update(key, value.slice(), NOEXIST) === 0
  return isBack ? "restored" : "deleted"
}

/** Buckets of the twin's walk, by key: a piece is one of them. */
const BUCKETS = 16
const bucketOf = (key: Uint8Array): number => key.reduce((sum, byte) => (sum * 31 + byte) % 65_521, 0) % BUCKETS

const sweepOf =
  (family: Family.Family, walks: boolean): Program =>
  (_, bytes, { table, nat, records }) => {
    if (table === undefined || nat === undefined || records === undefined) return EINVAL
    const context = wordsOf(bytes)
    const count = (name: Count | "restored" | "seen" | "records" | "stopped"): number => context[sweep[name]]!++
    const [now, options, limit] = [context[sweep.now]!, context[sweep.options]!, context[sweep.limit]!]
    if ((options & option.idle) !== 0) return 0
    const isDry = (options & option.dryRun) !== 0
    const cleanUp = cleaner(family, table, nat)
    const totals = noNatTotals()
    /** Whether the walk ends here. */
    const visit = (shown: Uint8Array, value: Uint8Array): boolean => {
      if (u32(value, LIFETIME) >= now) {
        count("seen")
        count("kept")
        return false
      }
      const index = context[sweep.records]!
      const isTold = (options & option.noRecords) === 0
      const slot = isTold && index < limit ? records.lookup(indexKey(index)) : undefined
      if (!isDry && (isTold ? slot === undefined : context[sweep.deleted]! >= limit)) {
        count("stopped")
        return true
      }
      count("seen")
      const key = shown.slice()
      const flags = value[ENTRY_FLAGS]!
      if (slot !== undefined) write(slot, key, value)
      const became = isDry ? "deleted" : remove(table, key, value, now)
      count(became)
      if (became === "restored") count("refreshed")
      if (became !== "deleted") return false
      const verdict = (options & option.withNat) === 0 ? 0 : cleanUp(key, flags, isDry, totals)
      if (slot !== undefined) {
        new DataView(slot.buffer, slot.byteOffset).setUint32(record.nat, verdict, true)
        count("records")
      }
      return false
    }
    if (!walks) table.forEach(visit)
    else {
      const isEnough = (): boolean =>
        context[sweep.nanoseconds]! > 0 ||
        ((options & (option.noRecords | option.dryRun)) === 0 && context[sweep.records]! >= context[sweep.enough]!)
      let bucket = context[sweep.bucket]! % BUCKETS
      do {
        const at = bucket++
        table.forEach((key, value) => bucketOf(key) === at && visit(key, value))
        if (context[sweep.stopped] !== 0) break
        context[sweep.bucket] = bucket % BUCKETS
      } while (bucket < BUCKETS && !isEnough())
      context[sweep.took] = 1
    }
    writeNatTotals(context, sweep.nat, totals)
    return giveBack(context, bytes)
  }

const cleanOf =
  (family: Family.Family): Program =>
  (_, bytes, { table, nat, work }) => {
    if (table === undefined || nat === undefined || work === undefined) return EINVAL
    const context = wordsOf(bytes)
    const isDry = (context[clean.options]! & option.dryRun) !== 0
    const cleanUp = cleaner(family, table, nat)
    const totals = noNatTotals()
    let left = context[clean.count]!
    work.forEach((_index, slot) => {
      if (left-- === 0) return true
      const candidate = new DataView(slot.buffer, slot.byteOffset, slot.byteLength)
      const flags = candidate.getUint32(WorkList.candidate.expected, true)
      const verdict = cleanUp(slot.slice(0, Tuple.shape(family).size), flags, isDry, totals)
      candidate.setUint32(WorkList.candidate.verdict, verdict, true)
      return false
    })
    writeNatTotals(context, clean.nat, totals)
    return giveBack(context, bytes)
  }

/** The object: all its maps are given to it, or are not looked at. */
export const twin: ObjectTwin = {
  programs: {
    sweep4: sweepOf("ipv4", false),
    sweep6: sweepOf("ipv6", false),
    walk4: sweepOf("ipv4", true),
    walk6: sweepOf("ipv6", true),
    nat_clean4: cleanOf("ipv4"),
    nat_clean6: cleanOf("ipv6")
  }
}
