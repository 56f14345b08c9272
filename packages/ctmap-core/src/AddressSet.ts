/**
 * A set of addresses, asked with bytes in a buffer: no text and no object per question.
 *
 * @since 0.1.0
 */
import * as NetAddress from "effect/net/NetAddress"
import type { Family } from "./Family.ts"
import { ipBytes } from "./internal/address.ts"

/**
 * Membership by exact equality within one family: an IPv4 address is never its IPv4-mapped IPv6 form.
 *
 * **Example** (Asking with raw bytes)
 *
 * ```ts
 * import { AddressSet } from "ctmap-core"
 * import * as NetAddress from "effect/net/NetAddress"
 *
 * const set = AddressSet.make("ipv4", [NetAddress.ipFromStringUnsafe("10.0.0.1")])
 * set.has(new DataView(new Uint8Array([10, 0, 0, 1]).buffer), 0) // => true
 * set.has(new DataView(new Uint8Array([10, 0, 0, 2]).buffer), 0) // => false
 * ```
 *
 * @since 0.1.0
 */
export interface AddressSet {
  readonly family: Family
  readonly size: number
  /** Whether the 4 or 16 network-order bytes at `at` are in the set. */
  readonly has: (view: DataView, at: number) => boolean
}

/**
 * The addresses of `family` among `addresses`; those of the other family can match nothing and are left out.
 *
 * @since 0.1.0
 */
export const make = (family: Family, addresses: Iterable<NetAddress.IpAddress>): AddressSet =>
  family === "ipv4" ? make4(addresses) : make6(addresses)

const make4 = (addresses: Iterable<NetAddress.IpAddress>): AddressSet => {
  const words = new Set<number>()
  for (const ip of addresses) if (NetAddress.isIpv4Address(ip)) words.add(viewOf(ip).getUint32(0))
  return { family: "ipv4", size: words.size, has: (view, at) => words.has(view.getUint32(at)) }
}

/** IPv6: by the last word, in which addresses differ most, then by the other three. */
const make6 = (addresses: Iterable<NetAddress.IpAddress>): AddressSet => {
  const byLastWord = new Map<number, Array<DataView>>()
  let size = 0
  for (const ip of addresses) {
    if (!NetAddress.isIpv6Address(ip)) continue
    const view = viewOf(ip)
    const known = byLastWord.get(view.getUint32(12))
    if (known === undefined) byLastWord.set(view.getUint32(12), [view])
    else if (known.some((other) => sameHead(other, view, 0))) continue
    else known.push(view)
    size++
  }
  return {
    family: "ipv6",
    size,
    has: (view, at) => byLastWord.get(view.getUint32(at + 12))?.some((known) => sameHead(known, view, at)) ?? false
  }
}

const sameHead = (known: DataView, view: DataView, at: number): boolean =>
  known.getUint32(0) === view.getUint32(at) &&
  known.getUint32(4) === view.getUint32(at + 4) &&
  known.getUint32(8) === view.getUint32(at + 8)

const viewOf = (ip: NetAddress.IpAddress): DataView => new DataView(ipBytes(ip).buffer)
