/**
 * One pass over a NAT map: find entries that are to go, look at each again, delete those that still are as they were read,
 * and ask once more about what was deleted.
 *
 * Like the sweep of a CT map it counts before it deletes, so that the guard speaks first.
 */
import { NatColumns, NatEntry, Rows, TupleFlags } from "ctmap-core"
import { Bpf, BpfError, type BpfMap, CompareAndDelete, type CtPair, Scan } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import { deleted as deletedOf, type NatPass } from "../NatPass.ts"
import * as Guard from "../Guard.ts"
import type { Pace } from "../Pace.ts"
import * as Taken from "./natTaken.ts"
import { tableOf } from "./programs.ts"

export interface NatPlan {
  /** Whether a row is to go. */
  readonly wants: (columns: NatColumns.NatColumns, row: number) => boolean
  /** Asked again right before the deletion and after it, of a copy of the row. Without it nothing comes back. */
  readonly confirms?: (columns: NatColumns.NatColumns, row: number) => boolean
  /** What must be as it was read: when the mapping was made, or nothing. */
  readonly compared: "created" | "presence"
  readonly engine: CompareAndDelete.Options["engine"]
  readonly dryRun: boolean
  readonly limits: Guard.Limits
  readonly pace: Pace
  readonly batchSize: number
  readonly progress: ((map: string, seen: number) => void) | undefined
}

export type NatSweepError = BpfError.BpfError | Guard.GuardStopped | Scan.Incomplete

type Counts = Omit<
  NatPass,
  "serial" | "kind" | "family" | "owner" | "map" | "capacity" | "dryRun" | "startedAtMillis" | "millis" | "why"
>

/** The counts of a pass while it runs. */
export type NatTally = { -readonly [K in keyof Counts]: Counts[K] }

export const noCounts = (): NatTally => ({
  seen: 0,
  wanted: 0,
  ingressAlive: 0,
  ingressDeleted: 0,
  egressAlive: 0,
  egressDeleted: 0,
  refreshed: 0,
  vanished: 0,
  busy: 0,
  reprieved: 0,
  restored: 0,
  completed: false
})

/** Candidates that are kept between the two looks; more are looked for again. */
const HELD = 16_384

/** Candidates of one stretch on the calling thread: each is two to four look-ups, and its part of a call. */
const SLICE = 128

/** Of those, so many are looked at, deleted and asked about again at a time: they wait for each other. */
const GROUP = 64

/** Copies of rows. */
interface Held {
  readonly columns: NatColumns.NatColumns
  readonly keys: Uint8Array
  readonly values: Uint8Array
  readonly count: number
}

export const natSweep = (
  nat: CtPair.NatMap,
  plan: NatPlan,
  tally: NatTally
): Effect.Effect<void, NatSweepError, Bpf.Bpf> =>
  Effect.scoped(
    Effect.gen(function* () {
      const held: Array<Held> = []
      yield* walk(nat, plan, tally, (columns, rows) =>
        Effect.sync(() => {
          tally.wanted += rows.length
          if (tally.wanted > HELD) held.length = 0
          else if (rows.length > 0 && !plan.dryRun) held.push(copy(nat, columns, rows))
        })
      )
      // Alive until deleted: the counts of a pass that stops are right at any time.
      if (plan.dryRun) return
      const { seen: entries } = tally
      const guard = (): Guard.GuardStopped | undefined =>
        Guard.check(plan.limits, { map: nat.map.name, entries, wanted: tally.wanted, deleted: deletedOf(tally) })
      const stopped = guard()
      if (stopped !== undefined) return yield* Effect.fail(stopped)
      if (tally.wanted === 0) return
      const { remove, lookAtAll } = yield* makeDeleter(nat, plan, tally)
      if (tally.wanted <= HELD) {
        for (const candidates of held) yield* remove(candidates)
        return yield* lookAtAll
      }
      Object.assign(tally, { seen: 0, wanted: 0, ingressAlive: 0, egressAlive: 0 })
      yield* walk(nat, plan, tally, (columns, rows) => {
        tally.wanted += rows.length
        // The tables go on changing between the two looks: what may go stays what it was.
        const exceeded = guard()
        if (exceeded !== undefined) return Effect.fail(exceeded)
        return rows.length === 0 ? Effect.void : remove(copy(nat, columns, rows))
      })
      return yield* lookAtAll
    })
  )

/** Walks the map, counts everything as alive, and hands out the rows that are to go. */
const walk = <E, R>(
  { map, family }: CtPair.NatMap,
  plan: NatPlan,
  tally: NatTally,
  use: (columns: NatColumns.NatColumns, rows: ReadonlyArray<number>) => Effect.Effect<void, E, R>
): Effect.Effect<void, E | NatSweepError, R | Bpf.Bpf> =>
  Effect.gen(function* () {
    const columns = new NatColumns.NatColumns({ family, release: Taken.RELEASE })
    const report = yield* Scan.forEach(
      map,
      ({ rows }) =>
        Effect.suspend(() => {
          columns.bind(rows)
          tally.seen += rows.count
          const wanted: Array<number> = []
          for (let row = 0; row < rows.count; row++) {
            if (plan.wants(columns, row)) wanted.push(row)
            if (isIngress(columns, row)) tally.ingressAlive++
            else tally.egressAlive++
          }
          plan.progress?.(map.name, tally.seen)
          return Effect.andThen(use(columns, wanted), plan.pace.rest)
        }),
      { batchSize: plan.batchSize }
    )
    const incomplete = Scan.whyIncomplete(map, report)
    if (incomplete !== undefined) return yield* Effect.fail(incomplete)
  })

