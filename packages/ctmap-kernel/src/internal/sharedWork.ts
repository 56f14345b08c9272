/**
 * The work-list that programs share with this process: one for all maps of a key size, as a run is synchronous and
 * fills it anew.
 */
import type * as Bpf from "../Bpf.ts"
import { type BpfError, fromErrno } from "../BpfError.ts"
import type { Table } from "../CompareAndDelete.ts"
import * as WorkList from "./workList.ts"

/** A work-list and how many use it. */
export interface Work {
  readonly fd: number
  readonly memory: Uint8Array
  users: number
}

const works = new WeakMap<Bpf.Calls, Map<number, Work>>()

/** The list for the keys of a table, made where there is none. */
export const acquireWork = (kernel: Bpf.Calls, { keySize, name }: Table): Work | BpfError => {
  const shared = works.get(kernel) ?? new Map<number, Work>()
  works.set(kernel, shared)
  const known = shared.get(keySize)
  if (known !== undefined) {
    known.users++
    return known
  }
  const fd = kernel.mapCreate(WorkList.properties, "ctmap_work")
  if (fd < 0)
    return fromErrno({ operation: "map create", errno: -fd, map: name, feature: "mmapable arrays (Linux 5.5)" })
  const memory = kernel.mapMemory(fd, WorkList.CAPACITY * WorkList.candidate.size)
  if (typeof memory === "number") {
    kernel.close(fd)
    return fromErrno({ operation: "map memory", errno: -memory, map: name })
  }
  const work: Work = { fd, memory, users: 1 }
  shared.set(keySize, work)
  return work
}

/** Lets go; the last one takes the list with it. */
export const releaseWork = (kernel: Bpf.Calls, { keySize }: Table, work: Work): void => {
  work.users--
  if (work.users > 0) return
  works.get(kernel)?.delete(keySize)
  kernel.unmapMemory(work.memory)
  kernel.close(work.fd)
}
