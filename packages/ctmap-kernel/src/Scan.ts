/**
 * Reading whole maps, a batch at a time.
 *
 * Owns the portable ways through a hash map and their pitfalls. By **batches** (Linux >= 5.6) an entry that stays is
 * seen exactly once. By **next key** an entry that is deleted under the reader's feet throws it back: the walk notices,
 * says so, and ends after a bounded number of steps. One Effect per batch; between two batches the fiber yields, so
 * other fibers and timers run and an interruption takes hold.
 *
 * @since 0.1.0
 */
import type { Rows } from "ctmap-core"
import * as Cause from "effect/Cause"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import * as Bpf from "./Bpf.ts"
import type { BpfError } from "./BpfError.ts"
import { type BpfMap, notAHash } from "./BpfMap.ts"
import { batchReader, nextKeyReader, type Reader, rowsOf } from "./internal/readers.ts"

/**
 * How a scan goes through the map.
 *
 * @since 0.1.0
 */
export type Method = "batch" | "next-key"

/**
 * Entries of one read. The buffers are filled again by the next: copy what is to be kept.
 *
 * @since 0.1.0
 */
export interface Batch {
  readonly rows: Rows.Rows
  readonly keys: Uint8Array
  readonly values: Uint8Array
  readonly count: number
}

/**
 * What became of a scan.
 *
 * @since 0.1.0
 */
export interface Report {
  readonly method: Method
  readonly entries: number
  readonly batches: number
  /** Every entry that was there throughout has been seen. */
  readonly completed: boolean
  /** How often the walk was thrown back to the start of the map. Above 0, entries may have been seen twice. */
  readonly restarts: number
  /** How often it went back one key; nothing is seen twice for it. */
  readonly fallbacks: number
  /** How often a bucket did not fit into the buffers, which then grew. */
  readonly grown: number
  /** The longest call into the kernel. By next key, which makes two calls an entry: the longest batch of them. */
  readonly longestCallMillis: number
}

/**
 * @since 0.1.0
 */
export interface Options {
  /** Default: batches where the kernel has them, else the next key. */
  readonly method?: Method
  /**
   * Entries per batch to start with, and the most of them unless a bucket needs more. Default: as
   * `MapLimits.startingBatchSize` but at most 1024 to start with, and at most 4096 where calls turn out to be short.
   */
  readonly batchSize?: number
  /**
   * What a call into the kernel may take. Batches are halved after one that took longer, down to what the largest bucket
   * needs (64 at least), and doubled after one that took less than nine twentieths. Default: 1 ms, 2 ms in maps of
   * 4 million entries and more.
   */
  readonly callTarget?: Duration.Input
}

/**
 * A walk by next key was thrown back too often and gave up: entries may have been missed, others seen twice. Cilium
 * says `iteration aborted`. {@link forEach} leaves it to the reader of its report; {@link streamComplete} fails.
 *
 * @since 0.1.0
 */
export class Incomplete extends Schema.TaggedError<Incomplete>()("Incomplete", {
  map: Schema.String,
  entries: Schema.Int,
  restarts: Schema.Int
}) {
  override get message(): string {
    return (
      `iteration aborted: map ${this.map} changed faster than it could be walked key by key; ${this.entries} entries ` +
      `were seen and the walk was thrown back ${this.restarts} times: try again when the map is quieter, or on ` +
      `Linux >= 5.6, where maps are read in batches and this cannot happen`
    )
  }
}

/**
 * Calls `use` with every batch and reports how it went.
 *
 * **Details**
 *
 * Shape: a batch holds up to the batch size, whole buckets of the map. Errors: `BpfError`; a bucket that does not fit
 * makes the buffers grow, up to the size of the map. Ownership: buffers are allocated once per scan and reused.
 * Kernel: batches of hash maps since Linux 5.6; a batch of 1024 blocks the thread for about half a millisecond, and
 * batches adapt to {@link Options.callTarget}. Empty buckets take half a nanosecond each, whatever is asked for: an empty
 * map of 16 million entries is passed in one call of some 10 ms.
 *
 * @since 0.1.0
 */
export const forEach: <E, R>(
  map: BpfMap,
  use: (batch: Batch) => Effect.Effect<void, E, R>,
  options?: Options
) => Effect.Effect<Report, BpfError | E, Bpf.Bpf | R> = Effect.fnUntraced(function* <E, R>(
  map: BpfMap,
  use: (batch: Batch) => Effect.Effect<void, E, R>,
  options: Options = {}
) {
  const state = start(yield* Bpf.Bpf, map, options)
  while (!state.reader.done) {
    yield* fill(state)
    if (state.reader.count > 0) yield* use(batchOf(state))
    yield* Effect.yieldNow
  }
  return reportOf(state)
})

/**
 * As {@link forEach} with a plain function, for loops over bytes.
 *
 * @since 0.1.0
 */
