/**
 * Entries for scans of a map that changes meanwhile: IPv4 keys that are a number, values that are all the same. Keys may
 * be longer, for a map in which several of them are the same to whoever reads the first 14 bytes.
 */
export const KEY = 14
export const VALUE = 56

export const keysOf = (first: number, count: number, size = KEY): Uint8Array<ArrayBuffer> => {
  const keys = new Uint8Array(count * size)
  const view = new DataView(keys.buffer)
  for (let i = 0; i < count; i++) view.setUint32(i * size, first + i)
  return keys
}

export const values = (count: number): Uint8Array<ArrayBuffer> => new Uint8Array(count * VALUE).fill(1)

const rotate = (word: number, by: number): number => (word << by) | (word >>> (32 - by))

/** The hash by which the kernel picks the bucket of a key of 14 or 16 bytes, in a map with `BPF_F_ZERO_SEED`. */
export const jhash = (view: DataView): number => {
  const size = view.byteLength
  let a = (0xdead_beef + size) | 0
  let [b, c] = [a, a]
  a = (a + view.getUint32(0, true)) | 0
  b = (b + view.getUint32(4, true)) | 0
  c = (c + view.getUint32(8, true)) | 0
  for (const [first, second, third] of [
    [4, 6, 8],
    [16, 19, 4]
  ] as const) {
    a = ((a - c) ^ rotate(c, first)) | 0
    c = (c + b) | 0
    b = ((b - a) ^ rotate(a, second)) | 0
    a = (a + c) | 0
    c = ((c - b) ^ rotate(b, third)) | 0
    b = (b + a) | 0
  }
  a = (a + (size === KEY ? view.getUint16(12, true) : view.getUint32(12, true))) | 0
  c = ((c ^ b) - rotate(b, 14)) | 0
  a = ((a ^ c) - rotate(c, 11)) | 0
  b = ((b ^ a) - rotate(a, 25)) | 0
  c = ((c ^ b) - rotate(b, 16)) | 0
  a = ((a ^ c) - rotate(c, 4)) | 0
  b = ((b ^ a) - rotate(a, 14)) | 0
  return ((c ^ b) - rotate(b, 24)) >>> 0
}
