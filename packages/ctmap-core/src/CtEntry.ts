/**
 * The value of a CT map: `struct ct_entry`, 56 bytes in every release that is supported.
 *
 * Owns the offsets, the fast codec over a buffer and the typed forms for the edges. Cilium 1.20 turned bytes 0..15
 * into a union with the NAT address and bytes 40..41 into `nat_port`; which reading applies is a
 * {@link Release} value, and no bit is lost under either.
 *
 * @see `bpf/lib/common.h` (1.17) and `bpf/lib/conntrack.h` (1.20) of Cilium, `struct ct_entry`
 * @since 0.1.0
 */
import * as Option from "effect/Option"
import * as NetAddress from "effect/net/NetAddress"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { checkRoom, checkSize, type CodecError } from "./CodecError.ts"
import * as CtText from "./CtText.ts"
import type { Family } from "./Family.ts"
import { bytesCodec, U16, U32, U64, U8, viewOf } from "./internal/schemas.ts"
import { u64 } from "./internal/u64.ts"
import type { Release } from "./Release.ts"

/** Bytes of a CT value: Cilium's `SizeofCtEntry`. @since 0.1.0 */
export const SIZE = 56

/**
 * Offsets of the fields, in bytes. Host order (little endian) unless said otherwise.
 *
 * @since 0.1.0
 */
export const offset = {
  /** u64, unused by 1.17; first half of the NAT address in 1.20. */
  reserved0: 0,
  /** u64, the backend of a service entry; second half of the NAT address in 1.20. */
  backendId: 8,
  /** u64, packets seen, where the datapath accounts. */
  packets: 16,
  /** u64, bytes seen, where the datapath accounts. */
  bytes: 24,
  /** u32, absolute expiry in clock units. */
  lifetime: 32,
  /** u16, see {@link CtEntryFlags}. */
  flags: 36,
  /** u16, **big endian**. */
  revNat: 38,
  /** u16, 1.17. */
  ifindex: 40,
  /** u16, **big endian**, 1.20; not zero says that the NAT address is valid. */
  natPort: 40,
  /** u8, OR of the TCP flags seen in the original direction. */
  txFlagsSeen: 42,
  /** u8, OR of the TCP flags seen in the reply direction. */
  rxFlagsSeen: 43,
  /** u32, security identity of the source. */
  sourceSecurityId: 44,
  /** u32, clock units. */
  lastTxReport: 48,
  /** u32, clock units. */
  lastRxReport: 52
} as const

/**
 * The fields of one value, filled in place by {@link read}. 64-bit fields are two 32-bit halves, so that nothing is
 * allocated and nothing is rounded.
 *
 * @since 0.1.0
 */
export interface Fields {
  reserved0Lo: number
  reserved0Hi: number
  backendIdLo: number
  backendIdHi: number
  packetsLo: number
  packetsHi: number
  bytesLo: number
  bytesHi: number
  lifetime: number
  flags: number
  /** Host order. */
  revNat: number
  /** The layout's reading of bytes 40..41: 1.17 `ifindex`, 1.20 `nat_port` in host order. */
  ifindexOrNatPort: number
  txFlagsSeen: number
  rxFlagsSeen: number
  sourceSecurityId: number
  lastTxReport: number
  lastRxReport: number
}

/**
 * Allocates fields, all zero: once per scan, not per entry.
 *
 * @since 0.1.0
 */
export const makeFields = (): Fields => ({
  reserved0Lo: 0,
  reserved0Hi: 0,
  backendIdLo: 0,
  backendIdHi: 0,
  packetsLo: 0,
  packetsHi: 0,
  bytesLo: 0,
  bytesHi: 0,
  lifetime: 0,
  flags: 0,
  revNat: 0,
  ifindexOrNatPort: 0,
  txFlagsSeen: 0,
  rxFlagsSeen: 0,
  sourceSecurityId: 0,
  lastTxReport: 0,
  lastRxReport: 0
})

/**
 * Reads the value at `at` into `into`. Errors: throws `CodecError` when fewer than 56 bytes are left. Allocates nothing.
 *
 * @since 0.1.0
 */
export const read = (into: Fields, release: Release, view: DataView, at: number): void => {
  checkRoom("CT entry", view, at, SIZE)
  into.reserved0Lo = view.getUint32(at, true)
  into.reserved0Hi = view.getUint32(at + 4, true)
  into.backendIdLo = view.getUint32(at + offset.backendId, true)
  into.backendIdHi = view.getUint32(at + offset.backendId + 4, true)
  into.packetsLo = view.getUint32(at + offset.packets, true)
  into.packetsHi = view.getUint32(at + offset.packets + 4, true)
  into.bytesLo = view.getUint32(at + offset.bytes, true)
  into.bytesHi = view.getUint32(at + offset.bytes + 4, true)
  into.lifetime = view.getUint32(at + offset.lifetime, true)
  into.flags = view.getUint16(at + offset.flags, true)
  into.revNat = view.getUint16(at + offset.revNat)
  into.ifindexOrNatPort = view.getUint16(at + offset.ifindex, release === "1.17")
  into.txFlagsSeen = view.getUint8(at + offset.txFlagsSeen)
  into.rxFlagsSeen = view.getUint8(at + offset.rxFlagsSeen)
  into.sourceSecurityId = view.getUint32(at + offset.sourceSecurityId, true)
  into.lastTxReport = view.getUint32(at + offset.lastTxReport, true)
  into.lastRxReport = view.getUint32(at + offset.lastRxReport, true)
}

