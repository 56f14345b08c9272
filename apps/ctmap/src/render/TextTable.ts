/** Text in columns: aligned, separated by two blanks, no borders, so that `awk` and eyes both can read it. @since 0.1.0 */

/** @since 0.1.0 */
export interface Column {
  readonly title: string
  readonly align?: "right"
}

/**
 * Lays out rows as they come. Columns grow to the widest cell seen so far, and never shrink: what is printed first is
 * narrower at worst.
 *
 * @since 0.1.0
 */
export class TextTable {
  readonly #columns: ReadonlyArray<Column>
  readonly #widths: Array<number>
  #started = false

  constructor(columns: ReadonlyArray<Column>) {
    this.#columns = columns
    this.#widths = columns.map(({ title }) => title.length)
  }

  /** The lines of these rows; the titles come before the very first. */
  print(rows: ReadonlyArray<ReadonlyArray<string>>): string {
    for (const row of rows) row.forEach((cell, i) => (this.#widths[i] = Math.max(this.#widths[i] ?? 0, cell.length)))
    const all = this.#started ? rows : [this.#columns.map(({ title }) => title), ...rows]
    this.#started = true
    return all
      .map(
        (row) =>
          `${row
            .map((cell, i) => this.#pad(cell, i))
            .join("  ")
            .trimEnd()}\n`
      )
      .join("")
  }

  #pad(cell: string, i: number): string {
    const width = this.#widths[i] ?? 0
    return this.#columns[i]?.align === "right" ? cell.padStart(width) : cell.padEnd(width)
  }
}
