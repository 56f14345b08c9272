/**
 * The sweep: a program inside the kernel walks a CT map, deletes what has expired, puts back what was refreshed in that
 * very moment, and takes the NAT entries that belonged to what it deleted.
 *
 * Owns the program for one map, and the records of what it deleted. Nothing is copied to user space but those, so it takes
 * a fraction of what reading the table and deleting from it do. It runs on another thread; the event loop goes on
 * meanwhile. There are two programs:
 *
 * - One that can stop between any two buckets and go on there (`bpf/walk.bpf.c`; Linux >= 6.2 with BTF of its own,
 *   CAP_PERFMON): a run holds its CPU for as long as it is allowed to. It reads many elements at a time, and looks at what
 *   it deleted once more some microseconds later, in which it deletes others: it is twice as fast, and misses less.
 * - One that walks the whole table in one stretch of its CPU that nothing can interrupt (`bpf/sweep.bpf.c`; Linux >= 5.14,
 *   CAP_BPF), 0.2 to 0.6 µs an entry: right for tables up to about a million entries, and not above.
 *
 * @since 0.1.0
 */
import { type Family, Rows } from "ctmap-core"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import * as Bpf from "./Bpf.ts"
import type { BpfError } from "./BpfError.ts"
import type { Table } from "./CompareAndDelete.ts"
import type { ObjectTwin } from "./internal/memoryPrograms.ts"
import { check } from "./internal/sweepCheck.ts"
import * as Layout from "./internal/sweepLayout.ts"
import * as Program from "./internal/sweepProgram.ts"
import { twin as memoryTwin } from "./internal/sweepTwin.ts"
import type * as NatCleanUp from "./NatCleanUp.ts"

/**
 * What to sweep.
 *
 * @since 0.1.0
 */
export interface Target {
  /** A CT map: keys of 14 or 38 bytes by family, values of 56. */
  readonly ct: Table
  /** The NAT map that belongs to it; without one, NAT entries stay. */
  readonly nat: Table | undefined
  readonly family: Family.Family
  /**
   * Records of one run, 104 bytes of the kernel's memory each. Default: a quarter of the map's size, at least 1,024
   * and at most 32,768, or 262,144 where a sweep does not resume.
   */
  readonly capacity?: number | undefined
  /** Take no program but the one that {@link KernelSweep.resumes}. Default false. */
  readonly mustResume?: boolean
}

/**
 * What to do in a run.
 *
 * @since 0.1.0
 */
export interface Options {
  /** Entries whose lifetime is below have expired. u32, in units of the datapath's clock. */
  readonly now: number
  /** Count and record, but delete nothing. Default false. */
  readonly dryRun?: boolean
  /** Delete so many at most; default, and largest where there are records, is the capacity. */
  readonly limit?: number
  /** Where to begin: `next` of an earlier run. Default, and wherever a sweep does not resume: the start of the table. */
  readonly from?: number
  /** Stop between two buckets after so long, where the sweep resumes. Default: never. A run goes on for a tenth of a millisecond. */
  readonly callTarget?: Duration.Input
  /** Record what is deleted. Without records a run never stops for want of room. Default true. */
  readonly records?: boolean
}

/**
 * What became of the entries of a map: `seen = kept + deleted + refreshed + vanished + busy`.
 *
 * **Details**
 *
 * `kept`: not expired. `refreshed`: expired when looked at, and not any more when it was to be deleted; `restored` of
 * them had been deleted and were put back. `vanished`: somebody else deleted it first. `busy`: the kernel could not lock
 * its bucket; the next run finds it again. Where others insert and delete meanwhile, a sweep that resumes looks at some
 * buckets again: what it keeps there counts twice, and what it deletes there has vanished the second time.
 *
 * @since 0.1.0
 */
export interface Counts {
  readonly seen: number
  readonly kept: number
  readonly deleted: number
  readonly refreshed: number
  readonly vanished: number
  readonly restored: number
  readonly busy: number
}

/**
 * What a run did.
 *
 * @since 0.1.0
 */
export interface Run extends Counts {
  readonly nat: Readonly<NatCleanUp.Totals>
  /** The limit was reached, and there is more: run again, and the next entries go. A dry run never stops. */
  readonly stopped: boolean
  /** Where to go on: at what was not walked yet, or anew where this run began if it has `stopped`. `undefined` at the end. */
  readonly next: number | undefined
  /** Milliseconds for which it held its CPU, or was kept from it. */
  readonly millis: number
  /**
   * The deleted entries as they were read. Valid until the next run begins or the scope closes. A dry run counts on where
   * there is no more room, so it can have fewer than `deleted`.
   */
  readonly records: Rows.Rows
  /** What became of the NAT entries of record `i`: a `NatCleanUp.verdict`. */
  readonly natVerdict: (i: number) => number
}

/**
 * The sweep of one map.
 *
 * @since 0.1.0
 */
