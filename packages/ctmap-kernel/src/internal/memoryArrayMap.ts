/**
 * ARRAY, PERCPU_ARRAY and ARRAY_OF_MAPS of the in-memory kernel.
 */
import { MapSpec } from "ctmap-core"
import * as Bpf from "../Bpf.ts"
import { E2BIG, EEXIST, EINVAL, ENOENT } from "./memoryErrno.ts"
import {
  align,
  type Commands,
  heldInner,
  indexBytes,
  type LookupBatch,
  type MemoryMap,
  type Owner,
  readIndex,
  writeIndex
} from "./memoryMap.ts"

/** `BPF_F_MMAPABLE` */
export const MMAPABLE = 0x400
/** What mmap(2) rounds to. */
const PAGE_SIZE = 4096

/** What maps with slots share: walks go by index, a key that is no index answers the first. */
export const nextIndex =
  (maxEntries: number): Commands["nextKey"] =>
  (key, next) => {
    const index = key === null ? 0xffff_ffff : readIndex(key)
    if (index === maxEntries - 1) return -ENOENT
    writeIndex(next, index >= maxEntries ? 0 : index + 1)
    return 0
  }

/** Batches of maps with slots, in the words of the kernel's generic_map_lookup_batch: the cursor is the last key. */
const lookupIndices =
  (valueBytes: number, { lookup, nextKey }: Pick<Commands, "lookup" | "nextKey">): LookupBatch =>
  (cursor, nextCursor, keys, values, count) => {
    const room = count[0] ?? 0
    if (room === 0) return 0
    let found = 0
    let rc = 0
    let previous = cursor === null ? null : cursor.slice(0, 4)
    const key = new Uint8Array(4)
    while (found < room) {
      rc = nextKey(previous, key)
      if (rc < 0) break
      if (lookup(key, values.subarray(found * valueBytes)) === 0) keys.set(key, 4 * found++)
      previous ??= new Uint8Array(4)
      previous.set(key)
    }
    count[0] = found
    if (found > 0 && previous !== null) nextCursor.set(previous)
    return rc
  }

export const array = (spec: MapSpec.Properties, owner: Owner): Commands => {
  const { valueSize, maxEntries } = spec
  const stride = align(valueSize)
  const isPerCpu = spec.type === MapSpec.mapType.percpuArray
  const cpus = isPerCpu ? owner.possibleCpus : 1
  // Per CPU, a value at the system call is every CPU's, each rounded up to 8 bytes.
  const valueBytes = isPerCpu ? stride * cpus : valueSize
  const step = stride * cpus
  const memory = new Uint8Array(Math.ceil((step * maxEntries) / PAGE_SIZE) * PAGE_SIZE)
  const at = (index: number, bytes: number): Uint8Array => memory.subarray(index * step, index * step + bytes)
  const commands: Pick<Commands, "lookup" | "nextKey"> = {
    lookup: (key, to) => {
      const index = readIndex(key)
      if (index >= maxEntries) return -ENOENT
      to.set(at(index, valueBytes))
      return 0
    },
    nextKey: nextIndex(maxEntries)
  }
  return {
    ...commands,
    valueBytes,
    update: (key, value, flags) => {
      const index = readIndex(key)
      if (flags > Bpf.EXIST) return -EINVAL
      if (index >= maxEntries) return -E2BIG
      if (flags === Bpf.NOEXIST) return -EEXIST
      memory.set(value.subarray(0, valueBytes), index * step)
      return 0
    },
    delete: () => -EINVAL,
    lookupBatch: lookupIndices(valueBytes, commands),
    hasUpdateBatch: true,
    hasDeleteBatch: false,
    memory: (spec.flags & MMAPABLE) === 0 ? undefined : memory,
    view: {
      size: () => maxEntries,
      lookup: (key) => (readIndex(key) < maxEntries ? at(readIndex(key), valueSize) : undefined),
      forEach: (visit) => {
        let index = 0
        while (index < maxEntries && visit(indexBytes(index), at(index++, valueSize)) !== true);
        return index
      },
      inner: () => undefined
    },
    destroy: () => {}
  }
}

export const arrayOfMaps = (spec: MapSpec.Properties, template: MapSpec.Properties, owner: Owner): Commands => {
  const { maxEntries } = spec
  const slots = new Map<number, MemoryMap>()
  const put = (index: number, map: MemoryMap | undefined): void => {
    const before = slots.get(index)
    if (map === undefined) slots.delete(index)
    else slots.set(index, map)
    if (before !== undefined) owner.release(before)
  }
  const commands: Pick<Commands, "lookup" | "nextKey"> = {
    lookup: (key, to) => {
      const map = slots.get(readIndex(key))
      if (map === undefined) return -ENOENT
      writeIndex(to, map.id)
      return 0
    },
    nextKey: nextIndex(maxEntries)
  }
  return {
    ...commands,
    valueBytes: 4,
    update: (key, value, flags) => {
      if (flags !== Bpf.ANY) return -EINVAL
      if (readIndex(key) >= maxEntries) return -E2BIG
      const map = heldInner(owner, template, value)
      if (typeof map === "number") return map
      put(readIndex(key), map)
      return 0
    },
    delete: (key) => {
      if (readIndex(key) >= maxEntries) return -E2BIG
      if (!slots.has(readIndex(key))) return -ENOENT
      put(readIndex(key), undefined)
      return 0
    },
    lookupBatch: lookupIndices(4, commands),
    hasUpdateBatch: true,
    hasDeleteBatch: false,
    memory: undefined,
    view: {
      size: () => slots.size,
      lookup: () => undefined,
      forEach: () => 0,
      inner: (key) => slots.get(readIndex(key))
    },
    destroy: () => {
      for (const index of slots.keys()) put(index, undefined)
    }
  }
}
