/**
 * Runs over the entries of maps: select, and hand on a batch at a time. What `list`, `count`, `stats`, `top` and
 * `nat list` share.
 *
 * @since 0.1.0
 */
import type { CtColumns, Filter, NatColumns } from "ctmap-core"
import * as CtColumnsModule from "ctmap-core/CtColumns"
import * as FilterParser from "ctmap-core/FilterParser"
import * as FilterPredicate from "ctmap-core/FilterPredicate"
import { secondsPerUnit } from "ctmap-core/CtTime"
import * as NatColumnsModule from "ctmap-core/NatColumns"
import type { Bpf } from "ctmap-kernel/Bpf"
import type { BpfError } from "ctmap-kernel/BpfError"
import type { BpfMap } from "ctmap-kernel/BpfMap"
import type * as CtPair from "ctmap-kernel/CtPair"
import { UnknownLayout } from "ctmap-kernel/Dump"
import * as KernelClock from "ctmap-kernel/KernelClock"
import * as Layout from "ctmap-kernel/Layout"
import * as MapIterator from "ctmap-kernel/MapIterator"
import * as RowScan from "ctmap-kernel/RowScan"
import * as Scan from "ctmap-kernel/Scan"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import { identity } from "effect/Function"
import type { Reading } from "./Clock.ts"
import type { Release } from "ctmap-core"
import type * as Order from "./Order.ts"
import * as Output from "./Output.ts"
import * as Printing from "./Printing.ts"
import * as Progress from "./Progress.ts"
import type { Columns, Renderer, Table } from "./render/Renderer.ts"

/** Which rows of a batch are meant; for a family and release of columns. @since 0.1.0 */
type Predicate<C extends Columns> = (columns: C, row: number) => boolean

/** A table, and which of its rows are meant; all of them without a predicate. @since 0.1.0 */
export interface Source<C extends Columns> extends Table<C> {
  readonly map: BpfMap
  readonly predicate: Predicate<C> | undefined
}

/** @since 0.1.0 */
export type SourceError = UnknownLayout | Filter.FilterSyntaxError | Filter.FilterUnsupported

/** CT maps as sources. Errors: a filter that is none, a layout that must not be read. @since 0.1.0 */
export const ctSources = (
  maps: ReadonlyArray<CtPair.CtMap>,
  where: string | undefined,
  clock: Reading | undefined
): Effect.Effect<ReadonlyArray<Source<CtColumns.CtColumns>>, SourceError> =>
  Effect.gen(function* () {
    const filter = yield* parse(where)
    return yield* Effect.forEach(maps, ({ family, layout, map, owner }) =>
      Effect.gen(function* () {
        const release = Layout.releaseOf(layout)
        if (release === undefined) {
          return yield* new UnknownLayout({ map: map.name, why: layout._tag === "Unknown" ? layout.why : "" })
        }
        const columns = new CtColumnsModule.CtColumns({ family, release })
        const predicate =
          filter === undefined
            ? undefined
            : yield* Effect.fromResult(FilterPredicate.compileCt(filter, { family, release, ...timeOf(clock) }))
        return { map, columns, local: owner._tag === "Endpoint", predicate }
      })
    )
  })

/** NAT maps as sources. Errors: as {@link ctSources}. @since 0.1.0 */
export const natSources = (
  maps: ReadonlyArray<CtPair.NatMap>,
  release: Release.Release,
  where: string | undefined,
  clock: Reading | undefined
): Effect.Effect<ReadonlyArray<Source<NatColumns.NatColumns>>, SourceError> =>
  Effect.gen(function* () {
    const filter = yield* parse(where)
    return yield* Effect.forEach(maps, ({ family, map, mismatch }) =>
      Effect.gen(function* () {
        if (mismatch !== undefined) return yield* new UnknownLayout({ map: map.name, why: mismatch })
        const columns = new NatColumnsModule.NatColumns({ family, release })
        const predicate =
          filter === undefined
            ? undefined
            : yield* Effect.fromResult(FilterPredicate.compileNat(filter, { family, release, ...timeOf(clock) }))
        return { map, columns, local: false, predicate }
      })
    )
  })

/** A filter from the command line; checked before any map is opened. @since 0.1.0 */
export const parse = (where: string | undefined): Effect.Effect<Filter.Filter | undefined, Filter.FilterSyntaxError> =>
  where === undefined ? Effect.succeed(undefined) : Effect.fromResult(FilterParser.parse(where))

