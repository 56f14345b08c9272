/**
 * One pass over one CT map, by batches: find candidates, compare and delete them, clean up NAT, tell of it.
 *
 * Rows are copied out of the reader's memory before anything is deleted, so it does not matter how they were read. What
 * the guard limits is counted over the whole map first: nothing goes before it is known how much would.
 */
import { CtColumns, CtEntry, type Release } from "ctmap-core"
import {
  type Bpf,
  BpfError,
  type BpfMap,
  CompareAndDelete,
  type CtPair,
  KernelClock,
  type Owner,
  Scan
} from "ctmap-kernel"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import type * as Scope from "effect/Scope"
import type { Deleted } from "../GcEvents.ts"
import type * as GcPass from "../GcPass.ts"
import * as GcReason from "../GcReason.ts"
import * as Guard from "../Guard.ts"
import type { Pace } from "../Pace.ts"
import type { Hook } from "../PurgeHook.ts"
import { Candidates } from "./candidates.ts"
import { type Judge, PRESENCE } from "./judge.ts"
import type { MapTally } from "./tally.ts"

/** Deletes the NAT entries of CT entries that are gone: all that were given, synchronously. */
type NatCleaner = (candidates: Candidates) => {
  readonly counts: GcPass.NatCounts
  readonly error: BpfError.BpfError | undefined
}

/** What a pass over a map is to do. */
export interface Plan {
  readonly serial: number
  readonly judge: Judge
  readonly clock: KernelClock.KernelClock["Service"]
  readonly now: number
  /** Refuse a table that does not fit the clock. */
  readonly checksClock: boolean
  readonly dryRun: boolean
  readonly limits: Guard.Limits
  readonly pace: Pace
  /** `undefined` where nobody watches. */
  readonly publish: ((event: Deleted) => void) | undefined
  readonly hook: Hook | undefined
  readonly engine: CompareAndDelete.Options["engine"]
  readonly nat: NatCleaner | undefined
  /** Entries per read. */
  readonly batchSize: number
  /** Hears of every batch. */
  readonly progress: ((map: string, seen: number) => void) | undefined
}

/** The map of a pass. */
export interface Target {
  readonly ct: CtPair.CtMap
  readonly owner: Owner.Owner
  readonly release: Release.Release
}

export type SweepError = BpfError.BpfError | Guard.GuardStopped | KernelClock.ImplausibleClock | Scan.Incomplete

/** Candidates of a guarded pass that are kept between its two looks; more are looked for again. */
const HELD = 16_384

/**
 * Sweeps a map. Counts go to `tally` as they happen, so that an interrupted pass has a record too.
 */
