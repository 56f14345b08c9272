/**
 * Twins of the programs in `bpf/copy.bpf.c`, for `BpfMemory`: same words, same records. Theirs is the map as it is when
 * its reading begins.
 */
import type { Helpers, MapView, ObjectTwin, Program } from "./memoryPrograms.ts"
import { CONTROL_BYTES, programOf, RECORDS_BYTES, type Shape, shapes, state, word } from "./walkLayout.ts"

const slot = new Uint8Array(4)
const NO_PREALLOC = 1

/** The map of a word, where it is one that the programs can read. */
const find = (map: MapView | undefined, id: number, { keySize, valueSize }: Shape): MapView | undefined => {
  const of = map?.properties
  const isRight =
    map?.id === id &&
    of !== undefined &&
    (of.type === 1 || of.type === 9) &&
    Math.ceil(of.keySize / 8) === Math.ceil(keySize / 8) &&
    of.valueSize === valueSize &&
    (of.flags & NO_PREALLOC) === 0
  return isRight ? map : undefined
}

const walk =
  (shape: Shape): Program =>
  (kernel: Helpers, _context, maps) => {
    const words = maps["control"]!.lookup(slot)!
    const records = maps["records"]!.lookup(slot)!
    const control = new Uint32Array(words.buffer, words.byteOffset, CONTROL_BYTES / 4)
    const map = find(kernel.map(control[word.fd]!), control[word.id]!, shape)
    control[word.state] = map === undefined ? state.strange : state.more
    if (map === undefined) return 0
    if (control[word.bucket] === 0) begun.set(words.buffer, entriesOf(map, shape))
    const entries = begun.get(words.buffer) ?? []
    while (control[word.next]! < control[word.end]! && control[word.bucket]! < entries.length) {
      records.set(entries[control[word.bucket]!++]!, control[word.next]!++ * shape.stride)
    }
    if (control[word.bucket] === entries.length) control[word.state] = state.end
    return 0
  }

/** The records of the maps that are being read, by the memory their words stand in. */
const begun = new WeakMap<ArrayBufferLike, ReadonlyArray<Uint8Array>>()

const entriesOf = (map: MapView, { keySize, valueAt, stride }: Shape): ReadonlyArray<Uint8Array> => {
  const entries: Array<Uint8Array> = []
  map.forEach((key, value) => {
    const record = new Uint8Array(stride)
    record.set(key.subarray(0, keySize))
    record.set(value, valueAt)
    entries.push(record)
  })
  return entries
}

const array = (valueSize: number) => ({ type: 2, keySize: 4, valueSize, maxEntries: 1, flags: 0x400 }) as const

export const twin: ObjectTwin = {
  programs: Object.fromEntries(shapes.map((shape) => [programOf(shape), walk(shape)])),
  maps: { control: array(CONTROL_BYTES), records: array(RECORDS_BYTES) }
}
