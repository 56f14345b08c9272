/**
 * Whether the programs of `bpf/copy.bpf.c` read what is there: tried on a map of our own with known content. How a hash map
 * stands in memory is an implementation detail of Linux.
 */
import type * as Bpf from "../Bpf.ts"
import { HALF, type Shape, state, word } from "./walkLayout.ts"

const HASH = 1
const ENTRIES = 300
const SLOTS = 512
/** Each run of the program but the last fills half of the memory or passes buckets until its time is up. */
const RUNS = 100
const EOPNOTSUPP = -95

/** 0, or `-errno`: -EOPNOTSUPP for a program that reads something else than what is in the map. */
export const check = (
  bpf: Bpf.Calls,
  shape: Shape,
  programFd: number,
  control: Uint32Array,
  records: Uint8Array
): number => {
  const { keySize, valueSize } = shape
  const fd = bpf.mapCreate({ type: HASH, keySize, valueSize, maxEntries: SLOTS, flags: 0 }, "ctmap_walk")
  if (fd < 0) return fd
  try {
    const info = bpf.mapInfo(fd)
    if (typeof info === "number") return info
    for (let i = 0; i < ENTRIES; i++) {
      const rc = bpf.update(fd, keyOf(shape, i), valueOf(shape, i), 0)
      if (rc < 0) return rc
    }
    control.fill(0)
    control[word.fd] = fd
    control[word.id] = info.id
    return readAll(bpf, shape, programFd, control, records)
  } finally {
    bpf.close(fd)
  }
}

const readAll = (
  bpf: Bpf.Calls,
  shape: Shape,
  programFd: number,
  control: Uint32Array,
  records: Uint8Array
): number => {
  const seen = new Set<number>()
  control[word.end] = HALF
  control[word.time] = 1_000_000
  for (let run = 0; run < RUNS; run++) {
    control[word.next] = control[word.first] = 0
    control[word.state] = state.strange
    const rc = bpf.runProgram(programFd, new Uint8Array(0))
    if (rc < 0) return rc
    for (let row = 0; row < control[word.next]!; row++) {
      const number = numberOf(shape, records.subarray(row * shape.stride, (row + 1) * shape.stride))
      if (number === undefined) return EOPNOTSUPP
      if (seen.has(number)) return EOPNOTSUPP
      seen.add(number)
    }
    if (control[word.state] !== state.more) break
  }
  const isWhole = control[word.state] === state.end && control[word.missed] === 0 && seen.size === ENTRIES
  return isWhole ? 0 : EOPNOTSUPP
}

/** Keys and values of which every byte depends on the number. */
const fill = (bytes: Uint8Array, number: number): Uint8Array => {
  for (let i = 0; i < bytes.length; i++) bytes[i] = i === 0 ? number : i === 1 ? number >> 8 : number * 7 + i * 13 + 1
  return bytes
}
const keyOf = ({ keySize }: Shape, number: number): Uint8Array => fill(new Uint8Array(keySize), number)
const valueOf = ({ valueSize }: Shape, number: number): Uint8Array => fill(new Uint8Array(valueSize), number + 1)

/** The number whose record this is. */
const numberOf = (shape: Shape, record: Uint8Array): number | undefined => {
  const number = record[0]! + record[1]! * 256
  const expected = new Uint8Array(shape.stride)
  expected.set(keyOf(shape, number))
  expected.set(valueOf(shape, number), shape.valueAt)
  return number < ENTRIES && Buffer.compare(record, expected) === 0 ? number : undefined
}