export const sweep = (target: Target, plan: Plan, tally: MapTally): Effect.Effect<void, SweepError, Bpf.Bpf> =>
  Effect.scoped(
    Effect.gen(function* () {
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

/** Walks the map once and calls `use` with every batch, its columns bound. */
const walk = (
  target: Target,
  plan: Plan,
  tally: MapTally,
  use: (columns: CtColumns.CtColumns) => Effect.Effect<void, SweepError, Bpf.Bpf>
): Effect.Effect<void, SweepError, Bpf.Bpf> =>
  Effect.gen(function* () {
    const { family } = target.ct
    const columns = new CtColumns.CtColumns({ family, release: target.release })
    let isChecked = !plan.checksClock
    const report = yield* Scan.forEach(
      target.ct.map,
      ({ rows }) =>
        Effect.gen(function* () {
          columns.bind(rows)
          tally.reads++
          if (!isChecked) {
            const clock = { source: plan.clock.source, now: plan.now }
            const fits = KernelClock.checkPlausible(clock, columns, target.ct.map.name)
            if (Result.isFailure(fits)) return yield* Effect.fail(fits.failure)
            isChecked = true
          }
          tally.seen += rows.count
          plan.progress?.(target.ct.map.name, tally.seen)
          yield* use(columns)
          yield* plan.pace.rest
        }),
      { batchSize: plan.batchSize }
    )
    tally.restarts += report.restarts
    tally.fallbacks += report.fallbacks
    const incomplete = Scan.whyIncomplete(target.ct.map, report)
    if (incomplete !== undefined) return yield* Effect.fail(incomplete)
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

interface Deleter {
  /** Deletes what still is as it was read, with everything that follows from it. */
  readonly delete: (candidates: Candidates) => Effect.Effect<void, SweepError, Bpf.Bpf>
}

/** Candidates of one call where each costs two system calls: half a millisecond. */
const PORTABLE_SLICE = 256

/** Programs are loaded when the first candidate turns up: most maps of a pass have none. */
const makeDeleter = (
  target: Target,
  plan: Plan,
  tally: MapTally
): Effect.Effect<Deleter, never, Bpf.Bpf | Scope.Scope> =>
  Effect.gen(function* () {
    const { map, family } = target.ct
    const context = yield* Effect.context<Bpf.Bpf | Scope.Scope>()
    const table = { fd: map.fd, name: map.name, keySize: map.info.keySize, valueSize: map.info.valueSize }
    const options = plan.engine === undefined ? {} : { engine: plan.engine }
    const load = yield* Effect.cached(Effect.provide(CompareAndDelete.make(table, options), context))
    const finish = finisher(target, plan, tally)
    const gone = new Candidates({ family, release: target.release }, "presence", 1024)

    /** One call into the kernel and all that follows: nothing interrupts it, so nothing is deleted and then forgotten. */
    const step = (deleter: CompareAndDelete.CompareAndDelete, candidates: Candidates, from: number, count: number) =>
      Effect.suspend(() => {
        const before = performance.now()
        const rc = deleter.run(candidates, candidates.compared, from, count)
        tally.called(performance.now() - before)
        tally.add(deleter.totals)
        gone.takeDeleted(candidates, from, rc < 0 ? judged(deleter.totals) : count)
        const natRc = finish(gone)
        if (rc < 0) return Effect.fail(failed(deleter.engine === "program" ? "run program" : "delete", rc, map))
        return natRc instanceof BpfError.BpfError ? Effect.fail(natRc) : Effect.void
      })

    return {
      delete: Effect.fnUntraced(function* (candidates: Candidates) {
        if (candidates.count === 0) return
        if (plan.dryRun) return void finish(candidates)
        const stopped = cutToLimit(plan, target, tally, candidates)
        const deleter = yield* load
        tally.engine = deleter.engine === "program" ? "hybrid" : "portable"
        const slice = deleter.engine === "portable" ? PORTABLE_SLICE : deleter.capacity
        for (let from = 0; from < candidates.count; from += slice) {
          if (from > 0) yield* plan.pace.rest
          yield* step(deleter, candidates, from, Math.min(slice, candidates.count - from))
        }
        if (stopped !== undefined) return yield* Effect.fail(stopped())
      })
    }
  })

const failed = (operation: BpfError.BpfError["operation"], rc: number, map: BpfMap.BpfMap): BpfError.BpfError =>
  BpfError.fromErrno({ operation, errno: -rc, map: map.name, path: map.path })

const judged = ({ deleted, refreshed, vanished, restored, busy }: Readonly<CompareAndDelete.Totals>): number =>
  deleted + refreshed + vanished + restored + busy

/** Cuts a list that would exceed the absolute limit, and says how the pass ends after it. */
const cutToLimit = (
  { limits }: Plan,
  { ct }: Target,
  tally: MapTally,
  candidates: Candidates
): (() => Guard.GuardStopped) | undefined => {
  const allowed = limits.maxDeletions
  const room = Math.max(0, allowed - tally.deleted)
  if (candidates.count <= room) return undefined
  candidates.count = room
  return () => {
    const { seen, wanted, deleted } = tally
    const map = ct.map.name
    return new Guard.GuardStopped({ map, entries: seen, wanted, allowed, deleted, limit: "max-deletions" })
  }
}

/**
 * What follows from a deletion: reasons, NAT, the hook, events. In a dry run, what would. The error of a NAT map comes
 * after everything else is done.
 */
const finisher = (
  { ct, owner, release }: Target,
  { serial, judge, dryRun, publish, hook, nat }: Plan,
  tally: MapTally
): ((candidates: Candidates) => BpfError.BpfError | undefined) => {
  const { family } = ct
  const count = hook === undefined ? undefined : family === "ipv4" ? hook.countFailed4 : hook.countFailed6
  const attributed: Array<number> = Array.from({ length: judge.requests }, () => 0)

  const attribute = (candidates: Candidates): void => {
    const columns = candidates.columns()
    for (let row = 0; row < columns.count; row++) {
      judge.attribute(columns, row, attributed)
      if (count !== undefined && columns.tupleFlags(row) === SERVICE) {
        count(columns.revNat(row), columns.values.getUint32(columns.valueAt(row) + CtEntry.offset.backendId, true))
      }
    }
    for (const [i, request] of tally.requests.entries()) {
      request.deleted += attributed[i]!
      attributed[i] = 0
    }
  }

  return (candidates) => {
    if (candidates.count === 0) return undefined
    for (let i = 0; i < candidates.count; i++) tally.because(candidates.codes[i]!)
    if (!dryRun) attribute(candidates)
    const cleaned = dryRun ? undefined : nat?.(candidates)
    if (cleaned !== undefined) tally.addNat(cleaned.counts)
    const about = { _tag: "Deleted", serial, dryRun, family, owner, map: ct.map.name, release } as const
    publish?.({ ...about, ...candidates.snapshot() })
    return cleaned?.error
  }
}

/** The tuple flags of a service entry, exactly. */
const SERVICE = 4
