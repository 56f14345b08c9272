/**
 * CT and NAT entries as Cilium's own `-o json` writes them, for tools that already read that.
 *
 * Owns the field names and order of both releases. Numbers are the struct's fields as a little-endian host loads them:
 * ports and revNAT byte-swapped, addresses as arrays of bytes, protocol and flags as numbers. 64-bit counters are
 * written with every digit. {@link CtJson} is the form made for people.
 *
 * @since 0.1.0
 */
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type { CtColumns } from "./CtColumns.ts"
import * as CtEntry from "./CtEntry.ts"
import type { Family } from "./Family.ts"
import { U16, U32, U8 } from "./internal/schemas.ts"
import { swap16 } from "./internal/tupleSchema.ts"
import { u64 } from "./internal/u64.ts"
import type { NatColumns } from "./NatColumns.ts"
import * as NatEntry from "./NatEntry.ts"
import type { Release } from "./Release.ts"
import * as Tuple from "./Tuple.ts"

/** What a record is made of; bigints are u64 and print as bare numbers. */
type Json = number | bigint | ReadonlyArray<Json> | { readonly [name: string]: Json }

/**
 * One CT record on one line, without a newline: an element of the array.
 *
 * **Example** (Ports are as a little-endian host loads them)
 *
 * ```ts
 * import { CiliumJson, CtColumns, Rows } from "ctmap-core"
 * import * as Hex from "effect/encoding/Hex"
 * import * as Result from "effect/Result"
 *
 * const keys = Result.getOrThrow(Hex.decode("0a0a0a010a0a0a020050350b067b"))
 * const columns = new CtColumns.CtColumns({ family: "ipv4", release: "1.17" })
 * columns.bind(Rows.separate(keys, new Uint8Array(56), { keySize: 14, valueSize: 56, count: 1 }))
 * JSON.parse(CiliumJson.ctRecord(columns, 0)).Key.DestPort // => 20480
 * ```
 *
 * @since 0.1.0
 */
export const ctRecord = (columns: CtColumns, row: number): string => print(ctValue(columns, row))

/** One NAT record on one line, without a newline. @since 0.1.0 */
export const natRecord = (columns: NatColumns, row: number): string => print(natValue(columns, row))

/**
 * One record with the two-space indentation of Cilium's document, at the depth of an array element.
 *
 * @since 0.1.0
 */
export const ctRecordIndented = (columns: CtColumns, row: number): string => printIndented(ctValue(columns, row), "  ")

/** As {@link ctRecordIndented} for a NAT record. @since 0.1.0 */
export const natRecordIndented = (columns: NatColumns, row: number): string =>
  printIndented(natValue(columns, row), "  ")

/**
 * The document around indented records, in the parts a stream writes: before the first, between two, after the last,
 * and the whole of it where there is none. Cilium ends with an empty line.
 *
 * @since 0.1.0
 */
export const document = { open: "[\n  ", between: ",\n  ", close: "\n]\n\n", empty: "[]\n\n" } as const

const key = (columns: CtColumns | NatColumns, row: number): Json => {
  const { tuple } = columns
  const bytes = columns.keyBytes(row)
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  return {
    DestAddr: [...bytes.subarray(0, tuple.addressSize)],
    SourceAddr: [...bytes.subarray(tuple.saddr, tuple.saddr + tuple.addressSize)],
    DestPort: view.getUint16(tuple.dport, true),
    SourcePort: view.getUint16(tuple.sport, true),
    NextHeader: view.getUint8(tuple.nexthdr),
    Flags: view.getUint8(tuple.flags)
  }
}

const ctValue = (columns: CtColumns, row: number): Json => {
  const first = u64At(columns.values, columns.valueAt(row) + CtEntry.offset.reserved0)
  const shared = {
    Packets: columns.packetsExact(row),
    Bytes: columns.bytesExact(row),
    Lifetime: columns.lifetime(row),
    Flags: columns.flags(row),
    RevNAT: swap16(columns.revNat(row))
  }
  const seen = {
    TxFlagsSeen: columns.txFlagsSeen(row),
    RxFlagsSeen: columns.rxFlagsSeen(row),
    SourceSecurityID: columns.sourceSecurityId(row),
    LastTxReport: columns.lastTxReport(row),
    LastRxReport: columns.lastRxReport(row)
  }
  const second = columns.backendIdExact(row)
  return {
    Key: key(columns, row),
    Value:
      columns.release === "1.17"
        ? { Reserved0: first, BackendID: second, ...shared, IfIndex: columns.ifindex(row), ...seen }
        : { Union0: [first, second], ...shared, NatPort: swap16(columns.natPort(row)), ...seen }
  }
}

const u64At = (view: DataView, at: number): bigint => u64(view.getUint32(at, true), view.getUint32(at + 4, true))

