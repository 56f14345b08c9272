/** Whether an fd still stands for the map that is meant: programs are loaded late at times, and numbers are used again. */
import type * as Bpf from "../Bpf.ts"
import type { Table } from "../CompareAndDelete.ts"

const EBADF = 9

/** 0, or why not. Asked right before a program is bound, with nothing in between. */
export const check = (kernel: Bpf.Calls, { fd, id }: Table): number => {
  if (id === undefined) return 0
  const info = kernel.mapInfo(fd)
  return typeof info === "number" ? -info : info.id === id ? 0 : EBADF
}
