/**
 * How much kernel memory a hash map takes, and how many entries it really holds, from its properties.
 *
 * An LRU hash is allocated in full when it is made, however few entries it holds: this is what it takes, not what it
 * uses.
 *
 * @see `kernel/bpf/hashtab.c`, `htab_map_mem_usage`
 * @since 0.1.0
 */
import type { MapSpec } from "ctmap-core"
import { mapType, NO_COMMON_LRU, NO_PREALLOC } from "ctmap-core/MapSpec"

/** `sizeof(struct htab_elem)` and `sizeof(struct bucket)` of 64-bit kernels. */
const ELEMENT = 48
const BUCKET = 16

/**
 * Bytes, or `undefined` for maps that are no preallocated hash.
 *
 * @since 0.1.0
 */
export const estimate = ({ type, keySize, valueSize, maxEntries, flags }: MapSpec.Properties): number | undefined => {
  if ((type !== mapType.lruHash && type !== mapType.hash) || (flags & NO_PREALLOC) !== 0) return undefined
  const element = ELEMENT + roundUp(keySize) + roundUp(valueSize)
  const buckets = 2 ** Math.ceil(Math.log2(Math.max(1, maxEntries)))
  return maxEntries * element + buckets * BUCKET
}

/** Free elements that a CPU takes from a common LRU at a time, `LOCAL_FREE_TARGET`. */
const FREE_TARGET = 128

/**
 * How many entries a map holds before it evicts. Each CPU keeps some free elements of a common LRU to itself, so a small
 * one evicts long before it is full, and how full it is never gets to 100 %.
 *
 * @see `kernel/bpf/bpf_lru_list.c`
 * @since 0.1.0
 */
export const room = ({ type, maxEntries, flags }: MapSpec.Properties, possibleCpus: number): number => {
  if (type !== mapType.lruHash || (flags & NO_COMMON_LRU) !== 0) return maxEntries
  const each = Math.min(FREE_TARGET, Math.max(1, Math.floor(maxEntries / possibleCpus / 2)))
  return Math.max(1, maxEntries - each * possibleCpus)
}

const roundUp = (bytes: number): number => Math.ceil(bytes / 8) * 8
