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
import * as Bpf from "./Bpf.ts"
import type { BpfError } from "./BpfError.ts"
import { type BpfMap, notAHash } from "./BpfMap.ts"
import { MapIterator, type Options as IteratorOptions, type Reader } from "./MapIterator.ts"
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
   * No entry that was there throughout can have been missed, and none been seen twice. True of batches always; of an
   * iterator where every bucket turned out right in the end: see `MapIterator`.
   */
  readonly exact: boolean
  /** Buckets that changed while an iterator copied them, and were copied anew. */
  readonly again: number
}

/**
 * @since 0.1.0
 */
export interface Options extends Pick<Scan.Options, "callTarget"> {
  /** Default: see {@link forEach}. */
  readonly method?: Method
  /** Entries per batch, where the map is read by batch or by next key: see `Scan`. */
  readonly batchSize?: number
  /** Use no iterator that cannot promise to miss nothing; whether it did is told by `exact` in any case. */
  readonly mustBeExact?: boolean
}

/** Maps of fewer entries are read by batch: an iterator's program takes longer to load than they take to read. @since 0.1.0 */
export const ITERATOR_FROM = 65_536

/** An iterator takes two fifths of what batches take for an entry, and five times as much for an empty bucket (Linux 6.18). */
const DENSE = 0.05

/**
 * The beginning of a map: so many entries were found in so many buckets.
 *
 * @since 0.1.0
 */
export interface Sample {
  readonly entries: number
  readonly buckets: number
}

/**
 * Whether an iterator is worth its while: for large maps, unless there is less than an entry in twenty buckets. An
 * iterator looks at every bucket by itself, and a batch does that in a fifth of the time where there is nothing in them.
 *
 * **Example** (A large map, half full and nearly empty)
 *
 * ```ts
 * import { RowScan } from "ctmap-kernel"
 *
 * RowScan.choose(524_288, { entries: 256, buckets: 512 }) // => "iterator"
 * RowScan.choose(524_288, { entries: 256, buckets: 8192 }) // => "batch"
 * ```
 *
 * @since 0.1.0
 */
export const choose = (maxEntries: number, { entries, buckets }: Sample): "iterator" | "batch" =>
  maxEntries >= ITERATOR_FROM && entries >= buckets * DENSE ? "iterator" : "batch"

/**
 * Calls `use` with the rows of every read and reports how it went.
 *
 * **Details**
 *
 * Ownership: rows are valid until `use` has returned. Unasked, iterators are used where {@link choose} is for it (it is
 * shown the first 256 entries, which takes a tenth of a millisecond), a `MapIterator` is provided and the kernel lets it
 * work; otherwise, and where an iterator cannot be started, batches. What must not miss an entry looks at `exact`, or
 * asks for batches. Errors: `BpfError`.
 *
 * @since 0.1.0
 */
export const forEach = <E, R>(
  map: BpfMap,
  use: (rows: Rows.Rows) => Effect.Effect<void, E, R>,
  options: Options = {}
): Effect.Effect<Report, BpfError | E, Bpf.Bpf | R> =>
  Effect.scoped(
    Effect.flatMap(start(map, options), (started): Effect.Effect<Report, BpfError | E, Bpf.Bpf | R> =>
      Option.isSome(started)
        ? iterate(started.value, use)
        : Effect.map(
            Scan.forEach(map, ({ rows }) => use(rows), portable(options)),
            (report): Report => ({ ...report, exact: report.completed && report.restarts === 0, again: 0 })
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
  map: BpfMap,
  options: Options = {}
): Stream.Stream<Rows.Rows, BpfError | Scan.Incomplete, Bpf.Bpf> =>
  Stream.unwrap(
    Effect.map(start(map, options), (started): Stream.Stream<Rows.Rows, BpfError | Scan.Incomplete, Bpf.Bpf> =>
      Option.isSome(started)
        ? Stream.fromPull(Effect.succeed(pullOf(started.value)))
        : Stream.map(Scan.streamComplete(map, portable(options)), ({ rows }) => rows)
    )
  )

const pullOf = ({ next }: Reader): Effect.Effect<readonly [Rows.Rows], BpfError | Cause.Done> =>
  Effect.flatMap(next, (rows) => (rows === undefined ? Cause.done() : Effect.succeed([rows] as const)))

const portable = ({ method, batchSize, callTarget }: Options): Scan.Options => ({
  ...(method === undefined || method === "iterator" ? {} : { method }),
  ...(batchSize === undefined ? {} : { batchSize }),
  ...(callTarget === undefined ? {} : { callTarget })
})

const start = (
  map: BpfMap,
  { method, mustBeExact = false, callTarget }: Options
): Effect.Effect<Option.Option<Reader>, BpfError, Bpf.Bpf | Scope.Scope> =>
  Effect.map(
    startAny(map, method, callTarget === undefined ? {} : { callTarget }),
    Option.filter((reader) => !mustBeExact || reader.isExact())
  )

const startAny = (
  map: BpfMap,
  method: Method | undefined,
  options: IteratorOptions
): Effect.Effect<Option.Option<Reader>, BpfError, Bpf.Bpf | Scope.Scope> =>
  Effect.flatMap(Effect.serviceOption(MapIterator), (service) => {
    if (Option.isNone(service) || (method !== undefined && method !== "iterator")) return Effect.succeedNone
    if (method === "iterator") return Effect.map(service.value.start(map, options), Option.some)
    if (map.info.maxEntries < ITERATOR_FROM || notAHash(map, "iterate") !== undefined) return Effect.succeedNone
    return Effect.flatMap(Bpf.Bpf, (bpf) =>
      choose(map.info.maxEntries, sample(bpf, map)) === "iterator"
        ? Effect.option(service.value.start(map, options))
        : Effect.succeedNone
    )
  })

const SAMPLED = 256
const ENOENT = -2
/** Of a kernel that has no batches: its iterator is taken. */
const unknown: Sample = { entries: 1, buckets: 1 }

/** One batch: its cursor is the bucket behind it. */
const sample = (bpf: Bpf.Calls, map: BpfMap): Sample => {
  const { keySize, valueSize, maxEntries } = map.info
  const [keys, values] = [new Uint8Array(SAMPLED * keySize), new Uint8Array(SAMPLED * valueSize)]
  const cursor = new Uint8Array(Math.max(keySize, 4))
  const count = Uint32Array.of(SAMPLED)
  const rc = bpf.lookupBatch(map.fd, null, cursor, keys, values, count)
  const entries = count[0]!
  if (rc === ENOENT) return { entries, buckets: maxEntries }
  return rc === 0 ? { entries, buckets: new DataView(cursor.buffer).getUint32(0, true) } : unknown
}

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
    exact: reader.isExact(),
    again: reader.again(),
    restarts: 0,
    fallbacks: 0,
    grown: 0,
    longestCallMillis: reader.longestCallMillis()
  }
  return report
})
