/**
 * Reads of a hash map from any bucket on, by the cursor of batch look-ups.
 *
 * That the cursor is a u32 bucket number is how Linux is made, not what it promises: nothing here may be used before
 * `cursorCheck` has seen it hold on the running kernel.
 */
import { type Bpf, type BpfError, BpfMap } from "ctmap-kernel"

/** What one call brought. */
export interface Read {
  /** Entries in the buffers. */
  readonly count: number
  /** The first bucket that was not read. */
  readonly next: number
  /** The end of the map was reached. */
  readonly isEnd: boolean
}

/** A bucket that does not fit, or a cursor that is none: this map is not for reads of this kind. */
export type Unusable = "unusable"

const ENOENT = -2
const ENOSPC = -28
/** Interrupted, try again, busy. */
const transient: ReadonlySet<number> = new Set([-4, -11, -16])
const RETRIES = 16

/** The kernel rounds the size of a hash up to a power of two. */
export const bucketsFor = (maxEntries: number): number => 2 ** Math.ceil(Math.log2(Math.max(1, maxEntries)))

/** Buffers for reads of up to `room` entries; they are filled again by every read. */
export class BucketReader {
  readonly buckets: number
  readonly keys: Uint8Array<ArrayBuffer>
  readonly values: Uint8Array<ArrayBuffer>
  readonly #bpf: Bpf.Calls
  readonly #map: BpfMap.BpfMap
  readonly #room: number
  readonly #cursor: Uint8Array<ArrayBuffer>
  readonly #bucket: Uint32Array
  readonly #count = new Uint32Array(1)

  constructor(bpf: Bpf.Calls, map: BpfMap.BpfMap, room: number) {
    const { keySize, valueSize, maxEntries } = map.info
    this.#bpf = bpf
    this.#map = map
    this.#room = room
    this.buckets = bucketsFor(maxEntries)
    this.keys = new Uint8Array(room * keySize)
    this.values = new Uint8Array(room * valueSize)
    this.#cursor = new Uint8Array(Math.ceil(Math.max(keySize, 4) / 4) * 4)
    this.#bucket = new Uint32Array(this.#cursor.buffer, 0, 1)
  }

  /** Whole buckets from `start` on, as many as there is room for. */
  read(start: number): Read | Unusable | BpfError.BpfError {
    for (let retries = 0; ; retries++) {
      this.#bucket[0] = start
      this.#count[0] = this.#room
      const rc = this.#bpf.lookupBatch(this.#map.fd, this.#cursor, this.#cursor, this.keys, this.values, this.#count)
      if (transient.has(rc) && retries < RETRIES) continue
      if (rc === ENOSPC) return "unusable"
      if (rc < 0 && rc !== ENOENT) return BpfMap.failure(this.#map, "lookup batch", rc)
      const next = this.#bucket[0]
      const isEnd = rc === ENOENT
      // What cannot be a bucket number says that the cursor is something else.
      if (isEnd ? next !== this.buckets : next <= start || next >= this.buckets) return "unusable"
      return { count: this.#count[0], next, isEnd }
    }
  }
}
