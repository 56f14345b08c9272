/**
 * CT and NAT entries as JSON made for people and their tools: what `-o json` and `-o ndjson` print.
 *
 * Owns the schema of a record, which is published as `schema/ctmap-record.schema.json`. Ports are host order, ends are the
 * true ones, protocols and flags have names (and their numbers, so nothing is lost). Counters above 2^53 are strings:
 * a JSON parser would round the number.
 *
 * @since 0.1.0
 */
import * as NetAddress from "effect/net/NetAddress"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type { CtColumns } from "./CtColumns.ts"
import * as CtEntry from "./CtEntry.ts"
import * as CtEntryFlags from "./CtEntryFlags.ts"
import * as CtTime from "./CtTime.ts"
import { Family } from "./Family.ts"
import { ipBytes } from "./internal/address.ts"
import { U16, U32, U8, viewOf } from "./internal/schemas.ts"
import type { NatColumns } from "./NatColumns.ts"
import * as NatEntry from "./NatEntry.ts"
import * as Protocol from "./Protocol.ts"
import { Release } from "./Release.ts"
import * as TcpFlags from "./TcpFlags.ts"
import * as Tuple from "./Tuple.ts"
import * as TupleFlags from "./TupleFlags.ts"

const note = (description: string) => ({ description })

const U64Number = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER }))
const U64 = Schema.Union([
  U64Number,
  Schema.String.check(Schema.isPattern(/^(9[0-9]{15}|[1-9][0-9]{16,18}|1[0-9]{19})$/))
]).annotate(note("An unsigned 64-bit number; a decimal string where it is above 2^53 - 1."))

/** One end of a flow. @since 0.1.0 */
export const End = Schema.Struct({
  address: Schema.String.annotate(note("IPv4 dotted quad or IPv6 text (RFC 5952), without brackets.")),
  port: U16.annotate(
    note("Host order. The identifier of an ICMP echo stands in place of a port; 0 where there is none.")
  )
}).annotate({ identifier: "End" })

/** What was seen in one direction. @since 0.1.0 */
export const Seen = Schema.Struct({
  tcpFlags: Schema.Array(Schema.Literals(TcpFlags.all)),
  tcpFlagBits: U8,
  lastReport: U32.annotate(note("Clock units; 0 where nothing was reported yet."))
}).annotate({ identifier: "Seen" })

const head = {
  map: Schema.optionalKey(Schema.String.annotate(note("Pin name of the map the entry is in."))),
  family: Family,
  protocol: Schema.String.annotate(note("Cilium's name of the protocol, or its number in decimal.")),
  protocolNumber: U8,
  source: End,
  destination: End,
  related: Schema.Boolean.annotate(note("The companion entry that admits ICMP errors of the flow.")),
  tupleFlagBits: U8
}

/**
 * A CT entry.
 *
 * @since 0.1.0
 */
export const CtRecord = Schema.Struct({
  type: Schema.Literal("ct"),
  ...head,
  release: Release.annotate(note("The Cilium release whose layout the entry was read with.")),
  direction: Schema.Literals(["out", "in", "service"]),
  expires: U32.annotate(note("Absolute expiry in clock units: seconds since boot, or jiffies >> 8.")),
  remainingSeconds: Schema.optionalKey(
    Schema.Int.annotate(note("Whole seconds until expiry, negative once expired; present where the clock is known."))
  ),
  packets: U64,
  bytes: U64,
  flags: Schema.Array(Schema.Literals(CtEntryFlags.named.map(({ name }) => name))),
  flagBits: U16,
  rx: Seen,
  tx: Seen,
  revNat: U16,
  sourceSecurityId: U32,
  backendId: Schema.optionalKey(U64.annotate(note("Absent where the layout keeps a NAT address in its place."))),
  ifindex: Schema.optionalKey(U16.annotate(note("1.17 only."))),
  nat: Schema.optionalKey(End).annotateKey(
    note("1.20 only: the address the flow is translated to, where the entry has one.")
  )
}).annotate({ identifier: "CtRecord" })

/** See {@link CtRecord}. @since 0.1.0 */
export type CtRecord = typeof CtRecord.Type

