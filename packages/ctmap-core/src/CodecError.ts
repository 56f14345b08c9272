/**
 * The one error of the byte codecs: the bytes are not of the size the structure has.
 *
 * Every bit pattern of the right size is a valid structure (unknown bits are kept), so size is all that can be wrong.
 *
 * @since 0.1.0
 */
import * as Schema from "effect/Schema"

/**
 * Bytes of the wrong size were given to a codec.
 *
 * **Example** (What it says)
 *
 * ```ts
 * import { CodecError } from "ctmap-core"
 *
 * new CodecError.CodecError({ structure: "ipv4 tuple", expected: 14, actual: 13, at: 0 }).message
 * // => "an ipv4 tuple is 14 bytes, but 13 are left at offset 0: the map is not of this layout, or the bytes were cut short"
 * ```
 *
 * @since 0.1.0
 */
export class CodecError extends Schema.TaggedError<CodecError>()("CodecError", {
  /** What was to be read or written, e.g. `ipv4 tuple`. */
  structure: Schema.String,
  /** Bytes the structure has. */
  expected: Schema.Int,
  /** Bytes there are from `at` on. */
  actual: Schema.Int,
  /** Offset into the buffer, in bytes. */
  at: Schema.Int
}) {
  override get message(): string {
    const article = /^[aeiou]/i.test(this.structure) ? "an" : "a"
    return `${article} ${this.structure} is ${this.expected} bytes, but ${this.actual} are ${this.actual < this.expected ? "left" : "there"} at offset ${this.at}: the map is not of this layout, or the bytes were cut short`
  }
}

/**
 * Throws {@link CodecError} unless `size` bytes can be accessed at `at`. The fast codecs call it once per structure.
 *
 * @since 0.1.0
 */
export const checkRoom = (structure: string, view: DataView, at: number, size: number): void => {
  if (!(at >= 0 && at + size <= view.byteLength)) {
    throw new CodecError({
      structure,
      expected: size,
      actual: Math.max(0, view.byteLength - Math.max(0, Math.trunc(at) || 0)),
      at: Number.isSafeInteger(at) ? at : -1
    })
  }
}

/**
 * Throws {@link CodecError} unless `bytes` has exactly `size` bytes. The edges call it: there a longer buffer is a
 * mistake too.
 *
 * @since 0.1.0
 */
export const checkSize = (structure: string, bytes: Uint8Array, size: number): void => {
  if (bytes.byteLength !== size) throw new CodecError({ structure, expected: size, actual: bytes.byteLength, at: 0 })
}
