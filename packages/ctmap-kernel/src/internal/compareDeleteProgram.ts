/**
 * Loading the compare-and-delete programs, and the work-list that they share with this process.
 */
import { readFileSync } from "node:fs"
import type * as Bpf from "../Bpf.ts"
import { BpfError, fromErrno, KernelUnavailable } from "../BpfError.ts"
import type { Table } from "../CompareAndDelete.ts"
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
  const elf = object()
  if (elf instanceof BpfError) return { program: undefined, refusal: elf }
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

/** A work-list and how many use it: a run is synchronous, so all maps of a key size can share one. */
interface Work {
  readonly fd: number
  readonly memory: Uint8Array
  users: number
}

const works = new WeakMap<Bpf.Calls, Map<number, Work>>()

const acquireWork = (kernel: Bpf.Calls, table: Table): Work | BpfError => {
  const shared = works.get(kernel) ?? new Map<number, Work>()
  works.set(kernel, shared)
  const known = shared.get(table.keySize)
  if (known !== undefined) {
    known.users++
    return known
  }
  const fd = kernel.mapCreate(WorkList.properties, "ctmap_work")
  if (fd < 0) return failure("map create", -fd, table, "mmapable arrays (Linux 5.5)")
  const memory = kernel.mapMemory(fd, WorkList.CAPACITY * WorkList.candidate.size)
  if (typeof memory === "number") {
    kernel.close(fd)
    return failure("map memory", -memory, table)
  }
  const work: Work = { fd, memory, users: 1 }
  shared.set(table.keySize, work)
  return work
}

const releaseWork = (kernel: Bpf.Calls, table: Table, work: Work): void => {
  work.users--
  if (work.users > 0) return
  works.get(kernel)?.delete(table.keySize)
  kernel.unmapMemory(work.memory)
  kernel.close(work.fd)
}

/** Two levels below the package's root from `src` and from `dist` alike. */
const file = new URL("../../bpf/compare_delete.bpf.o", import.meta.url)

let elf: Uint8Array | undefined

const object = (): Uint8Array | BpfError => {
  try {
    return (elf ??= readFileSync(file))
  } catch (cause) {
    const why = `its BPF object cannot be read: ${cause instanceof Error ? cause.message : String(cause)}`
    return new BpfError({ operation: "load program", errno: 0, reason: new KernelUnavailable({ why }) })
  }
}
