/**
 * The tuple: the 14- or 38-byte key of every CT map and of every NAT map, as fast functions over a buffer.
 *
 * Owns the byte layout and what it means. The addresses come destination first. A CT map stores the *addresses* of a
 * flow reversed but not its *ports*; a NAT map stores both in packet order. {@link CtKey} and {@link NatKey} are the
 * typed forms for the edges; this module is what the hot path uses.
 *
 * @see `bpf/lib/common.h` of Cilium, `struct ipv4_ct_tuple` and `struct ipv6_ct_tuple` (packed, no padding)
 * @since 0.1.0
 */
import { checkRoom } from "./CodecError.ts"
import type { Family } from "./Family.ts"
import * as TupleFlags from "./TupleFlags.ts"

/**
 * Offsets of the fields of a tuple, in bytes from its start.
 *
 * @since 0.1.0
 */
export interface Shape {
  readonly family: Family
  /** Bytes of one address. */
  readonly addressSize: 4 | 16
  /** Bytes of the tuple. */
  readonly size: 14 | 38
  /** Destination address, network order. */
  readonly daddr: 0
  /** Source address, network order. */
  readonly saddr: 4 | 16
  /** Destination port, big endian. */
  readonly dport: 8 | 32
  /** Source port, big endian. */
  readonly sport: 10 | 34
  /** IP protocol number, one byte. */
  readonly nexthdr: 12 | 36
  /** `TUPLE_F_*`, one byte. */
  readonly flags: 13 | 37
}

/** `struct ipv4_ct_tuple`, 14 bytes. @since 0.1.0 */
export const v4 = {
  family: "ipv4",
  addressSize: 4,
  size: 14,
  daddr: 0,
  saddr: 4,
  dport: 8,
  sport: 10,
  nexthdr: 12,
  flags: 13
} as const satisfies Shape

/** `struct ipv6_ct_tuple`, 38 bytes. @since 0.1.0 */
export const v6 = {
  family: "ipv6",
  addressSize: 16,
  size: 38,
  daddr: 0,
  saddr: 16,
  dport: 32,
  sport: 34,
  nexthdr: 36,
  flags: 37
} as const satisfies Shape

/**
 * The shape of a family.
 *
 * **Example** (Key sizes)
 *
 * ```ts
 * import { Tuple } from "ctmap-core"
 *
 * Tuple.shape("ipv4").size // => 14
 * Tuple.shape("ipv6").size // => 38
 * ```
 *
 * @since 0.1.0
 */
export const shape = (family: Family): Shape => (family === "ipv4" ? v4 : v6)

/**
 * The fields of one tuple, filled in place by {@link read}. Addresses are network-order bytes; ports are host order.
 *
 * @since 0.1.0
 */
export interface Fields {
  readonly daddr: Uint8Array
  readonly saddr: Uint8Array
  dport: number
  sport: number
  nexthdr: number
  flags: number
}

/**
 * Allocates fields for a family, all zero: once per scan, not per entry.
 *
 * @since 0.1.0
 */
export const makeFields = (family: Family): Fields => {
  const { addressSize } = shape(family)
  return {
    daddr: new Uint8Array(addressSize),
    saddr: new Uint8Array(addressSize),
    dport: 0,
    sport: 0,
    nexthdr: 0,
    flags: 0
  }
}

/**
 * Reads the tuple at `at` into `into`.
 *
 * **Details**
 *
 * Shape: 14 or 38 bytes. Errors: throws `CodecError` when fewer are left. Ownership: copies into the two address
 * arrays of `into`; allocates nothing.
 *
 * **Example** (An egress entry: addresses reversed, ports straight)
 *
 * ```ts
 * import { Tuple } from "ctmap-core"
 * import * as Hex from "effect/encoding/Hex"
 * import * as Result from "effect/Result"
 *
 * const bytes = Result.getOrThrow(Hex.decode("0a00016301010101005086d80600"))
 * const key = new DataView(bytes.buffer)
 * const fields = Tuple.makeFields("ipv4")
 * Tuple.read(fields, Tuple.v4, key, 0)
 * fields.daddr.join(".") // => "10.0.1.99"
 * fields.dport // => 80
 * ```
 *
 * @since 0.1.0
 */
export const read = (into: Fields, tuple: Shape, view: DataView, at: number): void => {
  checkRoom(`${tuple.family} tuple`, view, at, tuple.size)
  for (let i = 0; i < tuple.addressSize; i++) {
    into.daddr[i] = view.getUint8(at + i)
    into.saddr[i] = view.getUint8(at + tuple.saddr + i)
  }
  into.dport = view.getUint16(at + tuple.dport)
  into.sport = view.getUint16(at + tuple.sport)
  into.nexthdr = view.getUint8(at + tuple.nexthdr)
  into.flags = view.getUint8(at + tuple.flags)
}

/**
 * Writes a tuple at `at`: the inverse of {@link read}. Errors: throws `CodecError` when there is no room, before
 * anything is written.
 *
 * @since 0.1.0
 */
export const write = (from: Readonly<Fields>, tuple: Shape, view: DataView, at: number): void => {
  checkRoom(`${tuple.family} tuple`, view, at, tuple.size)
  for (let i = 0; i < tuple.addressSize; i++) {
    view.setUint8(at + i, from.daddr[i] ?? 0)
    view.setUint8(at + tuple.saddr + i, from.saddr[i] ?? 0)
  }
  view.setUint16(at + tuple.dport, from.dport)
  view.setUint16(at + tuple.sport, from.sport)
  view.setUint8(at + tuple.nexthdr, from.nexthdr)
  view.setUint8(at + tuple.flags, from.flags)
}

/**
 * Where the true ends of a CT entry stand in its key.
 *
 * **Details**
 *
 * Egress and ingress entries keep the originator in `daddr:sport` and the responder in `saddr:dport`. Service entries
 * keep the client in `saddr:dport` and the virtual address in `daddr:sport`: there it is the ports that are reversed.
 *
 * @since 0.1.0
 */
export interface Ends {
  readonly sourceAddress: number
  readonly sourcePort: number
  readonly destinationAddress: number
  readonly destinationPort: number
}

/**
 * Offsets of the true source and destination of a CT key with these flags.
 *
 * @since 0.1.0
 */
export const ctEnds = (tuple: Shape, flags: number): Ends =>
  (flags & TupleFlags.SERVICE) !== 0 ? serviceEnds(tuple) : flowEnds(tuple)

const flowEnds = (tuple: Shape): Ends => (tuple === v4 ? flow4 : flow6)
const serviceEnds = (tuple: Shape): Ends => (tuple === v4 ? service4 : service6)

const flow = (tuple: Shape): Ends => ({
  sourceAddress: tuple.daddr,
  sourcePort: tuple.sport,
  destinationAddress: tuple.saddr,
  destinationPort: tuple.dport
})
const service = (tuple: Shape): Ends => ({
  sourceAddress: tuple.saddr,
  sourcePort: tuple.dport,
  destinationAddress: tuple.daddr,
  destinationPort: tuple.sport
})
const flow4 = flow(v4)
const flow6 = flow(v6)
const service4 = service(v4)
const service6 = service(v6)