/**
 * A NAT entry.
 *
 * @since 0.1.0
 */
export const NatRecord = Schema.Struct({
  type: Schema.Literal("nat"),
  ...head,
  direction: Schema.Literals(["out", "in"]),
  service: Schema.Boolean,
  translates: Schema.Literals(["source", "destination"]).annotate(note("Which end of a packet the mapping rewrites.")),
  translated: End,
  created: U64.annotate(note("Clock units.")),
  ageSeconds: Schema.optionalKey(
    Schema.Int.annotate(
      note("Whole seconds since creation; present where the clock is known and the creation time makes sense.")
    )
  ),
  needsCt: Schema.Boolean
}).annotate({ identifier: "NatRecord" })

/** See {@link NatRecord}. @since 0.1.0 */
export type NatRecord = typeof NatRecord.Type

/** A line of NDJSON, an element of the JSON array. @since 0.1.0 */
export const Record = Schema.Union([CtRecord, NatRecord])

/** See {@link Record}. @since 0.1.0 */
export type Record = typeof Record.Type

/**
 * What a record can say beyond the bytes of its entry.
 *
 * @since 0.1.0
 */
export interface Context {
  readonly map?: string
  /** With it, times relative to now are included. `now` is in the units of the source. */
  readonly clock?: { readonly source: CtTime.ClockSource; readonly now: number }
}

/**
 * Row `row` of a CT batch as a record: a copy, ready for `JSON.stringify`.
 *
 * **Example** (A client and its service)
 *
 * ```ts
 * import { CtColumns, CtJson, Rows } from "ctmap-core"
 * import * as Hex from "effect/encoding/Hex"
 * import * as Result from "effect/Result"
 *
 * const keys = Result.getOrThrow(Hex.decode("0a6000010a000163c35001bb0604"))
 * const columns = new CtColumns.CtColumns({ family: "ipv4", release: "1.17" })
 * columns.bind(Rows.separate(keys, new Uint8Array(56), { keySize: 14, valueSize: 56, count: 1 }))
 * const record = CtJson.ctRecord(columns, 0)
 * record.direction // => "service"
 * record.source // => { address: "10.0.1.99", port: 50000 }
 * record.destination // => { address: "10.96.0.1", port: 443 }
 * ```
 *
 * @since 0.1.0
 */
export const ctRecord = (columns: CtColumns, row: number, context: Context = {}): CtRecord => {
  const tupleFlags = columns.tupleFlags(row)
  const flags = columns.flags(row)
  const lifetime = columns.lifetime(row)
  return {
    type: "ct",
    ...headOf(columns, row, context),
    release: columns.release,
    direction: TupleFlags.direction(tupleFlags),
    expires: lifetime,
    ...(context.clock === undefined
      ? {}
      : { remainingSeconds: CtTime.remaining(context.clock.source, lifetime, Math.trunc(context.clock.now)) }),
    packets: u64(columns.packetsExact(row)),
    bytes: u64(columns.bytesExact(row)),
    flags: CtEntryFlags.names(flags),
    flagBits: flags,
    rx: seen(columns.rxFlagsSeen(row), columns.lastRxReport(row)),
    tx: seen(columns.txFlagsSeen(row), columns.lastTxReport(row)),
    revNat: columns.revNat(row),
    sourceSecurityId: columns.sourceSecurityId(row),
    ...tail(columns, row)
  }
}

const tail = (columns: CtColumns, row: number): Pick<CtRecord, "backendId" | "ifindex" | "nat"> => {
  if (columns.release === "1.17") return { backendId: u64(columns.backendIdExact(row)), ifindex: columns.ifindex(row) }
  const entry = columns.entry(row)
  // The union of a service entry is its backend, whatever stands in the port.
  const address = entry.release === "1.20" && !columns.isService(row) ? entry.natAddress(columns.family) : Option.none()
  return Option.match(address, {
    onNone: () => ({ backendId: u64(columns.backendIdExact(row)) }),
    onSome: (ip) => ({ nat: { address: NetAddress.formatIp(ip), port: columns.natPort(row) } })
  })
}

