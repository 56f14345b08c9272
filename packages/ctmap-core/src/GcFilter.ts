/**
 * Which entries a pass deletes, decided on bytes: Cilium's `GCFilter`.
 *
 * Owns the rules and their order, nothing else. Deleting, and looking again before deleting, is the engine's job.
 *
 * @since 0.1.0
 */
import type * as NetAddress from "effect/net/NetAddress"
import * as AddressSet from "./AddressSet.ts"
import type { CtColumns } from "./CtColumns.ts"
import type { Family } from "./Family.ts"
import * as FilterPredicate from "./FilterPredicate.ts"

/**
 * What to delete.
 *
 * @since 0.1.0
 */
export interface GcFilter {
  /** Delete entries whose lifetime is below this time, strictly: clock units, u32. `undefined` keeps the expired. */
  readonly expiredBefore?: number | undefined
  /** Delete entries that have one of these addresses at either end. An empty set matches nothing. */
  readonly matchIps?: Iterable<NetAddress.IpAddress> | undefined
  /** Delete entries this predicate accepts, e.g. a compiled filter of the filter language. */
  readonly matches?: ((columns: CtColumns, row: number) => boolean) | undefined
}

/**
 * Why an entry goes, or that it stays.
 *
 * @since 0.1.0
 */
export type Verdict = "keep" | "expired" | "matched-address" | "matched-filter"

/**
 * A filter made ready for one family: call it once per row.
 *
 * @since 0.1.0
 */
export type Decide = (columns: CtColumns, row: number) => Verdict

/**
 * Makes a filter ready for tables of a family.
 *
 * **Details**
 *
 * The order is Cilium's, the first rule that fits wins: expired, then an address, then (ours) a predicate. So the
 * reason of an entry that is both expired and matched is `expired`, and a kept entry is one that no rule wants.
 * `lifetime === expiredBefore` is not expired. Errors: `compile` throws `TypeError` for a predicate that was compiled
 * for the other family, and the decision for a batch of the other family: both are mistakes of the caller, and deciding
 * on bytes read at the wrong offsets must not be possible.
 *
 * **Example** (An entry on the limit stays)
 *
 * ```ts
 * import { CtColumns, GcFilter, Rows } from "ctmap-core"
 *
 * const values = new Uint8Array(2 * 56)
 * new DataView(values.buffer).setUint32(32, 99, true)
 * new DataView(values.buffer).setUint32(56 + 32, 100, true)
 * const columns = new CtColumns.CtColumns({ family: "ipv4", release: "1.17" })
 * columns.bind(Rows.separate(new Uint8Array(28), values, { keySize: 14, valueSize: 56, count: 2 }))
 * const decide = GcFilter.compile({ expiredBefore: 100 }, "ipv4")
 * decide(columns, 0) // => "expired"
 * decide(columns, 1) // => "keep"
 * ```
 *
 * @since 0.1.0
 */
export const compile = (filter: GcFilter, family: Family): Decide => {
  const { expiredBefore = 0, matches } = filter
  if (matches !== undefined) FilterPredicate.assertFamily(matches, family)
  const ips = filter.matchIps === undefined ? undefined : AddressSet.make(family, filter.matchIps)
  const addressRule = ips === undefined || ips.size === 0 ? undefined : ips
  return (columns, row) => {
    if (columns.family !== family) {
      throw new TypeError(`a filter made for ${family} tables cannot decide on a batch of ${columns.family} entries`)
    }
    if (columns.lifetime(row) < expiredBefore) return "expired"
    if (addressRule !== undefined) {
      const key = columns.keyAt(row)
      if (addressRule.has(columns.keys, key) || addressRule.has(columns.keys, key + columns.tuple.saddr)) {
        return "matched-address"
      }
    }
    return matches !== undefined && matches(columns, row) ? "matched-filter" : "keep"
  }
}

/**
 * What a caller who asked for the kept entries is told of one: Cilium's `EmitCTEntryCB`.
 *
 * **Details**
 *
 * The ends are the true ones and the ports host order. The original hands out the responder's port as `srcPort` and
 * the originator's as `dstPort`, both byte-swapped; nobody can want that, so it is not copied. For a service entry the
 * source is the client, where the original gives the virtual address.
 *
 * @since 0.1.0
 */
export interface Emitted {
  readonly sourceAddress: string
  readonly sourcePort: number
  readonly destinationAddress: string
  readonly destinationPort: number
  readonly nexthdr: number
  /** `TUPLE_F_*`. */
  readonly tupleFlags: number
}

/** Row `row` as {@link Emitted}: a copy, valid for as long as the caller likes. @since 0.1.0 */
export const emitted = (columns: CtColumns, row: number): Emitted => ({
  sourceAddress: columns.sourceText(row),
  sourcePort: columns.sourcePort(row),
  destinationAddress: columns.destinationText(row),
  destinationPort: columns.destinationPort(row),
  nexthdr: columns.nexthdr(row),
  tupleFlags: columns.tupleFlags(row)
})
