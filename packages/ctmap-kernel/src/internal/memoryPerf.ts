/**
 * Perf events of the in-memory kernel: PERF_EVENT_ARRAY, and rings as Linux writes them.
 *
 * Owns the layout of a mapped ring (one page of positions, then data), what happens when it is full, and that a slot is
 * emptied when the fd of the map that filled it is closed.
 */
import type { MapSpec } from "ctmap-core"
import * as Bpf from "../Bpf.ts"
import { nextIndex } from "./memoryArrayMap.ts"
import { E2BIG, EEXIST, EINVAL, ENOENT, ENOSPC, ENOTSUPP, EOPNOTSUPP } from "./memoryErrno.ts"
import { type Commands, type Owner, readIndex } from "./memoryMap.ts"

/** Bytes of a page of this kernel. */
export const PAGE_SIZE = 4096

/** In `struct perf_event_mmap_page`: head, tail, and where the data is. */
const DATA_HEAD = 1024
const DATA_TAIL = 1032
const DATA_OFFSET = 1040
const DATA_SIZE = 1048
const PERF_RECORD_LOST = 2
const PERF_RECORD_SAMPLE = 9
const LOST_BYTES = 24

/** An event on a CPU. */
export class MemoryPerfEvent {
  readonly kind = "event"
  readonly id: number
  readonly cpu: number
  readonly name: string
  holders = 0
  #ring: DataView<ArrayBuffer> | undefined
  #mappings = 0
  #lost = 0
  #isWaking = false
  #watcher: (() => void) | undefined

  constructor(id: number, cpu: number) {
    this.id = id
    this.cpu = cpu
    this.name = `output of CPU ${cpu}`
  }

  /** mmap(2): a page of positions and a power of two of pages of data. All mappings show one memory. */
  map(bytes: number): Uint8Array | number {
    const pages = Math.ceil(bytes / PAGE_SIZE) - 1
    if (bytes === 0 || (pages & (pages - 1)) !== 0) return -EINVAL
    if (this.#ring !== undefined && this.#ring.byteLength !== (1 + pages) * PAGE_SIZE) return -EINVAL
    this.#ring ??= newRing(pages)
    this.#mappings += 1
    return new Uint8Array(this.#ring.buffer, 0, bytes)
  }

  unmap(): void {
    this.#mappings -= 1
    if (this.#mappings === 0) this.#ring = undefined
  }

  watch(ready: () => void): (() => void) | number {
    if (this.#watcher !== undefined) return -EEXIST
    this.#watcher = ready
    return () => {
      if (this.#watcher === ready) this.#watcher = undefined
    }
  }

  /** Writes a sample, after a record of how many were lost if any were; -ENOSPC where there is no room for both. */
  output(sample: Uint8Array): number {
    const ring = this.#ring
    if (ring === undefined || ring.byteLength === PAGE_SIZE) return -ENOSPC
    const size = 8 + Math.ceil((4 + sample.byteLength) / 8) * 8
    const head = Number(ring.getBigUint64(DATA_HEAD, true))
    const used = head - Number(ring.getBigUint64(DATA_TAIL, true))
    // A ring is never filled to its last byte: full and empty would look the same.
    if (used + size + (this.#lost > 0 ? LOST_BYTES : 0) >= ring.byteLength - PAGE_SIZE) {
      this.#lost += 1
      return -ENOSPC
    }
    const lost = this.#lost > 0 ? lostRecord(this.id, this.#lost) : new Uint8Array(0)
    this.#lost = 0
    this.#write(ring, head, lost)
    this.#write(ring, head + lost.byteLength, sampleRecord(sample, size))
    ring.setBigUint64(DATA_HEAD, BigInt(head + lost.byteLength + size), true)
    this.#wake()
    return 0
  }

  destroy(): void {
    this.#watcher = undefined
  }

  #write(ring: DataView, at: number, bytes: Uint8Array): void {
    const size = ring.byteLength - PAGE_SIZE
    for (const [i, byte] of bytes.entries()) ring.setUint8(PAGE_SIZE + ((at + i) % size), byte)
  }

  /** Some time later, and once for what came until then. */
  #wake(): void {
    if (this.#isWaking) return
    this.#isWaking = true
    queueMicrotask(() => {
      this.#isWaking = false
      this.#watcher?.()
    })
  }
}

const newRing = (pages: number): DataView<ArrayBuffer> => {
  const ring = new DataView(new ArrayBuffer((1 + pages) * PAGE_SIZE))
  ring.setBigUint64(DATA_OFFSET, BigInt(PAGE_SIZE), true)
  ring.setBigUint64(DATA_SIZE, BigInt(pages * PAGE_SIZE), true)
  return ring
}

const record = (type: number, size: number): DataView<ArrayBuffer> => {
  const view = new DataView(new ArrayBuffer(size))
  view.setUint32(0, type, true)
  view.setUint16(6, size, true)
  return view
}

const lostRecord = (id: number, lost: number): Uint8Array => {
  const view = record(PERF_RECORD_LOST, LOST_BYTES)
  view.setBigUint64(8, BigInt(id), true)
  view.setBigUint64(16, BigInt(lost), true)
  return new Uint8Array(view.buffer)
}

/** The length it tells includes the padding. */
const sampleRecord = (sample: Uint8Array, size: number): Uint8Array => {
  const view = record(PERF_RECORD_SAMPLE, size)
  view.setUint32(8, size - 12, true)
  const bytes = new Uint8Array(view.buffer)
  bytes.set(sample, 12)
  return bytes
}

/** A slot: the event, and the fd of the map that put it there. */
interface Slot {
  readonly event: MemoryPerfEvent
  readonly fd: number | undefined
}

export const perfEventArray = ({ maxEntries }: MapSpec.Properties, owner: Owner): Commands => {
  const slots = new Map<number, Slot>()
  const empty = (index: number): void => {
    const slot = slots.get(index)
    slots.delete(index)
    if (slot !== undefined) owner.release(slot.event)
  }
  const emptyAll = (isDue: (slot: Slot) => boolean): void => {
    for (const [index, slot] of slots) if (isDue(slot)) empty(index)
  }
  return {
    valueBytes: 4,
    lookup: () => -ENOTSUPP,
    update: (key, value, flags, fd) => {
      const index = readIndex(key)
      if (flags !== Bpf.ANY) return -EINVAL
      if (index >= maxEntries) return -E2BIG
      const event = owner.eventOf(readIndex(value) | 0)
      if (typeof event === "number") return event
      owner.hold(event)
      empty(index)
      slots.set(index, { event, fd })
      return 0
    },
    delete: (key) => {
      const index = readIndex(key)
      if (index >= maxEntries) return -E2BIG
      if (!slots.has(index)) return -ENOENT
      empty(index)
      return 0
    },
    nextKey: nextIndex(maxEntries),
    lookupBatch: () => -ENOTSUPP,
    hasUpdateBatch: false,
    hasDeleteBatch: false,
    memory: undefined,
    output: (cpu, bytes) => {
      if (cpu >= maxEntries) return -E2BIG
      const event = slots.get(cpu)?.event
      return event === undefined ? -ENOENT : event.cpu === cpu ? event.output(bytes) : -EOPNOTSUPP
    },
    closed: (fd) => emptyAll((slot) => slot.fd === fd),
    view: { size: () => slots.size, lookup: () => undefined, forEach: () => 0, inner: () => undefined },
    destroy: () => emptyAll(() => true)
  }
}
