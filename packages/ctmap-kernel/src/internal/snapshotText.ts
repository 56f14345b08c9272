/** Lines of a snapshot, `map name<TAB>key hex<TAB>value hex`: batches into bytes, and bytes into batches again. */
import { SnapshotError } from "./snapshotError.ts"

const TAB = 0x09
const NEWLINE = 0x0a

/** Two bytes as four hexadecimal digits. Made on first use: 256 KiB. */
let quads: Uint32Array | undefined

const makeQuads = (): Uint32Array => {
  const pairs = Uint16Array.from({ length: 256 }, (_, byte) => {
    const text = byte.toString(16).padStart(2, "0")
    return text.charCodeAt(0) | (text.charCodeAt(1) << 8)
  })
  return Uint32Array.from({ length: 65_536 }, (_, two) => pairs[two & 0xff]! | (pairs[two >> 8]! << 16))
}

/** What a batch holds. */
export interface Entries {
  readonly keys: Uint8Array
  readonly values: Uint8Array
  readonly count: number
}

export interface Sizes {
  readonly keySize: number
  readonly valueSize: number
}

/** The lines of a batch. */
export const linesOf = (name: Uint8Array, { keySize, valueSize }: Sizes, batch: Entries): Uint8Array<ArrayBuffer> => {
  const table = (quads ??= makeQuads())
  const length = name.byteLength + 1 + 2 * keySize + 1 + 2 * valueSize + 1
  const bytes = new Uint8Array(batch.count * length)
  const into = new DataView(bytes.buffer)
  const keys = viewOf(batch.keys)
  const values = viewOf(batch.values)
  let at = 0
  for (let row = 0; row < batch.count; row++) {
    bytes.set(name, at)
    at += name.byteLength
    bytes[at++] = TAB
    at = putHex(table, into, at, keys, row * keySize, keySize)
    bytes[at++] = TAB
    at = putHex(table, into, at, values, row * valueSize, valueSize)
    bytes[at++] = NEWLINE
  }
  return bytes
}

const putHex = (
  table: Uint32Array,
  into: DataView,
  start: number,
  from: DataView,
  first: number,
  size: number
): number => {
  let at = start
  const end = first + size
  let i = first
  for (; i + 1 < end; i += 2, at += 4) into.setUint32(at, table[from.getUint16(i, true)]!, true)
  if (i === end) return at
  into.setUint16(at, table[from.getUint8(i)]! & 0xffff, true)
  return at + 2
}

/** The value of a digit; 0xff for what is none. */
const digits = new Uint8Array(256).fill(0xff)
for (let i = 0; i < 16; i++) {
  digits[i.toString(16).charCodeAt(0)] = i
  digits[i.toString(16).toUpperCase().charCodeAt(0)] = i
}

const getHex = (from: Uint8Array, start: number, end: number, into: Uint8Array, first: number): boolean => {
  let seen = 0
  let at = first
  for (let i = start; i < end; i += 2) {
    const high = digits[from[i]!]!
    const low = digits[from[i + 1]!]!
    seen |= high | low
    into[at++] = (high << 4) | low
  }
  return seen < 16
}

/** Nothing ctmap writes has lines of this length: what does is no snapshot, and is not collected in memory. */
const LONGEST = 4096

/**
 * What the reader stopped for: `map`, a line of another map is next, see `nextMap` and `use`; `flush`, the batch is to be
 * taken and `count` set to 0; `input`, more text is needed; `end`. Or what is wrong with the text.
 */
export type Step = "map" | "flush" | "input" | "end" | SnapshotError

/** Reads lines as they come, entries of one map at a time, into arrays that are filled again. */
export class LineReader implements Entries {
  keys: Uint8Array<ArrayBuffer> = new Uint8Array(0)
  values: Uint8Array<ArrayBuffer> = new Uint8Array(0)
  count = 0
  /** Lines read so far. */
  line = 0
  /** The map of the next line, when `next` answered `map`. */
  nextMap = ""
  /** The map that the entries are of. */
  map = ""
  readonly #room: number
  #bytes: Uint8Array = new Uint8Array(0)
  #from = 0
  #to = 0
  #ended = false
  /** Name and tab that the lines of the current map begin with. */
  #prefix: Uint8Array = new Uint8Array(0)
  #keySize = 0
  #valueSize = 0

  /** `room`: entries of a batch. */
  constructor(room: number) {
    this.#room = room
  }