/**
 * Writes a value at `at`: the inverse of {@link read} under the same release. Errors: throws `CodecError` when there
 * is no room, before anything is written.
 *
 * @since 0.1.0
 */
export const write = (from: Readonly<Fields>, release: Release, view: DataView, at: number): void => {
  checkRoom("CT entry", view, at, SIZE)
  view.setUint32(at, from.reserved0Lo, true)
  view.setUint32(at + 4, from.reserved0Hi, true)
  view.setUint32(at + offset.backendId, from.backendIdLo, true)
  view.setUint32(at + offset.backendId + 4, from.backendIdHi, true)
  view.setUint32(at + offset.packets, from.packetsLo, true)
  view.setUint32(at + offset.packets + 4, from.packetsHi, true)
  view.setUint32(at + offset.bytes, from.bytesLo, true)
  view.setUint32(at + offset.bytes + 4, from.bytesHi, true)
  view.setUint32(at + offset.lifetime, from.lifetime, true)
  view.setUint16(at + offset.flags, from.flags, true)
  view.setUint16(at + offset.revNat, from.revNat)
  view.setUint16(at + offset.ifindex, from.ifindexOrNatPort, release === "1.17")
  view.setUint8(at + offset.txFlagsSeen, from.txFlagsSeen)
  view.setUint8(at + offset.rxFlagsSeen, from.rxFlagsSeen)
  view.setUint32(at + offset.sourceSecurityId, from.sourceSecurityId, true)
  view.setUint32(at + offset.lastTxReport, from.lastTxReport, true)
  view.setUint32(at + offset.lastRxReport, from.lastRxReport, true)
}

const common = {
  packets: U64,
  bytes: U64,
  /** Absolute expiry in clock units. */
  lifetime: U32,
  flags: U16,
  /** Host order. */
  revNat: U16,
  txFlagsSeen: U8,
  rxFlagsSeen: U8,
  sourceSecurityId: U32,
  /** Clock units. */
  lastTxReport: U32,
  /** Clock units. */
  lastRxReport: U32
}

/**
 * A CT value as Cilium 1.17 lays it out.
 *
 * **Example** (Decoding and printing)
 *
 * ```ts
 * import { CtEntry } from "ctmap-core"
 *
 * const entry = CtEntry.zero("1.17")
 * entry.toString().startsWith("expires=0 Packets=0 Bytes=0 RxFlagsSeen=0x00") // => true
 * entry.toStringWithTimeDiff(() => "remaining: 5 sec(s)").startsWith("expires=0 (remaining: 5 sec(s)) ") // => true
 * ```
 *
 * @since 0.1.0
 */
export class CtEntry117 extends Schema.Class<CtEntry117>("ctmap-core/CtEntry117")({
  ...common,
  reserved0: U64,
  backendId: U64,
  ifindex: U16
}) {
  get release(): "1.17" {
    return "1.17"
  }
  /** The value part of a dump line, with its newline. */
  override toString(): string {
    return CtText.entry(this)
  }
  /** As {@link toString}, with what `describe` says of the raw lifetime in parentheses. */
  toStringWithTimeDiff(describe: (lifetime: number) => string): string {
    return CtText.entry(this, describe)
  }
}

/**
 * A CT value as Cilium 1.20 lays it out: the first 16 bytes are a union of the NAT address (egress NodePort entries)
 * and the backend id (service entries).
 *
 * @since 0.1.0
 */
export class CtEntry120 extends Schema.Class<CtEntry120>("ctmap-core/CtEntry120")({
  ...common,
  /** Bytes 0..7 of the union. */
  union0: U64,
  /** Bytes 8..15 of the union: the backend id of a service entry. */
  union1: U64,
  /** Host order; not zero says that the NAT address is valid. */
  natPort: U16
}) {
  get release(): "1.20" {
    return "1.20"
  }
  /** The second half of the union, which is the backend id unless the union holds a NAT address. */
  get backendId(): bigint {
    return this.union1
  }
  /** The NAT address of an egress NodePort entry; IPv4 addresses stand in the last four bytes of the union. */
  natAddress(family: Family): Option.Option<NetAddress.IpAddress> {
    if (this.natPort === 0) return Option.none()
    const bytes = new Uint8Array(16)
    const view = viewOf(bytes)
    view.setBigUint64(0, this.union0, true)
    view.setBigUint64(8, this.union1, true)
    return Option.some(
      family === "ipv4" ? NetAddress.ipv4FromBytesUnsafe(bytes.slice(12)) : NetAddress.ipv6FromBytesUnsafe(bytes)
    )
  }
  /** The value part of a dump line, with its newline. */
  override toString(): string {
    return CtText.entry(this)
  }
  /** As {@link toString}, with what `describe` says of the raw lifetime in parentheses. */
  toStringWithTimeDiff(describe: (lifetime: number) => string): string {
    return CtText.entry(this, describe)
  }
}

