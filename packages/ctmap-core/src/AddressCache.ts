/**
 * Address text, made once per address: a table has far fewer addresses than entries.
 *
 * Canonical text (RFC 5952) in every release: this is for filters, JSON and tables. Cilium's own spelling of an
 * IPv4-mapped address is a matter of {@link CtText}. Bounded: when full it starts over, so a scan of millions of distinct clients costs memory for at most `capacity`.
 *
 * @since 0.1.0
 */
import * as NetAddress from "effect/net/NetAddress"
import type { Family } from "./Family.ts"
import { ipAt } from "./internal/address.ts"

/**
 * Texts by address bytes. One instance serves one family, and any number of scans.
 *
 * **Example** (Reading an address out of a buffer)
 *
 * ```ts
 * import { AddressCache } from "ctmap-core"
 *
 * const cache = new AddressCache.AddressCache("ipv4")
 * cache.text(new DataView(new Uint8Array([10, 0, 1, 99]).buffer), 0) // => "10.0.1.99"
 * ```
 *
 * @since 0.1.0
 */
export class AddressCache {
  readonly family: Family
  readonly capacity: number
  readonly #v4 = new Map<number, string>()
  readonly #v6 = new Map<string, string>()

  constructor(family: Family, capacity = 65_536) {
    this.family = family
    this.capacity = capacity
  }

  /** Addresses whose text is kept. */
  get size(): number {
    return this.#v4.size + this.#v6.size
  }

  /** The text of the 4 or 16 network-order bytes at `at`. */
  text(view: DataView, at: number): string {
    return this.family === "ipv4"
      ? this.#lookup(this.#v4, view.getUint32(at), view, at)
      : this.#lookup(this.#v6, units(view, at), view, at)
  }

  #lookup<K>(texts: Map<K, string>, key: K, view: DataView, at: number): string {
    const known = texts.get(key)
    if (known !== undefined) return known
    if (texts.size >= this.capacity) texts.clear()
    const text = NetAddress.formatIp(ipAt(view, at, this.family))
    texts.set(key, text)
    return text
  }
}

const units = (view: DataView, at: number): string =>
  String.fromCharCode(
    view.getUint16(at),
    view.getUint16(at + 2),
    view.getUint16(at + 4),
    view.getUint16(at + 6),
    view.getUint16(at + 8),
    view.getUint16(at + 10),
    view.getUint16(at + 12),
    view.getUint16(at + 14)
  )
