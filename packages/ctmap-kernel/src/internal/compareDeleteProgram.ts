/**
 * Loading the compare-and-delete programs.
 */
import type * as Bpf from "../Bpf.ts"
import { BpfError, fromErrno } from "../BpfError.ts"
import type { Table } from "../CompareAndDelete.ts"
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

/** The best program that can be loaded, with why the better one could not; or why none could. */
export const load = (kernel: Bpf.Calls, table: Table): Attempt => {
  const elf = objectFile(OBJECT)
  if (elf instanceof BpfError) return { program: undefined, refusal: elf }
  const gone = StillOpen.check(kernel, table)
  if (gone !== 0) return { program: undefined, refusal: failure("load program", gone, table) }
  const work = acquireWork(kernel, table)
  if (work instanceof BpfError) return { program: undefined, refusal: work }
  let refusal: BpfError | undefined
  for (const { name, restores } of PROGRAMS) {
    const loaded = loadProgram(kernel, table, elf, work.fd, name)
    if (!(loaded instanceof BpfError)) {
      const program: Program = {
        fd: loaded.fd,
        restores,
        memory: work.memory,
        isOpen: true,
        close: () => {
          program.isOpen = false
          loaded.close()
          releaseWork(kernel, table, work)
        }
      }
      return { program, refusal }
    }
    refusal ??= loaded
  }
  releaseWork(kernel, table, work)
  return { program: undefined, refusal: refusal ?? failure("load program", EINVAL, table, FEATURE) }
}

const FEATURE = "programs of type syscall (Linux 5.14)"

/** Loads a program and runs it over nothing: whether it can be run is only known then. */
const loadProgram = (
  kernel: Bpf.Calls,
  table: Table,
  elf: Uint8Array,
  work: number,
  name: string
): { readonly fd: number; readonly close: () => void } | BpfError => {
  const loaded = kernel.loadObject({ name: OBJECT, elf, programs: [name], reuse: { table: table.fd, work } })
  if ("errno" in loaded) return failure("load program", loaded.errno, table, FEATURE)
  const fd = loaded.programs[name] ?? -1
  const rc = fd < 0 ? -EINVAL : kernel.runProgram(fd, new Uint8Array(WorkList.context.words * 4))
  if (rc >= 0) return { fd, close: loaded.close }
  loaded.close()
  return failure("run program", -rc, table, FEATURE)
}
