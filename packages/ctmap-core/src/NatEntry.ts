/**
 * The value of a NAT map: `struct ipv4_nat_entry` (40 bytes) and `struct ipv6_nat_entry` (56 bytes).
 *
 * Owns the offsets, the fast codec and the typed forms. Padding is read, kept and written back.
 *
 * @see `bpf/lib/nat.h` of Cilium
 * @since 0.1.0
 */
import * as NetAddress from "effect/net/NetAddress"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { checkRoom, checkSize, type CodecError } from "./CodecError.ts"
import type { Family } from "./Family.ts"
import { ipAt, ipBytes } from "./internal/address.ts"
import { bytesCodec, Ipv4, Ipv6, U16, U64, viewOf } from "./internal/schemas.ts"
import { u64 } from "./internal/u64.ts"
import * as NatText from "./NatText.ts"

/**
 * Offsets of the fields, in bytes. Host order (little endian) unless said otherwise.
 *
 * @since 0.1.0
 */
export interface Shape {
  readonly family: Family
  readonly addressSize: 4 | 16
  /** Bytes of the value. */
  readonly size: 40 | 56
  /** u64, clock units. */
  readonly created: 0
  /** u64, 0 or 1. */
  readonly needsCt: 8
  /** u64, 0. */
  readonly pad1: 16
  /** u64, 0. */
  readonly pad2: 24
  /** Translated address, network order: `to_saddr` under an OUT key, `to_daddr` under an IN key. */
  readonly address: 32
  /** Translated port, **big endian**. */
  readonly port: 36 | 48
  /** Bytes of padding after the port. */
  readonly tail: 38 | 50
}

/** `struct ipv4_nat_entry`, 40 bytes. @since 0.1.0 */
export const v4 = {
  family: "ipv4",
  addressSize: 4,
  size: 40,
  created: 0,
  needsCt: 8,
  pad1: 16,
  pad2: 24,
  address: 32,
  port: 36,
  tail: 38
} as const satisfies Shape

/** `struct ipv6_nat_entry`, 56 bytes. @since 0.1.0 */
export const v6 = {
  family: "ipv6",
  addressSize: 16,
  size: 56,
  created: 0,
  needsCt: 8,
  pad1: 16,
  pad2: 24,
  address: 32,
  port: 48,
  tail: 50
} as const satisfies Shape

/** The shape of a family. @since 0.1.0 */
export const shape = (family: Family): Shape => (family === "ipv4" ? v4 : v6)

/**
 * The fields of one value, filled in place by {@link read}. 64-bit fields are two 32-bit halves.
 *
 * @since 0.1.0
 */
export interface Fields {
  createdLo: number
  createdHi: number
  needsCtLo: number
  needsCtHi: number
  pad1Lo: number
  pad1Hi: number
  pad2Lo: number
  pad2Hi: number
  /** Network order. */
  readonly address: Uint8Array
  /** Host order. */
  port: number
  /** The 2 or 6 bytes after the port. */
  readonly tail: Uint8Array
}

/** Allocates fields for a family, all zero: once per scan. @since 0.1.0 */
export const makeFields = (family: Family): Fields => {
  const nat = shape(family)
  return {
    createdLo: 0,
    createdHi: 0,
    needsCtLo: 0,
    needsCtHi: 0,
    pad1Lo: 0,
    pad1Hi: 0,
    pad2Lo: 0,
    pad2Hi: 0,
    address: new Uint8Array(nat.addressSize),
    port: 0,
    tail: new Uint8Array(nat.size - nat.tail)
  }
}

/**
 * Reads the value at `at` into `into`. Errors: throws `CodecError` when fewer than 40 or 56 bytes are left. Allocates
 * nothing.
 *
 * @since 0.1.0
 */
export const read = (into: Fields, nat: Shape, view: DataView, at: number): void => {
  checkRoom(`${nat.family} NAT entry`, view, at, nat.size)
  into.createdLo = view.getUint32(at, true)
  into.createdHi = view.getUint32(at + 4, true)
  into.needsCtLo = view.getUint32(at + nat.needsCt, true)
  into.needsCtHi = view.getUint32(at + nat.needsCt + 4, true)
  into.pad1Lo = view.getUint32(at + nat.pad1, true)
  into.pad1Hi = view.getUint32(at + nat.pad1 + 4, true)
  into.pad2Lo = view.getUint32(at + nat.pad2, true)
  into.pad2Hi = view.getUint32(at + nat.pad2 + 4, true)
  for (let i = 0; i < nat.addressSize; i++) into.address[i] = view.getUint8(at + nat.address + i)
  into.port = view.getUint16(at + nat.port)
  for (let i = 0; i < nat.size - nat.tail; i++) into.tail[i] = view.getUint8(at + nat.tail + i)
}

/**
 * Writes a value at `at`: the inverse of {@link read}. Errors: throws `CodecError` when there is no room, before
 * anything is written.
 *
 * @since 0.1.0
 */
export const write = (from: Readonly<Fields>, nat: Shape, view: DataView, at: number): void => {
  checkRoom(`${nat.family} NAT entry`, view, at, nat.size)
  view.setUint32(at, from.createdLo, true)
  view.setUint32(at + 4, from.createdHi, true)
  view.setUint32(at + nat.needsCt, from.needsCtLo, true)
  view.setUint32(at + nat.needsCt + 4, from.needsCtHi, true)
  view.setUint32(at + nat.pad1, from.pad1Lo, true)
  view.setUint32(at + nat.pad1 + 4, from.pad1Hi, true)
  view.setUint32(at + nat.pad2, from.pad2Lo, true)
  view.setUint32(at + nat.pad2 + 4, from.pad2Hi, true)
  for (let i = 0; i < nat.addressSize; i++) view.setUint8(at + nat.address + i, from.address[i] ?? 0)
  view.setUint16(at + nat.port, from.port)
  for (let i = 0; i < nat.size - nat.tail; i++) view.setUint8(at + nat.tail + i, from.tail[i] ?? 0)
}

