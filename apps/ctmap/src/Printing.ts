/**
 * Prints entries, wherever they come from: limits or sorts them, and hands them to a renderer a batch at a time.
 *
 * One batch is in memory at a time, and with `--sort` as many entries as are kept; nothing else grows with the tables.
 *
 * @since 0.1.0
 */
import * as Rows from "ctmap-core/Rows"
import * as Effect from "effect/Effect"
import { Best } from "./Best.ts"
import type * as Order from "./Order.ts"
import * as Output from "./Output.ts"
import * as Progress from "./Progress.ts"
import type { Columns, Renderer, Table } from "./render/Renderer.ts"

/** The rows of a batch that are meant. @since 0.1.0 */
export interface Selected {
  readonly rows: Uint32Array
  readonly count: number
}

/** Entries of one table. @since 0.1.0 */
export interface Source<C extends Columns, E, R> {
  /** Calls `use` for each batch, with the columns of the table bound to it. `use` answers whether to go on. */
  readonly forEach: <E2, R2>(
    progress: Progress.Progress,
    use: (table: Table<C>, selected: Selected) => Effect.Effect<boolean, E2, R2>
  ) => Effect.Effect<void, E | E2, R | R2>
}

/** What to print. @since 0.1.0 */
export interface Printing<C extends Columns, E, R> {
  readonly sources: ReadonlyArray<Source<C, E, R>>
  readonly renderer: Renderer<C>
  readonly limit: number | undefined
  readonly order: Order.Order<C> | undefined
}

/** Entries that `--sort` keeps when `--limit` says nothing. */
const SORT_LIMIT = 1000

/** Prints entries and returns how many. @since 0.1.0 */
export const print = <C extends Columns, E, R>(
  printing: Printing<C, E, R>
): Effect.Effect<number, E | Output.WriteError, R | Output.Output> =>
  Output.writingBehind((write) =>
    Effect.gen(function* () {
      const { renderer } = printing
      let printed = 0
      /** Rows of the batch that the columns of a table are bound to. */
      const put: Put<C> = (table, { rows, count }) =>
        Effect.gen(function* () {
          if (count === 0) return
          if (printed === 0 && renderer.open !== "") yield* write(renderer.open)
          printed += count
          renderer.bind(table, rows, count)
          for (let bytes = renderer.next(); bytes !== undefined; bytes = renderer.next()) yield* write(bytes)
        })
      yield* printing.order === undefined ? inOrder(printing, put, write) : sorted(printing, printing.order, put)
      const end = printed === 0 ? renderer.empty : renderer.close
      if (end !== "") yield* write(end)
      return printed
    })
  )

type Put<C extends Columns> = (table: Table<C>, selected: Selected) => Effect.Effect<void, Output.WriteError>

const inOrder = <C extends Columns, E, R>(
  { sources, renderer, limit = Infinity }: Printing<C, E, R>,
  put: Put<C>,
  write: Output.WriteBehind
): Effect.Effect<void, E | Output.WriteError, R | Output.Output> =>
  Effect.gen(function* () {
    const progress = yield* Progress.make({ mixes: true })
    let left = limit
    for (const source of sources) {
      if (left <= 0) return
      const some = (table: Table<C>, { rows, count }: Selected) => {
        const wanted = Math.min(count, left)
        left -= wanted
        return Effect.as(put(table, { rows, count: wanted }), left > 0)
      }
      yield* Effect.ensuring(source.forEach(progress, some), progress.end)
      if (renderer.endTable !== "") yield* write(renderer.endTable)
    }
  })

interface Kept<C extends Columns> {
  readonly table: Table<C>
  readonly key: Uint8Array
  readonly value: Uint8Array
}

const only = Uint32Array.of(0)

const sorted = <C extends Columns, E, R>(
  { sources, limit = SORT_LIMIT }: Printing<C, E, R>,
  order: Order.Order<C>,
  put: Put<C>
): Effect.Effect<void, E | Output.WriteError, R | Output.Output> =>
  Effect.gen(function* () {
    const best = new Best<Kept<C>>(limit)
    const progress = yield* Progress.make({ mixes: false })
    const offer = (table: Table<C>, { rows, count }: Selected) =>
      Effect.sync(() => {
        const { columns } = table
        for (let i = 0; i < count; i++) {
          const row = rows[i]!
          best.offer(order(columns, row), () => ({
            table,
            key: columns.keyBytes(row).slice(),
            value: columns.valueBytes(row).slice()
          }))
        }
        return true
      })
    for (const source of sources) yield* Effect.ensuring(source.forEach(progress, offer), progress.end)
    for (const { table, key, value } of best.sorted()) {
      const sizes = { keySize: key.byteLength, valueSize: value.byteLength, count: 1 }
      table.columns.bind(Rows.separate(key, value, sizes))
      yield* put(table, { rows: only, count: 1 })
    }
    if (best.offered > limit) {
      yield* Output.note(`ctmap: the first ${limit} of ${best.offered} entries; --limit keeps more of them in memory`)
    }
  })
