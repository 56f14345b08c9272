/**
 * One pass over one CT map, by batches: find candidates, compare and delete them, clean up NAT, tell of it.
 *
 * Rows are copied out of the reader's memory before anything is deleted, so it does not matter how they were read. What
 * the guard limits is counted over the whole map first: nothing goes before it is known how much would.
 */
import { CtColumns, type Rows } from "ctmap-core"
import { type Bpf, RowScan, Scan } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import * as GcReason from "../GcReason.ts"
import * as Guard from "../Guard.ts"
import { Candidates } from "./candidates.ts"
import { clockCheck } from "./clockCheck.ts"
import { type Deleter, makeDeleter } from "./deleter.ts"
import { PRESENCE } from "./judge.ts"
import { sweepInKernel, wayInKernel } from "./kernelEngine.ts"
import type { Plan, SweepError, Target } from "./plan.ts"
import type { MapTally } from "./tally.ts"

/** Candidates of a guarded pass that are kept between its two looks; more are looked for again. */
const HELD = 16_384

/** A pass over one map, in two steps: a pair is looked at as a whole before anything of it goes. */
export interface Sweep {
  /** Whether a limit asks for a look. */
  readonly looksFirst: boolean
  /** Counts what would go, and stops where that is more than may. */
  readonly look: Effect.Effect<void, SweepError, Bpf.Bpf>
  readonly carryOut: Effect.Effect<void, SweepError, Bpf.Bpf>
}

/**
 * Counts go to `tally` as they happen, so that an interrupted pass has a record too.
 */
export const make = (target: Target, plan: Plan, tally: MapTally): Sweep => {
  let first: Look | undefined
  const { map } = target.ct
  return {
    looksFirst: looksFirst(plan),
    look: Effect.flatMap(lookFirst(target, plan, tally), (look) => {
      first = look
      const stopped = guard(plan, { map: map.name, entries: tally.seen, deleted: 0 }, tally)
      return stopped === undefined ? Effect.void : Effect.fail(stopped)
    }),
    carryOut: Effect.scoped(
      Effect.gen(function* () {
        const way = first === undefined ? yield* wayInKernel(target, plan) : undefined
        if (way !== undefined) return yield* sweepInKernel(target, plan, tally, way)
        const deleter = yield* makeDeleter(target, plan, tally)
        if (first === undefined) return yield* stream(target, plan, tally, deleter)
        if (first.held === undefined) {
          const { seen: entries } = tally
          tally.restart()
          // What was kept has been told of at the first look. The table goes on changing: what may go stays what it was.
          const again = { ...plan, judge: { ...plan.judge, emits: [] } }
          return yield* stream(target, again, tally, deleter, () =>
            guard(plan, { map: map.name, entries, deleted: tally.deleted }, tally)
          )
        }
        for (const candidates of first.held) {
          const left = plan.judge.leavesOut() ? judgedAnew(candidates, target, plan) : [candidates]
          for (const some of left) yield* deleter.delete(some)
          yield* plan.pace.rest
        }
      })
    )
  }
}

/**
 * Whether a pass counts before it deletes: where a share is limited, and where several share an absolute limit, which
 * must not leave one of them half done on account of another.
 */
const looksFirst = ({ dryRun, judge, limits }: Plan): boolean =>
  !dryRun && (judge.isLimited || (judge.requests > 1 && Number.isFinite(limits.maxDeletions)))

/** What the guard says of what is wanted so far. */
const guard = (
  { judge, limits }: Plan,
  about: { readonly map: string; readonly entries: number; readonly deleted: number },
  { limited, wanted }: MapTally
): Guard.GuardStopped | undefined =>
  Guard.check(limits, { ...about, wanted: limited }) ??
  (judge.requests > 1 && wanted > limits.maxDeletions
    ? new Guard.GuardStopped({ ...about, wanted, allowed: limits.maxDeletions, limit: "max-deletions" })
    : undefined)

