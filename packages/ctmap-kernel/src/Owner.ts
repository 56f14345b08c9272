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

/**
 * The maps of one remote cluster (ClusterMesh). Where the id is known to the compiler it is part of the type.
 *
 * @since 0.1.0
 */
export interface Cluster<out Id extends number = number> {
  readonly _tag: "Cluster"
  readonly clusterId: Id
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

/** `cluster(3)` is of another type than `cluster(4)`. @since 0.1.0 */
export const cluster = <const Id extends number>(clusterId: Id): Cluster<Id> => ({ _tag: "Cluster", clusterId })

/**
 * Whether a type says which owner it is: everybody, or a cluster of one known id. Types of endpoints never do.
 *
 * @since 0.1.0
 */
export type IsKnown<O extends Owner> = [O] extends [Global]
  ? true
  : [O] extends [Cluster<infer Id>]
    ? number extends Id
      ? false
      : IsOne<Id>
    : false

/** Whether a type is one of its kind, not a choice of several. @since 0.1.0 */
export type IsOne<A, B = A> = [A] extends [never] ? false : A extends unknown ? ([B] extends [A] ? true : false) : false

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
