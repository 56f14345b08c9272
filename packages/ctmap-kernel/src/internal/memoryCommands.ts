/**
 * Commands of the in-memory kernel about the elements of a map: checks of fd and buffers, and the loops of batches.
 */
import type * as Bpf from "../Bpf.ts"
import { EFAULT, EINVAL, ENOTSUPP } from "./memoryErrno.ts"
import type { MemoryKernel } from "./memoryKernel.ts"

/** `BPF_F_LOCK`, for values with a spin lock, of which there are none. Refused before anything else is looked at. */
const LOCK = 4

/** -EFAULT where a buffer is shorter than what the kernel would copy: the kernel itself would run past its end. */
const fault = (buffer: Uint8Array, bytes: number): boolean => buffer.byteLength < bytes

/** HASH, PERCPU_HASH, LRU_HASH, LRU_PERCPU_HASH. */
const hashes: ReadonlySet<number> = new Set([1, 5, 9, 10])

type ElementCall =
  | "lookup"
  | "update"
  | "updateAsync"
  | "delete"
  | "lookupAndDelete"
  | "deleteAsync"
  | "nextKey"
  | "lookupBatch"
  | "updateBatch"
  | "deleteBatch"

/** Commands about the elements of a map. */
export const elementCalls = (kernel: MemoryKernel): Pick<Bpf.Calls, ElementCall> => {
  const { batch } = kernel.settings
  const refusal = batch === "yes" ? 0 : batch === "unknown command" ? -EINVAL : -ENOTSUPP
  /** Runs a command for every element of a batch until one fails; `count` tells how many went. */
  const each = (count: Uint32Array, one: (index: number) => number): number => {
    const wanted = count[0] ?? 0
    for (let done = 0; done < wanted; done++) {
      const rc = one(done)
      count[0] = rc < 0 ? done : done + 1
      if (rc < 0) return rc
    }
    return 0
  }
  const update: Bpf.Calls["update"] = (fd, key, value, flags) => {
    const map = kernel.mapOf(fd, "write")
    if (typeof map === "number") return map
    if ((flags & LOCK) !== 0) return -EINVAL
    return fault(key, map.properties.keySize) || fault(value, map.valueBytes)
      ? -EFAULT
      : map.update(key, value, flags, fd)
  }
  const remove: Bpf.Calls["delete"] = (fd, key) => {
    const map = kernel.mapOf(fd, "write")
    if (typeof map === "number") return map
    return fault(key, map.properties.keySize) ? -EFAULT : map.delete(key)
  }
  return {
    update,
    updateAsync: (fd, key, value, flags, done) => void setImmediate(() => done(update(fd, key, value, flags))),
    delete: remove,
    lookupAndDelete: (fd, key, value) => {
      const map = kernel.mapOf(fd, "write")
      if (typeof map === "number") return map
      // Of Linux 5.14 on, as programs that user space can run are.
      if (!kernel.settings.programs || !hashes.has(map.properties.type)) return -ENOTSUPP
      if (fault(key, map.properties.keySize) || fault(value, map.valueBytes)) return -EFAULT
      const rc = map.lookup(key, value)
      return rc < 0 ? rc : map.delete(key)
    },
    deleteAsync: (fd, key, done) => void setImmediate(() => done(remove(fd, key))),
    lookup: (fd, key, value) => {
      const map = kernel.mapOf(fd, "read")
      if (typeof map === "number") return map
      return fault(key, map.properties.keySize) || fault(value, map.valueBytes) ? -EFAULT : map.lookup(key, value)
    },
    nextKey: (fd, key, next) => {
      const map = kernel.mapOf(fd, "read")
      if (typeof map === "number") return map
      const { keySize } = map.properties
      return (key !== null && fault(key, keySize)) || fault(next, keySize) ? -EFAULT : map.nextKey(key, next)
    },
    lookupBatch: (fd, cursor, nextCursor, keys, values, count) => {
      if (refusal !== 0) return refusal
      const map = kernel.mapOf(fd, "read")
      if (typeof map === "number") return map
      const { keySize } = map.properties
      const room = count[0] ?? 0
      const isShort = fault(keys, room * keySize) || fault(values, room * map.valueBytes) || fault(nextCursor, 4)
      return isShort ? -EFAULT : map.lookupBatch(cursor, nextCursor, keys, values, count)
    },
    updateBatch: (fd, keys, values, count) => {
      if (refusal !== 0) return refusal
      const map = kernel.mapOf(fd, "write")
      if (typeof map === "number") return map
      if (!map.hasUpdateBatch) return -ENOTSUPP
      const { properties, valueBytes } = map
      const { keySize } = properties
      const room = count[0] ?? 0
      if (fault(keys, room * keySize) || fault(values, room * valueBytes)) return -EFAULT
      return each(count, (i) =>
        map.update(keys.subarray(i * keySize), values.subarray(i * valueBytes, (i + 1) * valueBytes), 0)
      )
    },
    deleteBatch: (fd, keys, count) => {
      if (refusal !== 0) return refusal
      const map = kernel.mapOf(fd, "write")
      if (typeof map === "number") return map
      if (!map.hasDeleteBatch) return -ENOTSUPP
      const { keySize } = map.properties
      if (fault(keys, (count[0] ?? 0) * keySize)) return -EFAULT
      return each(count, (i) => map.delete(keys.subarray(i * keySize, (i + 1) * keySize)))
    }
  }
}