/** Row `row` of a NAT batch as a record: a copy, ready for `JSON.stringify`. @since 0.1.0 */
export const natRecord = (columns: NatColumns, row: number, context: Context = {}): NatRecord => {
  const reverse = columns.isReverse(row)
  const created = columns.createdExact(row)
  return {
    type: "nat",
    ...headOf(columns, row, context),
    direction: reverse ? "in" : "out",
    service: (columns.tupleFlags(row) & TupleFlags.SERVICE) !== 0,
    translates: reverse ? "destination" : "source",
    translated: { address: columns.translatedText(row), port: columns.translatedPort(row) },
    created: u64(created),
    ...ageOf(created, context),
    needsCt: columns.needsCt(row)
  }
}

/** Creation times are 64 bits wide; an age that no JSON number holds is of no entry that anybody made, and left out. */
const ageOf = (created: bigint, { clock }: Context): Pick<NatRecord, "ageSeconds"> => {
  if (clock === undefined) return {}
  const ageSeconds = Number(CtTime.age(clock.source, created, BigInt(Math.trunc(clock.now))))
  return Number.isSafeInteger(ageSeconds) ? { ageSeconds } : {}
}

const headOf = (columns: CtColumns | NatColumns, row: number, context: Context) => {
  const tupleFlags = columns.tupleFlags(row)
  const protocolNumber = columns.nexthdr(row)
  return {
    ...(context.map === undefined ? {} : { map: context.map }),
    family: columns.family,
    protocol: Protocol.name(protocolNumber, columns.release),
    protocolNumber,
    source: { address: columns.sourceText(row), port: columns.sourcePort(row) },
    destination: { address: columns.destinationText(row), port: columns.destinationPort(row) },
    related: TupleFlags.isRelated(tupleFlags),
    tupleFlagBits: tupleFlags
  }
}

const seen = (bits: number, lastReport: number): typeof Seen.Type => ({
  tcpFlags: TcpFlags.names(bits),
  tcpFlagBits: bits,
  lastReport
})

const u64 = (value: bigint): number | string => (value <= Number.MAX_SAFE_INTEGER ? Number(value) : String(value))

/** Key and value of an entry as they stand in its map. @since 0.1.0 */
export interface EntryBytes {
  readonly key: Uint8Array
  readonly value: Uint8Array
}

/**
 * The entry that a CT record tells of: for who got records and wants lines, columns or filters.
 *
 * **Details**
 *
 * A record of these bytes is the record again. Bytes that records do not tell are zero, as the datapath leaves them: the
 * first eight of a 1.17 value, what stands beside an IPv4 address in the union of 1.20. Errors: `NetAddressError` for text
 * that is no address of the family; numbers are taken as the schema allows them. Ownership: fresh bytes.
 *
 * **Example** (From a record to a line)
 *
 * ```ts
 * import { CtColumns, CtJson, CtText, Rows } from "ctmap-core"
 * import * as Hex from "effect/encoding/Hex"
 * import * as Result from "effect/Result"
 *
 * const sizes = { keySize: 14, valueSize: 56, count: 1 }
 * const keys = Result.getOrThrow(Hex.decode("0a00016301010101005086d80600"))
 * const columns = new CtColumns.CtColumns({ family: "ipv4", release: "1.17" })
 * const record = CtJson.ctRecord(columns.bind(Rows.separate(keys, new Uint8Array(56), sizes)), 0)
 *
 * const { key, value } = Result.getOrThrow(CtJson.ctBytes(JSON.parse(JSON.stringify(record))))
 * const again = columns.bind(Rows.separate(key, value, sizes)).record(0)
 * CtText.line(again.key, again.entry)?.slice(0, 47) // => "TCP OUT 10.0.1.99:34520 -> 1.1.1.1:80 expires=0"
 * ```
 *
 * @since 0.1.0
 */
