/**
 * Cluster ids of a ClusterMesh.
 *
 * @since 0.1.0
 */
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"

/** The two values that `max-connected-clusters`, and with it the highest cluster id, can have. @since 0.1.0 */
export const CLUSTER_ID_MAX = [255, 511] as const

/** See {@link CLUSTER_ID_MAX}. @since 0.1.0 */
export type ClusterIdMax = (typeof CLUSTER_ID_MAX)[number]

/**
 * A cluster id that has no per-cluster maps. `message` is Cilium's wording.
 *
 * @since 0.1.0
 */
export class InvalidClusterId extends Schema.TaggedError<InvalidClusterId>()("InvalidClusterId", {
  clusterId: Schema.Number,
  max: Schema.Literals(CLUSTER_ID_MAX)
}) {
  override get message(): string {
    if (this.clusterId === 0) return "ClusterID 0 is reserved"
    return this.clusterId > this.max
      ? `ClusterID > ${this.max} is not supported`
      : `ClusterID ${this.clusterId} is not a whole number from 1 to ${this.max}`
  }
}

/**
 * `max-connected-clusters` is neither of the supported values. `message` is Cilium's wording.
 *
 * @since 0.1.0
 */
export class InvalidMaxConnectedClusters extends Schema.TaggedError<InvalidMaxConnectedClusters>()(
  "InvalidMaxConnectedClusters",
  { value: Schema.Number }
) {
  override get message(): string {
    return `--max-connected-clusters=${this.value} is invalid; supported values are [255, 511]`
  }
}

/**
 * Accepts 1 up to the maximum.
 *
 * **Example** (0 is reserved)
 *
 * ```ts
 * import { ClusterId } from "ctmap-core"
 * import * as Result from "effect/Result"
 *
 * Result.getOrThrow(ClusterId.check(255)) // => 255
 * Result.isFailure(ClusterId.check(256)) // => true
 * ```
 *
 * @since 0.1.0
 */
export const check = (clusterId: number, max: ClusterIdMax = 255): Result.Result<number, InvalidClusterId> =>
  Number.isInteger(clusterId) && clusterId >= 1 && clusterId <= max
    ? Result.succeed(clusterId)
    : Result.fail(new InvalidClusterId({ clusterId, max }))

/** Accepts 255 and 511. @since 0.1.0 */
export const checkMax = (value: number): Result.Result<ClusterIdMax, InvalidMaxConnectedClusters> => {
  const max = CLUSTER_ID_MAX.find((supported) => supported === value)
  return max === undefined ? Result.fail(new InvalidMaxConnectedClusters({ value })) : Result.succeed(max)
}

/** Slots of an outer map: one per id, and the reserved 0. @since 0.1.0 */
export const outerMaxEntries = (max: ClusterIdMax): number => max + 1
