/**
 * Text as bytes, written into one page of memory: literals, numbers and IPv4 addresses for the line writers.
 *
 * Three things make it fast, all measured (`bench/README.md`):
 *
 * - Words. A literal is stored eight bytes at a time, as the double whose little-endian bytes are its characters (ASCII
 *   never makes a NaN); digits and octets are four-byte entries of a table. A word ends in zeros, which the next text
 *   overwrites, and its length follows from the word: no store waits for a load, and few branches depend on data.
 * - The page. It is a constant of this module and every offset is cut to 16 bits ({@link PAGE_MASK}), so the compiler
 *   knows at each store that it is inside, which it does not know of a buffer that comes from a caller.
 * - Local names. V8 folds a module's own constants into compiled code but reloads imported ones at every use, so the
 *   writers begin with `const { … } = Text`.
 *
 * The page is shared by all writers of a thread: whoever writes to it copies out with {@link copyPage} before anyone
 * else runs, and there is no `await` in between. Tables are made by {@link prepare}, not when the module loads.
 */
import { u64 } from "./u64.ts"

/** Cuts an offset to the part of the page in which a line may start. */
export const PAGE_MASK = 0xffff

/** Room behind that part, for the longest line and the words that reach past its end. */
const MARGIN = 4096

const bytes = new Uint8Array(PAGE_MASK + 1 + MARGIN)
const page = new DataView(bytes.buffer)

/** Copies the first `length` bytes of the page to `into` at `at`. */
export const copyPage = (into: Uint8Array, at: number, length: number): void => {
  into.set(bytes.subarray(0, length), at)
}

export const put1 = (at: number, byte: number): void => page.setUint8(at, byte)
export const put2 = (at: number, word: number): void => page.setUint16(at, word, true)
export const put4 = (at: number, word: number): void => page.setUint32(at, word, true)
export const put8 = (at: number, word: number): void => page.setFloat64(at, word, true)
export const get8 = (at: number): number => page.getFloat64(at, true)

/** Up to four characters from `from` on, as the integer whose little-endian bytes they are. */
export const quad = (text: string, from = 0): number =>
  (text.charCodeAt(from) |
    (text.charCodeAt(from + 1) << 8) |
    (text.charCodeAt(from + 2) << 16) |
    (text.charCodeAt(from + 3) << 24)) >>>
  0

/** How many characters a {@link quad} holds. */
export const quadLength = (word: number): number => 4 - (Math.clz32(word) >> 3)

const converter = new DataView(new ArrayBuffer(8))

/** Up to eight characters from `from` on, as the double whose little-endian bytes they are. */
export const word = (text: string, from = 0): number => {
  converter.setUint32(0, quad(text, from), true)
  converter.setUint32(4, quad(text, from + 4), true)
  return converter.getFloat64(0, true)
}

/** Up to sixteen characters as two of them. */
export const pair = (text: string): readonly [number, number] => [word(text), word(text, 8)]

/** Characters one by one, for what is rare. */
export const writeText = (from: number, text: string): number => {
  for (let i = 0; i < text.length; i++) put1(from + i, text.charCodeAt(i))
  return from + text.length
}

/**
 * The leading four digits of a number (none for 0), and the last four: without leading zeros for a number that has no
 * more, then with. Which of the two is arithmetic, because a branch on the length of a number is foreseen badly.
 */
const leading = new Uint32Array(10_000)
const last = new Uint32Array(20_000)

/** An unsigned 32-bit integer in decimal. */
export const writeU32 = (at: number, n: number): number => {
  if (n >= 100_000_000) return writeLong(at, n)
  const high = (n / 10_000) >>> 0
  const first = leading[high]!
  const second = last[n - high * 10_000 + (((0 - high) >> 31) & 10_000)]!
  put4(at, first)
  const next = at + quadLength(first)
  put4(next, second)
  return next + quadLength(second)
}

const writeLong = (at: number, n: number): number => {
  const high = (n / 100_000_000) >>> 0
  return write8(writeU32(at, high), n - high * 100_000_000)
}

const write8 = (at: number, n: number): number => {
  const high = (n / 10_000) >>> 0
  put4(at, last[10_000 + high]!)
  put4(at + 4, last[10_000 + n - high * 10_000]!)
  return at + 8
}

/** An unsigned 64-bit integer in decimal, from its halves; no bit is lost. */
export const writeU64 = (at: number, low: number, high: number): number =>
  high === 0 ? writeU32(at, low) : writeWide(at, low, high)

const writeWide = (at: number, low: number, high: number): number =>
  high <= 0x001f_ffff ? writeSafe(at, high * 4_294_967_296 + low) : writeText(at, u64(low, high).toString())

const writeSafe = (at: number, n: number): number => {
  if (n <= 0xffff_ffff) return writeU32(at, n)
  const high = Math.floor(n / 100_000_000)
  return write8(writeU32(at, high), n - high * 100_000_000)
}

/** A number as JavaScript prints it, which for safe integers takes the fast way. */
export const writeNumber = (at: number, n: number): number => {
  if (!Number.isSafeInteger(n)) return writeText(at, String(n))
  if (n >= 0) return writeSafe(at, n)
  put1(at, 0x2d)
  return writeSafe(at + 1, -n)
}

const hexPairs = new Uint16Array(256)

/** Two lower-case hexadecimal digits. */
export const putHex2 = (at: number, byte: number): void => put2(at, hexPairs[byte]!)

const octetDot = new Uint32Array(256)
const octetColon = new Uint32Array(256)

/** An IPv4 address and a colon. The address is signed, because V8 passes unsigned ones from 128.0.0.0 on as objects. */
export const writeIpv4Colon = (at: number, address: number): number => {
  const a = octetDot[address >>> 24]!
  const b = octetDot[(address >>> 16) & 0xff]!
  const c = octetDot[(address >>> 8) & 0xff]!
  const d = octetColon[address & 0xff]!
  const atB = at + quadLength(a)
  const atC = atB + quadLength(b)
  const atD = atC + quadLength(c)
  put4(at, a)
  put4(atB, b)
  put4(atC, c)
  put4(atD, d)
  return atD + quadLength(d)
}

export const pad = (text: string, length: number): string => text.padStart(length, "0")

/** Fills a part of a table with quads. */
export const fill = (
  table: Uint16Array | Uint32Array,
  from: number,
  length: number,
  text: (i: number) => string
): void => {
  for (let i = 0; i < length; i++) table[from + i] = quad(text(i))
}

/** Makes the tables. Every writer calls it before it writes; only the first call in a thread does anything. */
export const prepare = (): void => {
  if (leading[1] !== 0) return
  fill(leading, 1, 9_999, (i) => String(i + 1))
  fill(last, 0, 10_000, String)
  fill(last, 10_000, 10_000, (i) => pad(String(i), 4))
  fill(hexPairs, 0, 256, (i) => pad(i.toString(16), 2))
  fill(octetDot, 0, 256, (i) => `${i}.`)
  fill(octetColon, 0, 256, (i) => `${i}:`)
}
