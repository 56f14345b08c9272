/**
 * Columns over a batch of raw CT entries: any field of row `i` without an object per entry.
 *
 * Owns no memory: {@link CtColumns.bind} points it at the buffers of the next batch. A row is valid until those are
 * filled again; {@link CtColumns.key} and {@link CtColumns.entry} copy one out. One instance per scan.
 *
 * @since 0.1.0
 */
import * as Result from "effect/Result"
import { AddressCache } from "./AddressCache.ts"
import * as CtEntry from "./CtEntry.ts"
import * as CtKey from "./CtKey.ts"
import type { Family } from "./Family.ts"
import { u64, u64Approximate } from "./internal/u64.ts"
import type { Release } from "./Release.ts"
import * as Rows from "./Rows.ts"
import * as Tuple from "./Tuple.ts"
import * as TupleFlags from "./TupleFlags.ts"

/**
 * Key and value of one map entry, decoded: Cilium's `CtMapRecord`.
 *
 * @since 0.1.0
 */
export interface CtRecord {
  readonly key: CtKey.CtKey
  readonly entry: CtEntry.CtEntry
}

/**
 * See the module. Rows are not checked against `count`: reading beyond it reads stale memory or throws `RangeError`.
 *
 * **Example** (Reading a batch of one)
 *
 * ```ts
 * import { CtColumns, Rows } from "ctmap-core"
 * import * as Hex from "effect/encoding/Hex"
 * import * as Result from "effect/Result"
 *
 * const keys = Result.getOrThrow(Hex.decode("0a00016301010101005086d80600"))
 * const columns = new CtColumns.CtColumns({ family: "ipv4", release: "1.17" })
 * columns.bind(Rows.separate(keys, new Uint8Array(56), { keySize: 14, valueSize: 56, count: 1 }))
 * columns.sourceText(0) // => "10.0.1.99"
 * columns.destinationPort(0) // => 80
 * columns.lifetime(0) // => 0
 * ```
 *
 * @since 0.1.0
 */
export class CtColumns {
  readonly family: Family
  readonly release: Release
  readonly tuple: Tuple.Shape
  readonly addresses: AddressCache
  keys: DataView = empty
  values: DataView = empty
  keyStride = 0
  valueStride = 0
  keyStart = 0
  valueStart = 0
  count = 0

  constructor(options: {
    readonly family: Family
    readonly release: Release
    /** Share one between scans of the same family. */
    readonly addresses?: AddressCache
  }) {
    this.family = options.family
    this.release = options.release
    this.tuple = Tuple.shape(options.family)
    this.addresses = options.addresses ?? new AddressCache(options.family)
  }

  /** Points the columns at a batch. Errors: throws `CodecError` when a row would lie outside its buffer. */
  bind(rows: Rows.Rows): this {
    Rows.check(rows, `${this.family} CT`, this.tuple.size, CtEntry.SIZE)
    this.keys = rows.keys
    this.values = rows.values
    this.keyStride = rows.keyStride
    this.valueStride = rows.valueStride
    this.keyStart = rows.keyStart
    this.valueStart = rows.valueStart
    this.count = rows.count
    return this
  }

  /** Where the key of row `i` starts in `keys`. */
  keyAt(i: number): number {
    return this.keyStart + i * this.keyStride
  }
  /** Where the value of row `i` starts in `values`. */
  valueAt(i: number): number {
    return this.valueStart + i * this.valueStride
  }

  nexthdr(i: number): number {
    return this.keys.getUint8(this.keyAt(i) + this.tuple.nexthdr)
  }
  /** `TUPLE_F_*`. */
  tupleFlags(i: number): number {
    return this.keys.getUint8(this.keyAt(i) + this.tuple.flags)
  }
  /** Destination port as stored, host order. */
  dport(i: number): number {
    return this.keys.getUint16(this.keyAt(i) + this.tuple.dport)
  }
  /** Source port as stored, host order. */
  sport(i: number): number {
    return this.keys.getUint16(this.keyAt(i) + this.tuple.sport)
  }
  isService(i: number): boolean {
    return (this.tupleFlags(i) & TupleFlags.SERVICE) !== 0
  }

  /** Offset into `keys` of the address that sent the first packet: the originator, or the client of a service. */
  sourceAt(i: number): number {
    return this.isService(i) ? this.keyAt(i) + this.tuple.saddr : this.keyAt(i)
  }
  /** Offset into `keys` of the address that was sent to: the responder, or the virtual address of a service. */
  destinationAt(i: number): number {
    return this.isService(i) ? this.keyAt(i) : this.keyAt(i) + this.tuple.saddr
  }
  /** Port of the originator, or of a service's client. Host order. */
  sourcePort(i: number): number {
    return this.isService(i) ? this.dport(i) : this.sport(i)
  }
  /** Port of the responder, or of the service. Host order. */
  destinationPort(i: number): number {
    return this.isService(i) ? this.sport(i) : this.dport(i)
  }
  /** Text of {@link sourceAt}'s address; cached. */
  sourceText(i: number): string {
    return this.addresses.text(this.keys, this.sourceAt(i))
  }
  /** Text of {@link destinationAt}'s address; cached. */
  destinationText(i: number): string {
    return this.addresses.text(this.keys, this.destinationAt(i))
  }