export const forEachSync = (
  map: BpfMap,
  use: (batch: Batch) => void,
  options?: Options
): Effect.Effect<Report, BpfError, Bpf.Bpf> => forEach(map, (batch) => Effect.sync(() => use(batch)), options)

/**
 * The batches of a map as a Stream. A batch is valid until the next is pulled: keep no reference to it, and put no
 * buffer in between.
 *
 * @since 0.1.0
 */
export const stream = (map: BpfMap, options: Options = {}): Stream.Stream<Batch, BpfError, Bpf.Bpf> =>
  streamUnless<never>(map, options, () => undefined)

/**
 * As {@link stream}, but a walk that gave up ends with `Incomplete` instead of looking like the end of the map.
 *
 * @since 0.1.0
 */
export const streamComplete = (
  map: BpfMap,
  options: Options = {}
): Stream.Stream<Batch, BpfError | Incomplete, Bpf.Bpf> =>
  streamUnless(map, options, (report) => whyIncomplete(map, report))

/** What is wrong with a scan that came to its end; `undefined` for one that saw everything. @since 0.1.0 */
export const whyIncomplete = (
  map: BpfMap,
  { completed, entries, restarts }: Pick<Report, "completed" | "entries" | "restarts">
): Incomplete | undefined => (completed ? undefined : new Incomplete({ map: map.name, entries, restarts }))

const streamUnless = <E>(
  map: BpfMap,
  options: Options,
  objection: (report: Report) => E | undefined
): Stream.Stream<Batch, BpfError | E, Bpf.Bpf> =>
  Stream.fromPull(
    Effect.map(Bpf.Bpf, (bpf) => {
      const state = start(bpf, map, options)
      const pull: Effect.Effect<readonly [Batch], BpfError | E | Cause.Done> = Effect.suspend(() =>
        state.reader.done
          ? finish(objection(reportOf(state)))
          : Effect.flatMap(Effect.andThen(Effect.yieldNow, fill(state)), () =>
              state.reader.count > 0 ? Effect.succeed([batchOf(state)] as const) : pull
            )
      )
      return pull
    })
  )

const finish = <E>(error: E | undefined): Effect.Effect<never, E | Cause.Done> =>
  error === undefined ? Cause.done() : Effect.fail(error)

/**
 * One batch and no more: a look at some entries of a map, wherever the kernel keeps them. Its buffers are the caller's.
 *
 * @since 0.1.0
 */
export const first = (map: BpfMap, batchSize: number): Effect.Effect<Batch, BpfError, Bpf.Bpf> =>
  Effect.flatMap(Bpf.Bpf, (bpf) => {
    const state = start(bpf, map, { batchSize })
    return Effect.map(fill(state), () => batchOf(state))
  })

/**
 * How many entries a map holds, read batch by batch: exact on a quiet map. Errors: `Incomplete` where a walk by next key
 * gave up, whose number must not pass for a count.
 *
 * @since 0.1.0
 */
export const count = (map: BpfMap, options?: Options): Effect.Effect<number, BpfError | Incomplete, Bpf.Bpf> =>
  Effect.flatMap(
    forEach(map, () => Effect.void, options),
    (report): Effect.Effect<number, Incomplete> => whyIncomplete(map, report) ?? Effect.succeed(report.entries)
  )

interface State {
  readonly bpf: Bpf.Calls
  readonly map: BpfMap
  readonly options: Options
  method: Method
  reader: Reader
  entries: number
  batches: number
  /** The map is a plain hash: nothing else is read, see {@link BpfMap.notAHash}. */
  isChecked: boolean
}

const start = (bpf: Bpf.Calls, map: BpfMap, options: Options): State => {
  const method = options.method ?? "batch"
  const reader = (method === "batch" ? batchReader : nextKeyReader)(bpf, map, options)
  return { bpf, map, options, method, reader, entries: 0, batches: 0, isChecked: false }
}

const fill = (state: State): Effect.Effect<void, BpfError> =>
  Effect.suspend(() => {
    const refusal = state.isChecked ? undefined : notAHash(state.map, "lookup batch")
    if (refusal !== undefined) return Effect.fail(refusal)
    state.isChecked = true
    const error = state.reader.step() ?? undefined
    if (error !== undefined) {
      if (state.options.method !== undefined || !("unsupported" in state.reader && state.reader.unsupported === true)) {
        return Effect.fail(error)
      }
      state.method = "next-key"
      state.reader = nextKeyReader(state.bpf, state.map, state.options)
      return fill(state)
    }
    state.entries += state.reader.count
    if (state.reader.count > 0) state.batches++
    return Effect.void
  })

const batchOf = ({ map, reader }: State): Batch => ({
  rows: rowsOf(map, reader),
  keys: reader.keys,
  values: reader.values,
  count: reader.count
})

const reportOf = ({ method, reader, entries, batches }: State): Report => ({
  method,
  entries,
  batches,
  completed: reader.completed,
  restarts: reader.restarts,
  fallbacks: reader.fallbacks,
  grown: reader.grown,
  longestCallMillis: reader.chunk.longest / 1e6
})
