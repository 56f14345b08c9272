/**
 * NAT clean-up: takes the NAT entries that belonged to CT entries which have just been deleted.
 *
 * Owns the rule, for engines that delete CT entries by list; `KernelSweep` follows the same one by itself. Where
 * programs are to be had, one call looks after up to 1,024 CT entries inside the kernel (`bpf/sweep.bpf.c`); elsewhere
 * it takes four or five system calls each.
 *
 * The rule, for a CT entry with tuple flags OUT; any other owns nothing:
 *
 * - If the CT map has the key again, the connection is back and keeps its mapping.
 * - With `DSRInternal`, the mapping stands under the key with its ports exchanged, and has one half only.
 * - Otherwise it stands under the key with its addresses exchanged. Its reverse half goes too, but only if it leads
 *   back to the same mapping: the translated port may be another connection's by now.
 *
 * @see `NatDerivation` of ctmap-core
 * @since 0.1.0
 */
import type { Family } from "ctmap-core"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Bpf from "./Bpf.ts"
import { BpfError } from "./BpfError.ts"
import type { Table } from "./CompareAndDelete.ts"
import { cleanNat } from "./internal/cleanNat.ts"
import { acquireWork, releaseWork } from "./internal/sharedWork.ts"
import * as Layout from "./internal/sweepLayout.ts"
import * as Program from "./internal/sweepProgram.ts"
import * as WorkList from "./internal/workList.ts"

/**
 * What became of the NAT entries of a CT entry.
 *
 * **Details**
 *
 * `none`: it owns none, by its tuple flags. `mapping`: both halves are gone. `outOnly`: the OUT half is gone; there was
 * no reverse half, or it leads elsewhere and stays. `swapped`: the one half of direct server return is gone. `absent`:
 * there was no mapping. `kept`: the connection is back. `failed`: the kernel could not lock a bucket; the orphan purge
 * finds what is left.
 *
 * **Example** (Reading verdicts)
 *
 * ```ts
 * import { NatCleanUp } from "ctmap-kernel"
 *
 * NatCleanUp.verdict.mapping // => 1
 * ```
 *
 * @since 0.1.0
 */
export const verdict = Layout.natVerdict

/**
 * The name of a {@link verdict}.
 *
 * @since 0.1.0
 */
export type Verdict = keyof typeof verdict

/**
 * Sums of a run. `egress` and `ingress` are NAT entries that were deleted, by direction; the others count CT entries:
 * `absent`, `kept` and `failed` as the verdicts, `halves` those with `outOnly`.
 *
 * @since 0.1.0
 */
export interface Totals extends Layout.NatTotals {}

/**
 * CT entries that were deleted, in memory of the caller.
 *
 * @since 0.1.0
 */
export interface Candidates {
  /** CT keys without gaps, of the map's key size. */
  readonly keys: Uint8Array
  /** The flag word of each entry, as it was read: see `CtEntryFlags`. */
  readonly flags: Uint16Array | Uint32Array
  /** Out: a {@link verdict} each. */
  readonly verdicts: Uint8Array
}

/**
 * A CT map and the NAT map that belongs to it.
 *
 * @since 0.1.0
 */
export interface Target {
  readonly ct: Table
  readonly nat: Table
  readonly family: Family.Family
}

/**
 * Which engine to make. `auto` takes the program where it can be loaded; `program` fails with the reason where not.
 *
 * @since 0.1.0
 */
export interface Options {
  readonly engine?: "auto" | NatCleanUp["engine"]
}

/**
 * NAT clean-up for one CT map.
 *
 * @since 0.1.0
 */
export interface NatCleanUp {
  /** `program`: in the kernel. `portable`: by single look-ups and deletions. */
  readonly engine: "program" | "portable"
  /** Why this is not the program; `undefined` where it is, or was not asked for. */
  readonly refusal: BpfError | undefined
  /** The largest `count` of {@link NatCleanUp.run}. */
  readonly capacity: number
  /**
   * Cleans up after the first `count` candidates, or those from number `from` on, in one stretch on the calling thread.
   *
   * **Details**
   *
   * With `dryRun` nothing is deleted, verdicts and sums tell what would be; CT entries count as gone. Returns the sums,
   * or `-errno`: -EINVAL where `count` is above `capacity` or reaches beyond an array, -EBADF after the scope has
   * closed. After another error verdicts were written up to the candidate that failed.
   */
  readonly run: (
    candidates: Candidates,
    count: number,
    options?: { readonly from?: number; readonly dryRun?: boolean }
  ) => Totals | number
}

/**
 * Prepares NAT clean-up for a pair of maps, and lets go of it when the scope closes; the maps themselves stay the
 * caller's.
 *
 * **Details**
 *
 * Finds out what can be had by loading, some milliseconds on another thread, so make one per pair and keep it. The
 * work-list is that of `CompareAndDelete`. Errors: `InvalidArgument` for sizes that are not the family's; those of loading where `engine`
 * is `program`.
 *
 * **Example** (After deleting a CT entry)
 *
 * ```ts
 * import * as Bpf from "ctmap-kernel/Bpf"
 * import * as BpfMemory from "ctmap-kernel/BpfMemory"
 * import * as NatCleanUp from "ctmap-kernel/NatCleanUp"
 * import * as Effect from "effect/Effect"
 *
 * const program = Effect.gen(function* () {
 *   const { mapCreate } = yield* Bpf.Bpf
 *   const table = (name: string, valueSize: number) => ({
 *     fd: mapCreate({ type: 9, keySize: 14, valueSize, maxEntries: 64, flags: 0 }, name),
 *     keySize: 14,
 *     valueSize,
 *     name
 *   })
 *   const cleanUp = yield* NatCleanUp.make({ ct: table("ct4", 56), nat: table("nat4", 40), family: "ipv4" })
 *   const deleted = { keys: new Uint8Array(14), flags: new Uint32Array(1), verdicts: new Uint8Array(1) }
 *   return cleanUp.run(deleted, 1)
 * }).pipe(Effect.scoped, Effect.provide(BpfMemory.layer))
 * await Effect.runPromise(program) // => { egress: 0, ingress: 0, absent: 1, halves: 0, kept: 0, failed: 0 }
 * ```
 *
 * @since 0.1.0
 */
