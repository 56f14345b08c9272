/** One map that a snapshot is written to: batches of entries in, and an account of what became of them. */
import { cpus as runningCpus } from "node:os"
import { MapSpec } from "ctmap-core"
import * as Bpf from "../Bpf.ts"
import type { BpfError } from "../BpfError.ts"
import * as BpfMap from "../BpfMap.ts"
import type { Entries } from "./snapshotText.ts"

const ENOENT = -2
const EEXIST = -17
const transient: ReadonlySet<number> = new Set([-4, -11, -16])
const unsupported: ReadonlySet<number> = new Set([-22, -95, -524])
const RETRIES = 16

/** Free elements that each CPU may take aside from a common LRU: `LOCAL_FREE_TARGET` of the kernel's `bpf_lru_list.c`. */
const LOCAL_FREE_TARGET = 128

/** CPUs that may hold elements aside; those that are running where the possible ones cannot be told, as without a /sys. */
export const cpusOf = (bpf: Bpf.Calls): number => {
  const possible = bpf.possibleCpus()
  return possible >= 1 ? possible : runningCpus().length
}

/** How many entries a map takes before it is full or, an LRU, can evict anything. */
export const safeEntries = ({ type, flags, maxEntries }: MapSpec.Properties, cpus: number): number =>
  type !== MapSpec.mapType.lruHash
    ? maxEntries
    : // How many CPUs there are cannot always be told: then it may evict at any time.
      cpus < 1
      ? 0
      : (flags & MapSpec.NO_COMMON_LRU) === 0
        ? Math.max(0, maxEntries - LOCAL_FREE_TARGET * cpus)
        : Math.floor(maxEntries / cpus)

/** How many entries a map must be for, so that it takes that many for safe. The inverse of {@link safeEntries}. */
export const sizeFor = (entries: number, { type, flags }: MapSpec.Properties, cpus: number): number =>
  type !== MapSpec.mapType.lruHash
    ? entries
    : (flags & MapSpec.NO_COMMON_LRU) === 0
      ? entries + LOCAL_FREE_TARGET * cpus
      : entries * cpus

/**
 * How entries are written. `all`: the snapshot is to be what the map holds, so that nothing needs to be looked up, and
 * entries are written by the batch as long as the map is far from full. `keep` and `overwrite`: the map holds entries of
 * its own; each key is looked up, for an LRU takes an element for an update before it finds that the key is there.
 */
export type Manner = "all" | "keep" | "overwrite"

/** See {@link Manner}. From where a map may become full, what was inserted and is not there at the end was evicted. */
export class Target {
  readonly map: BpfMap.BpfMap
  readonly created: boolean
  readonly manner: Manner
  /** Entries that were there and were deleted first. */
  cleared = 0
  /** Entries that were written, over others or not. */
  written = 0
  /** Entries of the snapshot whose key was there and stayed. */
  kept = 0
  /** Entries that were there and that those of the snapshot replaced. */
  overwritten = 0
  /** Times that were cut. */
  cut = 0
  readonly #bpf: Bpf.Calls
  readonly #safe: number
  /** At most this many entries are in the map; exactly, once careful. */
  #occupied: number
  #careful: boolean
  #batches = true
  readonly #scratch: Uint8Array
  readonly #key: Uint8Array

  /** `there`: how many entries the map holds. */
  constructor(
    bpf: Bpf.Calls,
    map: BpfMap.BpfMap,
    how: { readonly created: boolean; readonly manner: Manner; readonly there: number }
  ) {
    this.#bpf = bpf
    this.map = map
    this.created = how.created
    this.manner = how.manner
    this.#occupied = how.there
    this.#careful = how.manner !== "all"
    this.#safe = safeEntries(map.info, cpusOf(bpf))
    this.#scratch = new Uint8Array(map.info.valueSize)
    this.#key = new Uint8Array(map.info.keySize)
  }

  /** Entries of the snapshot that have been dealt with. */
  get taken(): number {
    return this.written + this.kept
  }

  /** Whether a map that was there is no longer what it was. */
  get isChanged(): boolean {
    return !this.created && this.written + this.cleared > 0
  }

  /** Whether the map must be counted, and `counted` told, before `entries` more are written. */
  needsCount(entries: number): boolean {
    return !this.#careful && this.#occupied + entries > this.#safe
  }

  /** How many entries the map holds, and how many are next. Where little room is left, each is looked at from now on. */
  counted(entries: number, next: number): void {
    this.#occupied = entries
    this.#careful = entries + next > this.#safe - this.#safe / 4
  }

  /** How many entries have been evicted, given how many there are at the end. */
  evicted(entries: number): number {
    return this.#careful && this.#occupied > this.#safe ? Math.max(0, this.#occupied - entries) : 0
  }

  /** Deletes those of a batch of entries that were just read whose key is not in `staying`, a map of keys. */
  clear({ keys, count }: Entries, staying: BpfMap.BpfMap): BpfError | undefined {
    const { keySize } = this.map.info
    for (let i = 0; i < count; i++) {
      const key = keys.subarray(i * keySize, (i + 1) * keySize)
      const found = this.#bpf.lookup(staying.fd, key, this.#scratch)
      if (found === 0) this.overwritten++
      else if (found !== ENOENT) return BpfMap.failure(staying, "lookup", found)
      else {
        const rc = this.#bpf.delete(this.map.fd, key)
        if (rc < 0 && rc !== ENOENT) return BpfMap.failure(this.map, "delete", rc)
        this.cleared++
        this.#occupied--
      }
    }
    return undefined
  }

  write(entries: Entries): BpfError | undefined {
    if (this.#careful || !this.#batches) return this.#writeEach(entries, 0)
    return this.#writeBatch(entries)
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
      this.#occupied += todo[0]
      if (rc < 0 && !(transient.has(rc) && ++retries <= RETRIES)) return BpfMap.failure(this.map, "update batch", rc)
    }
    return undefined
  }

  #writeEach({ keys, values, count }: Entries, from: number): BpfError | undefined {
    const { keySize, valueSize } = this.map.info
    for (let i = from; i < count; i++) {
      this.#key.set(keys.subarray(i * keySize, (i + 1) * keySize))
      let isThere = false
      if (this.#careful) {
        const found = this.#bpf.lookup(this.map.fd, this.#key, this.#scratch)
        if (found !== 0 && found !== ENOENT) return BpfMap.failure(this.map, "lookup", found)
        isThere = found === 0
      }
      if (isThere && this.manner === "keep") {
        this.kept++
        continue
      }
      this.#scratch.set(values.subarray(i * valueSize, (i + 1) * valueSize))
      const rc = this.#update()
      if (rc === EEXIST && this.manner === "keep") {
        // Written by somebody else since it was looked up.
        this.kept++
        continue
      }
      if (rc < 0) return BpfMap.failure(this.map, "update", rc)
      if (!isThere) this.#occupied++
      else if (this.manner === "overwrite") this.overwritten++
      this.written++
    }
    return undefined
  }

  #update(): number {
    const flags = this.manner === "keep" ? Bpf.NOEXIST : Bpf.ANY
    for (let retries = 0; ; retries++) {
      const rc = this.#bpf.update(this.map.fd, this.#key, this.#scratch, flags)
      if (!transient.has(rc) || retries === RETRIES) return rc
    }
  }
}
