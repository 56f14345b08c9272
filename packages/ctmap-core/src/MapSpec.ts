/**
 * The blueprint of a map: what the kernel is asked for, and how to tell that an existing map is another.
 *
 * Owns the properties of every map ctmap creates or checks. Plain data: only the kernel package opens anything.
 *
 * @since 0.1.0
 */
import * as ClusterId from "./ClusterId.ts"
import * as CtEntry from "./CtEntry.ts"
import type { Family } from "./Family.ts"
import type { MapKind } from "./MapKind.ts"
import * as MapLimits from "./MapLimits.ts"
import * as NatEntry from "./NatEntry.ts"
import * as PerClusterMap from "./PerClusterMap.ts"
import * as Tuple from "./Tuple.ts"

/**
 * Numbers of the kernel's `enum bpf_map_type` that ctmap meets.
 *
 * @since 0.1.0
 */
export const mapType = {
  hash: 1,
  array: 2,
  progArray: 3,
  perfEventArray: 4,
  percpuHash: 5,
  percpuArray: 6,
  lruHash: 9,
  lruPercpuHash: 10,
  lpmTrie: 11,
  arrayOfMaps: 12,
  hashOfMaps: 13
} as const

/** `BPF_F_NO_PREALLOC`; never set on an LRU map, the kernel refuses it. @since 0.1.0 */
export const NO_PREALLOC = 1
/** `BPF_F_NO_COMMON_LRU`: per-CPU LRU lists, Cilium's `bpf-distributed-lru`. @since 0.1.0 */
export const NO_COMMON_LRU = 2

/**
 * What two maps must agree in to be the same map.
 *
 * @since 0.1.0
 */
export interface Properties {
  /** `enum bpf_map_type`. */
  readonly type: number
  /** Bytes. */
  readonly keySize: number
  /** Bytes. */
  readonly valueSize: number
  readonly maxEntries: number
  /** `BPF_F_*`. */
  readonly flags: number
}

/**
 * Properties and, for an outer map, those of its inner maps.
 *
 * @since 0.1.0
 */
export interface MapSpec extends Properties {
  readonly inner?: Properties
}

/**
 * A CT map of a kind.
 *
 * **Example** (A global TCP map)
 *
 * ```ts
 * import { MapKind, MapSpec } from "ctmap-core"
 *
 * MapSpec.ct(MapKind.globals[0])
 * // => { type: 9, keySize: 14, valueSize: 56, maxEntries: 524288, flags: 0 }
 * ```
 *
 * @since 0.1.0
 */
export const ct = (kind: MapKind, options: Options = {}): MapSpec =>
  lru(Tuple.shape(kind.family).size, CtEntry.SIZE, MapLimits.ctMaxEntries(kind, options.limits), options)

/**
 * A NAT map of a family. A configured size of 0, which a command line without the option has, means the largest: such a
 * blueprint is for opening, not for making.
 *
 * @since 0.1.0
 */
export const nat = (family: Family, options: Options = {}): MapSpec =>
  lru(
    Tuple.shape(family).size,
    NatEntry.shape(family).size,
    (options.limits ?? MapLimits.defaults).nat || MapLimits.MAX,
    options
  )

/** The outer map of the per-cluster CT maps of a kind: an array of maps, one slot per cluster id. @since 0.1.0 */
export const clusterOuter = (kind: MapKind, max: ClusterId.ClusterIdMax, options: Options = {}): MapSpec =>
  outer(max, ct(kind, options))

/** The outer map of the per-cluster NAT maps of a family. @since 0.1.0 */
export const clusterNatOuter = (family: Family, max: ClusterId.ClusterIdMax, options: Options = {}): MapSpec =>
  outer(max, nat(family, options))

/** The perf event array of datapath signals: one slot per possible CPU. @since 0.1.0 */
export const signals = (possibleCpus: number): MapSpec => ({
  type: mapType.perfEventArray,
  keySize: 4,
  valueSize: 4,
  maxEntries: possibleCpus,
  flags: 0
})

/** 1.20's histogram of SNAT port-allocation retries: a u32 per CPU for 0..32 retries. @since 0.1.0 */
export const natRetries: MapSpec = { type: mapType.percpuArray, keySize: 4, valueSize: 4, maxEntries: 33, flags: 0 }

/**
 * What sizes depend on.
 *
 * @since 0.1.0
 */
export interface Options {
  readonly limits?: MapLimits.MapLimits
  /** Set where the datapath uses per-CPU LRU lists: sizes are rounded as the kernel rounds them. */
  readonly distributedLru?: { readonly possibleCpus: number }
}

const lru = (keySize: number, valueSize: number, maxEntries: number, { distributedLru }: Options): MapSpec => ({
  type: mapType.lruHash,
  keySize,
  valueSize,
  maxEntries:
    distributedLru === undefined
      ? maxEntries
      : MapLimits.roundForDistributedLru(maxEntries, distributedLru.possibleCpus),
  flags: distributedLru === undefined ? 0 : NO_COMMON_LRU
})

const outer = (max: ClusterId.ClusterIdMax, inner: MapSpec): MapSpec => ({
  type: mapType.arrayOfMaps,
  keySize: PerClusterMap.SIZE,
  valueSize: PerClusterMap.SIZE,
  maxEntries: ClusterId.outerMaxEntries(max),
  flags: 0,
  inner
})

/**
 * One property in which an existing map differs from a blueprint.
 *
 * @since 0.1.0
 */
export interface Difference {
  readonly property: keyof Properties
  readonly wanted: number
  readonly found: number
}

/**
 * Every property in which an existing map differs, none where it is the map that is wanted: what Cilium's
 * `DeleteIfUpgradeNeeded` decides by.
 *
 * **Example** (A resized map)
 *
 * ```ts
 * import { MapKind, MapSpec } from "ctmap-core"
 *
 * const wanted = MapSpec.ct(MapKind.globals[0])
 * MapSpec.differences(wanted, { ...wanted, maxEntries: 65536 })
 * // => [{ property: "maxEntries", wanted: 524288, found: 65536 }]
 * ```
 *
 * @since 0.1.0
 */
export const differences = (wanted: Properties, found: Properties): ReadonlyArray<Difference> =>
  properties
    .filter((property) => wanted[property] !== found[property])
    .map((property) => ({ property, wanted: wanted[property], found: found[property] }))

const properties = ["type", "keySize", "valueSize", "maxEntries", "flags"] as const
