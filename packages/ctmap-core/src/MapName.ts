/**
 * Names of the maps, which are the file names of their pins below `tc/globals` of a bpffs.
 *
 * Owns every name Cilium gives a CT, NAT or signal map and the way back from a file name to what it denotes. The
 * kernel truncates object names to 15 bytes; identify a map by its pin, never by that.
 *
 * @since 0.1.0
 */
import { CLUSTER_ID_MAX } from "./ClusterId.ts"
import type { Family } from "./Family.ts"
import * as MapKind from "./MapKind.ts"

/** What all global and local CT map names start with. @since 0.1.0 */
export const PREFIX = "cilium_ct"

/** @since 0.1.0 */
export const TCP4 = "cilium_ct4_"
/** @since 0.1.0 */
export const TCP6 = "cilium_ct6_"
/** @since 0.1.0 */
export const ANY4 = "cilium_ct_any4_"
/** @since 0.1.0 */
export const ANY6 = "cilium_ct_any6_"
/** @since 0.1.0 */
export const TCP4_GLOBAL = "cilium_ct4_global"
/** @since 0.1.0 */
export const TCP6_GLOBAL = "cilium_ct6_global"
/** @since 0.1.0 */
export const ANY4_GLOBAL = "cilium_ct_any4_global"
/** @since 0.1.0 */
export const ANY6_GLOBAL = "cilium_ct_any6_global"
/** What the outer per-cluster CT map names start with. @since 0.1.0 */
export const PER_CLUSTER_PREFIX = "cilium_per_cluster_ct_"
/** The perf event array of datapath signals. @since 0.1.0 */
export const SIGNALS = "cilium_signals"

const localPrefixes = { tcp4: TCP4, any4: ANY4, tcp6: TCP6, any6: ANY6 } as const

const natNames = { ipv4: "cilium_snat_v4_external", ipv6: "cilium_snat_v6_external" } as const

/**
 * The pin name of a global map.
 *
 * @since 0.1.0
 */
export const global = (kind: MapKind.MapKind): string => `${localPrefixes[MapKind.shortName(kind)]}global`

/**
 * The five digits under which an endpoint's maps are known. Only the low 16 bits of the id count.
 *
 * **Example** (Ids wrap)
 *
 * ```ts
 * import { MapName } from "ctmap-core"
 *
 * MapName.endpointSuffix(1234n) // => "01234"
 * MapName.endpointSuffix(65537n) // => "00001"
 * ```
 *
 * @since 0.1.0
 */
export const endpointSuffix = (endpointId: bigint | number): string =>
  String(BigInt.asUintN(16, BigInt(endpointId))).padStart(5, "0")

/**
 * The pin name of an endpoint's own map.
 *
 * **Example** (Local names)
 *
 * ```ts
 * import { MapKind, MapName } from "ctmap-core"
 *
 * MapName.local(MapKind.locals[3], 7) // => "cilium_ct_any6_00007"
 * ```
 *
 * @since 0.1.0
 */
export const local = (kind: MapKind.MapKind, endpointId: bigint | number): string =>
  localPrefixes[MapKind.shortName(kind)] + endpointSuffix(endpointId)

/**
 * The pin name of a map of an endpoint, or of the global map where there is none.
 *
 * @since 0.1.0
 */
export const of = (kind: MapKind.MapKind, endpointId: bigint | number | undefined): string =>
  endpointId === undefined ? global(kind) : local(kind, endpointId)

/**
 * Whether a file name denotes a global CT map: Cilium's `NameIsGlobal`. Exactly the four names.
 *
 * **Example** (Nothing else counts)
 *
 * ```ts
 * import { MapName } from "ctmap-core"
 *
 * MapName.isGlobal("cilium_ct_any4_global") // => true
 * MapName.isGlobal("cilium_ct4_00001") // => false
 * ```
 *
 * @since 0.1.0
 */
export const isGlobal = (name: string): boolean => MapKind.globals.some((kind) => global(kind) === name)

