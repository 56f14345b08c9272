/**
 * Deleting candidates: compare and delete, clean up NAT, tell of it. One call into the kernel and all that follows from it
 * is one step that nothing interrupts.
 */
import { CtEntry, NatDerivation } from "ctmap-core"
import { type Bpf, BpfError, type BpfMap, type CompareAndDelete, NatCleanUp } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type * as GcPass from "../GcPass.ts"
import * as Guard from "../Guard.ts"
import { Candidates } from "./candidates.ts"
import type { Plan, SweepError, Target } from "./plan.ts"
import type { MapTally } from "./tally.ts"

export interface Deleter {
  /** Deletes what still is as it was read, with everything that follows from it. */
  readonly delete: (candidates: Candidates) => Effect.Effect<void, SweepError, Bpf.Bpf>
}

/** Candidates of one call where each costs two system calls: half a millisecond. */
const PORTABLE_SLICE = 256

/** Programs are loaded when the first candidate turns up: most maps of a pass have none. */
export const makeDeleter = (
  target: Target,
  plan: Plan,
  tally: MapTally
): Effect.Effect<Deleter, never, Bpf.Bpf | Scope.Scope> =>
  Effect.gen(function* () {
    const { map, family } = target.ct
    const context = yield* Effect.context<Bpf.Bpf | Scope.Scope>()
    const load = yield* Effect.cached(Effect.provide(plan.programs.compareAndDelete(map, engineOf(plan)), context))
    const loadNat = yield* Effect.cached(Effect.provide(natCleaner(target, plan), context))
    const finish = finisher(target, plan, tally)
    let gone = new Candidates({ family, release: target.release }, "presence", 0)

    /** One call into the kernel and all that follows: nothing interrupts it, so nothing is deleted and then forgotten. */
    const step = (
      deleter: CompareAndDelete.CompareAndDelete,
      nat: NatCleaner | undefined,
      candidates: Candidates,
      from: number,
      count: number
    ) =>
      Effect.suspend(() => {
        const before = performance.now()
        const rc = deleter.run(candidates, candidates.compared, from, count)
        tally.called(performance.now() - before)
        tally.addCompared(deleter.totals)
        gone = gone.withRoom(count)
        gone.takeDeleted(candidates, from, rc < 0 ? judged(deleter.totals) : count)
        const cleaned = gone.count === 0 ? undefined : nat?.(gone)
        if (cleaned !== undefined) tally.addNat(typeof cleaned === "number" ? cleanedUpTo(gone) : cleaned)
        finish(gone)
        if (rc < 0) return Effect.fail(failed(deleter.engine === "program" ? "run program" : "delete", rc, map))
        return typeof cleaned === "number" && plan.nat !== undefined
          ? Effect.fail(failed("delete", cleaned, plan.nat.map))
          : Effect.void
      })

    return {
      delete: Effect.fnUntraced(function* (candidates: Candidates) {
        if (candidates.count === 0) return
        if (plan.dryRun) return finish(candidates)
        const deleter = yield* load
        const nat = yield* loadNat
        tally.engine = deleter.engine === "program" ? "hybrid" : "portable"
        const slice = deleter.engine === "portable" ? PORTABLE_SLICE : deleter.capacity
        for (let from = 0; from < candidates.count;) {
          if (from > 0) yield* plan.pace.rest
          const room = plan.limits.maxDeletions - tally.deleted
          if (room <= 0) return yield* Effect.fail(outOfRoom(map, plan.limits, tally))
          const count = Math.min(slice, candidates.count - from, room)
          yield* step(deleter, nat, candidates, from, count)
          from += count
        }
      })
    }
  })

const failed = (operation: BpfError.BpfError["operation"], rc: number, map: BpfMap.BpfMap): BpfError.BpfError =>
  BpfError.fromErrno({ operation, errno: -rc, map: map.name, path: map.path })

const judged = ({ deleted, refreshed, vanished, restored, busy }: Readonly<CompareAndDelete.Totals>): number =>
  deleted + refreshed + vanished + restored + busy

/** The absolute limit is reached, and there is more. */
const outOfRoom = (
  { name: map }: BpfMap.BpfMap,
  { maxDeletions: allowed }: Guard.Limits,
  { seen: entries, wanted, deleted }: MapTally
): Guard.GuardStopped => new Guard.GuardStopped({ map, entries, wanted, allowed, deleted, limit: "max-deletions" })

/** Deletes the NAT entries of CT entries that are gone, synchronously: the sums, or `-errno`. */
type NatCleaner = (candidates: Candidates) => GcPass.NatCounts | number

const natCleaner = (
  { ct }: Target,
  plan: Plan
): Effect.Effect<NatCleaner | undefined, BpfError.BpfError, Bpf.Bpf | Scope.Scope> =>
  plan.nat === undefined || plan.dryRun
    ? Effect.undefined
    : Effect.map(plan.programs.cleanUp(ct, plan.nat, engineOf(plan)), (cleanUp) => (candidates) => {
        candidates.verdicts.fill(UNKNOWN, 0, candidates.count)
        return cleanUp.run(candidates, candidates.count)
      })

/** No verdict of a clean-up. */
const UNKNOWN = 255

/** What a clean-up that broke off has done, by its verdicts: what it did not come to has failed. */
const cleanedUpTo = (candidates: Candidates): GcPass.NatCounts => {
  const { count, flags, verdicts } = candidates
  const { verdict } = NatCleanUp
  const columns = candidates.columns()
  const of = (...wanted: ReadonlyArray<number>): number => {
    let sum = 0
    for (let i = 0; i < count; i++) if (wanted.includes(verdicts[i]!)) sum++
    return sum
  }
  let left = of(verdict.failed)
  for (let i = 0; i < count; i++) {
    if (verdicts[i] === UNKNOWN && NatDerivation.cleanUp(columns.tupleFlags(i), flags[i]!) !== "none") left++
  }
  return {
    egress: of(verdict.mapping, verdict.outOnly, verdict.swapped),
    ingress: of(verdict.mapping),
    absent: of(verdict.absent),
    halves: of(verdict.outOnly),
    kept: of(verdict.kept),
    failed: left
  }
}

/** How an engine of ours is had from those of the kernel package. */
const engineOf = ({ engine }: Plan): "auto" | "program" | "portable" =>
  engine === "portable" ? "portable" : engine === "hybrid" ? "program" : "auto"

/** What follows from a deletion besides NAT: reasons, the hook, events. In a dry run, what would. */
export const finisher = (
  { ct, owner, release }: Target,
  { serial, judge, dryRun, publish, hook }: Plan,
  tally: MapTally
): ((candidates: Candidates) => void) => {
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
    if (candidates.count === 0) return
    for (let i = 0; i < candidates.count; i++) tally.because(candidates.codes[i]!)
    if (!dryRun) attribute(candidates)
    const about = { _tag: "Deleted", serial, dryRun, family, owner, map: ct.map.name, release } as const
    publish?.({ ...about, ...candidates.snapshot() })
  }
}

/** The tuple flags of a service entry, exactly. */
const SERVICE = 4
