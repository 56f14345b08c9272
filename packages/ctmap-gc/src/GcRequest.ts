/**
 * What one caller wants deleted from the CT maps of a pair. Several requests can share a pass; each gets its own counts.
 *
 * @since 0.1.0
 */
import type { CtColumns, Filter } from "ctmap-core"
import type * as NetAddress from "effect/net/NetAddress"

/**
 * Hears of the entries that a pass keeps: Cilium's `EmitCTEntryCB`, a batch at a time.
 *
 * **Details**
 *
 * `rows` holds the numbers of `count` rows of the bound batch, ascending. Everything is valid during the call only.
 * `GcFilter.emitted(columns, row)` makes of a row what the original hands out, with the ends the right way round and
 * ports in host order. An entry that is deleted is never emitted; one that was refreshed while the pass wanted it is
 * not emitted either, for what was read of it no longer holds. On kernels without batch look-ups (before Linux 5.6) an
 * entry can be told of twice.
 *
 * @since 0.1.0
 */
export type EmitKept = (columns: CtColumns.CtColumns, rows: Uint32Array, count: number) => void

/**
 * A request. All its rules apply; an entry goes when any of them wants it.
 *
 * @since 0.1.0
 */
export interface GcRequest {
  /** Delete what has expired: lifetime below now, strictly. */
  readonly expired?: boolean | undefined
  /** Delete entries with one of these addresses at either end. An empty set matches nothing. */
  readonly addresses?: ReadonlyArray<NetAddress.IpAddress> | undefined
  /** Delete entries the filter accepts. */
  readonly filter?: Filter.Filter | undefined
  /** Delete everything, entries that never expire included. */
  readonly everything?: boolean | undefined
  /** Of all that, only entries that this filter accepts too. */
  readonly within?: Filter.Filter | undefined
  readonly emit?: EmitKept | undefined
}

/**
 * What the periodic collection asks for.
 *
 * @since 0.1.0
 */
export const expired: GcRequest = { expired: true }

/**
 * Everything, as Cilium's `Flush`, which leaves entries whose lifetime is 0xffffffff.
 *
 * @since 0.1.0
 */
export const everything: GcRequest = { everything: true }

/** Everything of these addresses: the scrub of an endpoint. @since 0.1.0 */
export const addresses = (ips: ReadonlyArray<NetAddress.IpAddress>): GcRequest => ({ addresses: ips })

/** What a filter accepts. @since 0.1.0 */
export const matching = (filter: Filter.Filter): GcRequest => ({ filter })

/**
 * Whether what a filter says of an entry can change while the entry lives: it reads its lifetime, counters or flags.
 *
 * **Details**
 *
 * Such an entry is deleted only while its lifetime is as it was read; what a filter says of addresses, ports, protocol
 * and direction holds for as long as the entry does, so there its being there is all that is asked again. Packets within
 * the unit of the clock in which the entry was last refreshed leave the lifetime as it was: those go unnoticed.
 *
 * **Example** (A key does not change)
 *
 * ```ts
 * import { FilterParser } from "ctmap-core"
 * import { GcRequest } from "ctmap-gc"
 * import * as Result from "effect/Result"
 *
 * const parse = (text: string) => Result.getOrThrow(FilterParser.parse(text))
 * GcRequest.isVolatile(parse("tcp and dst 10.0.0.0/8")) // => false
 * GcRequest.isVolatile(parse("tcp and not lifetime > 60s")) // => true
 * ```
 *
 * @since 0.1.0
 */
export const isVolatile = (filter: Filter.Filter): boolean => some(filter, (tag) => !ofTheKey.has(tag))

const ofTheKey: ReadonlySet<Filter.Term["_tag"]> = new Set([
  "Protocol",
  "Family",
  "Address",
  "Port",
  "PortCompare",
  "Direction",
  "Related"
])

/**
 * Whether what a filter says of an entry depends on what time it is: such a filter is refused where the table does not
 * fit the clock; others, counters among them, do not mind.
 *
 * @since 0.1.0
 */
export const readsClock = (filter: Filter.Filter): boolean => some(filter, (tag) => ofTime.has(tag))

const ofTime: ReadonlySet<Filter.Term["_tag"]> = new Set(["Expired", "Alive", "Time"])

const some = (filter: Filter.Filter, is: (tag: Filter.Term["_tag"]) => boolean): boolean => {
  const open: Array<Filter.Filter> = [filter]
  for (let node = open.pop(); node !== undefined; node = open.pop()) {
    if (node._tag === "And" || node._tag === "Or") open.push(node.left, node.right)
    else if (node._tag === "Not") open.push(node.filter)
    else if (is(node._tag)) return true
  }
  return false
}
