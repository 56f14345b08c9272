/**
 * Where the rows of a batch stand in memory: the part that CT and NAT columns share.
 *
 * A batch read fills two arrays, one of keys and one of values. An iterator or an in-kernel copy fills one array in
 * which each value follows its key. Both are strides over a buffer, so columns read either without a copy.
 *
 * @since 0.1.0
 */
import { CodecError } from "./CodecError.ts"

/**
 * Rows in memory. Columns hold views, never copies: a row is valid until the buffer is filled again.
 *
 * @since 0.1.0
 */
export interface Rows {
  readonly keys: DataView
  readonly values: DataView
  /** Bytes from one key to the next. */
  readonly keyStride: number
  /** Bytes from one value to the next. */
  readonly valueStride: number
  /** Where the first key starts. */
  readonly keyStart: number
  /** Where the first value starts. */
  readonly valueStart: number
  readonly count: number
}

/**
 * Rows of a batch read: keys and values in two arrays without gaps.
 *
 * @since 0.1.0
 */
export const separate = (
  keys: Uint8Array,
  values: Uint8Array,
  options: { readonly keySize: number; readonly valueSize: number; readonly count: number }
): Rows => ({
  keys: viewOf(keys),
  values: viewOf(values),
  keyStride: options.keySize,
  valueStride: options.valueSize,
  keyStart: 0,
  valueStart: 0,
  count: options.count
})

/**
 * Rows of records: each is `stride` bytes and holds its key and its value at fixed offsets.
 *
 * @since 0.1.0
 */
export const interleaved = (
  records: Uint8Array,
  options: {
    readonly stride: number
    readonly keyAt: number
    readonly valueAt: number
    readonly count: number
  }
): Rows => {
  const view = viewOf(records)
  return {
    keys: view,
    values: view,
    keyStride: options.stride,
    valueStride: options.stride,
    keyStart: options.keyAt,
    valueStart: options.valueAt,
    count: options.count
  }
}

/**
 * Throws `CodecError` unless every row lies inside its buffer. Checked once per batch, so that reading a field of a
 * row needs no check.
 *
 * @since 0.1.0
 */
export const check = (rows: Rows, structure: string, keySize: number, valueSize: number): void => {
  if (rows.count === 0) return
  checkColumn(rows.keys, rows.keyStart, rows.keyStride, rows.count, keySize, `${structure} key`)
  checkColumn(rows.values, rows.valueStart, rows.valueStride, rows.count, valueSize, `${structure} value`)
}

const checkColumn = (
  view: DataView,
  start: number,
  stride: number,
  count: number,
  size: number,
  structure: string
): void => {
  const last = start + stride * (count - 1)
  const isWhole = [start, stride, count, last].every((number) => Number.isSafeInteger(number) && number >= 0)
  if (!(isWhole && stride >= size && last + size <= view.byteLength)) {
    const at = Number.isSafeInteger(last) ? last : -1
    throw new CodecError({ structure, expected: size, actual: Math.max(0, view.byteLength - Math.max(0, at)), at })
  }
}

const viewOf = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
