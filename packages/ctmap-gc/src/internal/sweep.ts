/**
 * One pass over one CT map, by batches: find candidates, compare and delete them, clean up NAT, tell of it.
 *
 * Rows are copied out of the reader's memory before anything is deleted, so it does not matter how they were read. What
 * the guard limits is counted over the whole map first: nothing goes before it is known how much would.
 */
import { CtColumns, type Rows } from "ctmap-core"
import { type Bpf, KernelClock, RowScan, Scan } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as GcReason from "../GcReason.ts"
import * as Guard from "../Guard.ts"
import { Candidates } from "./candidates.ts"
import { type Deleter, makeDeleter } from "./deleter.ts"
import { PRESENCE } from "./judge.ts"
import { isForKernel, sweepInKernel } from "./kernelEngine.ts"
import type { Plan, SweepError, Target } from "./plan.ts"
import type { MapTally } from "./tally.ts"

/** Candidates of a guarded pass that are kept between its two looks; more are looked for again. */
const HELD = 16_384

/**
 * Sweeps a map. Counts go to `tally` as they happen, so that an interrupted pass has a record too.
 */
export const sweep = (target: Target, plan: Plan, tally: MapTally): Effect.Effect<void, SweepError, Bpf.Bpf> =>
  Effect.scoped(
    Effect.gen(function* () {
      if (isForKernel(target, plan)) return yield* sweepInKernel(target, plan, tally)
      const deleter = yield* makeDeleter(target, plan, tally)
      if (!plan.judge.isLimited || plan.dryRun) return yield* stream(target, plan, tally, deleter)
      const held = yield* lookFirst(target, plan, tally)
      const about = { map: target.ct.map.name, entries: tally.seen, wanted: tally.limited, deleted: 0 }
      const stopped = Guard.check(plan.limits, about)
      if (stopped !== undefined) return yield* Effect.fail(stopped)
      if (held === undefined) {
        tally.restart()
        // What was kept has been told of at the first look.
        return yield* stream(target, { ...plan, judge: { ...plan.judge, emits: [] } }, tally, deleter)
      }
      for (const candidates of held) yield* deleter.delete(candidates)
    })
  )

/** Walks the map and calls `use` with every batch, its columns bound. */
const walk = (
  target: Target,
  plan: Plan,
  tally: MapTally,
  use: (columns: CtColumns.CtColumns) => Effect.Effect<void, SweepError, Bpf.Bpf>,
  options: RowScan.Options = { batchSize: plan.batchSize, mustBeExact: true }
): Effect.Effect<void, SweepError, Bpf.Bpf> =>
  Effect.gen(function* () {
    const { map, family } = target.ct
    const columns = new CtColumns.CtColumns({ family, release: target.release })
    let isChecked = !plan.checksClock
    const visit = (rows: Rows.Rows): Effect.Effect<void, SweepError, Bpf.Bpf> => {
      columns.bind(rows)
      tally.reads++
      if (!isChecked) {
        const clock = { source: plan.clock.source, now: plan.now }
        const fits = KernelClock.checkPlausible(clock, columns, map.name)
        if (Result.isFailure(fits)) return Effect.fail(fits.failure)
        isChecked = true
      }
      tally.seen += rows.count
      plan.progress?.(map.name, tally.seen)
      return Effect.andThen(use(columns), plan.pace.rest)
    }
    const report = yield* RowScan.forEach(map, visit, options)
    tally.restarts += report.restarts
    tally.fallbacks += report.fallbacks
    const incomplete = Scan.whyIncomplete(map, report)
    if (incomplete !== undefined) return yield* Effect.fail(incomplete)
    if (report.method === "iterator" && !report.exact) {
      // Some bucket changed faster than it could be checked: what may have been missed is found by batch.
      tally.again()
      yield* walk(target, plan, tally, use, { method: "batch", batchSize: plan.batchSize })
    }
  })

/** Finds candidates and deletes them, batch by batch. */
const stream = (
  target: Target,
  plan: Plan,
  tally: MapTally,
  deleter: Deleter
): Effect.Effect<void, SweepError, Bpf.Bpf> => {
  const find = finder(target, plan, tally)
  return walk(target, plan, tally, (columns) => {
    const found = find(columns)
    return Effect.gen(function* () {
      for (const candidates of found) {
        yield* deleter.delete(candidates)
        candidates.count = 0
      }
    })
  })
}

/** Counts what would go. The candidates, unless they are too many to be kept. */
const lookFirst = (
  target: Target,
  plan: Plan,
  tally: MapTally
): Effect.Effect<ReadonlyArray<Candidates> | undefined, SweepError, Bpf.Bpf> =>
  Effect.suspend(() => {
    const find = finder(target, plan, tally)
    const held: Array<Candidates> = []
    let count = 0
    return Effect.map(
      walk(target, plan, tally, (columns) =>
        Effect.sync(() => {
          for (const found of find(columns)) {
            count += found.count
            if (found.count > 0 && count <= HELD) held.push(found.copy())
            else if (count > HELD) held.length = 0
            found.count = 0
          }
        })
      ),
      () => (count <= HELD ? held : undefined)
    )
  })

/**
 * Finds the candidates of a batch, in two lists: those whose lifetime is compared again, and those that only have to be
 * there still. The lists are the same two each time.
 */
const finder = (
  { ct, release }: Target,
  { judge }: Plan,
  tally: MapTally
): ((columns: CtColumns.CtColumns) => ReadonlyArray<Candidates>) => {
  const about = { family: ct.family, release }
  let lists = [new Candidates(about, "lifetime", 1024), new Candidates(about, "presence", 0)] as const
  let kept = new Uint32Array(0)
  const wanted: Array<number> = Array.from({ length: judge.requests }, () => 0)
  return (columns) => {
    lists = [lists[0].withRoom(columns.count), judge.isLimited ? lists[1].withRoom(columns.count) : lists[1]]
    if (judge.emits.length > 0 && kept.length < columns.count) kept = new Uint32Array(columns.count)
    let keptCount = 0
    for (let row = 0; row < columns.count; row++) {
      const code = judge.decide(columns, row)
      if (code === GcReason.KEEP) {
        if (judge.emits.length > 0) kept[keptCount++] = row
        continue
      }
      lists[code >= PRESENCE ? 1 : 0].add(columns, row, code & 0xff)
      if ((code & 0xff) !== GcReason.number.expired) tally.limited++
      judge.attribute(columns, row, wanted)
    }
    for (const [i, request] of tally.requests.entries()) {
      request.wanted += wanted[i]!
      wanted[i] = 0
    }
    tally.wanted += lists[0].count + lists[1].count
    for (const emit of judge.emits) emit(columns, kept, keptCount)
    return lists
  }
}