export interface KernelSweep {
  /** Records of one run. */
  readonly capacity: number
  /** A run can stop in the middle of the table, and the next one go on there. */
  readonly resumes: boolean
  /**
   * Walks the map, or a part of it, on another thread. Where it resumes, a run ends before its records are full.
   *
   * **Details**
   *
   * Runs of one sweep follow one another. One that has begun cannot be interrupted; the scope waits for it. Errors:
   * `InvalidArgument` for a `now` that is no u32; `OtherErrno` after the scope has closed.
   */
  readonly run: (options: Options) => Effect.Effect<Run, BpfError>
}

/**
 * Prepares the sweep of a map, and lets go of it when the scope closes; the maps themselves stay the caller's.
 *
 * **Details**
 *
 * Loads the better program that can be loaded and maps its records. That takes 20 to 60 ms on another thread, for the
 * verifier has a lot to follow; and as much again for the first of each family, which is tried on a small map of our own
 * before any other is given to it: how a hash map stands in memory is no promise of Linux.
 * Needs Linux >= 5.14 and CAP_BPF, and what stands above for a sweep that resumes. Whether that is there shows by loading.
 * Errors: `FeatureUnsupported`, `NotPermitted`; `InvalidArgument` for sizes that are not the family's.
 *
 * **Example** (Deleting what has expired)
 *
 * ```ts
 * import * as Bpf from "ctmap-kernel/Bpf"
 * import * as BpfMemory from "ctmap-kernel/BpfMemory"
 * import * as KernelSweep from "ctmap-kernel/KernelSweep"
 * import * as Effect from "effect/Effect"
 *
 * const kernel = BpfMemory.layerTest({ objects: { [KernelSweep.object]: KernelSweep.twin } })
 * const program = Effect.gen(function* () {
 *   const { mapCreate, update } = yield* Bpf.Bpf
 *   const sizes = { keySize: 14, valueSize: 56 }
 *   const fd = mapCreate({ type: 9, ...sizes, maxEntries: 64, flags: 0 }, "ct4")
 *   update(fd, new Uint8Array(14), new Uint8Array(56), Bpf.ANY)
 *   const sweep = yield* KernelSweep.make({ ct: { fd, ...sizes, name: "ct4" }, nat: undefined, family: "ipv4" })
 *   const { seen, deleted, records } = yield* sweep.run({ now: 1 })
 *   return [seen, deleted, records.count]
 * }).pipe(Effect.scoped, Effect.provide(kernel))
 * await Effect.runPromise(program) // => [1, 1, 1]
 * ```
 *
 * @since 0.1.0
 */
export const make = Effect.fnUntraced(function* (
  target: Target
): Effect.fn.Return<KernelSweep, BpfError, Bpf.Bpf | Scope.Scope> {
  const kernel = yield* Bpf.Bpf
  const refusal = Program.refusal(target)
  if (refusal !== undefined) return yield* Effect.fail(refusal)
  const runs = yield* Semaphore.make(1)
  const open = yield* Effect.acquireRelease(acquire(kernel, target), (acquired) =>
    runs.withPermit(Effect.sync(() => acquired.close()))
  )
  return {
    capacity: open.capacity,
    resumes: open.resumes,
    run: (options) => runs.withPermit(Effect.uninterruptible(runOnce(kernel, target, open, options)))
  }
})

/**
 * The name under which the programs are loaded.
 *
 * @since 0.1.0
 */
export const object = Program.OBJECT

/**
 * The programs for a kernel in memory; those of `NatCleanUp` are of the same object.
 *
 * @since 0.1.0
 */
export const twin: ObjectTwin = memoryTwin

const EBADF = 9
const EINVAL = 22
const MMAPABLE = 1024
const ARRAY = 2
const U32 = 0xffff_ffff

/**
 * Records of maps too large for a quarter of them. What a walk has no room for is had by the next run, which goes on there:
 * 3 MiB, made in a millisecond or two. A sweep begins anew, so it gets 26 MiB.
 */
const MOST = { walk: 32_768, sweep: 262_144 }
const LEAST = 1024

/** Records that are kept free for what is under way when no more buckets are begun. */
const SLACK = 256

const HASH = 1
const LRU_HASH = 9
/** `BPF_F_NO_PREALLOC`: the memory of an element is given back with it, and there is no walking it. */
const NO_PREALLOC = 1

/** Elements have memory of their own, and their values stand in it: those of maps per CPU do not. */
const isWalkable = ({ type, flags }: Bpf.MapInfo): boolean =>
  (type === HASH || type === LRU_HASH) && (flags & NO_PREALLOC) === 0

interface Open {
  readonly fd: number
  readonly capacity: number
  readonly resumes: boolean
  readonly memory: Uint8Array
  isOpen: boolean
  readonly close: () => void
}