const natValue = (columns: NatColumns, row: number): Json => {
  const { nat, values } = columns
  const at = columns.valueAt(row)
  return {
    Key: key(columns, row),
    Value: {
      Created: columns.createdExact(row),
      NeedsCT: u64At(values, at + nat.needsCt),
      Pad1: u64At(values, at + nat.pad1),
      Pad2: u64At(values, at + nat.pad2),
      Addr: [...columns.valueBytes(row).subarray(nat.address, nat.address + nat.addressSize)],
      Port: swap16(columns.translatedPort(row))
    }
  }
}

const isList = (value: Json): value is ReadonlyArray<Json> => Array.isArray(value)

const print = (value: Json): string => {
  if (typeof value !== "object") return String(value)
  if (isList(value)) return `[${value.map(print).join(",")}]`
  return `{${Object.entries(value)
    .map(([name, field]) => `"${name}":${print(field)}`)
    .join(",")}}`
}

const printIndented = (value: Json, indent: string): string => {
  if (typeof value !== "object") return String(value)
  const inner = `${indent}  `
  const lines = isList(value)
    ? value.map((item) => inner + printIndented(item, inner))
    : Object.entries(value).map(([name, field]) => `${inner}"${name}": ${printIndented(field, inner)}`)
  const [open, close] = isList(value) ? ["[", "]"] : ["{", "}"]
  return lines.length === 0 ? open + close : `${open}\n${lines.join(",\n")}\n${indent}${close}`
}

/** A number above 2^53 was rounded by the JSON parser and is refused; {@link parse} hands it over as a string. */
const U64Json = Schema.Union([
  Schema.Int.check(Schema.isGreaterThanOrEqualTo(0)),
  Schema.String.check(
    Schema.isPattern(/^[0-9]{1,20}$/),
    Schema.makeFilter((digits: string) => BigInt(digits) < 1n << 64n || "a number of at most 64 bits")
  )
])

const Address = Schema.Union([
  Schema.Tuple([U8, U8, U8, U8]),
  Schema.Array(U8).check(Schema.isMinLength(16), Schema.isMaxLength(16))
])

const KeyJson = Schema.Struct({
  DestAddr: Address,
  SourceAddr: Address,
  DestPort: U16,
  SourcePort: U16,
  NextHeader: U8,
  Flags: U8
})

const sharedJson = {
  Packets: U64Json,
  Bytes: U64Json,
  Lifetime: U32,
  Flags: U16,
  RevNAT: U16,
  TxFlagsSeen: U8,
  RxFlagsSeen: U8,
  SourceSecurityID: U32,
  LastTxReport: U32,
  LastRxReport: U32
}

/** A CT record of 1.17, parsed. @since 0.1.0 */
export const CtRecord117 = Schema.Struct({
  Key: KeyJson,
  Value: Schema.Struct({ ...sharedJson, Reserved0: U64Json, BackendID: U64Json, IfIndex: U16 })
})

/** A CT record of 1.20, parsed. @since 0.1.0 */
export const CtRecord120 = Schema.Struct({
  Key: KeyJson,
  Value: Schema.Struct({ ...sharedJson, Union0: Schema.Tuple([U64Json, U64Json]), NatPort: U16 })
})

/** A NAT record, parsed. @since 0.1.0 */
export const NatRecord = Schema.Struct({
  Key: KeyJson,
  Value: Schema.Struct({
    Created: U64Json,
    NeedsCT: U64Json,
    Pad1: U64Json,
    Pad2: U64Json,
    Addr: Address,
    Port: U16
  })
})

/**
 * Key and value of one map entry.
 *
 * @since 0.1.0
 */
export interface EntryBytes {
  readonly family: Family
  readonly key: Uint8Array<ArrayBuffer>
  readonly value: Uint8Array<ArrayBuffer>
}

/**
 * Parses a document that Cilium wrote, e.g. out of a sysdump, without rounding its 64-bit numbers: those of 16 digits
 * and more become strings, which {@link ctBytes} and {@link natBytes} read. Errors: throws `SyntaxError` for text that
 * is no JSON.
 *
 * **Example** (A counter no JSON number holds)
 *
 * ```ts
 * import { CiliumJson } from "ctmap-core"
 *
 * CiliumJson.parse('[{"Bytes":18446744073709551615}]') // => [{ Bytes: "18446744073709551615" }]
 * ```
 *
 * @since 0.1.0
 */
export const parse = (text: string): unknown =>
  JSON.parse(text.replace(/([:[,]\s*)([0-9]{16,})(?=\s*[,\]}])/g, '$1"$2"'))

/**
 * The bytes behind one parsed CT record of a document that Cilium wrote.
 *
 * **Details**
 *
 * Errors: `SchemaError` for a record of another shape, for addresses of two widths, for a number above 2^64 - 1, and for
 * one above 2^53 that a JSON parser other than {@link parse} has rounded.
 *
 * @since 0.1.0
 */
