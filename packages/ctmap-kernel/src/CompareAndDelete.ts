/**
 * Compare-and-delete: deletes entries of a CT or NAT map only while they still are as they were read.
 *
 * A collector decides on a copy. Until it deletes, the datapath may have refreshed the entry, and deleting it then cuts
 * a live connection. Here a small program inside the kernel (`bpf/compare_delete.bpf.c`) compares and deletes, up to
 * 1,024 candidates a call; where programs are not to be had, a look-up and a deletion right after it do the same from
 * outside, more slowly and with a wider window; since Linux 5.14 the deletion tells what it deleted, and what was refreshed
 * in between is put back.
 *
 * **What remains of the race.** The datapath writes to entries without a lock, so no collector can be exact. In a test
 * built to hit the window (`npm run stress race`: 256 expired entries, refreshed on another CPU in the microseconds of
 * their deletion) entries lost per million refreshes were: all of them with BPF_MAP_DELETE_BATCH, 3,400
 * by look-up and deletion, 430 with `portable`, 10,000 with `program`, and none to 40 with a `program` that restores. That
 * one looks at the memory of all it has deleted once more behind the last deletion, at the earliest after a microsecond. If the word
 * has changed, and the key in front of the value still is the candidate's, the entry is put back as it is now; meanwhile it was not
 * there, at most for the 0.3 ms of a run. What is left is a datapath that looked the entry up
 * before the deletion and writes only after that last look: its flow's next packet makes a new entry. Without the key
 * there is no putting back, as other words of a value do not tell whose it is: under load the slot is soon another
 * flow's, and a wrong entry is worse than a lost one.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Bpf from "./Bpf.ts"
import type { BpfError } from "./BpfError.ts"
import * as Program from "./internal/compareDeleteProgram.ts"
import { twin as memoryTwin } from "./internal/compareDeleteTwin.ts"
import type { ObjectTwin } from "./internal/memoryPrograms.ts"
import { verdict as verdicts } from "./internal/verdict.ts"
import * as WorkList from "./internal/workList.ts"

/**
 * What became of a candidate.
 *
 * **Details**
 *
 * `deleted`: it was as it was read. `refreshed`: it was not, and is kept. `vanished`: no entry had the key; the LRU or
 * the datapath was faster. `restored`: refreshed while it was being deleted, and put back. `busy`: the kernel could not
 * lock its bucket; it is kept, and the next pass finds it again.
 *
 * **Example** (Reading verdicts)
 *
 * ```ts
 * import { CompareAndDelete } from "ctmap-kernel"
 *
 * CompareAndDelete.verdict.refreshed // => 1
 * ```
 *
 * @since 0.1.0
 */
export const verdict = verdicts

/**
 * The 32-bit word of a value that must be as it was read: `lifetime` of a CT entry (offset 32), `created` of a NAT
 * entry (low half, offset 0), or none.
 *
 * @since 0.1.0
 */
export type Compared = keyof typeof WorkList.compare

/**
 * Candidates, in memory of the caller.
 *
 * @since 0.1.0
 */
export interface Candidates {
  /** Keys without gaps, of the map's key size. */
  readonly keys: Uint8Array
  /** The compared word of each, as it was read. Not looked at for `presence`. */
  readonly expected: Uint32Array
  /** Out: a {@link verdict} each. */
  readonly verdicts: Uint8Array
}

/**
 * How many candidates got which {@link verdict}.
 *
 * @since 0.1.0
 */
export type Totals = Record<keyof typeof verdict, number>

/**
 * An open map.
 *
 * @since 0.1.0
 */
export interface Table {
  readonly fd: number
  /** The kernel's number of the map. Where it is given, a program is bound to that map or not at all (`EBADF`). */
  readonly id?: number
  /** 14 or 38. */
  readonly keySize: number
  /** 40 or 56. */
  readonly valueSize: number
  /** For error messages. */
  readonly name: string
}

/**
 * Compare-and-delete on one map.
 *
 * @since 0.1.0
 */