  /** Text to go on with, once `next` has answered `input`. It is read until `next` answers that again, and not kept. */
  push(bytes: Uint8Array): void {
    const rest = this.#to - this.#from
    if (rest === 0) this.#bytes = bytes
    else {
      const joined = new Uint8Array(rest + bytes.byteLength)
      joined.set(this.#bytes.subarray(this.#from, this.#to))
      joined.set(bytes, rest)
      this.#bytes = joined
    }
    this.#from = 0
    this.#to = this.#bytes.byteLength
  }

  /** There is no more text. */
  end(): void {
    this.#ended = true
  }

  /** The lines that follow are of this map, until another is named. */
  use(map: string, { keySize, valueSize }: Sizes): void {
    this.map = map
    this.#prefix = Buffer.from(`${map}\t`)
    this.#keySize = keySize
    this.#valueSize = valueSize
    this.keys = atLeast(this.keys, this.#room * keySize)
    this.values = atLeast(this.values, this.#room * valueSize)
  }

  next(): Step {
    for (;;) {
      if (this.count === this.#room) return "flush"
      if (this.line === 0 && this.#bytes[this.#from] === 0x1f && this.#bytes[this.#from + 1] === 0x8b)
        return this.#error("is compressed", "name the file .gz, or pipe it through `gzip -dc`")
      if (this.#fastLine()) continue
      const newline = this.#bytes.subarray(0, this.#to).indexOf(NEWLINE, this.#from)
      if (newline < 0) {
        if (!this.#ended) {
          if (this.#to - this.#from > LONGEST) return this.#error("is longer than a line of a snapshot can be", NOT_ONE)
          this.#bytes = this.#bytes.slice(this.#from, this.#to)
          this.#to -= this.#from
          this.#from = 0
          return "input"
        }
        if (this.#from === this.#to) return this.count > 0 ? "flush" : "end"
      }
      const end = newline < 0 ? this.#to : newline
      if (end === this.#from) {
        this.#from = end + 1
        this.line++
        continue
      }
      const step = this.#slowLine(end, newline < 0)
      if (step !== undefined) return step
    }
  }

  /** A line as the one before: same map, right lengths, in memory to its end. */
  #fastLine(): boolean {
    const prefix = this.#prefix.byteLength
    const key = this.#from + prefix
    const value = key + 2 * this.#keySize + 1
    const newline = value + 2 * this.#valueSize
    const bytes = this.#bytes
    if (prefix === 0 || newline >= this.#to) return false
    if (bytes[newline] !== NEWLINE || bytes[value - 1] !== TAB || !this.#hasPrefix()) return false
    const { keys, values, count } = this
    if (!getHex(bytes, key, value - 1, keys, count * this.#keySize)) return false
    if (!getHex(bytes, value, newline, values, count * this.#valueSize)) return false
    this.#from = newline + 1
    this.count++
    this.line++
    return true
  }

  #hasPrefix(): boolean {
    const prefix = this.#prefix
    for (let i = 0; i < prefix.byteLength; i++) if (this.#bytes[this.#from + i] !== prefix[i]) return false
    return true
  }

  /** A line of another map, the last line of a text that does not end in a newline, or a wrong one. */
  #slowLine(end: number, isCut: boolean): Step | undefined {
    const bytes = this.#bytes
    const text = Buffer.from(bytes.buffer, bytes.byteOffset + this.#from, end - this.#from).toString("latin1")
    const fields = text.split("\t")
    const [map = "", key = "", value = ""] = fields
    if (isCut && fields.length < 3) return this.#error(...CUT)
    if (fields.length !== 3) {
      return this.#error(`has ${fields.length} fields where three are expected, map name, key and value`, NOT_ONE)
    }
    if (map !== this.map) {
      if (this.count > 0) return "flush"
      this.nextMap = map
      return "map"
    }
    if (isCut && value.length < 2 * this.#valueSize) return this.#error(...CUT)
    const wrong = wrongHex(`key of ${map}`, key, this.#keySize) ?? wrongHex(`value of ${map}`, value, this.#valueSize)
    if (wrong !== undefined) return this.#error(wrong, "the text is damaged, take it again from where it came from")
    getHex(bytes, end - value.length - 1 - key.length, end - value.length - 1, this.keys, this.count * this.#keySize)
    getHex(bytes, end - value.length, end, this.values, this.count * this.#valueSize)
    this.#from = end
    this.count++
    this.line++
    return undefined
  }

  #error(why: string, hint: string): SnapshotError {
    return new SnapshotError({ line: this.line + 1, why, hint })
  }
}

const NOT_ONE = "a snapshot has one `map name<TAB>key hex<TAB>value hex` a line"
const CUT = ["is cut short", "the end of the text is missing, take it again from where it came from"] as const

const wrongHex = (what: string, hex: string, size: number): string | undefined => {
  if (hex.length !== 2 * size) return `has ${hex.length} hex digits as the ${what}, where ${2 * size} are expected`
  const at = hex.search(/[^0-9a-fA-F]/)
  return at < 0 ? undefined : `has ${JSON.stringify(hex[at])} in the ${what}, which is no hex digit`
}

const atLeast = (bytes: Uint8Array<ArrayBuffer>, size: number): Uint8Array<ArrayBuffer> =>
  bytes.byteLength >= size ? bytes : new Uint8Array(size)

const viewOf = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