export const ctBytes = (
  record: unknown
): Result.Result<EntryBytes & { readonly release: Release }, Schema.SchemaError> =>
  Result.flatMap(decodeCt(record), (decoded) => {
    const { Value } = decoded
    return Result.map(keyBytes(decoded.Key), ({ family, key: bytes }) => {
      const value = new Uint8Array(CtEntry.SIZE)
      const view = new DataView(value.buffer)
      const { offset } = CtEntry
      const [first, second] = "Union0" in Value ? Value.Union0 : [Value.Reserved0, Value.BackendID]
      view.setBigUint64(offset.reserved0, BigInt(first), true)
      view.setBigUint64(offset.backendId, BigInt(second), true)
      view.setBigUint64(offset.packets, BigInt(Value.Packets), true)
      view.setBigUint64(offset.bytes, BigInt(Value.Bytes), true)
      view.setUint32(offset.lifetime, Value.Lifetime, true)
      view.setUint16(offset.flags, Value.Flags, true)
      view.setUint16(offset.revNat, Value.RevNAT, true)
      view.setUint16(offset.ifindex, "NatPort" in Value ? Value.NatPort : Value.IfIndex, true)
      view.setUint8(offset.txFlagsSeen, Value.TxFlagsSeen)
      view.setUint8(offset.rxFlagsSeen, Value.RxFlagsSeen)
      view.setUint32(offset.sourceSecurityId, Value.SourceSecurityID, true)
      view.setUint32(offset.lastTxReport, Value.LastTxReport, true)
      view.setUint32(offset.lastRxReport, Value.LastRxReport, true)
      return { release: "NatPort" in Value ? ("1.20" as const) : ("1.17" as const), family, key: bytes, value }
    })
  })

/** The bytes behind one parsed NAT record. Errors: as {@link ctBytes}. @since 0.1.0 */
export const natBytes = (record: unknown): Result.Result<EntryBytes, Schema.SchemaError> =>
  Result.flatMap(decodeNat(record), ({ Key, Value }) =>
    Result.map(keyBytes({ ...Key, Extra: Value.Addr }), ({ family, key: bytes }) => {
      const nat = NatEntry.shape(family)
      const value = new Uint8Array(nat.size)
      const view = new DataView(value.buffer)
      view.setBigUint64(nat.created, BigInt(Value.Created), true)
      view.setBigUint64(nat.needsCt, BigInt(Value.NeedsCT), true)
      view.setBigUint64(nat.pad1, BigInt(Value.Pad1), true)
      view.setBigUint64(nat.pad2, BigInt(Value.Pad2), true)
      value.set(Value.Addr, nat.address)
      view.setUint16(nat.port, Value.Port, true)
      return { family, key: bytes, value }
    })
  )

const decode117 = Schema.decodeUnknownResult(CtRecord117)
const decode120 = Schema.decodeUnknownResult(CtRecord120)

/** Told apart by the union, so that what is wrong with a record is said of the release it is of. */
const decodeCt = (
  record: unknown
): Result.Result<typeof CtRecord117.Type | typeof CtRecord120.Type, Schema.SchemaError> =>
  isRecord(record) && isRecord(record["Value"]) && "Union0" in record["Value"] ? decode120(record) : decode117(record)

const isRecord = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null

const decodeNat = Schema.decodeUnknownResult(NatRecord)

const SameWidth = Schema.Array(Schema.Array(U8)).check(
  Schema.makeFilter(
    (addresses: ReadonlyArray<ReadonlyArray<number>>) =>
      new Set(addresses.map(({ length }) => length)).size === 1 || "the addresses of a record have one width, 4 or 16"
  )
)
const decodeSameWidth = Schema.decodeUnknownResult(SameWidth)

const keyBytes = (
  record: typeof KeyJson.Type & { readonly Extra?: ReadonlyArray<number> }
): Result.Result<{ readonly family: Family; readonly key: Uint8Array<ArrayBuffer> }, Schema.SchemaError> =>
  Result.map(
    decodeSameWidth([record.DestAddr, record.SourceAddr, ...(record.Extra === undefined ? [] : [record.Extra])]),
    () => {
      const family = record.DestAddr.length === 4 ? "ipv4" : "ipv6"
      const tuple = Tuple.shape(family)
      const bytes = new Uint8Array(tuple.size)
      const view = new DataView(bytes.buffer)
      bytes.set(record.DestAddr, tuple.daddr)
      bytes.set(record.SourceAddr, tuple.saddr)
      view.setUint16(tuple.dport, record.DestPort, true)
      view.setUint16(tuple.sport, record.SourcePort, true)
      view.setUint8(tuple.nexthdr, record.NextHeader)
      view.setUint8(tuple.flags, record.Flags)
      return { family, key: bytes }
    }
  )
