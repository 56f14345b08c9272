/** What the CT and the NAT line writer share: heads of lines, and whole lines from the page into a caller's buffer. */
import * as Protocol from "../Protocol.ts"
import * as Release from "../Release.ts"
import * as Ipv6 from "./ipv6Bytes.ts"
import * as Text from "./textBytes.ts"

const { copyPage, word } = Text

/** Lines are put on the page until there is this much, then copied: more would fall out of the first-level cache. */
const CHUNK = 16_384

/** What {@link LineWriter.fill} may be told. */
export interface FillOptions {
  /** The first row to write, or the first place in `rows`. Default 0. */
  readonly from?: number
  /** Where in the buffer to begin. Default 0. */
  readonly at?: number
  /** Write these rows and no others, in this order: what `FilterPredicate.select` fills. Default: every row. */
  readonly rows?: Uint32Array
  /** How many of `rows` there are. Default: all of its length. */
  readonly count?: number
}

/** Batches of rows, as far as it matters here. */
export interface Countable {
  readonly count: number
}

export abstract class LineWriter<Columns extends Countable> {
  /** The rows that are written: those that the columns are bound to at the time of a call. */
  readonly columns: Columns

  /** Where {@link fill} stopped in the buffer: one past the last byte it wrote. */
  end = 0

  readonly #maxLineBytes: number
  #staged = 0

  constructor(columns: Columns, maxLineBytes: number) {
    this.columns = columns
    this.#maxLineBytes = maxLineBytes
    Text.prepare()
    Ipv6.prepare()
  }

  /** Puts the line of a row on the page at `at`, which is not above `PAGE_MASK`; returns where it ends. */
  protected abstract line(row: number, at: number): number

  /**
   * Writes the line of one row at `at` and returns where it ends: `at` where Cilium prints nothing (protocol 0).
   * Errors: throws `RangeError` where the line has no room, before anything is written.
   */
  write(row: number, into: Uint8Array, at = 0): number {
    const length = this.line(row, 0)
    if (!(at >= 0 && at + length <= into.byteLength)) throw noRoom(length, into.byteLength - at)
    copyPage(into, at, length)
    return at + length
  }

  /**
   * Writes whole lines until the rows or the buffer end, and returns the row to go on with: `count` once all are
   * written. {@link end} says how far the buffer is filled.
   *
   * Errors: throws `RangeError` when the buffer has no room for a single line although it starts empty (`at` 0).
   */
  fill(into: Uint8Array, options: FillOptions = {}): number {
    const { from = 0, at = 0, rows } = options
    const available = rows === undefined ? this.columns.count : rows.length
    const count = options.count ?? available
    if (count > available) throw new RangeError(`there are ${available} rows to write, not ${count}`)
    let next = from
    let end = at
    while (next < count) {
      const room = into.byteLength - end
      if (room >= this.#maxLineBytes) {
        next = this.#stage(next, count, rows, Math.min(CHUNK, room - this.#maxLineBytes))
      } else {
        this.#staged = this.line(rows === undefined ? next : rows[next]!, 0)
        if (this.#staged > room) break
        next++
      }
      copyPage(into, end, this.#staged)
      end += this.#staged
    }
    if (end === 0 && next < count && next === from) throw noRoom(this.#staged, into.byteLength)
    this.end = end
    return next
  }

  /** Puts lines on the page until one ends beyond `limit`. */
  #stage(from: number, count: number, rows: Uint32Array | undefined, limit: number): number {
    let next = from
    let at = 0
    while (next < count && at <= limit) {
      at = this.line(rows === undefined ? next : rows[next]!, at)
      next++
    }
    this.#staged = at
    return next
  }
}

const noRoom = (needed: number, room: number): RangeError =>
  new RangeError(
    `a line of ${needed} bytes has no room in the ${room} bytes that are left: flush, or give a larger buffer`
  )

/** Protocol and direction of a line, as two words and a length, by release, protocol and the low tuple flags. */
export interface Heads {
  readonly words: Float64Array
  readonly lengths: Uint8Array
  /** Direction by the low tuple flags: a power of two of them. */
  readonly directions: ReadonlyArray<string>
}

/** Tables of their final size, empty. */
export const makeHeads = (directions: ReadonlyArray<string>): Heads => {
  const size = Release.all.length * 256 * directions.length
  return { words: new Float64Array(2 * size), lengths: new Uint8Array(size), directions }
}

/** Fills in the part of a release where that was not done yet, and returns the index where it begins. */
export const headsOf = ({ words, lengths, directions }: Heads, release: Release.Release): number => {
  const size = 256 * directions.length
  const base = Release.all.indexOf(release) * size
  if (lengths[base] !== 0) return base
  for (let i = 0; i < size; i++) {
    const text = `${Protocol.name(Math.floor(i / directions.length), release)} ${directions[i % directions.length]} `
    words[2 * (base + i)] = word(text)
    words[2 * (base + i) + 1] = word(text, 8)
    lengths[base + i] = text.length
  }
  return base
}