/** The pin name of a family's NAT map. @since 0.1.0 */
export const nat = (family: Family): string => natNames[family]

/** The pin name of 1.20's histogram of SNAT port-allocation retries. @since 0.1.0 */
export const natRetries = (family: Family): string => `cilium_snat_v${family === "ipv4" ? 4 : 6}_alloc_retries`

/**
 * The outer per-cluster CT map of a kind. `prefix` is for tests: it goes in front, with an underscore.
 *
 * **Example** (Outer and inner)
 *
 * ```ts
 * import { MapKind, MapName } from "ctmap-core"
 *
 * MapName.clusterOuter(MapKind.globals[0]) // => "cilium_per_cluster_ct_tcp4"
 * MapName.clusterOuter(MapKind.globals[0], "test") // => "test_cilium_per_cluster_ct_tcp4"
 * MapName.clusterInner(MapKind.globals[0], 255) // => "cilium_per_cluster_ct_tcp4_255"
 * ```
 *
 * @since 0.1.0
 */
export const clusterOuter = (kind: MapKind.MapKind, prefix?: string): string =>
  prefixed(PER_CLUSTER_PREFIX + MapKind.shortName(kind), prefix)

/** The inner per-cluster CT map of a kind and cluster; the id is not padded. @since 0.1.0 */
export const clusterInner = (kind: MapKind.MapKind, clusterId: number, prefix?: string): string =>
  `${clusterOuter(kind, prefix)}_${clusterId}`

/** The outer per-cluster NAT map of a family. @since 0.1.0 */
export const clusterNatOuter = (family: Family, prefix?: string): string =>
  prefixed(`cilium_per_cluster_snat_v${family === "ipv4" ? 4 : 6}_external`, prefix)

/** The inner per-cluster NAT map of a family and cluster. @since 0.1.0 */
export const clusterNatInner = (family: Family, clusterId: number, prefix?: string): string =>
  `${clusterNatOuter(family, prefix)}_${clusterId}`

const prefixed = (name: string, prefix: string | undefined): string =>
  prefix === undefined ? name : `${prefix}_${name}`

/** The directory of the pins below the root of a bpffs. @since 0.1.0 */
export const GLOBALS_DIRECTORY = "tc/globals"

/**
 * The path of a pin below the root of a bpffs.
 *
 * **Example** (Where Cilium pins)
 *
 * ```ts
 * import { MapName } from "ctmap-core"
 *
 * MapName.pinPath("/sys/fs/bpf", "cilium_ct4_global") // => "/sys/fs/bpf/tc/globals/cilium_ct4_global"
 * ```
 *
 * @since 0.1.0
 */
export const pinPath = (bpffsRoot: string, name: string): string =>
  `${bpffsRoot.replace(/\/+$/, "")}/${GLOBALS_DIRECTORY}/${name}`

/**
 * What a map name denotes.
 *
 * @since 0.1.0
 */
export type Denoted =
  | { readonly _tag: "Global"; readonly kind: MapKind.MapKind }
  | {
      readonly _tag: "Local"
      readonly kind: MapKind.MapKind
      readonly endpointId: number
      /** False for a name such as `cilium_ct4_1`, which Cilium itself would not write. */
      readonly canonical: boolean
    }
  | { readonly _tag: "ClusterOuter"; readonly kind: MapKind.MapKind }
  | { readonly _tag: "ClusterInner"; readonly kind: MapKind.MapKind; readonly clusterId: number }
  | { readonly _tag: "Nat"; readonly family: Family }
  | { readonly _tag: "NatRetries"; readonly family: Family }
  | { readonly _tag: "ClusterNatOuter"; readonly family: Family }
  | { readonly _tag: "ClusterNatInner"; readonly family: Family; readonly clusterId: number }
  | { readonly _tag: "Signals" }