const timeOf = (clock: Reading | undefined): { readonly now?: number; readonly secondsPerUnit?: number } =>
  clock === undefined ? {} : { now: clock.now, secondsPerUnit: secondsPerUnit(clock.source) }

/**
 * Calls `use` for each batch of a source, with the columns bound to it. `use` answers whether to go on.
 *
 * @since 0.1.0
 */
const forEach = <C extends Columns, E, R>(
  source: Source<C>,
  progress: Progress.Progress,
  use: (selected: Printing.Selected) => Effect.Effect<boolean, E, R>
): Effect.Effect<void, BpfError | Scan.Incomplete | E, Bpf | R> => {
  let every = new Uint32Array(0)
  let rows = new Uint32Array(0)
  const { columns, map, predicate } = source
  return RowScan.forEach(map, (batch) => {
    columns.bind(batch)
    if (every.length < batch.count) {
      every = Uint32Array.from({ length: batch.count }, (_, i) => i)
      rows = new Uint32Array(batch.count)
    }
    const selected =
      predicate === undefined
        ? { rows: every, count: batch.count }
        : { rows, count: FilterPredicate.select(predicate, columns, rows) }
    return Effect.andThen(
      progress.tick(map.name, batch.count, map.info.maxEntries),
      Effect.flatMap(use(selected), (more) => (more ? Effect.void : new Enough()))
    )
  }).pipe(
    Effect.flatMap(({ completed, entries, restarts }) =>
      completed ? Effect.void : new Scan.Incomplete({ map: map.name, entries, restarts })
    ),
    Effect.catchTag("Enough", () => Effect.void)
  ) as Effect.Effect<void, BpfError | Scan.Incomplete | E, Bpf | R>
}

/** Ends a scan from within. */
class Enough extends Data.TaggedError("Enough") {}

/** As {@link forEach} over all sources, with a plain function of every batch. @since 0.1.0 */
export const forEachRow = <C extends Columns>(
  sources: ReadonlyArray<Source<C>>,
  use: (source: Source<C>, selected: Printing.Selected) => void
): Effect.Effect<void, BpfError | Scan.Incomplete, Bpf | Output.Output> =>
  Effect.gen(function* () {
    const progress = yield* Progress.make({ mixes: false })
    for (const source of sources) {
      yield* forEach(source, progress, (selected) =>
        Effect.sync(() => {
          use(source, selected)
          return true
        })
      ).pipe(Effect.ensuring(progress.end))
    }
  }).pipe(Effect.provide(MapIterator.layer))

/** What to print. @since 0.1.0 */
interface Entries<C extends Columns> {
  readonly sources: ReadonlyArray<Source<C>>
  readonly renderer: Renderer<C>
  readonly limit: number | undefined
  readonly order: Order.Order<C> | undefined
}

/** Prints entries of maps and returns how many. @since 0.1.0 */
export const print = <C extends Columns>({
  sources,
  ...how
}: Entries<C>): Effect.Effect<number, BpfError | Scan.Incomplete | Output.WriteError, Bpf | Output.Output> =>
  Printing.print({
    ...how,
    sources: sources.map((source): Printing.Source<C, BpfError | Scan.Incomplete, Bpf> => ({
      forEach: (progress, use) => forEach(source, progress, (selected) => use(source, selected))
    }))
    // A few entries are there before an iterator's program is loaded.
  }).pipe(how.order === undefined && how.limit !== undefined ? identity : Effect.provide(MapIterator.layer))

/**
 * Says so where a table's times do not fit the clock: what is printed of time then means nothing.
 *
 * @since 0.1.0
 */
export const warnOfClock = (
  sources: ReadonlyArray<Source<CtColumns.CtColumns>>,
  clock: Reading
): Effect.Effect<void, BpfError, Bpf | Output.Output> =>
  clock.fixed
    ? Effect.void
    : Effect.forEach(
        sources,
        ({ columns, map }) =>
          Effect.flatMap(Scan.first(map, 256), ({ rows }) => {
            const checked = KernelClock.checkPlausible(clock, columns.bind(rows), map.name)
            return Result.isFailure(checked)
              ? Output.note(`ctmap: warning: ${checked.failure.sentenceFor("command")}`)
              : Effect.void
          }),
        { discard: true }
      )
