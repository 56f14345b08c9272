/**
 * Small results (counts, maps, breakdowns) in the formats that have a meaning for them.
 *
 * @since 0.1.0
 */
import type * as Effect from "effect/Effect"
import * as Output from "../Output.ts"
import { type Column, TextTable } from "./TextTable.ts"

/** What a report can be printed as; `text` is the table. @since 0.1.0 */
export type Format = "text" | "table" | "json" | "ndjson"

/** @since 0.1.0 */
export type Cell = string | number | boolean | null | ReadonlyArray<string>

/** A column of a table: the field it shows, and how. @since 0.1.0 */
export interface Field extends Column {
  readonly key: string
  readonly show?: (cell: Cell) => string
}

/** A row by field. JSON prints all of it, the table only the fields of its columns. @since 0.1.0 */
export type Row = Readonly<Record<string, Cell>>

/** Text of a report. @since 0.1.0 */
export const format = (as: Format, fields: ReadonlyArray<Field>, rows: ReadonlyArray<Row>): string => {
  switch (as) {
    case "json":
      return rows.length === 0 ? "[]\n" : `[\n  ${rows.map((row) => JSON.stringify(row)).join(",\n  ")}\n]\n`
    case "ndjson":
      return rows.map((row) => `${JSON.stringify(row)}\n`).join("")
    default:
      return new TextTable(fields).print(rows.map((row) => fields.map((field) => show(field, row))))
  }
}

/** Prints a report. @since 0.1.0 */
export const print = (
  as: Format,
  fields: ReadonlyArray<Field>,
  rows: ReadonlyArray<Row>
): Effect.Effect<void, Output.WriteError, Output.Output> => Output.write(format(as, fields, rows))

/** Thousands are grouped for people. @since 0.1.0 */
export const grouped = (cell: Cell): string => (typeof cell === "number" ? cell.toLocaleString("en") : plain(cell))

/** A share of one as a percentage. @since 0.1.0 */
export const percent = (cell: Cell): string => (typeof cell === "number" ? `${(cell * 100).toFixed(1)} %` : plain(cell))

/** Bytes in the unit that suits them. @since 0.1.0 */
export const bytes = (cell: Cell): string => {
  if (typeof cell !== "number") return plain(cell)
  const units = ["B", "KiB", "MiB", "GiB", "TiB"]
  const power = Math.min(units.length - 1, Math.max(0, Math.floor(Math.log2(Math.max(1, cell)) / 10)))
  return `${(cell / 1024 ** power).toFixed(power === 0 ? 0 : 1)} ${units[power]}`
}

const plain = (cell: Cell): string =>
  cell === null || cell === "" ? "-" : typeof cell === "object" ? cell.join("; ") || "-" : String(cell)

const show = (field: Field, row: Row): string => (field.show ?? plain)(row[field.key] ?? null)