const isIngress = (columns: NatColumns.NatColumns, row: number): boolean =>
  (columns.tupleFlags(row) & TupleFlags.IN) !== 0

const copy = ({ family }: CtPair.NatMap, from: NatColumns.NatColumns, rows: ReadonlyArray<number>): Held => {
  const keySize = from.tuple.size
  const valueSize = NatEntry.shape(family).size
  const count = rows.length
  const keys = new Uint8Array(count * keySize)
  const values = new Uint8Array(count * valueSize)
  for (const [i, row] of rows.entries()) {
    keys.set(from.keyBytes(row), i * keySize)
    values.set(from.valueBytes(row), i * valueSize)
  }
  const columns = new NatColumns.NatColumns({ family, release: Taken.RELEASE })
  return { columns: columns.bind(Rows.separate(keys, values, { keySize, valueSize, count })), keys, values, count }
}

/** Looks at candidates a second time, deletes those that nothing speaks for, and puts back what is needed after all. */
const makeDeleter = Effect.fnUntraced(function* (
  nat: CtPair.NatMap,
  { compared, confirms, engine, limits, pace }: NatPlan,
  tally: NatTally
) {
  const { map } = nat
  const { keySize } = map.info
  const deleter = yield* CompareAndDelete.make(tableOf(map), engine === undefined ? {} : { engine })
  const most = Math.min(tally.wanted, HELD)
  const taken = confirms === undefined ? undefined : Taken.make(nat, yield* Bpf.Bpf, confirms, most, tally)
  const confirmed = { keys: new Uint8Array(GROUP * keySize), expected: new Uint32Array(GROUP) }
  const rows = new Uint32Array(GROUP)
  const verdicts = new Uint8Array(GROUP)
  const ingress = new Uint8Array(GROUP)

  /** One call into the kernel and all that follows: nothing interrupts it, so what is needed never stays away. */
  const group = ({ columns, keys }: Held, from: number, to: number): BpfError.BpfError | undefined => {
    let count = 0
    let back = 0
    for (let row = from; row < to; row++) {
      if (confirms !== undefined && !confirms(columns, row)) {
        tally.reprieved++
        back = Math.min(back, taken?.bringBack(columns, row) ?? 0)
        continue
      }
      confirmed.keys.set(keys.subarray(row * keySize, (row + 1) * keySize), count * keySize)
      confirmed.expected[count] = columns.values.getUint32(columns.valueAt(row) + NatEntry.v4.created, true)
      ingress[count] = isIngress(columns, row) ? 1 : 0
      rows[count++] = row
    }
    const rc = deleter.run({ ...confirmed, verdicts }, compared, 0, count)
    const { deleted, refreshed, vanished, restored, busy } = deleter.totals
    const judged = deleted + refreshed + vanished + restored + busy
    account(tally, verdicts, ingress, judged)
    if (taken !== undefined) {
      for (let i = 0; i < judged; i++) {
        if (verdicts[i] === CompareAndDelete.verdict.deleted) taken.add(columns, rows[i]!)
      }
      back = Math.min(back, taken.lookAgain())
    }
    if (rc < 0) return failed(deleter.engine === "program" ? "run program" : "delete", rc, map)
    return back < 0 ? failed("update", back, map) : undefined
  }

  return {
    remove: Effect.fnUntraced(function* (candidates: Held) {
      for (let from = 0; from < candidates.count;) {
        for (const end = Math.min(from + SLICE, candidates.count); from < end;) {
          const room = Math.min(GROUP, end - from, limits.maxDeletions - deletedOf(tally))
          if (room <= 0) return yield* Effect.fail(outOfRoom(map, limits, tally))
          const error = group(candidates, from, from + room)
          if (error !== undefined) return yield* Effect.fail(error)
          from += room
        }
        yield* pace.rest
      }
    }),
    /** The last question: a packet that was on its way while its mapping was deleted has made its CT entry by now. */
    lookAtAll: Effect.gen(function* () {
      if (taken === undefined) return
      for (let from = 0; from < taken.size(); from += SLICE) {
        const rc = taken.lookAt(from, Math.min(SLICE, taken.size() - from))
        if (rc < 0) return yield* Effect.fail(failed("update", rc, map))
        yield* pace.rest
      }
    })
  }
})

const outOfRoom = ({ name }: BpfMap.BpfMap, { maxDeletions }: Guard.Limits, tally: NatTally): Guard.GuardStopped =>
  new Guard.GuardStopped({
    map: name,
    entries: tally.seen,
    wanted: tally.wanted,
    allowed: maxDeletions,
    deleted: deletedOf(tally),
    limit: "max-deletions"
  })

const failed = (operation: BpfError.BpfError["operation"], rc: number, { name, path }: BpfMap.BpfMap) =>
  BpfError.fromErrno({ operation, errno: -rc, map: name, path })

/** Moves what was judged from alive to what became of it. */
const account = (tally: NatTally, verdicts: Uint8Array, ingress: Uint8Array, judged: number): void => {
  for (let i = 0; i < judged; i++) {
    const isIn = ingress[i] === 1
    if (isIn) tally.ingressAlive--
    else tally.egressAlive--
    switch (verdicts[i]) {
      case CompareAndDelete.verdict.deleted:
        if (isIn) tally.ingressDeleted++
        else tally.egressDeleted++
        break
      case CompareAndDelete.verdict.vanished:
        tally.vanished++
        break
      case CompareAndDelete.verdict.busy:
        tally.busy++
        break
      case CompareAndDelete.verdict.restored:
        tally.restored++
        tally.refreshed++
        break
      default:
        tally.refreshed++
    }
  }
}
