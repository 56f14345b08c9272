/**
 * Text that is the same in every record, in words of eight bytes on the page of `textBytes.ts`. The last word may be
 * longer than what is left: what follows overwrites it.
 */
import * as Text from "./textBytes.ts"

const { put8, word, writeText } = Text

export interface Literal {
  readonly words: Float64Array
  readonly length: number
  /** What no words can hold, as a byte may be of a NaN: characters that stand for bytes. */
  readonly bytes: string
}

export const literal = (text: string): Literal =>
  // oxlint-disable-next-line no-control-regex
  /^[\u0000-\u007F]*$/.test(text)
    ? {
        words: Float64Array.from({ length: Math.ceil(text.length / 8) }, (_, i) => word(text, 8 * i)),
        length: text.length,
        bytes: ""
      }
    : { words: new Float64Array(0), length: 0, bytes: utf8(text) }

/** UTF-8, a character for each byte. */
const utf8 = (text: string): string =>
  encodeURIComponent(text).replaceAll(/%([0-9A-F]{2})/g, (_, hex: string) =>
    String.fromCharCode(Number.parseInt(hex, 16))
  )

export const writeLiteral = (at: number, { bytes, length, words }: Literal): number => {
  for (let i = 0; i < words.length; i++) put8(at + 8 * i, words[i]!)
  return bytes === "" ? at + length : writeText(at, bytes)
}