const fields = <A extends Schema.Top>(address: A, tailSize: number) => ({
  /** Clock units. */
  created: U64,
  needsCt: U64,
  pad1: U64,
  pad2: U64,
  address,
  /** Host order. */
  port: U16,
  /** Padding after the port, kept as it is. */
  tail: Schema.Uint8Array.check(
    Schema.makeFilter((bytes: Uint8Array) => bytes.byteLength === tailSize || `the tail is ${tailSize} bytes`)
  )
})

/**
 * An IPv4 NAT value: 40 bytes.
 *
 * **Example** (What Cilium's `String` prints)
 *
 * ```ts
 * import { NatEntry } from "ctmap-core"
 *
 * NatEntry.zero("ipv4").toString() // => "Addr=0.0.0.0 Port=0 Created=0 NeedsCT=0\n"
 * ```
 *
 * @since 0.1.0
 */
export class NatEntry4 extends Schema.Class<NatEntry4>("ctmap-core/NatEntry4")(fields(Ipv4, 2)) {
  get family(): "ipv4" {
    return "ipv4"
  }
  /** `Addr=… Port=… Created=… NeedsCT=…` with a newline and the port as a little-endian host loads it. */
  override toString(): string {
    return NatText.entryString(this)
  }
}

/**
 * An IPv6 NAT value: 56 bytes.
 *
 * @since 0.1.0
 */
export class NatEntry6 extends Schema.Class<NatEntry6>("ctmap-core/NatEntry6")(fields(Ipv6, 6)) {
  get family(): "ipv6" {
    return "ipv6"
  }
  /** `Addr=… Port=… Created=… NeedsCT=…` with a newline and the port as a little-endian host loads it. */
  override toString(): string {
    return NatText.entryString(this)
  }
}

/** A value of either width; `family` tells them apart. @since 0.1.0 */
export type NatEntry = NatEntry4 | NatEntry6

/** Between 40 bytes and {@link NatEntry4}, as a schema. @since 0.1.0 */
export const Bytes4: Schema.Codec<NatEntry4, Uint8Array> = bytesCodec(NatEntry4, {
  fromBytes: (bytes) => fromBytes("ipv4", bytes),
  toBytes: (entry) => toBytes(entry)
})

/** Between 56 bytes and {@link NatEntry6}, as a schema. @since 0.1.0 */
export const Bytes6: Schema.Codec<NatEntry6, Uint8Array> = bytesCodec(NatEntry6, {
  fromBytes: (bytes) => fromBytes("ipv6", bytes),
  toBytes: (entry) => toBytes(entry)
})

/**
 * Decodes one value. Errors: `CodecError` unless there are exactly 40 or 56 bytes. Ownership: copies.
 *
 * @since 0.1.0
 */
export const fromBytes: {
  (family: "ipv4", bytes: Uint8Array): Result.Result<NatEntry4, CodecError>
  (family: "ipv6", bytes: Uint8Array): Result.Result<NatEntry6, CodecError>
  (family: Family, bytes: Uint8Array): Result.Result<NatEntry, CodecError>
} = (family: Family, bytes: Uint8Array): Result.Result<never, CodecError> =>
  Result.try({
    try: () => {
      checkSize(`${family} NAT entry`, bytes, shape(family).size)
      return readAt(family, viewOf(bytes)) as never
    },
    catch: (error) => error as CodecError
  })

/** Encodes one value into fresh bytes. @since 0.1.0 */
export const toBytes = (entry: NatEntry): Uint8Array<ArrayBuffer> => {
  const bytes = new Uint8Array(shape(entry.family).size)
  writeAt(entry, viewOf(bytes))
  return bytes
}

/** A value with every field zero. @since 0.1.0 */
export const zero = (family: Family): NatEntry => readAt(family, new DataView(new ArrayBuffer(shape(family).size)))

const readAt = (family: Family, view: DataView): NatEntry => {
  const nat = shape(family)
  const from = makeFields(family)
  read(from, nat, view, 0)
  const shared = {
    created: u64(from.createdLo, from.createdHi),
    needsCt: u64(from.needsCtLo, from.needsCtHi),
    pad1: u64(from.pad1Lo, from.pad1Hi),
    pad2: u64(from.pad2Lo, from.pad2Hi),
    port: from.port,
    tail: from.tail
  }
  const address = ipAt(view, nat.address, nat.family)
  return NetAddress.isIpv4Address(address)
    ? new NatEntry4({ ...shared, address }, { disableChecks: true })
    : new NatEntry6({ ...shared, address }, { disableChecks: true })
}

const writeAt = (entry: NatEntry, view: DataView): void => {
  const nat = shape(entry.family)
  view.setBigUint64(0, entry.created, true)
  view.setBigUint64(nat.needsCt, entry.needsCt, true)
  view.setBigUint64(nat.pad1, entry.pad1, true)
  view.setBigUint64(nat.pad2, entry.pad2, true)
  ipBytes(entry.address).forEach((byte, i) => view.setUint8(nat.address + i, byte))
  view.setUint16(nat.port, entry.port)
  entry.tail.forEach((byte, i) => view.setUint8(nat.tail + i, byte))
}
