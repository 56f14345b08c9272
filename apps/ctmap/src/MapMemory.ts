/**
 * How much kernel memory a hash map takes, from its properties.
 *
 * An LRU hash is allocated in full when it is made, however few entries it holds: this is what it takes, not what it
 * uses.
 *
 * @see `kernel/bpf/hashtab.c`, `htab_map_mem_usage`
 * @since 0.1.0
 */
import type { MapSpec } from "ctmap-core"
import { mapType, NO_PREALLOC } from "ctmap-core/MapSpec"

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

const roundUp = (bytes: number): number => Math.ceil(bytes / 8) * 8