export const ctBytes = (record: CtRecord): Result.Result<EntryBytes, NetAddress.NetAddressError> =>
  attempt(() => {
    const tuple = Tuple.shape(record.family)
    const key = keyOf(record, Tuple.ctEnds(tuple, record.tupleFlagBits))
    const value = new Uint8Array(CtEntry.SIZE)
    const view = viewOf(value)
    const { offset } = CtEntry
    view.setBigUint64(offset.backendId, BigInt(record.backendId ?? 0), true)
    view.setBigUint64(offset.packets, BigInt(record.packets), true)
    view.setBigUint64(offset.bytes, BigInt(record.bytes), true)
    view.setUint32(offset.lifetime, record.expires, true)
    view.setUint16(offset.flags, record.flagBits, true)
    view.setUint16(offset.revNat, record.revNat)
    view.setUint16(offset.ifindex, record.ifindex ?? 0, true)
    value[offset.txFlagsSeen] = record.tx.tcpFlagBits
    value[offset.rxFlagsSeen] = record.rx.tcpFlagBits
    view.setUint32(offset.sourceSecurityId, record.sourceSecurityId, true)
    view.setUint32(offset.lastTxReport, record.tx.lastReport, true)
    view.setUint32(offset.lastRxReport, record.rx.lastReport, true)
    if (record.nat !== undefined) {
      const address = addressOf(record.family, record.nat.address)
      value.set(address, 16 - address.byteLength)
      view.setUint16(offset.natPort, record.nat.port)
    }
    return { key, value }
  })

/** The entry that a NAT record tells of: as {@link ctBytes}. Padding is zero. @since 0.1.0 */
export const natBytes = (record: NatRecord): Result.Result<EntryBytes, NetAddress.NetAddressError> =>
  attempt(() => {
    const { family, translated } = record
    const { daddr, dport, saddr, sport } = Tuple.shape(family)
    const key = keyOf(record, {
      sourceAddress: saddr,
      sourcePort: sport,
      destinationAddress: daddr,
      destinationPort: dport
    })
    const nat = NatEntry.shape(family)
    const value = new Uint8Array(nat.size)
    const view = viewOf(value)
    view.setBigUint64(nat.created, BigInt(record.created), true)
    view.setBigUint64(nat.needsCt, record.needsCt ? 1n : 0n, true)
    value.set(addressOf(family, translated.address), nat.address)
    view.setUint16(nat.port, translated.port)
    return { key, value }
  })

/** Below, what is no address is thrown: a hundred thousand records are read in a second. */
const attempt = (make: () => EntryBytes): Result.Result<EntryBytes, NetAddress.NetAddressError> =>
  Result.try({ try: make, catch: (error) => error as NetAddress.NetAddressError })

const keyOf = (
  { destination, family, protocolNumber, source, tupleFlagBits }: CtRecord | NatRecord,
  ends: Tuple.Ends
): Uint8Array => {
  const tuple = Tuple.shape(family)
  const key = new Uint8Array(tuple.size)
  key.set(addressOf(family, source.address), ends.sourceAddress)
  key.set(addressOf(family, destination.address), ends.destinationAddress)
  const view = viewOf(key)
  view.setUint16(ends.sourcePort, source.port)
  view.setUint16(ends.destinationPort, destination.port)
  key[tuple.nexthdr] = protocolNumber
  key[tuple.flags] = tupleFlagBits
  return key
}

/** Addresses that came before: a table has far fewer of them than entries. Nobody else gets to see the bytes. */
const known = new Map<string, Uint8Array>()
const KNOWN = 4096

const addressOf = (family: Family, text: string): Uint8Array => {
  const bytes = known.get(text)
  if (bytes !== undefined && bytes.byteLength === Tuple.shape(family).addressSize) return bytes
  const address: Result.Result<NetAddress.IpAddress, NetAddress.NetAddressError> =
    family === "ipv4" ? NetAddress.ipv4FromString(text) : NetAddress.ipv6FromString(text)
  const parsed = ipBytes(Result.getOrThrow(address))
  if (known.size >= KNOWN) known.clear()
  known.set(text, parsed)
  return parsed
}

/**
 * The JSON Schema (draft 2020-12) of a record. The published file is this, printed.
 *
 * @since 0.1.0
 */
export const jsonSchema = (): object => {
  const { schema, definitions } = Schema.toJsonSchemaDocument(Record)
  return {
    $schema: "https://json-schema.org/draft/2020-12/schema",
    $id: "urn:ctmap:record:1",
    title: "A conntrack or NAT entry as ctmap prints it with -o json and -o ndjson",
    ...schema,
    $defs: definitions
  }
}
