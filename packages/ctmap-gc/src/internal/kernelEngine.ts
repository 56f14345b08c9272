/**
 * The kernel engine: one program walks the whole table. For what it decides by itself, expiry, and for tables up to a
 * size; everything else goes by batches.
 */
import { CtColumns } from "ctmap-core"
import { type Bpf, type KernelSweep, Scan } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as GcReason from "../GcReason.ts"
import * as Guard from "../Guard.ts"
import { Candidates } from "./candidates.ts"
import { clockCheck, latestOf } from "./clockCheck.ts"
import { finisher } from "./deleter.ts"
import type { Plan, SweepError, Target } from "./plan.ts"
import type { MapTally } from "./tally.ts"

export const isForKernel = ({ ct }: Target, { engine, judge, dryRun, kernelMaxEntries }: Plan): boolean =>
  engine === "kernel" && judge.isExpiryOnly && !dryRun && ct.map.info.maxEntries <= kernelMaxEntries

/** Somebody hears of each entry that goes: a run records it. */
const isTold = ({ publish, hook }: Plan): boolean => publish !== undefined || hook !== undefined

/** Deletions of a run that records nothing. */
const MOST = 0xffff_ffff

/** Records that are made events of at a time. */
const SLICE = 1024

export const sweepInKernel = (
  target: Target,
  plan: Plan,
  tally: MapTally
): Effect.Effect<void, SweepError, Bpf.Bpf | Scope.Scope> =>
  Effect.gen(function* () {
    tally.engine = "kernel"
    const { map } = target.ct
    if (plan.checksClock) yield* checkClock(target, plan)
    const program = yield* plan.programs.sweep(target.ct, plan.nat)
    const records = isTold(plan)
    const account = accountant(target, plan, tally)
    const allowed = plan.limits.maxDeletions
    for (;;) {
      const limit = Math.min(records ? program.capacity : MOST, allowed - tally.deleted)
      // What a run has deleted is told of, whoever loses interest meanwhile.
      const isDone = yield* Effect.uninterruptible(
        Effect.gen(function* () {
          const before = performance.now()
          const run = yield* program.run({ now: plan.now, limit, records })
          tally.called(performance.now() - before)
          yield* account(run)
          return !run.stopped
        })
      )
      plan.progress?.(map.name, tally.seen)
      if (isDone) return
      if (tally.deleted >= allowed) {
        const { seen, wanted, deleted } = tally
        return yield* Effect.fail(
          new Guard.GuardStopped({ map: map.name, entries: seen, wanted, allowed, deleted, limit: "max-deletions" })
        )
      }
      yield* plan.pace.rest
    }
  })

/** Looks at batches until one says anything about time. */
const checkClock = ({ ct, release }: Target, plan: Plan): Effect.Effect<void, SweepError, Bpf.Bpf> => {
  const columns = new CtColumns.CtColumns({ family: ct.family, release })
  const fitsClock = clockCheck(plan, ct.map.name)
  return Scan.stream(ct.map, { batchSize: 1024 }).pipe(
    Stream.mapEffect(({ rows }) => {
      const implausible = fitsClock(columns.bind(rows))
      return implausible === undefined ? Effect.succeed(latestOf(columns)) : Effect.fail(implausible)
    }),
    Stream.filter((latest) => latest !== 0),
    Stream.take(1),
    Stream.runDrain
  )
}

/**
 * Adds a run to the counts. Every run walks the table from its start, so what was kept counts for the last run only; what
 * an earlier one refreshed is seen again there.
 */
const accountant = (
  target: Target,
  plan: Plan,
  tally: MapTally
): ((run: KernelSweep.Run) => Effect.Effect<void, SweepError>) => {
  const finish = finisher(target, plan, tally)
  const { family } = target.ct
  const columns = new CtColumns.CtColumns({ family, release: target.release })
  const gone = new Candidates({ family, release: target.release }, "presence", SLICE)
  return Effect.fnUntraced(function* (run) {
    tally.reads++
    tally.add(run)
    tally.addNat(run.nat)
    tally.wanted = tally.deleted + tally.refreshed + tally.vanished + tally.busy
    tally.seen = tally.wanted + run.kept
    for (const request of tally.requests) request.wanted = tally.wanted
    if (!isTold(plan)) {
      tally.reasons.expired += run.deleted
      for (const request of tally.requests) request.deleted += run.deleted
      return
    }
    columns.bind(run.records)
    for (let row = 0; row < columns.count; row += SLICE) {
      gone.count = 0
      const end = Math.min(columns.count, row + SLICE)
      for (let i = row; i < end; i++) gone.add(columns, i, GcReason.number.expired)
      finish(gone)
      yield* Effect.yieldNow
    }
  })
}
