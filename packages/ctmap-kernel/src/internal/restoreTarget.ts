/** One map that a snapshot is written to: batches of entries in, and an account of what the LRU threw out for them. */
import { CtEntry, type Family, MapSpec } from "ctmap-core"
import * as Bpf from "../Bpf.ts"
import type { BpfError } from "../BpfError.ts"
import * as BpfMap from "../BpfMap.ts"
import type { Entries } from "./snapshotText.ts"

const ENOENT = -2
const transient: ReadonlySet<number> = new Set([-4, -11, -16])
const unsupported: ReadonlySet<number> = new Set([-22, -95, -524])
const RETRIES = 16

/** Free elements that each CPU may take aside from a common LRU: `LOCAL_FREE_TARGET` of the kernel's `bpf_lru_list.c`. */
const LOCAL_FREE_TARGET = 128

/** How many entries a map takes before its LRU can evict anything. */
const safeEntries = ({ type, flags, maxEntries }: Bpf.MapInfo, possibleCpus: number): number =>
  type !== MapSpec.mapType.lruHash
    ? Number.POSITIVE_INFINITY
    : // How many CPUs there are cannot always be told: then each write is watched.
      possibleCpus < 1
      ? 0
      : (flags & MapSpec.NO_COMMON_LRU) === 0
        ? Math.max(0, maxEntries - LOCAL_FREE_TARGET * possibleCpus)
        : Math.floor(maxEntries / possibleCpus)

/**
 * As long as the map is far from full nothing can be evicted, and entries are written by the batch. From there on each
 * key is looked up before it is written: what was inserted and is not there at the end has been evicted.
 */
export class Target {
  readonly map: BpfMap.BpfMap
  readonly created: boolean
  /** Entries that were there and were deleted first. */
  cleared = 0
  /** Entries written. */
  written = 0
  readonly #bpf: Bpf.Calls
  readonly #safe: number
  /** At most this many entries are in the map; exactly, once careful. */
  #occupied = 0
  #careful = false
  #batches = true
  readonly #scratch: Uint8Array
  readonly #key: Uint8Array

  constructor(bpf: Bpf.Calls, map: BpfMap.BpfMap, created: boolean) {
    this.#bpf = bpf
    this.map = map
    this.created = created
    this.#safe = safeEntries(map.info, bpf.possibleCpus())
    this.#scratch = new Uint8Array(map.info.valueSize)
    this.#key = new Uint8Array(map.info.keySize)
  }

  /** Whether the map must be counted, and `counted` told, before `entries` more are written. */
  needsCount(entries: number): boolean {
    return !this.#careful && this.#occupied + entries > this.#safe
  }

  /** How many entries the map holds. Where little room is left, every further entry is looked at. */
  counted(entries: number): void {
    this.#occupied = entries
    this.#careful = this.#safe - entries <= this.#safe / 4
  }

  /** How many entries have been evicted, given how many there are at the end. */
  evicted(entries: number): number {
    return this.#careful ? Math.max(0, this.#occupied - entries) : 0
  }

  /** Deletes a batch of entries that were just read. */
  clear({ keys, count }: Entries): BpfError | undefined {
    const { keySize } = this.map.info
    for (let i = 0; i < count; i++) {
      const rc = this.#bpf.delete(this.map.fd, keys.subarray(i * keySize, (i + 1) * keySize))
      if (rc < 0 && rc !== ENOENT) return BpfMap.failure(this.map, "delete", rc)
      this.cleared++
    }
    return undefined
  }

  write(entries: Entries): BpfError | undefined {
    if (this.#careful) return this.#writeEach(entries, 0)
    this.#occupied += entries.count
    return this.#batches ? this.#writeBatch(entries) : this.#writeEach(entries, 0)
  }

  #writeBatch({ keys, values, count }: Entries): BpfError | undefined {
    const { keySize, valueSize } = this.map.info
    const todo = new Uint32Array(1)
    let retries = 0
    for (let done = 0; done < count;) {
      todo[0] = count - done
      const rc = this.#bpf.updateBatch(
        this.map.fd,
        keys.subarray(done * keySize),
        values.subarray(done * valueSize),
        todo
      )
      if (rc < 0 && this.written === 0 && unsupported.has(rc)) {
        this.#batches = false
        return this.#writeEach({ keys, values, count }, done)
      }
      const progress = Math.min(todo[0], count - done)
      // A call that fails says how many it wrote before; one that fails at once may leave the number as it was.
      if (rc < 0 && progress === count - done) todo[0] = 0
      done += todo[0]
      this.written += todo[0]
      if (rc < 0 && !(transient.has(rc) && ++retries <= RETRIES)) return BpfMap.failure(this.map, "update batch", rc)
    }
    return undefined
  }

  #writeEach({ keys, values, count }: Entries, from: number): BpfError | undefined {
    const { keySize, valueSize } = this.map.info
    for (let i = from; i < count; i++) {
      this.#key.set(keys.subarray(i * keySize, (i + 1) * keySize))
      if (this.#careful && this.#bpf.lookup(this.map.fd, this.#key, this.#scratch) === ENOENT) this.#occupied++
      this.#scratch.set(values.subarray(i * valueSize, (i + 1) * valueSize))
      const rc = this.#update()
      if (rc < 0) return BpfMap.failure(this.map, "update", rc)
      this.written++
    }
    return undefined
  }

  #update(): number {
    for (let retries = 0; ; retries++) {
      const rc = this.#bpf.update(this.map.fd, this.#key, this.#scratch, Bpf.ANY)
      if (!transient.has(rc) || retries === RETRIES) return rc
    }
  }
}

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