export interface CompareAndDelete {
  /** `program`: in the kernel. `portable`: a look-up, then a deletion. */
  readonly engine: "program" | "portable"
  /** Whether an entry that is refreshed while it is being deleted is put back. */
  readonly restores: boolean
  /** Why this is not an engine that restores; `undefined` where it is. */
  readonly refusal: BpfError | undefined
  /** The largest `count` of {@link CompareAndDelete.run}. */
  readonly capacity: number
  /** Of the last run; the next one overwrites it. */
  readonly totals: Readonly<Totals>
  /**
   * Judges `count` candidates from number `from` on, in one stretch on the calling thread; no allocation per candidate.
   *
   * **Details**
   *
   * Returns how many were deleted, or `-errno`: -EINVAL where `count` is above `capacity` or reaches beyond an array,
   * -EBADF after the scope has closed. After another error `totals` says how many were judged, in order.
   */
  readonly run: (candidates: Candidates, compared: Compared, from: number, count: number) => number
  /**
   * Judges the first `count` candidates in slices, and lets others run between them. Interruptible there: verdicts up
   * to the interruption stand.
   */
  readonly deleteAll: (candidates: Candidates, compared: Compared, count: number) => Effect.Effect<Totals, BpfError>
}

/**
 * Which engine to make. `auto` takes what loses least: a program that restores, else `portable`; or, as single calls cannot
 * delete through an fd that was opened for reading ({@link isWritable}), a program that does not restore. `restoring` fails
 * with the reason where the first cannot be loaded, `program` where no program can.
 *
 * @since 0.1.0
 */
export interface Options {
  readonly engine?: "auto" | "restoring" | CompareAndDelete["engine"]
}

/**
 * Prepares compare-and-delete on a map, and lets go of it when the scope closes; the map itself stays the caller's.
 *
 * **Details**
 *
 * A program that restores needs Linux >= 5.14, CAP_BPF and CAP_PERFMON; one that does not is faster than `portable` with
 * CAP_BPF alone, but loses more, so that it must be asked for. It finds out by loading, 2 to 4 ms a map on another thread, so make one per map and keep
 * it: a program is bound to its map. All of a key size share 48 KiB with this process, until the last of them closes; each
 * takes 12 KiB of the kernel's memory. Works on HASH and
 * LRU_HASH. Errors: `InvalidArgument` for sizes that no CT or NAT map has; those of loading where `engine` is `program` or `restoring`.
 *
 * @since 0.1.0
 */
export const make = Effect.fnUntraced(function* (
  table: Table,
  { engine = "auto" }: Options = {}
): Effect.fn.Return<CompareAndDelete, BpfError, Bpf.Bpf | Scope.Scope> {
  const kernel = yield* Bpf.Bpf
  if (!KEY_SIZES.has(table.keySize) || !VALUE_SIZES.has(table.valueSize)) {
    return yield* Effect.fail(Program.failure("load program", EINVAL, table))
  }
  if (engine === "portable") return portable(kernel, table, undefined)
  const load = (plain: boolean) =>
    Effect.acquireRelease(Program.load(kernel, table, { plain }), ({ program }) => Effect.sync(() => program?.close()))
  const first = yield* load(engine === "program")
  const attempt =
    first.program === undefined && engine === "auto" && !isWritable(kernel, table) ? yield* load(true) : first
  if (attempt.program !== undefined) return inKernel(kernel, table, attempt.program, attempt.refusal)
  return engine === "auto" ? portable(kernel, table, attempt.refusal) : yield* Effect.fail(attempt.refusal)
})

/**
 * Whether single calls may write to a map through this fd, which they may not where the pin could be opened for reading
 * only. Asks the kernel for an update of a kind that there is not: it looks at the permission first. Programs may in any case.
 *
 * @since 0.1.0
 */
export const isWritable = (kernel: Bpf.Calls, { fd, keySize, valueSize }: Table): boolean =>
  kernel.update(fd, new Uint8Array(keySize), new Uint8Array(valueSize), NO_SUCH_FLAGS) !== -EPERM

/** `BPF_ANY`, `BPF_NOEXIST` and `BPF_EXIST` are 0 to 2, and `BPF_F_LOCK` is 4. */
const NO_SUCH_FLAGS = 0x80

/**
 * The name under which the programs are loaded.
 *
 * @since 0.1.0
 */
