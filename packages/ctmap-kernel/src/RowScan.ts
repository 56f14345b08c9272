/**
 * Scans for those who read rows and do not care how they stand in memory: by iterator where that pays, else by batch.
 *
 * Owns the choice. `Scan` hands out keys and values in two arrays; here a batch is {@link Rows} only, which columns read
 * either way, so the fastest reader of the kernel at hand can be used.
 *
 * @since 0.1.0
 */
import type { Rows } from "ctmap-core"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type * as Bpf from "./Bpf.ts"
import type { BpfError } from "./BpfError.ts"
import type * as BpfMap from "./BpfMap.ts"
import { MapIterator, type Reader } from "./MapIterator.ts"
import * as Scan from "./Scan.ts"

/**
 * How rows are read.
 *
 * @since 0.1.0
 */
export type Method = Scan.Method | "iterator"

/**
 * What became of a scan.
 *
 * @since 0.1.0
 */
export interface Report extends Omit<Scan.Report, "method"> {
  readonly method: Method
  /**
   * No entry that was there throughout can have been missed. An iterator resumes at the nth element of a bucket, so
   * an entry deleted just before that place makes it skip another: true of a quiet map, and of batches always.
   */
  readonly exact: boolean
}

/**
 * @since 0.1.0
 */
export interface Options {
  /** Default: see {@link forEach}. */
  readonly method?: Method
  /** Entries per batch, where the map is read by batch or by next key. */
  readonly batchSize?: number
}

/** Maps of fewer entries are read by batch: an iterator's program takes longer to load than they take to read. @since 0.1.0 */
export const ITERATOR_FROM = 65_536

/**
 * Calls `use` with the rows of every read and reports how it went.
 *
 * **Details**
 *
 * Ownership: rows are valid until `use` has returned. Iterators are used for maps of {@link ITERATOR_FROM} entries and
 * more, where a `MapIterator` is provided and the kernel lets it work; otherwise, and where an iterator cannot be
 * started, batches. An iterator can miss a few entries of a map that others delete from meanwhile (`exact`): good for
 * showing a table, never for deciding what to delete. Errors: `BpfError`.
 *
 * @since 0.1.0
 */
export const forEach = <E, R>(
  map: BpfMap.BpfMap,
  use: (rows: Rows.Rows) => Effect.Effect<void, E, R>,
  options: Options = {}
): Effect.Effect<Report, BpfError | E, Bpf.Bpf | R> =>
  Effect.scoped(
    Effect.flatMap(start(map, options.method), (started): Effect.Effect<Report, BpfError | E, Bpf.Bpf | R> =>
      Option.isSome(started)
        ? iterate(started.value, use)
        : Effect.map(
            Scan.forEach(map, ({ rows }) => use(rows), portable(options)),
            (report): Report => ({ ...report, exact: report.completed })
          )
    )
  )

/**
 * The rows of a map as a Stream; a walk that gave up ends with `Incomplete`. Rows are valid until the next are pulled:
 * keep no reference to them, and put no buffer in between.
 *
 * @since 0.1.0
 */
export const stream = (
  map: BpfMap.BpfMap,
  options: Options = {}
): Stream.Stream<Rows.Rows, BpfError | Scan.Incomplete, Bpf.Bpf> =>
  Stream.unwrap(
    Effect.map(start(map, options.method), (started): Stream.Stream<Rows.Rows, BpfError | Scan.Incomplete, Bpf.Bpf> =>
      Option.isSome(started)
        ? Stream.fromPull(Effect.succeed(pullOf(started.value)))
        : Stream.map(Scan.streamComplete(map, portable(options)), ({ rows }) => rows)
    )
  )

const pullOf = ({ next }: Reader): Effect.Effect<readonly [Rows.Rows], BpfError | Cause.Done> =>
  Effect.flatMap(next, (rows) => (rows === undefined ? Cause.done() : Effect.succeed([rows] as const)))

const portable = ({ method, batchSize }: Options): Scan.Options => ({
  ...(method === undefined || method === "iterator" ? {} : { method }),
  ...(batchSize === undefined ? {} : { batchSize })
})

const start = (
  map: BpfMap.BpfMap,
  method: Method | undefined
): Effect.Effect<Option.Option<Reader>, BpfError, Scope.Scope> =>
  Effect.flatMap(Effect.serviceOption(MapIterator), (service) =>
    Option.isNone(service) || (method === undefined ? map.info.maxEntries < ITERATOR_FROM : method !== "iterator")
      ? Effect.succeed(Option.none<Reader>())
      : method === "iterator"
        ? Effect.map(service.value.start(map), Option.some)
        : Effect.option(service.value.start(map))
  )

const iterate = Effect.fnUntraced(function* <E, R>(
  reader: Reader,
  use: (rows: Rows.Rows) => Effect.Effect<void, E, R>
) {
  let entries = 0
  let batches = 0
  for (let rows = yield* reader.next; rows !== undefined; rows = yield* reader.next) {
    entries += rows.count
    batches++
    yield* use(rows)
  }
  const report: Report = {
    method: "iterator",
    entries,
    batches,
    completed: true,
    exact: false,
    restarts: 0,
    fallbacks: 0,
    grown: 0
  }
  return report
})
