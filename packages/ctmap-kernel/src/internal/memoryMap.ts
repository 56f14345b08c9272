/**
 * What a map of the in-memory kernel is: commands by type, held by fds, pins, programs and outer maps.
 *
 * Owns the words that the types of maps share. Knows nothing of fds and paths; an outer map asks its {@link Owner}.
 */
import { MapSpec } from "ctmap-core"
import type * as Bpf from "../Bpf.ts"
import { EINVAL } from "./memoryErrno.ts"
import type { MemoryPerfEvent } from "./memoryPerf.ts"

/** What the kernel around a map does for it. */
export interface Owner {
  /** The map behind an fd, or -errno. */
  readonly mapOf: (fd: number) => MemoryMap | number
  /** The perf event behind an fd, or -errno. */
  readonly eventOf: (fd: number) => MemoryPerfEvent | number
  readonly hold: (object: MemoryMap | MemoryPerfEvent) => void
  readonly release: (object: MemoryMap | MemoryPerfEvent) => void
  readonly possibleCpus: number
  readonly hash: (key: Uint8Array, size: number) => number
  /** Bucket count of a hash, where it is not to be the kernel's own. */
  readonly buckets: number | undefined
}

/** A map: an object that fds, pins, programs and outer maps hold. */
export interface MemoryMap extends Commands {
  readonly kind: "map"
  readonly id: number
  readonly name: string
  readonly properties: MapSpec.Properties
  holders: number
}

/** A loaded program, which holds the maps it uses. */
export interface MemoryProgram {
  readonly kind: "program"
  readonly id: number
  readonly name: string
  /** What BPF_PROG_TEST_RUN does. */
  readonly run: (context: Uint8Array, cpu: number) => void
  readonly destroy: () => void
  holders: number
}

/** A directory that is locked. */
interface MemoryLock {
  readonly kind: "lock"
  readonly id: number
  /** Path of the directory. */
  readonly name: string
  readonly destroy: () => void
  holders: number
}

/** What an fd can stand for, and a pin, but for a lock. */
export type KernelObject = MemoryMap | MemoryProgram | MemoryPerfEvent | MemoryLock

/** Commands by type. Keys and values have been checked for length. */
export interface Commands {
  /** Bytes of a value at the system call: of all possible CPUs together where the map is per CPU. */
  readonly valueBytes: number
  readonly lookup: (key: Uint8Array, value: Uint8Array) => number
  /** `fd` is the caller's, of this map. */
  readonly update: (key: Uint8Array, value: Uint8Array, flags: number, fd?: number) => number
  readonly delete: (key: Uint8Array) => number
  readonly nextKey: (key: Uint8Array | null, next: Uint8Array) => number
  readonly lookupBatch: LookupBatch
  readonly hasUpdateBatch: boolean
  readonly hasDeleteBatch: boolean
  /** The bytes that mmap(2) shows, whole pages. */
  readonly memory: Uint8Array<ArrayBuffer> | undefined
  readonly view: Contents
  /** `bpf_perf_event_output` on a CPU, where the type has it. */
  readonly output?: (cpu: number, bytes: Uint8Array) => number
  /** An fd of the map was closed. */
  readonly closed?: (fd: number) => void
  /** The last holder let go. */
  readonly destroy: () => void
}

/** What is in a map, for BPF programs and for tests. */
export interface Contents {
  /** Elements in a hash, slots of an array. */
  readonly size: () => number
  /** The value itself, not a copy; counts as a use in the LRU order. Of a per-CPU map: the first CPU's. */
  readonly lookup: (key: Uint8Array) => Uint8Array | undefined
  readonly forEach: (visit: (key: Uint8Array, value: Uint8Array) => boolean | void) => number
  readonly inner: (key: Uint8Array) => MemoryMap | undefined
}

/** What {@link Bpf.Calls.lookupBatch} does once the map is known. */
export type LookupBatch = (...batch: Bpf.LookupBatch) => number

/** Maps of a size of their own fit an outer map; only an array must have as many slots as the template. */
const fits = (template: MapSpec.Properties, map: MapSpec.Properties): boolean =>
  map.type === template.type &&
  map.keySize === template.keySize &&
  map.valueSize === template.valueSize &&
  map.flags === template.flags &&
  (map.type !== MapSpec.mapType.array || map.maxEntries === template.maxEntries)

/** The map that an update of an outer map names by its fd, held, or -errno. */
export const heldInner = (owner: Owner, template: MapSpec.Properties, bytes: Uint8Array): MemoryMap | number => {
  const map = owner.mapOf(readIndex(bytes) | 0)
  if (typeof map === "number") return map
  if (!fits(template, map.properties)) return -EINVAL
  owner.hold(map)
  return map
}

/** Bytes of a value in an array, and of one CPU's value. */
export const align = (bytes: number): number => Math.ceil(bytes / 8) * 8

export const indexBytes = (index: number): Uint8Array => {
  const bytes = new Uint8Array(4)
  writeIndex(bytes, index)
  return bytes
}

/** A u32 in host order, which is little endian wherever ctmap runs. */
export const readIndex = (bytes: Uint8Array): number =>
  ((bytes[0] ?? 0) | ((bytes[1] ?? 0) << 8) | ((bytes[2] ?? 0) << 16) | ((bytes[3] ?? 0) << 24)) >>> 0

export const writeIndex = (bytes: Uint8Array, index: number, at = 0): void => {
  for (let i = 0; i < 4; i++) bytes[at + i] = index >>> (8 * i)
}
