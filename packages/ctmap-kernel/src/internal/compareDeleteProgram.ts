/**
 * Loading the compare-and-delete programs.
 */
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import type * as Bpf from "../Bpf.ts"
import { BpfError, fromErrno } from "../BpfError.ts"
import type { Table } from "../CompareAndDelete.ts"
import * as LoadProgram from "./loadProgram.ts"
import { objectFile } from "./objectFile.ts"
import * as StillOpen from "./stillOpen.ts"
import { acquireWork, releaseWork } from "./sharedWork.ts"
import * as WorkList from "./workList.ts"

const EINVAL = 22

/** The object that the programs are in. */
export const OBJECT = "compare_delete"

export const failure = (operation: BpfError["operation"], errno: number, { name }: Table, feature?: string): BpfError =>
  fromErrno({ operation, errno, map: name, feature })

/** A loaded program with its work-list. */
export interface Program {
  readonly fd: number
  readonly restores: boolean
  readonly memory: Uint8Array
  isOpen: boolean
  readonly close: () => void
}

export type Attempt =
  | { readonly program: Program; readonly refusal: BpfError | undefined }
  | { readonly program: undefined; readonly refusal: BpfError }

const PROGRAMS = [
  { name: "compare_delete_restore", restores: true },
  { name: "compare_delete", restores: false }
] as const

/**
 * The program that restores, or why it cannot be loaded. With `plain`, where that is forbidden or not to be had, the one that
 * does not; not in place of one that only did not load this time. Nothing may interrupt it.
 */
export const load = Effect.fnUntraced(function* (
  kernel: Bpf.Calls,
  table: Table,
  { plain }: { readonly plain: boolean }
): Effect.fn.Return<Attempt> {
  const elf = objectFile(OBJECT)
  if (elf instanceof BpfError) return { program: undefined, refusal: elf }
  const work = acquireWork(kernel, table)
  if (work instanceof BpfError) return { program: undefined, refusal: work }
  let refusal: BpfError | undefined
  for (const { name, restores } of PROGRAMS) {
    const loaded = yield* Effect.result(loadOne(kernel, table, elf, work.fd, name))
    if (Result.isSuccess(loaded)) {
      const program: Program = {
        fd: loaded.success.fd,
        restores,
        memory: work.memory,
        isOpen: true,
        close: () => {
          program.isOpen = false
          loaded.success.close()
          releaseWork(kernel, table, work)
        }
      }
      return { program, refusal }
    }
    refusal ??= loaded.failure
    if (!plain || !WITHOUT.has(loaded.failure.reason._tag)) break
  }
  releaseWork(kernel, table, work)
  return { program: undefined, refusal: refusal ?? failure("load program", EINVAL, table, FEATURE) }
})

/** What another program may make up for. */
const WITHOUT: ReadonlySet<BpfError["reason"]["_tag"]> = new Set(["NotPermitted", "FeatureUnsupported"])

const FEATURE = "programs of type syscall (Linux 5.14)"

const loadOne = (
  kernel: Bpf.Calls,
  table: Table,
  elf: Uint8Array,
  work: number,
  name: string
): Effect.Effect<LoadProgram.Program, BpfError> =>
  Effect.suspend(() => {
    // Each time anew: the one before has taken its time.
    const gone = StillOpen.check(kernel, table)
    if (gone !== 0) return Effect.fail(failure("load program", gone, table))
    const spec = { object: OBJECT, name, elf, reuse: { table: table.fd, work } }
    const idle = new Uint8Array(WorkList.context.words * 4)
    return LoadProgram.loadProgram(kernel, spec, idle, (operation, errno) => failure(operation, errno, table, FEATURE))
  })
