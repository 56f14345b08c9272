/**
 * Work-list and context of the compare-and-delete programs, as `bpf/compare_delete.bpf.c` declares them.
 *
 * ```text
 * candidate, 48 bytes      0 key (14 or 38 bytes, then zeros)   40 expected u32   44 verdict u32
 * context, 40 bytes        0 count   4 compare   8 key size   12 value size
 *                          16 deleted   20 refreshed   24 vanished   28 restored   32 busy   36 unused
 * ```
 *
 * Little endian throughout: ctmap refuses other hosts. One slot serves both key sizes: a 24-byte slot for IPv4 measured
 * no faster (257 against 259 ns a candidate).
 */

/** Candidates of one run: about 0.3 ms of the kernel's time. */
export const CAPACITY = 1024

/** `struct candidate`. */
export const candidate = { size: 48, key: 0, expected: 40, verdict: 44 } as const

/** `struct context`, in words. */
export const context = { words: 10, count: 0, compare: 1, keySize: 2, valueSize: 3, totals: 4 } as const

/** `enum compare`: which word of a value must be as it was read. */
export const compare = { presence: 0, created: 1, lifetime: 2 } as const

/** Offset of the compared word in a value, by number of {@link compare}. */
export const comparedAt = (number: number): number => (number === compare.lifetime ? 32 : 0)

/** The array that a program and user space share. */
export const properties = {
  type: 2,
  keySize: 4,
  valueSize: candidate.size,
  maxEntries: CAPACITY,
  /** `BPF_F_MMAPABLE`. */
  flags: 1024
} as const

/** Copies a key of 14 or 38 bytes: whole words, then the half that is left. */
export const copyKey = (from: DataView, at: number, to: DataView, slot: number, size: number): void => {
  let byte = 0
  for (; byte + 4 <= size; byte += 4) to.setUint32(slot + byte, from.getUint32(at + byte))
  to.setUint16(slot + byte, from.getUint16(at + byte))
}
