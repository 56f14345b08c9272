/**
 * What compiled filters are made of: closures over the bytes of a row, and the ways to join them.
 *
 * Everything that does not depend on the row is decided before the closure is made. A closure holds numbers, not
 * objects, wherever the common cases allow.
 */
import { SERVICE } from "../TupleFlags.ts"

/** The part of `CtColumns` and `NatColumns` that a match reads. */
interface Batch {
  readonly keys: DataView
  readonly values: DataView
  readonly keyStart: number
  readonly keyStride: number
  readonly valueStart: number
  readonly valueStride: number
}

export type Match = (batch: Batch, row: number) => boolean

/** A match, or its answer where that is the same for every row. */
export type Node = Match | boolean

export const negate = (node: Node): Node => (typeof node === "boolean" ? !node : (batch, row) => !node(batch, row))

export const every = (nodes: ReadonlyArray<Node>): Node => {
  if (nodes.includes(false)) return false
  const [a, b, c, ...more] = nodes.filter((node) => typeof node !== "boolean")
  if (a === undefined) return true
  if (b === undefined) return a
  if (c === undefined) return (batch, row) => a(batch, row) && b(batch, row)
  if (more.length === 0) return (batch, row) => a(batch, row) && b(batch, row) && c(batch, row)
  return (batch, row) => {
    if (!(a(batch, row) && b(batch, row) && c(batch, row))) return false
    for (const match of more) if (!match(batch, row)) return false
    return true
  }
}

export const some = (nodes: ReadonlyArray<Node>): Node => {
  if (nodes.includes(true)) return true
  const [a, b, c, ...more] = nodes.filter((node) => typeof node !== "boolean")
  if (a === undefined) return false
  if (b === undefined) return a
  if (c === undefined) return (batch, row) => a(batch, row) || b(batch, row)
  if (more.length === 0) return (batch, row) => a(batch, row) || b(batch, row) || c(batch, row)
  return (batch, row) => {
    if (a(batch, row) || b(batch, row) || c(batch, row)) return true
    for (const match of more) if (match(batch, row)) return true
    return false
  }
}

/** The bits of `mask` in a byte of the key are exactly `bits`. */
export const keyByte =
  (offset: number, mask: number, bits: number): Match =>
  (batch, row) =>
    (batch.keys.getUint8(batch.keyStart + row * batch.keyStride + offset) & mask) === bits

/** All bits of `mask` are set in a little-endian u16 of the value. */
export const valueBits16 =
  (offset: number, mask: number): Match =>
  (batch, row) =>
    (batch.values.getUint16(batch.valueStart + row * batch.valueStride + offset, true) & mask) === mask

/** A u16 of the value lies in `lo`..`hi`. */
export const valueU16 =
  (offset: number, littleEndian: boolean, lo: number, hi: number): Match =>
  (batch, row) => {
    const n = batch.values.getUint16(batch.valueStart + row * batch.valueStride + offset, littleEndian)
    return n >= lo && n <= hi
  }

/** A little-endian u32 of the value lies in `lo`..`hi`. */
export const valueU32 =
  (offset: number, lo: number, hi: number): Match =>
  (batch, row) => {
    const n = batch.values.getUint32(batch.valueStart + row * batch.valueStride + offset, true)
    return n >= lo && n <= hi
  }

/** The greater of two little-endian u32 of the value lies in `lo`..`hi`. */
export const valueGreaterU32 =
  (offset: number, other: number, lo: number, hi: number): Match =>
  (batch, row) => {
    const at = batch.valueStart + row * batch.valueStride
    const n = Math.max(batch.values.getUint32(at + offset, true), batch.values.getUint32(at + other, true))
    return n >= lo && n <= hi
  }

/** A little-endian u64 of the value lies in `lo`..`hi`, exactly. */
export const valueU64 = (offset: number, lo: bigint, hi: bigint): Match => {
  const [loHigh, loLow, hiHigh, hiLow] = [high(lo), low(lo), high(hi), low(hi)]
  return (batch, row) => {
    const at = batch.valueStart + row * batch.valueStride + offset
    const nHigh = batch.values.getUint32(at + 4, true)
    if (nHigh < loHigh || nHigh > hiHigh) return false
    const nLow = batch.values.getUint32(at, true)
    return (nHigh > loHigh || nLow >= loLow) && (nHigh < hiHigh || nLow <= hiLow)
  }
}

const high = (n: bigint): number => Number(n >> 32n)
const low = (n: bigint): number => Number(n & 0xffff_ffffn)

/** Where a field of a key stands: at `at`, but at `atService` in rows whose flag byte has the service bit. */
export interface Place {
  readonly at: number
  readonly atService: number
  readonly flags: number
}

/** A test of the number or the address that stands at an offset of a view. */
export type Test = (view: DataView, at: number) => boolean

export const inKey = ({ at, atService, flags }: Place, test: Test): Match =>
  at === atService
    ? (batch, row) => test(batch.keys, batch.keyStart + row * batch.keyStride + at)
    : (batch, row) => {
        const key = batch.keyStart + row * batch.keyStride
        return test(batch.keys, key + ((batch.keys.getUint8(key + flags) & SERVICE) === 0 ? at : atService))
      }

/** One of two fields of a key passes. */
export const inEither =
  (first: number, second: number, test: Test): Match =>
  (batch, row) => {
    const key = batch.keyStart + row * batch.keyStride
    return test(batch.keys, key + first) || test(batch.keys, key + second)
  }

export const inValue =
  (offset: number, test: Test): Match =>
  (batch, row) =>
    test(batch.values, batch.valueStart + row * batch.valueStride + offset)
