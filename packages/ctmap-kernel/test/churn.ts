/** Entries for scans of a map that changes meanwhile: IPv4 keys that are a number, values that are all the same. */
export const KEY = 14
export const VALUE = 56

export const keysOf = (first: number, count: number): Uint8Array<ArrayBuffer> => {
  const keys = new Uint8Array(count * KEY)
  const view = new DataView(keys.buffer)
  for (let i = 0; i < count; i++) view.setUint32(i * KEY, first + i)
  return keys
}

export const values = (count: number): Uint8Array<ArrayBuffer> => new Uint8Array(count * VALUE).fill(1)

const rotate = (word: number, by: number): number => (word << by) | (word >>> (32 - by))

/** The hash by which the kernel picks the bucket of such a key, in a map with `BPF_F_ZERO_SEED`. */
export const jhash = (view: DataView): number => {
  let a = (0xdead_beef + KEY) | 0
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
  a = (a + view.getUint16(12, true)) | 0
  c = ((c ^ b) - rotate(b, 14)) | 0
  a = ((a ^ c) - rotate(c, 11)) | 0
  b = ((b ^ a) - rotate(a, 25)) | 0
  c = ((c ^ b) - rotate(b, 16)) | 0
  a = ((a ^ c) - rotate(c, 4)) | 0
  b = ((b ^ a) - rotate(a, 14)) | 0
  return ((c ^ b) - rotate(b, 24)) >>> 0
}
