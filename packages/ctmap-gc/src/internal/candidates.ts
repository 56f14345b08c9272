/**
 * Entries that a pass wants to delete, copied out of a batch: compared again, deleted, and told of from here.
 */
import { type CtColumns, CtColumns as Columns, CtEntry, type Family, type Release, Rows } from "ctmap-core"
import { CompareAndDelete } from "ctmap-kernel"
import type { Deleted } from "../GcEvents.ts"

const VALUE = CtEntry.SIZE

interface About {
  readonly family: Family.Family
  readonly release: Release.Release
}

export class Candidates implements CompareAndDelete.Candidates {
  readonly #about: About
  readonly compared: CompareAndDelete.Compared
  readonly capacity: number
  readonly keySize: number
  readonly keys: Uint8Array
  readonly values: Uint8Array
  readonly expected: Uint32Array
  readonly codes: Uint8Array
  readonly verdicts: Uint8Array
  /** Entry flags (`CtEntryFlags`) of each. */
  readonly flags: Uint16Array
  count = 0
  readonly #keyWords: DataView
  readonly #valueWords: DataView
  readonly #columns: Columns.CtColumns

  constructor(about: About, compared: CompareAndDelete.Compared, capacity: number) {
    this.#about = about
    this.compared = compared
    this.capacity = capacity
    this.#columns = new Columns.CtColumns(about)
    this.keySize = this.#columns.tuple.size
    this.keys = new Uint8Array(capacity * this.keySize)
    this.values = new Uint8Array(capacity * VALUE)
    this.expected = new Uint32Array(capacity)
    this.codes = new Uint8Array(capacity)
    this.verdicts = new Uint8Array(capacity)
    this.flags = new Uint16Array(capacity)
    this.#keyWords = new DataView(this.keys.buffer)
    this.#valueWords = new DataView(this.values.buffer)
  }

  /**
   * These, or where they have less room than is asked for, empty ones that have it. Beginning with none costs a small
   * table nothing: memory for a thousand entries takes longer to clear than such a table to read.
   */
  withRoom(rows: number): Candidates {
    if (rows <= this.capacity) return this
    return new Candidates(this.#about, this.compared, Math.max(rows, 2 * this.capacity))
  }

  /** The same entries in memory that is no larger than they are. */
  copy(): Candidates {
    const { keySize, count } = this
    const to = new Candidates(this.#about, this.compared, count)
    to.count = count
    to.keys.set(this.keys.subarray(0, count * keySize))
    to.values.set(this.values.subarray(0, count * VALUE))
    to.expected.set(this.expected.subarray(0, count))
    to.flags.set(this.flags.subarray(0, count))
    to.codes.set(this.codes.subarray(0, count))
    return to
  }

  /** Copies a row. The caller has looked for room. */
  add(columns: CtColumns.CtColumns, row: number, code: number): void {
    const at = this.count++
    copyWords(columns.keys, columns.keyAt(row), this.#keyWords, at * this.keySize, this.keySize)
    copyWords(columns.values, columns.valueAt(row), this.#valueWords, at * VALUE, VALUE)
    this.expected[at] = columns.lifetime(row)
    this.flags[at] = columns.flags(row)
    this.codes[at] = code
  }

  /** Replaces what is here by those of a stretch of `from` that were deleted. There must be room for the stretch. */
  takeDeleted(from: Candidates, start: number, count: number): void {
    const { keySize } = this
    this.count = 0
    for (let i = start; i < start + count; i++) {
      if (from.verdicts[i] !== CompareAndDelete.verdict.deleted) continue
      const at = this.count++
      copyWords(from.#keyWords, i * keySize, this.#keyWords, at * keySize, keySize)
      copyWords(from.#valueWords, i * VALUE, this.#valueWords, at * VALUE, VALUE)
      this.flags[at] = from.flags[i]!
      this.codes[at] = from.codes[i]!
    }
  }

  /** Copies that nobody will write to. */
  snapshot(): Pick<Deleted, "count" | "keys" | "values" | "reasons"> {
    const { count, keySize } = this
    return {
      count,
      keys: this.keys.slice(0, count * keySize),
      values: this.values.slice(0, count * VALUE),
      reasons: this.codes.slice(0, count)
    }
  }

  /** What is here, as columns: valid until something is added or dropped. */
  columns(): Columns.CtColumns {
    const { keySize, count } = this
    return this.#columns.bind(Rows.separate(this.keys, this.values, { keySize, valueSize: VALUE, count }))
  }
}

const copyWords = (from: DataView, at: number, to: DataView, toAt: number, size: number): void => {
  let byte = 0
  for (; byte + 4 <= size; byte += 4) to.setUint32(toAt + byte, from.getUint32(at + byte))
  for (; byte < size; byte++) to.setUint8(toAt + byte, from.getUint8(at + byte))
}