/** Walks the map and calls `use` with every batch, its columns bound; `again` when it begins anew. */
const walk = (
  target: Target,
  plan: Plan,
  tally: MapTally,
  use: (columns: CtColumns.CtColumns) => Effect.Effect<void, SweepError, Bpf.Bpf>,
  again: () => void = () => {}
): Effect.Effect<void, SweepError, Bpf.Bpf> =>
  Effect.gen(function* () {
    const { map, family } = target.ct
    const { batchSize, judge } = plan
    const columns = new CtColumns.CtColumns({ family, release: target.release })
    const fitsClock = clockCheck(plan, map.name)
    const visit = (rows: Rows.Rows): Effect.Effect<void, SweepError, Bpf.Bpf> => {
      columns.bind(rows)
      tally.reads++
      const implausible = fitsClock(columns)
      if (implausible !== undefined) return Effect.fail(implausible)
      tally.seen += rows.count
      plan.progress?.(map.name, tally.seen)
      return Effect.andThen(use(columns), plan.pace.rest)
    }
    // Who is told of what is kept is told once: by batches, as an iterator's walk may have to be repeated.
    const report =
      judge.emits.length > 0
        ? yield* Scan.forEach(map, ({ rows }) => visit(rows), { batchSize })
        : yield* RowScan.forEach(map, visit, { batchSize, mustBeExact: true })
    tally.restarts += report.restarts
    tally.fallbacks += report.fallbacks
    tally.called(report.longestCallMillis)
    const incomplete = Scan.whyIncomplete(map, report)
    if (incomplete !== undefined) return yield* Effect.fail(incomplete)
    if (report.method !== "iterator" || report.exact) return
    // Some bucket changed faster than it could be checked: what may have been missed is found by batch.
    tally.again()
    again()
    yield* RowScan.forEach(map, visit, { method: "batch", batchSize })
  })

/** Finds candidates and deletes them, batch by batch, for as long as nothing is said against it. */
const stream = (
  target: Target,
  plan: Plan,
  tally: MapTally,
  deleter: Deleter,
  objection: () => Guard.GuardStopped | undefined = () => undefined
): Effect.Effect<void, SweepError, Bpf.Bpf> => {
  const find = finder(target, plan, tally)
  return walk(target, plan, tally, (columns) => {
    const found = find(columns)
    const stopped = objection()
    if (stopped !== undefined) return Effect.fail(stopped)
    return Effect.gen(function* () {
      for (const candidates of found) {
        yield* deleter.delete(candidates)
        candidates.count = 0
      }
    })
  })
}

/** What a first look has found: the candidates, unless they are too many to be kept. */
interface Look {
  readonly held: ReadonlyArray<Candidates> | undefined
}

const lookFirst = (target: Target, plan: Plan, tally: MapTally): Effect.Effect<Look, SweepError, Bpf.Bpf> =>
  Effect.suspend(() => {
    const find = finder(target, plan, tally)
    const held: Array<Candidates> = []
    let count = 0
    const forget = (): void => {
      held.length = count = 0
    }
    const keep = (columns: CtColumns.CtColumns): void => {
      for (const found of find(columns)) {
        count += found.count
        if (found.count > 0 && count <= HELD) held.push(found.copy())
        else if (count > HELD) held.length = 0
        found.count = 0
      }
    }
    return Effect.map(
      walk(target, plan, tally, (columns) => Effect.sync(() => keep(columns)), forget),
      () => ({ held: count <= HELD ? held : undefined })
    )
  })

/** Those of some candidates that are still wanted, and what of them is compared again. */
const judgedAnew = (
  candidates: Candidates,
  { ct: { family }, release }: Target,
  { judge }: Plan
): ReadonlyArray<Candidates> => {
  const columns = candidates.columns()
  const of = (compared: Candidates["compared"]) => new Candidates({ family, release }, compared, columns.count)
  const lists = [of("lifetime"), of("presence")] as const
  for (let row = 0; row < columns.count; row++) {
    const code = judge.decide(columns, row)
    if (code !== GcReason.KEEP) lists[code >= PRESENCE ? 1 : 0].add(columns, row, code & 0xff)
  }
  return lists
}

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
  let lists = [new Candidates(about, "lifetime", 0), new Candidates(about, "presence", 0)] as const
  let kept = new Uint32Array(0)
  const wanted: Array<number> = Array.from({ length: judge.requests }, () => 0)
  return (columns) => {
    judge.leavesOut()
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