export const make = Effect.fnUntraced(function* (
  target: Target,
  { engine = "auto" }: Options = {}
): Effect.fn.Return<NatCleanUp, BpfError, Bpf.Bpf | Scope.Scope> {
  const kernel = yield* Bpf.Bpf
  const refusal = Program.refusal(target)
  if (refusal !== undefined) return yield* Effect.fail(refusal)
  if (engine === "portable") return portable(kernel, target, undefined)
  const program = Effect.map(
    Effect.acquireRelease(acquire(kernel, target), (acquired) => Effect.sync(() => acquired.close())),
    (acquired) => inKernel(kernel, target, acquired)
  )
  if (engine === "program") return yield* program
  return yield* Effect.catchTag(program, "BpfError", (error) => Effect.succeed(portable(kernel, target, error)))
})

const EBADF = 9
const EBUSY = 16
const EINVAL = 22
const EDEADLK = 35
const ETIMEDOUT = 110

/** What both engines share: the checks, and the sums. */
const build = (
  { ct }: Target,
  parts: Pick<NatCleanUp, "engine" | "refusal">,
  judge: (candidates: Candidates, from: number, count: number, isDry: boolean) => Totals | number
): NatCleanUp => ({
  ...parts,
  capacity: WorkList.CAPACITY,
  run: (candidates, count, { from = 0, dryRun = false } = {}) => {
    const { keys, flags, verdicts } = candidates
    const end = from + count
    const reaches = end * ct.keySize <= keys.byteLength && end <= flags.length && end <= verdicts.length
    if (from < 0 || count < 0 || count > WorkList.CAPACITY || !reaches) return -EINVAL
    return judge(candidates, from, count, dryRun)
  }
})

const portable = (kernel: Bpf.Calls, target: Target, refusal: BpfError | undefined): NatCleanUp => {
  const { ct, nat, family } = target
  const key = new Uint8Array(ct.keySize)
  const entry = new Uint8Array(ct.valueSize)
  const clean = cleanNat(family, {
    hasCt: (wanted) => kernel.lookup(ct.fd, wanted, entry),
    lookup: (wanted, value) => kernel.lookup(nat.fd, wanted, value),
    delete: (wanted) => kernel.delete(nat.fd, wanted),
    isPassing: (rc) => rc === -EBUSY || rc === -EDEADLK || rc === -ETIMEDOUT
  })
  return build(target, { engine: "portable", refusal }, ({ keys, flags, verdicts }, from, count, isDry) => {
    const totals = Layout.noNatTotals()
    for (let i = from; i < from + count; i++) {
      for (let byte = 0, start = i * key.length; byte < key.length; byte++) key[byte] = keys[start + byte] ?? 0
      const rc = clean(key, flags[i] ?? 0, isDry, totals)
      if (rc < 0) return rc
      verdicts[i] = rc
    }
    return totals
  })
}

interface Loaded {
  readonly fd: number
  readonly memory: Uint8Array
  isOpen: boolean
  readonly close: () => void
}

const acquire = (kernel: Bpf.Calls, target: Target): Effect.Effect<Loaded, BpfError> =>
  Effect.suspend(() => {
    const work = acquireWork(kernel, target.ct)
    if (work instanceof BpfError) return Effect.fail(work)
    const idle = new Uint8Array(Layout.clean.words * 4)
    return Program.load(kernel, target, "nat_clean", { work: work.fd }, idle).pipe(
      Effect.tapError(() => Effect.sync(() => releaseWork(kernel, target.ct, work))),
      Effect.map((program) => {
        const loaded: Loaded = {
          fd: program.fd,
          memory: work.memory,
          isOpen: true,
          close: () => {
            loaded.isOpen = false
            program.close()
            releaseWork(kernel, target.ct, work)
          }
        }
        return loaded
      })
    )
  })

const inKernel = (kernel: Bpf.Calls, target: Target, program: Loaded): NatCleanUp => {
  const { keySize } = target.ct
  const slots = new DataView(program.memory.buffer, program.memory.byteOffset, program.memory.byteLength)
  const context = new Uint32Array(Layout.clean.words)
  const contextBytes = new Uint8Array(context.buffer)
  const { size: stride, expected: flagsAt, verdict: verdictAt } = WorkList.candidate
  const engine = { engine: "program", refusal: undefined } as const
  return build(target, engine, ({ keys, flags, verdicts }, from, count, isDry) => {
    if (!program.isOpen) return -EBADF
    const view = new DataView(keys.buffer, keys.byteOffset, keys.byteLength)
    for (let i = 0; i < count; i++) {
      WorkList.copyKey(view, (from + i) * keySize, slots, i * stride, keySize)
      slots.setUint32(i * stride + flagsAt, flags[from + i] ?? 0, true)
    }
    context.fill(0)
    context[Layout.clean.count] = count
    context[Layout.clean.options] = isDry ? Layout.option.dryRun : 0
    const rc = kernel.runProgram(program.fd, contextBytes)
    if (rc < 0) return rc
    for (let i = 0; i < count; i++) verdicts[from + i] = slots.getUint32(i * stride + verdictAt, true)
    return Layout.readNatTotals(context, Layout.clean.nat)
  })
}
