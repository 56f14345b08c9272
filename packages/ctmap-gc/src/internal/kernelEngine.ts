/**
 * Passes that a program makes inside the kernel: by `hybrid` in pieces, with others let run in between, by `kernel` in one
 * go up to a size. For what a program decides by itself, expiry; everything else goes by batches.
 */
import { CtColumns } from "ctmap-core"
import { type Bpf, type BpfError, type KernelSweep, Scan } from "ctmap-kernel"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type * as GcPass from "../GcPass.ts"
import * as GcReason from "../GcReason.ts"
import * as Guard from "../Guard.ts"
import { Candidates } from "./candidates.ts"
import { clockCheck, latestOf } from "./clockCheck.ts"
import { finisher } from "./deleter.ts"
import type { Plan, SweepError, Target } from "./plan.ts"
import type { MapTally } from "./tally.ts"

/** How a program is to sweep. */
export interface Way {
  readonly engine: GcPass.Engine
  readonly program: KernelSweep.KernelSweep
  /** What a run may take, where the table is swept in pieces. */
  readonly callTarget: Duration.Duration | undefined
}

/** A run ends within a tenth of a millisecond after this, in a table of any size. The promise is twice as much. */
const PIECE = Duration.millis(1)

/** The program that is to sweep a map; `undefined` where it goes by batches. */
export const wayInKernel = (
  { ct }: Target,
  { engine, judge, dryRun, kernelMaxEntries, walkMinEntries, programs, nat }: Plan
): Effect.Effect<Way | undefined, BpfError.BpfError, Scope.Scope> => {
  const { maxEntries } = ct.map.info
  if (!judge.isExpiryOnly || dryRun || engine === "portable") return Effect.undefined
  if (engine === "kernel" && maxEntries <= kernelMaxEntries) {
    return Effect.map(programs.sweep(ct, nat), (program) => ({ engine, program, callTarget: undefined }))
  }
  if (maxEntries < walkMinEntries) return Effect.undefined
  return Effect.map(programs.walk(ct, nat), (program) => program && { engine: "hybrid", program, callTarget: PIECE })
}

/** Somebody hears of each entry that goes: a run records it. */
const isTold = ({ publish, hook }: Plan): boolean => publish !== undefined || hook !== undefined

/** Deletions of a run that records nothing. */
const MOST = 0xffff_ffff

/** Records that are made events of at a time. */
const SLICE = 1024

export const sweepInKernel = (
  target: Target,
  plan: Plan,
  tally: MapTally,
  { engine, program, callTarget }: Way
): Effect.Effect<void, SweepError, Bpf.Bpf | Scope.Scope> =>
  Effect.gen(function* () {
    tally.engine = engine
    const { map } = target.ct
    if (plan.checksClock) yield* checkClock(target, plan)
    const records = isTold(plan)
    const account = accountant(target, plan, tally)
    const allowed = plan.limits.maxDeletions
    for (let from: number | undefined = 0; from !== undefined;) {
      const limit = Math.min(records ? program.capacity : MOST, allowed - tally.deleted)
      const options = { now: plan.now, limit, records, from, ...(callTarget === undefined ? {} : { callTarget }) }
      // What a run has deleted is told of, whoever loses interest meanwhile.
      const run: KernelSweep.Run = yield* Effect.uninterruptible(Effect.tap(program.run(options), account))
      plan.progress?.(map.name, tally.seen)
      if (run.stopped && tally.deleted >= allowed) {
        const { seen, wanted, deleted } = tally
        return yield* Effect.fail(
          new Guard.GuardStopped({ map: map.name, entries: seen, wanted, allowed, deleted, limit: "max-deletions" })
        )
      }
      from = run.next
      if (from !== undefined) yield* plan.pace.rest
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
 * Adds a run to the counts. One that has stopped is walked again, so what it kept counts for the last run only; what it
 * refreshed is seen again there.
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
  let kept = 0
  return Effect.fnUntraced(function* (run) {
    tally.reads++
    tally.called(run.millis)
    tally.add(run)
    tally.addNat(run.nat)
    tally.wanted = tally.deleted + tally.refreshed + tally.vanished + tally.busy
    tally.seen = tally.wanted + kept + run.kept
    if (!run.stopped) kept += run.kept
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