  /** Absolute expiry, clock units. */
  lifetime(i: number): number {
    return this.values.getUint32(this.valueAt(i) + CtEntry.offset.lifetime, true)
  }
  /** See {@link CtEntryFlags}. */
  flags(i: number): number {
    return this.values.getUint16(this.valueAt(i) + CtEntry.offset.flags, true)
  }
  /** Host order. */
  revNat(i: number): number {
    return this.values.getUint16(this.valueAt(i) + CtEntry.offset.revNat)
  }
  /** 1.17 only; a 1.20 map has {@link natPort} there. */
  ifindex(i: number): number {
    return this.values.getUint16(this.valueAt(i) + CtEntry.offset.ifindex, true)
  }
  /** 1.20 only, host order; a 1.17 map has {@link ifindex} there. */
  natPort(i: number): number {
    return this.values.getUint16(this.valueAt(i) + CtEntry.offset.natPort)
  }
  txFlagsSeen(i: number): number {
    return this.values.getUint8(this.valueAt(i) + CtEntry.offset.txFlagsSeen)
  }
  rxFlagsSeen(i: number): number {
    return this.values.getUint8(this.valueAt(i) + CtEntry.offset.rxFlagsSeen)
  }
  sourceSecurityId(i: number): number {
    return this.values.getUint32(this.valueAt(i) + CtEntry.offset.sourceSecurityId, true)
  }
  /** Clock units. */
  lastTxReport(i: number): number {
    return this.values.getUint32(this.valueAt(i) + CtEntry.offset.lastTxReport, true)
  }
  /** Clock units. */
  lastRxReport(i: number): number {
    return this.values.getUint32(this.valueAt(i) + CtEntry.offset.lastRxReport, true)
  }
  /** Exact below 2^53, rounded above; {@link packetsExact} never rounds. */
  packets(i: number): number {
    return approximate(this.values, this.valueAt(i) + CtEntry.offset.packets)
  }
  packetsExact(i: number): bigint {
    return exact(this.values, this.valueAt(i) + CtEntry.offset.packets)
  }
  /** Exact below 2^53, rounded above; {@link bytesExact} never rounds. */
  bytes(i: number): number {
    return approximate(this.values, this.valueAt(i) + CtEntry.offset.bytes)
  }
  bytesExact(i: number): bigint {
    return exact(this.values, this.valueAt(i) + CtEntry.offset.bytes)
  }
  /** Exact below 2^53, rounded above; {@link backendIdExact} never rounds. In 1.20 the second half of the union. */
  backendId(i: number): number {
    return approximate(this.values, this.valueAt(i) + CtEntry.offset.backendId)
  }
  backendIdExact(i: number): bigint {
    return exact(this.values, this.valueAt(i) + CtEntry.offset.backendId)
  }

  /** A copy of the key of row `i`. */
  key(i: number, scope?: CtKey.Scope): CtKey.CtKey {
    return Result.getOrThrow(CtKey.fromBytes(this.family, this.keyBytes(i), scope))
  }
  /** A copy of the value of row `i`. */
  entry(i: number): CtEntry.CtEntry {
    return Result.getOrThrow(CtEntry.fromBytes(this.release, this.valueBytes(i)))
  }
  /** A copy of row `i`. */
  record(i: number, scope?: CtKey.Scope): CtRecord {
    return { key: this.key(i, scope), entry: this.entry(i) }
  }
  /** The key of row `i` as bytes in the batch's own memory: copy before the next batch. */
  keyBytes(i: number): Uint8Array {
    return new Uint8Array(this.keys.buffer, this.keys.byteOffset + this.keyAt(i), this.tuple.size)
  }
  /** The value of row `i` as bytes in the batch's own memory: copy before the next batch. */
  valueBytes(i: number): Uint8Array {
    return new Uint8Array(this.values.buffer, this.values.byteOffset + this.valueAt(i), CtEntry.SIZE)
  }
}

const empty = new DataView(new ArrayBuffer(0))

const approximate = (view: DataView, at: number): number =>
  u64Approximate(view.getUint32(at, true), view.getUint32(at + 4, true))

const exact = (view: DataView, at: number): bigint => u64(view.getUint32(at, true), view.getUint32(at + 4, true))
