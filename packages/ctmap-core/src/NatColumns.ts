/**
 * Columns over a batch of raw NAT entries: any field of row `i` without an object per entry.
 *
 * As {@link CtColumns}: owns no memory, one instance per scan, rows valid until the buffers are filled again.
 *
 * @since 0.1.0
 */
import * as Result from "effect/Result"
import { AddressCache } from "./AddressCache.ts"
import type { Family } from "./Family.ts"
import { u64, u64Approximate } from "./internal/u64.ts"
import * as NatEntry from "./NatEntry.ts"
import * as NatKey from "./NatKey.ts"
import type { Release } from "./Release.ts"
import * as Rows from "./Rows.ts"
import * as Tuple from "./Tuple.ts"
import * as TupleFlags from "./TupleFlags.ts"

/**
 * See the module. Rows are not checked against `count`.
 *
 * **Example** (Reading a batch of one)
 *
 * ```ts
 * import { NatColumns, Rows } from "ctmap-core"
 * import * as Hex from "effect/encoding/Hex"
 * import * as Result from "effect/Result"
 *
 * const keys = Result.getOrThrow(Hex.decode("010101010a000163005086d80600"))
 * const columns = new NatColumns.NatColumns({ family: "ipv4", release: "1.17" })
 * columns.bind(Rows.separate(keys, new Uint8Array(40), { keySize: 14, valueSize: 40, count: 1 }))
 * columns.sourceText(0) // => "10.0.1.99"
 * columns.destinationPort(0) // => 80
 * ```
 *
 * @since 0.1.0
 */
export class NatColumns {
  readonly family: Family
  readonly release: Release
  readonly tuple: Tuple.Shape
  readonly nat: NatEntry.Shape
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
    this.nat = NatEntry.shape(options.family)
    this.addresses = options.addresses ?? new AddressCache(options.family)
  }

  /** Points the columns at a batch. Errors: throws `CodecError` when a row would lie outside its buffer. */
  bind(rows: Rows.Rows): this {
    Rows.check(rows, `${this.family} NAT`, this.tuple.size, this.nat.size)
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
  /** Whether the mapping is for replies (IN key), translating the destination. */
  isReverse(i: number): boolean {
    return (this.tupleFlags(i) & TupleFlags.IN) !== 0
  }
  /** Offset into `keys` of the packet's source address. */
  sourceAt(i: number): number {
    return this.keyAt(i) + this.tuple.saddr
  }
  /** Offset into `keys` of the packet's destination address. */
  destinationAt(i: number): number {
    return this.keyAt(i)
  }
  /** Host order. */
  sourcePort(i: number): number {
    return this.keys.getUint16(this.keyAt(i) + this.tuple.sport)
  }
  /** Host order. */
  destinationPort(i: number): number {
    return this.keys.getUint16(this.keyAt(i) + this.tuple.dport)
  }
  /** Cached text. */
  sourceText(i: number): string {
    return this.addresses.text(this.keys, this.sourceAt(i))
  }
  /** Cached text. */
  destinationText(i: number): string {
    return this.addresses.text(this.keys, this.destinationAt(i))
  }

  /** Offset into `values` of the translated address. */
  translatedAt(i: number): number {
    return this.valueAt(i) + this.nat.address
  }
  /** Host order. */
  translatedPort(i: number): number {
    return this.values.getUint16(this.valueAt(i) + this.nat.port)
  }
  /** Cached text. */
  translatedText(i: number): string {
    return this.addresses.text(this.values, this.translatedAt(i))
  }
  /** Clock units; exact below 2^53, rounded above. */
  created(i: number): number {
    const at = this.valueAt(i)
    return u64Approximate(this.values.getUint32(at, true), this.values.getUint32(at + 4, true))
  }
  /** Clock units. */
  createdExact(i: number): bigint {
    const at = this.valueAt(i)
    return u64(this.values.getUint32(at, true), this.values.getUint32(at + 4, true))
  }
  needsCt(i: number): boolean {
    const at = this.valueAt(i) + this.nat.needsCt
    return (this.values.getUint32(at, true) | this.values.getUint32(at + 4, true)) !== 0
  }

  /** A copy of the key of row `i`. */
  key(i: number): NatKey.NatKey {
    return Result.getOrThrow(NatKey.fromBytes(this.family, this.keyBytes(i)))
  }
  /** A copy of the value of row `i`. */
  entry(i: number): NatEntry.NatEntry {
    return Result.getOrThrow(NatEntry.fromBytes(this.family, this.valueBytes(i)))
  }
  /** The key of row `i` as bytes in the batch's own memory: copy before the next batch. */
  keyBytes(i: number): Uint8Array {
    return new Uint8Array(this.keys.buffer, this.keys.byteOffset + this.keyAt(i), this.tuple.size)
  }
  /** The value of row `i` as bytes in the batch's own memory: copy before the next batch. */
  valueBytes(i: number): Uint8Array {
    return new Uint8Array(this.values.buffer, this.values.byteOffset + this.valueAt(i), this.nat.size)
  }
}

const empty = new DataView(new ArrayBuffer(0))
