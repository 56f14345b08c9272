/**
 * Whose a map is: everybody's, one endpoint's, or one remote cluster's.
 *
 * An owner is part of the type of a map and of a pair of maps, so that the NAT map of one owner cannot be cleaned
 * against the CT maps of another.
 *
 * @since 0.1.0
 */

/** The maps of the node. @since 0.1.0 */
export interface Global {
  readonly _tag: "Global"
}

/** The maps of one endpoint. @since 0.1.0 */
export interface Endpoint {
  readonly _tag: "Endpoint"
  readonly endpointId: number
}

/** The maps of one remote cluster (ClusterMesh). @since 0.1.0 */
export interface Cluster {
  readonly _tag: "Cluster"
  readonly clusterId: number
}

/** See the module. @since 0.1.0 */
export type Owner = Global | Endpoint | Cluster

/** @since 0.1.0 */
export const global: Global = { _tag: "Global" }

/** The low 16 bits of an endpoint's id name its maps. @since 0.1.0 */
export const endpoint = (endpointId: number | bigint): Endpoint => ({
  _tag: "Endpoint",
  endpointId: Number(BigInt.asUintN(16, BigInt(endpointId)))
})

/** @since 0.1.0 */
export const cluster = (clusterId: number): Cluster => ({ _tag: "Cluster", clusterId })

/**
 * Whether two owners are the same.
 *
 * **Example** (Two clusters are two owners)
 *
 * ```ts
 * import { Owner } from "ctmap-kernel"
 *
 * Owner.same(Owner.cluster(1), Owner.cluster(1)) // => true
 * Owner.same(Owner.cluster(1), Owner.cluster(2)) // => false
 * Owner.same(Owner.global, Owner.endpoint(1)) // => false
 * ```
 *
 * @since 0.1.0
 */
export const same = (a: Owner, b: Owner): boolean => describe(a) === describe(b)

/** `global`, `endpoint 7` or `cluster 3`. @since 0.1.0 */
export const describe = (owner: Owner): string => {
  switch (owner._tag) {
    case "Global":
      return "global"
    case "Endpoint":
      return `endpoint ${owner.endpointId}`
    case "Cluster":
      return `cluster ${owner.clusterId}`
  }
}
