/**
 * The sweep: one run of a program inside the kernel walks a whole CT map, deletes what has expired, puts back what was
 * refreshed in that very moment, and takes the NAT entries that belonged to what it deleted.
 *
 * Owns the program (`bpf/sweep.bpf.c`) for one map, and the records of what it deleted. Nothing is copied to user space
 * but those, so it takes a fraction of what reading the table and deleting from it do. The price is one stretch of its
 * CPU that nothing can interrupt, 0.2 to 0.6 µs an entry: right for tables up to about a million entries, and not
 * above. It runs on another thread; the event loop goes on meanwhile.
 *
 * @since 0.1.0
 */
import { type Family, Rows } from "ctmap-core"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import * as Bpf from "./Bpf.ts"
import { BpfError } from "./BpfError.ts"
import type { Table } from "./CompareAndDelete.ts"
import type { ObjectTwin } from "./internal/memoryPrograms.ts"
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
   * and at most 262,144.
   */
  readonly capacity?: number | undefined
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
 * its bucket; the next run finds it again.
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
  /** There was no room for another record: run again, and the next entries go. A dry run never stops. */
  readonly stopped: boolean
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
  /**
   * Walks the map once, on another thread.
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
 * Loads the program and maps its records, some 20 ms, for the verifier has a lot to follow. Needs Linux >= 5.14 and CAP_BPF. Whether that is there shows by
 * loading. Errors: `FeatureUnsupported`, `NotPermitted`; `InvalidArgument` for sizes that are not the family's.
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
  const open = yield* Effect.acquireRelease(
    Effect.suspend(() => {
      const acquired = acquire(kernel, target)
      return acquired instanceof BpfError ? Effect.fail(acquired) : Effect.succeed(acquired)
    }),
    (acquired) => runs.withPermit(Effect.sync(() => acquired.close()))
  )
  return {
    capacity: open.capacity,
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

/** Records of maps too large for a quarter of them: 26 MiB. */
const MOST = 262_144
const LEAST = 1024

interface Open {
  readonly fd: number
  readonly capacity: number
  readonly memory: Uint8Array
  isOpen: boolean
  readonly close: () => void
}

const capacityOf = (kernel: Bpf.Calls, { ct, capacity }: Target): number => {
  if (capacity !== undefined) return capacity
  const info = kernel.mapInfo(ct.fd)
  return typeof info === "number" ? info : Math.min(MOST, Math.max(LEAST, Math.ceil(info.maxEntries / 4)))
}

const acquire = (kernel: Bpf.Calls, target: Target): Open | BpfError => {
  const { ct } = target
  const capacity = capacityOf(kernel, target)
  if (capacity < 0) return Program.failure("map info", -capacity, ct)
  const { size } = Layout.record
  const fd = kernel.mapCreate(
    { type: ARRAY, keySize: 4, valueSize: size, maxEntries: capacity, flags: MMAPABLE },
    "ctmap_swept"
  )
  if (fd < 0) return Program.failure("map create", -fd, ct, "mmapable arrays (Linux 5.5)")
  const memory = kernel.mapMemory(fd, capacity * size)
  if (typeof memory === "number") {
    kernel.close(fd)
    return Program.failure("map memory", -memory, ct)
  }
  // Whether it can be run shows by running it; that must not walk the table.
  const idle = new Uint32Array(Layout.sweep.words)
  idle[Layout.sweep.options] = Layout.option.idle
  const loaded = Program.load(kernel, target, "sweep", { records: fd }, new Uint8Array(idle.buffer))
  // The program holds it from here on.
  kernel.close(fd)
  if (loaded instanceof BpfError) {
    kernel.unmapMemory(memory)
    return loaded
  }
  const open: Open = {
    fd: loaded.fd,
    capacity,
    memory,
    isOpen: true,
    close: () => {
      open.isOpen = false
      loaded.close()
      kernel.unmapMemory(memory)
    }
  }
  return open
}

const runOnce = (
  kernel: Bpf.Calls,
  { ct, nat }: Target,
  open: Open,
  { now, dryRun = false, records = true, limit = records ? open.capacity : U32 }: Options
): Effect.Effect<Run, BpfError> =>
  Effect.callback<Run, BpfError>((resume) => {
    const fail = (errno: number): void => resume(Effect.fail(Program.failure("run program", errno, ct)))
    if (!open.isOpen) return fail(EBADF)
    if (!(Number.isInteger(now) && now >= 0 && now <= U32)) return fail(EINVAL)
    const { sweep, option } = Layout
    const context = new Uint32Array(sweep.words)
    context[sweep.now] = now
    context[sweep.options] =
      (nat === undefined ? 0 : option.withNat) | (dryRun ? option.dryRun : 0) | (records ? 0 : option.noRecords)
    context[sweep.limit] = Math.max(0, Math.min(limit, records ? open.capacity : U32))
    kernel.runProgramAsync(open.fd, new Uint8Array(context.buffer), (rc) =>
      rc < 0 ? fail(-rc) : resume(Effect.succeed(runOf(context, open.memory)))
    )
  })

const runOf = (context: Uint32Array, memory: Uint8Array): Run => {
  const { sweep, record } = Layout
  const word = (at: number): number => context[at] ?? 0
  const count = word(sweep.records)
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
    stopped: word(sweep.stopped) !== 0,
    records: rows,
    natVerdict: (i) => rows.keys.getUint32(i * record.size + record.nat, true)
  }
}