export const object = Program.OBJECT

/**
 * The programs for a kernel in memory.
 *
 * **Example** (Deleting without a kernel)
 *
 * ```ts
 * import * as Bpf from "ctmap-kernel/Bpf"
 * import * as BpfMemory from "ctmap-kernel/BpfMemory"
 * import * as CompareAndDelete from "ctmap-kernel/CompareAndDelete"
 * import * as Effect from "effect/Effect"
 *
 * const kernel = BpfMemory.layerTest({ objects: { [CompareAndDelete.object]: CompareAndDelete.twin } })
 * const program = Effect.gen(function* () {
 *   const { mapCreate, update } = yield* Bpf.Bpf
 *   const sizes = { keySize: 14, valueSize: 56 }
 *   const fd = mapCreate({ type: 9, ...sizes, maxEntries: 64, flags: 0 }, "ct4")
 *   const keys = new Uint8Array(14)
 *   update(fd, keys, new Uint8Array(56), Bpf.ANY)
 *   const cad = yield* CompareAndDelete.make({ fd, ...sizes, name: "ct4" })
 *   const read = { keys, expected: Uint32Array.of(5), verdicts: new Uint8Array(1) }
 *   return [cad.engine, yield* cad.deleteAll(read, "lifetime", 1)]
 * }).pipe(Effect.scoped, Effect.provide(kernel))
 * await Effect.runPromise(program) // => ["program", { deleted: 0, refreshed: 1, vanished: 0, restored: 0, busy: 0 }]
 * ```
 *
 * @since 0.1.0
 */
export const twin: ObjectTwin = memoryTwin

const EPERM = 1
const EBADF = 9
const EBUSY = 16
const EINVAL = 22
const EDEADLK = 35
const ETIMEDOUT = 110
const ENOENT = 2
const EEXIST = 17
const EOPNOTSUPP = 95
const ENOTSUPP = 524

const KEY_SIZES: ReadonlySet<number> = new Set([14, 38])
const VALUE_SIZES: ReadonlySet<number> = new Set([40, 56])

/** Candidates between two yields of {@link CompareAndDelete.deleteAll}: a portable one costs two system calls. */
const PORTABLE_SLICE = 256

const noTotals = (): Totals => ({ deleted: 0, refreshed: 0, vanished: 0, restored: 0, busy: 0 })

const reaches = ({ keys, expected, verdicts: out }: Candidates, table: Table, compared: Compared, end: number) =>
  end * table.keySize <= keys.byteLength && end <= out.length && (compared === "presence" || end <= expected.length)

/** What both engines share: checks, slices, and counting. */
const build = (
  table: Table,
  parts: Pick<CompareAndDelete, "engine" | "restores" | "refusal"> & {
    readonly totals: Totals
    readonly slice: number
    /** Judges candidates of a checked range into `totals`; 0 or `-errno`. */
    readonly judge: CompareAndDelete["run"]
  }
): CompareAndDelete => {
  const { totals, slice, judge, ...visible } = parts
  const run: CompareAndDelete["run"] = (candidates, compared, from, count) => {
    Object.assign(totals, none)
    if (from < 0 || count < 0 || count > WorkList.CAPACITY || !reaches(candidates, table, compared, from + count))
      return -EINVAL
    const rc = judge(candidates, compared, from, count)
    return rc < 0 ? rc : totals.deleted
  }
  return {
    ...visible,
    capacity: WorkList.CAPACITY,
    totals,
    run,
    deleteAll: Effect.fnUntraced(function* (candidates, compared, count) {
      const sum = noTotals()
      for (let from = 0; from < count; from += slice) {
        if (from > 0) yield* Effect.yieldNow
        const rc = run(candidates, compared, from, Math.min(slice, count - from))
        if (rc < 0) return yield* Effect.fail(Program.failure(OPERATION[visible.engine], -rc, table))
        for (const name of VERDICTS) sum[name] += totals[name]
      }
      return sum
    })
  }
}

const none: Readonly<Totals> = noTotals()
const VERDICTS = ["deleted", "refreshed", "vanished", "restored", "busy"] as const satisfies ReadonlyArray<keyof Totals>
const OPERATION = { program: "run program", portable: "delete" } as const

