/** What the two processes of a stress tell each other, in memory that both map. */
import type * as Bpf from "ctmap-kernel/Bpf"

/** One page. */
export const spec = { type: 2, keySize: 4, valueSize: 4096, maxEntries: 1, flags: 1024 } as const

/**
 * Words of the race: the round that has begun, the last one that the datapath is done with, the nanoseconds it waits
 * before it begins, whether it is ready, and how many entries it refreshes.
 */
export const race = { round: 0, done: 1, delay: 2, ready: 3, entries: 4 } as const

/** Words of the churn: whether to stop, whether it has begun, and what it did. */
export const churn = { stop: 0, ready: 1, inserted: 2, removed: 3, replaced: 4 } as const

/**
 * Words of the soak: whether the datapath has begun (1) and makes connections no more (2), whether it is to make them (0),
 * only to keep them alive (1) or to end (2), and what it did.
 */
export const soak = {
  ready: 0,
  phase: 1,
  /** In the roomy table. */
  inserted: 2,
  removed: 3,
  /** Mappings made. */
  mapped: 4,
  /** Packets of connections that stay alive. */
  refreshed: 5,
  /** The same, and the entry was not there. */
  cut: 6,
  /** Packets that found an expired entry. */
  raced: 7,
  /** Of those, entries that were gone a second later. */
  lost: 8,
  signals: 9
} as const

/** The page as words. */
export const watch = (kernel: Bpf.Calls, fd: number): Int32Array => wordsOf(kernel, fd, spec.valueSize)

/** The memory of a mmapable array as words. */
export const wordsOf = (kernel: Bpf.Calls, fd: number, bytes: number): Int32Array => {
  const memory = kernel.mapMemory(fd, bytes)
  if (typeof memory === "number") throw new Error(`mmap: errno ${-memory}`)
  return new Int32Array(memory.buffer, memory.byteOffset, bytes / 4)
}