/**
 * A value of either layout; `release` tells them apart.
 *
 * @since 0.1.0
 */
export type CtEntry = CtEntry117 | CtEntry120

/** Between 56 bytes and {@link CtEntry117}, as a schema. @since 0.1.0 */
export const Bytes117: Schema.Codec<CtEntry117, Uint8Array> = bytesCodec(CtEntry117, {
  fromBytes: (bytes) => fromBytes("1.17", bytes),
  toBytes: (entry) => toBytes(entry)
})

/** Between 56 bytes and {@link CtEntry120}, as a schema. @since 0.1.0 */
export const Bytes120: Schema.Codec<CtEntry120, Uint8Array> = bytesCodec(CtEntry120, {
  fromBytes: (bytes) => fromBytes("1.20", bytes),
  toBytes: (entry) => toBytes(entry)
})

/**
 * Decodes one value.
 *
 * **Details**
 *
 * Shape: 56 bytes. Units: `lifetime` and the reports are clock units (seconds of CLOCK_MONOTONIC, or jiffies >> 8).
 * Errors: `CodecError` unless there are exactly 56 bytes. Ownership: copies.
 *
 * @since 0.1.0
 */
export const fromBytes: {
  (release: "1.17", bytes: Uint8Array): Result.Result<CtEntry117, CodecError>
  (release: "1.20", bytes: Uint8Array): Result.Result<CtEntry120, CodecError>
  (release: Release, bytes: Uint8Array): Result.Result<CtEntry, CodecError>
} = (release: Release, bytes: Uint8Array): Result.Result<never, CodecError> =>
  Result.try({
    try: () => {
      checkSize("CT entry", bytes, SIZE)
      return readAt(release, viewOf(bytes)) as never
    },
    catch: (error) => error as CodecError
  })

/**
 * Encodes one value into 56 fresh bytes.
 *
 * @since 0.1.0
 */
export const toBytes = (entry: CtEntry): Uint8Array<ArrayBuffer> => {
  const bytes = new Uint8Array(SIZE)
  writeAt(entry, viewOf(bytes))
  return bytes
}

/**
 * A value with every field zero: Cilium's `New`.
 *
 * @since 0.1.0
 */
export const zero: {
  (release: "1.17"): CtEntry117
  (release: "1.20"): CtEntry120
  (release: Release): CtEntry
} = (release: Release): never => readAt(release, new DataView(new ArrayBuffer(SIZE))) as never

const scratch = makeFields()

const readAt = (release: Release, view: DataView): CtEntry => {
  read(scratch, release, view, 0)
  const { lifetime, flags, revNat, txFlagsSeen, rxFlagsSeen, sourceSecurityId, lastTxReport, lastRxReport } = scratch
  const shared = {
    packets: u64(scratch.packetsLo, scratch.packetsHi),
    bytes: u64(scratch.bytesLo, scratch.bytesHi),
    lifetime,
    flags,
    revNat,
    txFlagsSeen,
    rxFlagsSeen,
    sourceSecurityId,
    lastTxReport,
    lastRxReport
  }
  const first = u64(scratch.reserved0Lo, scratch.reserved0Hi)
  const second = u64(scratch.backendIdLo, scratch.backendIdHi)
  return release === "1.17"
    ? new CtEntry117(
        { ...shared, reserved0: first, backendId: second, ifindex: scratch.ifindexOrNatPort },
        { disableChecks: true }
      )
    : new CtEntry120(
        { ...shared, union0: first, union1: second, natPort: scratch.ifindexOrNatPort },
        { disableChecks: true }
      )
}

const writeAt = (entry: CtEntry, view: DataView): void => {
  const first = entry.release === "1.17" ? entry.reserved0 : entry.union0
  const second = entry.release === "1.17" ? entry.backendId : entry.union1
  view.setBigUint64(0, first, true)
  view.setBigUint64(offset.backendId, second, true)
  view.setBigUint64(offset.packets, entry.packets, true)
  view.setBigUint64(offset.bytes, entry.bytes, true)
  view.setUint32(offset.lifetime, entry.lifetime, true)
  view.setUint16(offset.flags, entry.flags, true)
  view.setUint16(offset.revNat, entry.revNat)
  if (entry.release === "1.17") view.setUint16(offset.ifindex, entry.ifindex, true)
  else view.setUint16(offset.natPort, entry.natPort)
  view.setUint8(offset.txFlagsSeen, entry.txFlagsSeen)
  view.setUint8(offset.rxFlagsSeen, entry.rxFlagsSeen)
  view.setUint32(offset.sourceSecurityId, entry.sourceSecurityId, true)
  view.setUint32(offset.lastTxReport, entry.lastTxReport, true)
  view.setUint32(offset.lastRxReport, entry.lastRxReport, true)
}
