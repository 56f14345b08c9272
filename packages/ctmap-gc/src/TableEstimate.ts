/**
 * How full a table is and how much of it has expired, in milliseconds: a few thousand entries from random places instead
 * of all of them.
 *
 * Owns sampling by the cursor of batch look-ups. That this cursor is a bucket number is an implementation detail of
 * Linux; so it is tried on a small map first, and where it does not hold (or no map may be made) tables are counted.
 *
 * @since 0.1.0
 */
import { CtEntry } from "ctmap-core"
import { Bpf, type BpfError, type BpfMap, Scan } from "ctmap-kernel"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Random from "effect/Random"
import { BucketReader } from "./internal/bucketReader.ts"
import * as CursorCheck from "./internal/cursorCheck.ts"
import { densityOf, type Sample, shareError } from "./internal/density.ts"

/**
 * What a table holds, as far as was looked.
 *
 * @since 0.1.0
 */
export interface TableEstimate {
  /** `counted`: every entry was read. `sampled`: {@link TableEstimate.error} says how far off it may be. */
  readonly method: "sampled" | "counted"
  readonly entries: number
  /** The standard error of `entries`, in entries; 0 where they were counted. Two thirds of estimates are nearer. */
  readonly error: number
  /** Entries whose lifetime lies before the time asked about; `undefined` where none was given. */
  readonly expired: number | undefined
  /** `expired` by `entries`; 0 in an empty table. */
  readonly expiredRatio: number | undefined
  /** The standard error of `expiredRatio`; 0 where it was counted. */
  readonly expiredRatioError: number
  /** Batches that were read. */
  readonly reads: number
  readonly millis: number
}

/**
 * @since 0.1.0
 */
export interface Options {
  /**
   * Count entries with a lifetime strictly below this time as expired: the units of the table's clock, u32. Give it for CT
   * maps only: the values of others hold no lifetime.
   */
  readonly expiredBefore?: number | undefined
}

/** Places that are looked at. @since 0.1.0 */
export const SAMPLES = 64
/** Entries that are read from each. @since 0.1.0 */
export const ROOM = 128
/** Tables with fewer slots are counted: it takes no longer. @since 0.1.0 */
export const COUNTED_BELOW = 16_384

/** The end of a table that is looked at first: the most buckets that a call can walk when there is nothing in them. */
const PROBE = 2 ** 19
/** Buckets that all reads of an estimate may walk together. */
const BUDGET = 2 ** 21
const FEWEST_SAMPLES = 8

/**
 * Estimates a table.
 *
 * **Details**
 *
 * Shape: up to 64 reads of about 128 entries, each from a random place of its own part of the table. Entries per bucket
 * are those read by the buckets they were read from, which the returned cursor tells; times the buckets there are, that
 * is the table. The estimate never exceeds the capacity. Its standard error is about 1.1 % in tables of any size that
 * are fuller than one in a hundred.
 *
 * The last 524,288 buckets are looked at first. If one call walks to the end of the table, there are fewer than 128
 * entries in them: the table is nearly empty, each further call would walk just as far and block a CPU for as long, so
 * the result is exact for that part (in tables up to that size: for all of it) and no more is read. Where sampling would
 * read half of the table or more, and below 16,384 slots, it is counted.
 *
 * Errors: `BpfError`; `Scan.Incomplete` where a count by next key was thrown back too often: never a partial count.
 * Places are drawn from `Random`, so `Random.withSeed` makes an estimate repeatable. Kernel: batch look-ups, Linux >= 5.6,
 * else it counts by next key; a read blocks the thread for well under a millisecond, and yields to other fibers after.
 *
 * **Example** (A small table is counted)
 *
 * ```ts
 * import { MapKind, MapSpec } from "ctmap-core"
 * import { Bpf, BpfMap, BpfMemory } from "ctmap-kernel"
 * import { TableEstimate } from "ctmap-gc"
 * import * as Effect from "effect/Effect"
 *
 * const program = Effect.gen(function* () {
 *   const map = yield* BpfMap.create({ ...MapSpec.ct(MapKind.globals[0]), maxEntries: 1024 }, "ct")
 *   const bpf = yield* Bpf.Bpf
 *   bpf.update(map.fd, new Uint8Array(14), new Uint8Array(56), Bpf.ANY)
 *   const { method, entries, expiredRatio } = yield* TableEstimate.estimate(map, { expiredBefore: 100 })
 *   return [method, entries, expiredRatio]
 * })
 * await Effect.runPromise(program.pipe(Effect.scoped, Effect.provide(BpfMemory.layer))) // => ["counted", 1, 1]
 * ```
 *
 * @since 0.1.0
 */
export const estimate: (
  map: BpfMap.BpfMap,
  options?: Options
) => Effect.Effect<TableEstimate, BpfError.BpfError | Scan.Incomplete, Bpf.Bpf> = Effect.fnUntraced(function* (
  map: BpfMap.BpfMap,
  options: Options = {}
) {
  if (map.info.maxEntries < COUNTED_BELOW || (yield* obstacle) !== undefined) return yield* count(map, options)
  const start = yield* Clock.monotonicTimeNanos
  const found = yield* sample(map, options)
  if (found === undefined) return yield* count(map, options)
  return { ...found, millis: millisBetween(start, yield* Clock.monotonicTimeNanos) }
})

