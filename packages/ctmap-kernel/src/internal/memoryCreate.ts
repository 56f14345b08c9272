/**
 * BPF_MAP_CREATE of the in-memory kernel: which maps there can be. Every refusal was measured on Linux 6.18.
 */
import { MapSpec } from "ctmap-core"
import { array, arrayOfMaps, MMAPABLE } from "./memoryArrayMap.ts"
import { E2BIG, EINVAL, ENOMEM, ENOTSUPP } from "./memoryErrno.ts"
import { hashOfBytes, hashOfMaps } from "./memoryHashMap.ts"
import { align, type Commands, type Owner } from "./memoryMap.ts"
import { perfEventArray } from "./memoryPerf.ts"

/** The commands of a new map, or -errno where the kernel would not make it. `inner` is the template of an outer map. */
export const commandsOf = (
  spec: MapSpec.Properties,
  inner: MapSpec.Properties | undefined,
  owner: Owner
): Commands | number => {
  const { mapType } = MapSpec
  if (spec.maxEntries === 0 || spec.keySize === 0 || spec.valueSize === 0) return -EINVAL
  switch (spec.type) {
    case mapType.hash:
    case mapType.lruHash:
      return checkHash(spec) ?? hashOfBytes(spec, owner)
    case mapType.hashOfMaps:
      return checkOuter(spec, inner, MapSpec.NO_PREALLOC) ?? hashOfMaps(spec, inner ?? spec, owner)
    case mapType.array:
    case mapType.percpuArray:
      return checkArray(spec) ?? array(spec, owner)
    case mapType.arrayOfMaps:
      return checkOuter(spec, inner, 0) ?? arrayOfMaps(spec, inner ?? spec, owner)
    case mapType.perfEventArray:
      return spec.keySize !== 4 || spec.valueSize !== 4 || hasOther(spec.flags, ANY_TYPE)
        ? -EINVAL
        : perfEventArray(spec, owner)
    default:
      return -EINVAL
  }
}

/** `BPF_F_NUMA_NODE`, `_RDONLY`, `_WRONLY`, `_RDONLY_PROG`, `_WRONLY_PROG`. */
const ANY_TYPE = 0x4 | 0x8 | 0x10 | 0x80 | 0x100
/** `BPF_F_ZERO_SEED` */
const ZERO_SEED = 0x40
/** The largest kmalloc, less what the kernel keeps beside key and value. */
const MAX_ELEMENT = (4 << 20) - 48
const MAX_PERCPU_VALUE = 32_768
/** The kernel counts the bytes of its bucket table in 32 bits. */
const MAX_BUCKETS = 2 ** 28
/** Bytes of an array that the twin is ready to hold. */
const MAX_ARRAY_BYTES = 2 ** 31

const hasOther = (flags: number, allowed: number): boolean => (flags & ~allowed) !== 0

const checkHash = ({ type, keySize, valueSize, maxEntries, flags }: MapSpec.Properties): number | undefined => {
  const isLru = type === MapSpec.mapType.lruHash
  if (hasOther(flags, ANY_TYPE | ZERO_SEED | MapSpec.NO_PREALLOC | MapSpec.NO_COMMON_LRU)) return -EINVAL
  if (!isLru && (flags & MapSpec.NO_COMMON_LRU) !== 0) return -EINVAL
  if (isLru && (flags & MapSpec.NO_PREALLOC) !== 0) return -ENOTSUPP
  return keySize + valueSize >= MAX_ELEMENT || maxEntries > MAX_BUCKETS ? -E2BIG : undefined
}

const checkArray = ({ type, keySize, valueSize, maxEntries, flags }: MapSpec.Properties): number | undefined => {
  const isPerCpu = type === MapSpec.mapType.percpuArray
  if (keySize !== 4 || hasOther(flags, ANY_TYPE | (isPerCpu ? 0 : MMAPABLE))) return -EINVAL
  if (valueSize > (isPerCpu ? MAX_PERCPU_VALUE : 0x7fff_ffff)) return -E2BIG
  return align(valueSize) * maxEntries > MAX_ARRAY_BYTES ? -ENOMEM : undefined
}

const checkOuter = (
  { type, keySize, valueSize, flags }: MapSpec.Properties,
  inner: MapSpec.Properties | undefined,
  allowed: number
): number | undefined => {
  if (inner === undefined || isOuter(inner.type) || valueSize !== 4) return -EINVAL
  if (type === MapSpec.mapType.arrayOfMaps && keySize !== 4) return -EINVAL
  return hasOther(flags, ANY_TYPE | allowed) ? -EINVAL : undefined
}

const isOuter = (type: number): boolean => type === MapSpec.mapType.arrayOfMaps || type === MapSpec.mapType.hashOfMaps
