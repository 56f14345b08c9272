/**
 * What the programs of `bpf/copy.bpf.c` share with this process.
 */

/** The object that the programs are in. */
export const OBJECT = "copy"

/** Words of `struct control`. */
export const word = {
  next: 0,
  first: 1,
  end: 2,
  state: 3,
  bucket: 4,
  skip: 5,
  again: 6,
  missed: 7,
  took: 8,
  time: 9,
  fd: 10,
  id: 11
} as const
export const CONTROL_BYTES = 48

/** What became of a run: it did not find the map, there is more, or the whole map has been read. */
export const state = { strange: 0, more: 1, end: 2 } as const

/** Rows of one half of the memory: half of `CAPACITY`. */
export const HALF = 4096
export const RECORDS_BYTES = 2 * HALF * 96

/** Where things stand in a record. */
export interface Shape {
  readonly keySize: number
  readonly valueSize: number
  readonly valueAt: number
  readonly stride: number
}

const shapeOf = (keySize: number, valueSize: number): Shape => {
  const valueAt = Math.ceil(keySize / 8) * 8
  return { keySize, valueSize, valueAt, stride: valueAt + valueSize }
}

/** Sizes of keys and values for which there is a program. */
export const shapes: ReadonlyArray<Shape> = [shapeOf(14, 56), shapeOf(38, 56), shapeOf(14, 40)]

export const programOf = ({ keySize, valueSize }: Shape): string => `walk_${keySize}_${valueSize}`
