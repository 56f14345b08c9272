/**
 * The loops by which others collect a CT map from user space: they decide on what they have read, and delete it without
 * looking again. Over the same calls as ctmap's own, so that nothing but the loop differs.
 */
import { CtEntry } from "ctmap-core"
import type * as Bpf from "ctmap-kernel/Bpf"

export interface About {
  readonly fd: number
  readonly keySize: number
  readonly expiredBefore: number
  /** Entries of a batch. */
  readonly chunk: number
}

const ENOENT = -2

const lifetimeAt = (values: DataView, i: number): number =>
  values.getUint32(i * CtEntry.SIZE + CtEntry.offset.lifetime, true)

/** Next key, look-up, deletion, entry by entry, as Cilium does up to 1.17. How many were deleted. */
export const nextKey = (kernel: Bpf.Calls, { fd, keySize, expiredBefore }: About): number => {
  let [key, next] = [new Uint8Array(keySize), new Uint8Array(keySize)]
  const value = new Uint8Array(CtEntry.SIZE)
  const words = new DataView(value.buffer)
  let deleted = 0
  for (let end = kernel.nextKey(fd, null, key); end === 0;) {
    end = kernel.nextKey(fd, key, next)
    if (kernel.lookup(fd, key, value) === 0 && lifetimeAt(words, 0) < expiredBefore) {
      if (kernel.delete(fd, key) === 0) deleted++
    }
    const swapped = key
    key = next
    next = swapped
  }
  return deleted
}

/** Calls `use` with every batch. */
const batches = (
  kernel: Bpf.Calls,
  { fd, keySize, chunk }: About,
  use: (keys: Uint8Array, values: DataView, count: number) => void
): void => {
  const keys = new Uint8Array(chunk * keySize)
  const values = new Uint8Array(chunk * CtEntry.SIZE)
  const cursor = new Uint8Array(Math.max(4, keySize))
  const count = new Uint32Array(1)
  for (let from: Uint8Array | null = null, rc = 0; rc === 0; from = cursor) {
    count[0] = chunk
    rc = kernel.lookupBatch(fd, from, cursor, keys, values, count)
    if (rc < 0 && rc !== ENOENT) throw new Error(`lookup batch: errno ${-rc}`)
    use(keys, new DataView(values.buffer), count[0])
  }
}

/** Batch look-up, and a deletion each, as Cilium does from 1.18 on. */
export const each = (kernel: Bpf.Calls, about: About): number => {
  const { fd, keySize, expiredBefore } = about
  let deleted = 0
  batches(kernel, about, (keys, values, count) => {
    for (let i = 0; i < count; i++) {
      if (lifetimeAt(values, i) >= expiredBefore) continue
      if (kernel.delete(fd, keys.subarray(i * keySize, (i + 1) * keySize)) === 0) deleted++
    }
  })
  return deleted
}

/** Batch look-up, and batch deletion. */
export const batch = (kernel: Bpf.Calls, about: About): number => {
  const { fd, keySize, expiredBefore, chunk } = about
  const dead = new Uint8Array(chunk * keySize)
  const gone = new Uint32Array(1)
  let deleted = 0
  batches(kernel, about, (keys, values, count) => {
    gone[0] = 0
    for (let i = 0; i < count; i++) {
      if (lifetimeAt(values, i) < expiredBefore) {
        dead.set(keys.subarray(i * keySize, (i + 1) * keySize), gone[0]++ * keySize)
      }
    }
    if (gone[0] > 0) {
      kernel.deleteBatch(fd, dead, gone)
      deleted += gone[0]
    }
  })
  return deleted
}