const portable = (kernel: Bpf.Calls, table: Table, refusal: BpfError | undefined): CompareAndDelete => {
  const totals = noTotals()
  const key = new Uint8Array(table.keySize)
  const value = new Uint8Array(table.valueSize)
  const words = new DataView(value.buffer)
  const judge = (at: number, expected: number | undefined): keyof Totals | number => {
    const found = kernel.lookup(table.fd, key, value)
    if (found === -ENOENT) return "vanished"
    if (found < 0) return found
    if (expected !== undefined && words.getUint32(at, true) !== expected) return "refreshed"
    const rc = expected === undefined ? kernel.delete(table.fd, key) : take()
    if (rc === -ENOENT) return "vanished"
    if (rc < 0) return rc === -EBUSY || rc === -EDEADLK || rc === -ETIMEDOUT ? "busy" : rc
    if (expected === undefined || words.getUint32(at, true) === expected) return "deleted"
    // Refreshed between the look-up and the deletion, whose value this is. Where the datapath was faster, its own stays.
    const back = kernel.update(table.fd, key, value, Bpf.NOEXIST)
    return back >= 0 || back === -EEXIST ? "restored" : "deleted"
  }
  /** Deletes, and reads what was deleted where the kernel does both at once. */
  let takes = true
  const take = (): number => {
    const rc = takes ? kernel.lookupAndDelete(table.fd, key, value) : -ENOTSUPP
    if (rc !== -ENOTSUPP && rc !== -EOPNOTSUPP && rc !== -EINVAL) return rc
    takes = false
    return kernel.delete(table.fd, key)
  }
  return build(table, {
    engine: "portable",
    restores: false,
    refusal,
    totals,
    slice: PORTABLE_SLICE,
    judge: ({ keys, expected, verdicts: out }, compared, from, count) => {
      const at = WorkList.comparedAt(WorkList.compare[compared])
      for (let i = from; i < from + count; i++) {
        for (let byte = 0, start = i * key.length; byte < key.length; byte++) key[byte] = keys[start + byte] ?? 0
        const judged = judge(at, compared === "presence" ? undefined : expected[i])
        if (typeof judged === "number") return judged
        out[i] = verdict[judged]
        totals[judged]++
      }
      return 0
    }
  })
}

const inKernel = (
  kernel: Bpf.Calls,
  table: Table,
  program: Program.Program,
  refusal: BpfError | undefined
): CompareAndDelete => {
  const totals = noTotals()
  const slots = new DataView(program.memory.buffer, program.memory.byteOffset, program.memory.byteLength)
  const context = new Uint32Array(WorkList.context.words)
  const contextBytes = new Uint8Array(context.buffer)
  const { size: stride, expected: expectedAt, verdict: verdictAt } = WorkList.candidate
  const write = ({ keys, expected }: Candidates, compared: Compared, from: number, count: number): void => {
    const from8 = new DataView(keys.buffer, keys.byteOffset, keys.byteLength)
    for (let i = 0; i < count; i++) {
      WorkList.copyKey(from8, (from + i) * table.keySize, slots, i * stride, table.keySize)
      slots.setUint32(i * stride + expectedAt, expected[from + i] ?? 0, true)
    }
    context.fill(0)
    context[WorkList.context.count] = count
    context[WorkList.context.compare] = WorkList.compare[compared]
    context[WorkList.context.keySize] = table.keySize
    context[WorkList.context.valueSize] = table.valueSize
  }
  return build(table, {
    engine: "program",
    restores: program.restores,
    refusal,
    totals,
    slice: WorkList.CAPACITY,
    judge: (candidates, compared, from, count) => {
      if (!program.isOpen) return -EBADF
      write(candidates, compared, from, count)
      const rc = kernel.runProgram(program.fd, contextBytes)
      if (rc < 0) return rc
      for (let i = 0; i < count; i++) candidates.verdicts[from + i] = slots.getUint32(i * stride + verdictAt, true)
      for (const name of VERDICTS) totals[name] = context[WorkList.context.totals + verdict[name]] ?? 0
      return 0
    }
  })
}