/**
 * What a file name below `tc/globals` denotes, or `undefined` where it is none of ours.
 *
 * **Details**
 *
 * With a `prefix`, the names of per-cluster maps start with it and an underscore, and others do not, as
 * {@link clusterOuter} makes them. Endpoint ids are 0..65535 and cluster ids 1..511, in decimal; a name with another number is not ours. An inner map's
 * name must not be padded, as Cilium never pads it.
 *
 * **Example** (From a directory listing)
 *
 * ```ts
 * import { MapName } from "ctmap-core"
 *
 * MapName.parse("cilium_ct4_01234")?._tag // => "Local"
 * MapName.parse("cilium_snat_v6_external") // => { _tag: "Nat", family: "ipv6" }
 * MapName.parse("cilium_ct4_99999") // => undefined
 * ```
 *
 * @since 0.1.0
 */
export const parse = (name: string, prefix?: string): Denoted | undefined => {
  if (prefix === undefined) return parsePlain(name)
  const isPrefixed = name.startsWith(`${prefix}_`)
  const denoted = parsePlain(isPrefixed ? name.slice(prefix.length + 1) : name)
  return denoted !== undefined && isPerCluster(denoted) === isPrefixed ? denoted : undefined
}

const parsePlain = (name: string): Denoted | undefined => fixed.get(name) ?? parseLocal(name) ?? parseInner(name)

const isPerCluster = ({ _tag }: Denoted): boolean => _tag.startsWith("Cluster")

const families: ReadonlyArray<Family> = ["ipv4", "ipv6"]

const fixed: ReadonlyMap<string, Denoted> = new Map<string, Denoted>([
  ...MapKind.globals.flatMap((kind): Array<[string, Denoted]> => [
    [global(kind), { _tag: "Global", kind }],
    [clusterOuter(kind), { _tag: "ClusterOuter", kind }]
  ]),
  ...families.flatMap((family): Array<[string, Denoted]> => [
    [nat(family), { _tag: "Nat", family }],
    [natRetries(family), { _tag: "NatRetries", family }],
    [clusterNatOuter(family), { _tag: "ClusterNatOuter", family }]
  ]),
  [SIGNALS, { _tag: "Signals" }]
])

const parseLocal = (name: string): Denoted | undefined => {
  for (const kind of MapKind.locals) {
    const prefix = localPrefixes[MapKind.shortName(kind)]
    if (!name.startsWith(prefix)) continue
    const endpointId = decimal(name.slice(prefix.length))
    if (endpointId === undefined || endpointId > 0xffff) continue
    return { _tag: "Local", kind, endpointId, canonical: name === local(kind, endpointId) }
  }
  return undefined
}

const parseInner = (name: string): Denoted | undefined => {
  const at = name.lastIndexOf("_")
  const outer = fixed.get(name.slice(0, at))
  const clusterId = decimal(name.slice(at + 1))
  if (clusterId === undefined || clusterId < 1 || clusterId > CLUSTER_ID_MAX[1]) return undefined
  if (name.slice(at + 1) !== String(clusterId)) return undefined
  if (outer?._tag === "ClusterOuter") return { _tag: "ClusterInner", kind: outer.kind, clusterId }
  if (outer?._tag === "ClusterNatOuter") return { _tag: "ClusterNatInner", family: outer.family, clusterId }
  return undefined
}

const decimal = (text: string): number | undefined => (/^[0-9]{1,5}$/.test(text) ? Number(text) : undefined)

/**
 * The name a map has in Cilium's metrics: without `cilium_`, and without an endpoint or cluster number at the end.
 *
 * **Example** (One series for all endpoints)
 *
 * ```ts
 * import { MapName } from "ctmap-core"
 *
 * MapName.common("cilium_ct4_01234") // => "ct4"
 * MapName.common("cilium_ct_any4_global") // => "ct_any4_global"
 * ```
 *
 * @since 0.1.0
 */
export const common = (name: string): string => name.replace(/^cilium_/, "").replace(/_[0-9]+$/, "")
