/**
 * Twins of the programs in `bpf/compare_delete.bpf.c`, for `BpfMemory`: same work-list, same context, same verdicts.
 *
 * The memory of a deleted entry stays its own here, so the restoring twin never has to ask whose slot it looks at.
 */
import { NOEXIST } from "../Bpf.ts"
import type { MapView, ObjectTwin, Program } from "./memoryPrograms.ts"
import { verdict } from "./verdict.ts"
import * as WorkList from "./workList.ts"

const ENOENT = -2
const EINVAL = -22

const judge = (table: MapView, candidate: DataView, compare: number, keySize: number, restore: boolean): number => {
  const key = new Uint8Array(candidate.buffer, candidate.byteOffset, keySize)
  const value = table.lookup(key)
  if (value === undefined) return verdict.vanished
  const words = new DataView(value.buffer, value.byteOffset, value.byteLength)
  const expected = candidate.getUint32(WorkList.candidate.expected, true)
  const isSame = (): boolean =>
    compare === WorkList.compare.presence || words.getUint32(WorkList.comparedAt(compare), true) === expected
  if (!isSame()) return verdict.refreshed
  const rc = table.delete(key)
  if (rc === ENOENT) return verdict.vanished
  if (rc < 0) return verdict.busy
  return restore && !isSame() && table.update(key, value.slice(), NOEXIST) === 0 ? verdict.restored : verdict.deleted
}

const run =
  (restore: boolean): Program =>
  (_, bytes, { table, work }) => {
    if (table === undefined || work === undefined) return EINVAL
    const context = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    const word = (at: number): number => context.getUint32(at * 4, true)
    let left = word(WorkList.context.count)
    work.forEach((_index, slot) => {
      if (left === 0) return true
      left -= 1
      const candidate = new DataView(slot.buffer, slot.byteOffset, slot.byteLength)
      const compare = word(WorkList.context.compare)
      const judged = judge(table, candidate, compare, word(WorkList.context.keySize), restore)
      candidate.setUint32(WorkList.candidate.verdict, judged, true)
      const total = WorkList.context.totals + judged
      context.setUint32(total * 4, word(total) + 1, true)
      return false
    })
    return 0
  }

/** The object: `table` and `work` are always given to it. */
export const twin: ObjectTwin = { programs: { compare_delete: run(false), compare_delete_restore: run(true) } }
