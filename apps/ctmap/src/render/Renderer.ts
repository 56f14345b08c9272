/**
 * Entries of a table in one of the output formats, a batch at a time.
 *
 * A renderer turns rows into bytes and never writes them: who drives it decides when, so memory stays at two buffers.
 *
 * @since 0.1.0
 */
import type { CtColumns, NatColumns } from "ctmap-core"
import { type Column, TextTable } from "./TextTable.ts"

/** @since 0.1.0 */
export type Columns = CtColumns.CtColumns | NatColumns.NatColumns

/** A map whose entries are read through `columns`, which are bound to each batch in turn. @since 0.1.0 */
export interface Table<C extends Columns> {
  readonly map: { readonly name: string }
  readonly columns: C
  /** Lines of a map that belongs to an endpoint leave out the endpoint. */
  readonly local: boolean
}

/** @since 0.1.0 */
export interface Renderer<C extends Columns> {
  /** Takes the rows of a batch that are to be printed, in this order. Call `next` until there is nothing more. */
  readonly bind: (table: Table<C>, rows: Uint32Array, count: number) => void
  /** Bytes that are valid until the call after the next: they may be written while those are made. */
  readonly next: () => Uint8Array | undefined
  /** What stands behind the entries of each table. */
  readonly endTable: string
  /** What stands before and behind everything, and instead of everything where there is nothing. */
  readonly open: string
  readonly close: string
  readonly empty: string
}

/** The part of the line writers of ctmap-core that is needed here. @since 0.1.0 */
export interface LineWriter {
  readonly fill: (into: Uint8Array, options: { from: number; rows: Uint32Array; count: number }) => number
  readonly end: number
}

/** Bytes that leave at once. */
const BUFFER = 256 * 1024

/** Two buffers in turn. */
const buffers = (): (() => Buffer) => {
  let [last, other] = [Buffer.allocUnsafeSlow(BUFFER), Buffer.allocUnsafeSlow(BUFFER)]
  return () => {
    ;[last, other] = [other, last]
    return last
  }
}

/** Cilium's own lines; Cilium prints an empty line behind each table. @since 0.1.0 */
export const lines = <C extends Columns>(make: (table: Table<C>) => LineWriter): Renderer<C> => ({
  ...written(make, 0),
  endTable: "\n",
  open: "",
  close: "",
  empty: ""
})

/** One document of records whose writers put `between` in front of each. @since 0.1.0 */
export const writtenRecords = <C extends Columns>(
  { open, between, close, empty }: Document,
  make: (table: Table<C>) => LineWriter
): Renderer<C> => ({ ...written(make, between.length), endTable: "", open, close, empty })

/** What writers fill, without so many bytes at the very beginning. */
const written = <C extends Columns>(
  make: (table: Table<C>) => LineWriter,
  leftOut: number
): Pick<Renderer<C>, "bind" | "next"> => {
  let skip = leftOut
  const writers = new Map<Table<C>, LineWriter>()
  const nextBuffer = buffers()
  let writer: LineWriter | undefined
  let rows: Uint32Array = new Uint32Array(0)
  let count = 0
  let from = 0
  return {
    bind: (table, selected, selectedCount) => {
      writer = writers.get(table) ?? make(table)
      writers.set(table, writer)
      rows = selected
      count = selectedCount
      from = 0
    },
    next: () => {
      if (writer === undefined || from >= count) return undefined
      const buffer = nextBuffer()
      from = writer.fill(buffer, { from, rows, count })
      const bytes = buffer.subarray(skip, writer.end)
      skip = 0
      return bytes
    }
  }
}

/** What joins the records of a document. @since 0.1.0 */
export interface Document {
  readonly open: string
  readonly between: string
  readonly close: string
  readonly empty: string
}

/** One object a line, in one array. @since 0.1.0 */
export const jsonDocument: Document = { open: "[\n  ", between: ",\n  ", close: "\n]\n", empty: "[]\n" }

/** One object a line. @since 0.1.0 */
export const ndjsonDocument: Document = { open: "", between: "\n", close: "\n", empty: "" }

/** Rows of a table that share the widths of their columns. */
const TABLE_ROWS = 512

/** Aligned columns for people; titles once. @since 0.1.0 */
export const cells = <C extends Columns>(
  columns: ReadonlyArray<Column>,
  print: (table: Table<C>, row: number) => ReadonlyArray<string>
): Renderer<C> => {
  const table = new TextTable(columns)
  return chunked((of, rows) => table.print(rows.map((row) => print(of, row))), {
    open: "",
    close: "",
    empty: new TextTable(columns).print([])
  })
}

/** Text of so many rows at a time, collected in one buffer. */
const chunked = <C extends Columns>(
  print: (table: Table<C>, rows: ReadonlyArray<number>) => string,
  around: { readonly open: string; readonly close: string; readonly empty: string }
): Renderer<C> => {
  const nextBuffer = buffers()
  let bound: { readonly table: Table<C>; readonly rows: Uint32Array; readonly count: number } | undefined
  let from = 0
  /** Text that did not fit any more. */
  let left = ""
  const more = (): string => {
    if (left !== "" || bound === undefined || from >= bound.count) return left
    const to = Math.min(from + TABLE_ROWS, bound.count)
    const text = print(bound.table, [...bound.rows.subarray(from, to)])
    from = to
    return text
  }
  return {
    ...around,
    endTable: "",
    bind: (table, rows, count) => {
      bound = { table, rows, count }
      from = 0
    },
    next: () => {
      // Where there is nothing to say, the other buffer is still somebody's.
      let text = more()
      if (text === "") return undefined
      const buffer = nextBuffer()
      let end = 0
      for (; text !== ""; text = more()) {
        const bytes = Buffer.byteLength(text)
        left = end + bytes > BUFFER ? text : ""
        if (left !== "") {
          if (end > 0) break
          // More than the buffer ever holds.
          left = ""
          return Buffer.from(text)
        }
        end += buffer.write(text, end)
      }
      return buffer.subarray(0, end)
    }
  }
}