/**
 * Counts a table, entry by entry: exact while nobody writes. Errors: as {@link estimate}.
 *
 * @since 0.1.0
 */
export const count: (
  map: BpfMap.BpfMap,
  options?: Options
) => Effect.Effect<TableEstimate, BpfError.BpfError | Scan.Incomplete, Bpf.Bpf> = Effect.fnUntraced(function* (
  map: BpfMap.BpfMap,
  { expiredBefore }: Options = {}
) {
  const start = yield* Clock.monotonicTimeNanos
  let expired = 0
  const report = yield* Scan.forEachSync(map, (batch) => {
    expired += expiredIn(batch.values, map.info.valueSize, batch.count, expiredBefore)
  })
  const incomplete = Scan.whyIncomplete(map, report)
  if (incomplete !== undefined) return yield* incomplete
  const millis = millisBetween(start, yield* Clock.monotonicTimeNanos)
  return { ...exact(report.entries, expiredBefore === undefined ? undefined : expired, report.batches), millis }
})

/**
 * Why tables are counted and not sampled on this kernel, in words; `undefined` where they are sampled. Tried once per
 * kernel and process, on a map of 3,000 slots that is dropped again; a failure that may pass is tried again.
 *
 * @since 0.1.0
 */
export const obstacle: Effect.Effect<string | undefined, never, Bpf.Bpf> = Effect.gen(function* () {
  const bpf = yield* Bpf.Bpf
  const known = tried.get(bpf)
  if (known !== undefined) return known.why
  const outcome = yield* CursorCheck.run
  if (outcome.isFinal) tried.set(bpf, outcome)
  return outcome.why
})

const tried = new WeakMap<Bpf.Calls, CursorCheck.Outcome>()

type Untimed = Omit<TableEstimate, "millis">

const exact = (entries: number, expired: number | undefined, reads: number): Untimed => ({
  method: "counted",
  entries,
  error: 0,
  expired,
  expiredRatio: expired === undefined ? undefined : expired / Math.max(1, entries),
  expiredRatioError: 0,
  reads
})

/** `undefined` where a count is as cheap, or the map cannot be read from the middle. */
const sample = Effect.fnUntraced(function* (map: BpfMap.BpfMap, { expiredBefore }: Options) {
  const reader = new BucketReader(yield* Bpf.Bpf, map, ROOM)
  const { buckets } = reader
  const take = (start: number): Effect.Effect<Sample | undefined, BpfError.BpfError> =>
    Effect.suspend(() => {
      const read = reader.read(start)
      if (read === "unusable") return Effect.succeed(undefined)
      if ("_tag" in read) return Effect.fail(read)
      const expired = expiredIn(reader.values, map.info.valueSize, read.count, expiredBefore)
      return Effect.succeed({ entries: read.count, buckets: read.next - start, expired, isCut: !read.isEnd })
    })

  const end = yield* take(Math.max(0, buckets - PROBE))
  if (end === undefined) return undefined
  if (!end.isCut) {
    return end.buckets === buckets
      ? exact(end.entries, expiredBefore === undefined ? undefined : end.expired, 1)
      : extrapolated(map, [end], buckets, expiredBefore)
  }
  const bucketsPerRead = ROOM / (end.entries / end.buckets)
  const reads = Math.min(SAMPLES, Math.max(FEWEST_SAMPLES, Math.floor(BUDGET / bucketsPerRead)))
  if (reads * bucketsPerRead > buckets / 2) return undefined
  const samples: Array<Sample> = []
  for (let i = 0; i < reads; i++) {
    yield* Effect.yieldNow
    const taken = yield* take(Math.floor(((i + (yield* Random.next)) * buckets) / reads))
    if (taken === undefined) return undefined
    samples.push(taken)
  }
  return extrapolated(map, samples, buckets, expiredBefore)
})

const extrapolated = (
  map: BpfMap.BpfMap,
  samples: ReadonlyArray<Sample>,
  buckets: number,
  expiredBefore: number | undefined
): Untimed => {
  const density = densityOf(samples, buckets)
  const entries = Math.min(Math.round(density.perBucket * buckets), map.info.maxEntries)
  const ratio = density.expired / Math.max(1, density.entries)
  return {
    method: "sampled",
    entries,
    error: density.error * buckets,
    expired: expiredBefore === undefined ? undefined : Math.round(entries * ratio),
    expiredRatio: expiredBefore === undefined ? undefined : ratio,
    expiredRatioError: expiredBefore === undefined ? 0 : shareError(density.expired, density.entries),
    reads: samples.length
  }
}

const expiredIn = (
  values: Uint8Array,
  valueSize: number,
  entries: number,
  expiredBefore: number | undefined
): number => {
  if (expiredBefore === undefined) return 0
  const view = new DataView(values.buffer, values.byteOffset, values.byteLength)
  let expired = 0
  for (let i = 0, at: number = CtEntry.offset.lifetime; i < entries; i++, at += valueSize) {
    if (view.getUint32(at, true) < expiredBefore) expired++
  }
  return expired
}

const millisBetween = (start: bigint, end: bigint): number => Number(end - start) / 1e6
