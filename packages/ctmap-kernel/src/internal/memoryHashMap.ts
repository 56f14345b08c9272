/**
 * HASH, LRU_HASH and HASH_OF_MAPS of the in-memory kernel, as system calls and BPF programs see them.
 */
import { MapSpec } from "ctmap-core"
import { ENOENT } from "./memoryErrno.ts"
import { bucketsFor, HashTable } from "./memoryHash.ts"
import {
  type Commands,
  type Contents,
  heldInner,
  type LookupBatch,
  type MemoryMap,
  type Owner,
  readIndex,
  writeIndex
} from "./memoryMap.ts"

/** A hash whose values are `V`: `store` makes one of the bytes of an update, or says why not; `load` is the way back. */
const hash = <V>(
  spec: MapSpec.Properties,
  owner: Owner,
  value: {
    readonly store: (bytes: Uint8Array) => V | number
    readonly load: (value: V, to: Uint8Array, at: number) => void
    readonly released: (value: V) => void
  }
): { readonly table: HashTable<V>; readonly commands: Omit<Commands, "view"> } => {
  const { keySize, valueSize, maxEntries } = spec
  const buckets = owner.buckets ?? bucketsFor(maxEntries)
  const isLru = spec.type === MapSpec.mapType.lruHash
  const table = new HashTable<V>({ keySize, maxEntries, buckets, isLru, hash: owner.hash }, value.released)
  const commands = {
    valueBytes: valueSize,
    lookup: (key: Uint8Array, to: Uint8Array) => {
      const found = table.find(key)
      if (found === undefined) return -ENOENT
      value.load(found.value, to, 0)
      return 0
    },
    update: (key: Uint8Array, bytes: Uint8Array, flags: number) => {
      const stored = value.store(bytes)
      if (typeof stored === "number") return stored
      const rc = table.update(key, stored, flags)
      if (rc < 0) value.released(stored)
      return rc
    },
    delete: (key: Uint8Array) => table.delete(key),
    nextKey: (key: Uint8Array | null, next: Uint8Array) => {
      const found = table.after(key)
      if (found === undefined) return -ENOENT
      next.set(found.key)
      return 0
    },
    lookupBatch: ((cursor, nextCursor, keys, values, count) => {
      const room = count[0] ?? 0
      if (room === 0) return 0
      count[0] = 0
      const start = cursor === null ? 0 : readIndex(cursor)
      if (start >= buckets) return -ENOENT
      const read = table.batch(start, room, (element, index) => {
        keys.set(element.key, index * keySize)
        value.load(element.value, values, index * valueSize)
      })
      writeIndex(nextCursor, read.next)
      count[0] = read.count
      return read.rc
    }) satisfies LookupBatch,
    hasUpdateBatch: true,
    hasDeleteBatch: true,
    memory: undefined,
    destroy: () => table.clear()
  }
  return { table, commands }
}

export const hashOfBytes = (spec: MapSpec.Properties, owner: Owner): Commands => {
  const { table, commands } = hash<Uint8Array>(spec, owner, {
    store: (bytes) => bytes.slice(0, spec.valueSize),
    load: (value, to, at) => to.set(value, at),
    released: () => {}
  })
  const lookup = (key: Uint8Array): Uint8Array | undefined => {
    const found = table.find(key)
    if (found !== undefined) table.touch(found)
    return found?.value
  }
  const view: Contents = {
    size: () => table.size,
    lookup,
    forEach: (visit) => table.forEach(({ key, value }) => visit(key, value)),
    inner: () => undefined
  }
  return { ...commands, view }
}

export const hashOfMaps = (spec: MapSpec.Properties, template: MapSpec.Properties, owner: Owner): Commands => {
  const { table, commands } = hash<MemoryMap>(spec, owner, {
    store: (bytes) => heldInner(owner, template, bytes),
    load: (map, to, at) => writeIndex(to, map.id, at),
    released: owner.release
  })
  const view: Contents = {
    size: () => table.size,
    lookup: () => undefined,
    forEach: () => 0,
    inner: (key) => table.find(key)?.value
  }
  return { ...commands, view }
}