/** The program that resumes, or where that cannot be had and need not be, the one that does not. */
const acquire = Effect.fnUntraced(function* (kernel: Bpf.Calls, target: Target): Effect.fn.Return<Open, BpfError> {
  const info = kernel.mapInfo(target.ct.fd)
  if (typeof info === "number") return yield* Effect.fail(Program.failure("map info", -info, target.ct))
  // Whether it can be run shows by running it; that must not walk the table.
  const idle = new Uint32Array(Layout.sweep.words)
  idle[Layout.sweep.options] = Layout.option.idle
  const once = new Uint8Array(idle.buffer)
  const walk =
    isWalkable(info) && kernel.architecture() === "x64"
      ? // Loaded before it is tried: by the fd that the caller has now, which may be another map's by then.
        Effect.tap(withRecords(kernel, target, info, "walk", once), (open) =>
          Effect.tapError(check(kernel, target, once), () => Effect.sync(() => open.close()))
        )
      : Effect.fail(Program.unsupported("walk", target.ct))
  if (target.mustResume === true) return yield* walk
  // For want of memory, the other one would have even less.
  return yield* Effect.catchTag(walk, "BpfError", (error) =>
    error.operation === "map create" || error.operation === "map memory"
      ? Effect.fail(error)
      : withRecords(kernel, target, info, "sweep", once)
  )
})

/** Makes the records of a program, and loads it with them. */
const withRecords = Effect.fnUntraced(function* (
  kernel: Bpf.Calls,
  target: Target,
  { maxEntries }: Bpf.MapInfo,
  program: "walk" | "sweep",
  once: Uint8Array
): Effect.fn.Return<Open, BpfError> {
  const { ct } = target
  const { capacity = Math.min(MOST[program], Math.max(LEAST, Math.ceil(maxEntries / 4))) } = target
  const { size } = Layout.record
  const fd = kernel.mapCreate(
    { type: ARRAY, keySize: 4, valueSize: size, maxEntries: capacity, flags: MMAPABLE },
    "ctmap_swept"
  )
  if (fd < 0) return yield* Effect.fail(Program.failure("map create", -fd, ct, "mmapable arrays (Linux 5.5)"))
  const memory = kernel.mapMemory(fd, capacity * size)
  if (typeof memory === "number") {
    kernel.close(fd)
    return yield* Effect.fail(Program.failure("map memory", -memory, ct))
  }
  const loaded = yield* Program.load(kernel, target, program, { records: fd }, once).pipe(
    Effect.tapError(() => Effect.sync(() => kernel.unmapMemory(memory))),
    // The program holds it from here on.
    Effect.ensuring(Effect.sync(() => kernel.close(fd)))
  )
  const open: Open = {
    fd: loaded.fd,
    capacity,
    resumes: program === "walk",
    memory,
    isOpen: true,
    close: () => {
      open.isOpen = false
      loaded.close()
      kernel.unmapMemory(memory)
    }
  }
  return open
})

const runOnce = (
  kernel: Bpf.Calls,
  { ct, nat }: Target,
  open: Open,
  { now, dryRun = false, records = true, limit = records ? open.capacity : U32, from = 0, callTarget }: Options
): Effect.Effect<Run, BpfError> =>
  Effect.callback<Run, BpfError>((resume) => {
    const fail = (errno: number): void => resume(Effect.fail(Program.failure("run program", errno, ct)))
    if (!open.isOpen) return fail(EBADF)
    if (![now, from].every((word) => Number.isInteger(word) && word >= 0 && word <= U32)) return fail(EINVAL)
    const { sweep, option } = Layout
    const context = new Uint32Array(sweep.words)
    context[sweep.now] = now
    context[sweep.options] =
      (nat === undefined ? 0 : option.withNat) | (dryRun ? option.dryRun : 0) | (records ? 0 : option.noRecords)
    context[sweep.limit] = Math.max(0, Math.min(limit, records ? open.capacity : U32))
    context[sweep.bucket] = from
    context[sweep.nanoseconds] =
      callTarget === undefined ? 0 : Math.max(1, Math.min(U32, Duration.toMillis(callTarget) * 1e6))
    context[sweep.enough] = Math.max(1, open.capacity - SLACK)
    const began = performance.now()
    kernel.runProgramAsync(open.fd, new Uint8Array(context.buffer), (rc) =>
      rc < 0 ? fail(-rc) : resume(Effect.succeed(runOf(context, open, performance.now() - began)))
    )
  })

const runOf = (context: Uint32Array, { memory, resumes }: Open, millis: number): Run => {
  const { sweep, record } = Layout
  const word = (at: number): number => context[at] ?? 0
  const count = word(sweep.records)
  const [stopped, bucket] = [word(sweep.stopped) !== 0, resumes ? word(sweep.bucket) : 0]
  const rows = Rows.interleaved(memory, { stride: record.size, keyAt: record.key, valueAt: record.value, count })
  return {
    seen: word(sweep.seen),
    kept: word(sweep.kept),
    deleted: word(sweep.deleted),
    refreshed: word(sweep.refreshed),
    vanished: word(sweep.vanished),
    restored: word(sweep.restored),
    busy: word(sweep.busy),
    nat: Layout.readNatTotals(context, sweep.nat),
    stopped,
    next: stopped || bucket !== 0 ? bucket : undefined,
    millis: resumes ? word(sweep.took) / 1e6 : millis,
    records: rows,
    natVerdict: (i) => rows.keys.getUint32(i * record.size + record.nat, true)
  }
}
