/**
 * Records and contexts of the programs in `bpf/sweep.bpf.c` and `bpf/walk.bpf.c`.
 *
 * ```text
 * record, 104 bytes        0 key (14 or 38 bytes, then zeros)   40 value (56)   96 NAT verdict u32   100 unused
 * candidate, 48 bytes      0 key (14 or 38 bytes, then zeros)   40 entry flags u32   44 NAT verdict u32
 * context of a sweep       0 now   4 options   8 limit   12 records   16 seen   20 kept   24 deleted   28 refreshed
 *                          32 vanished   36 restored   40 busy   44 NAT totals   68 stopped
 *                          of a walk: 72 bucket   76 nanoseconds   80 enough   84 took
 * context of a clean-up    0 count   4 options   8 NAT totals
 * NAT totals, 24 bytes     0 egress   4 ingress   8 absent   12 halves   16 kept   20 failed
 * ```
 *
 * Little endian throughout. A candidate is one of the work-list of compare-and-delete, which is shared with it.
 */

/** `struct record`. */
export const record = { size: 104, key: 0, value: 40, nat: 96 } as const

/** `enum`: what is wanted of a run. */
export const option = { withNat: 1, dryRun: 2, idle: 4, noRecords: 8 } as const

/** `struct sweep`, in words. */
export const sweep = {
  words: 22,
  now: 0,
  options: 1,
  limit: 2,
  records: 3,
  seen: 4,
  kept: 5,
  deleted: 6,
  refreshed: 7,
  vanished: 8,
  restored: 9,
  busy: 10,
  nat: 11,
  stopped: 17,
  bucket: 18,
  nanoseconds: 19,
  enough: 20,
  took: 21
} as const

/** `struct clean`, in words. */
export const clean = { words: 8, count: 0, options: 1, nat: 2 } as const

/** `enum nat_verdict`. */
export const natVerdict = {
  none: 0,
  mapping: 1,
  outOnly: 2,
  swapped: 3,
  absent: 4,
  kept: 5,
  failed: 6
} as const

/** `struct nat_totals`. */
export interface NatTotals {
  egress: number
  ingress: number
  absent: number
  halves: number
  kept: number
  failed: number
}

const NAT_TOTALS = ["egress", "ingress", "absent", "halves", "kept", "failed"] as const

export const noNatTotals = (): NatTotals => ({ egress: 0, ingress: 0, absent: 0, halves: 0, kept: 0, failed: 0 })

export const readNatTotals = (words: Uint32Array, at: number): NatTotals => {
  const totals = noNatTotals()
  for (const [i, name] of NAT_TOTALS.entries()) totals[name] = words[at + i] ?? 0
  return totals
}

export const writeNatTotals = (words: Uint32Array, at: number, totals: NatTotals): void => {
  for (const [i, name] of NAT_TOTALS.entries()) words[at + i] = totals[name]
}

/** Bytes of a CT value. */
export const CT_VALUE = 56
/** Where it keeps its lifetime, u32. */
export const LIFETIME = 32
/** Where it keeps its flags, u16. */
export const ENTRY_FLAGS = 36
