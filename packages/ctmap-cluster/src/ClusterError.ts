/**
 * What can go wrong with the per-cluster maps as a whole: several at once, each labelled with the map it is about.
 *
 * @since 0.1.0
 */
import { BpfError } from "ctmap-kernel"
import * as Schema from "effect/Schema"

/**
 * Which outer map, as Cilium labels its errors: CT maps by kind, NAT maps by family.
 *
 * @since 0.1.0
 */
export const Label = Schema.Literals(["tcp4", "any4", "tcp6", "any6", "ipv4", "ipv6"])

/** See {@link Label}. @since 0.1.0 */
export type Label = typeof Label.Type

/**
 * One thing that failed.
 *
 * @since 0.1.0
 */
export const Failure = Schema.Struct({
  label: Label,
  /** What was being done, e.g. `create inner map`. */
  doing: Schema.String,
  cause: BpfError.BpfError
})

/** See {@link Failure}. @since 0.1.0 */
export type Failure = typeof Failure.Type

/**
 * An operation on all enabled outer maps failed on some of them. It was tried on every one; `message` has a line for each
 * that failed, in the order of the maps.
 *
 * @since 0.1.0
 */
export class ClusterFailed extends Schema.TaggedError<ClusterFailed>()("ClusterFailed", {
  failures: Schema.Array(Failure)
}) {
  override get message(): string {
    return this.failures.map(({ label, doing, cause }) => `${label}: ${doing}: ${cause.message}`).join("\n")
  }
}

/**
 * The outer maps are not open: `openOrCreate` has not succeeded yet, or `close` was called.
 *
 * @since 0.1.0
 */
export class OuterMapsNotOpen extends Schema.TaggedError<OuterMapsNotOpen>()("OuterMapsNotOpen", {
  maps: Schema.Literals(["CT", "NAT"])
}) {
  override get message(): string {
    return `the outer per-cluster ${this.maps} maps are not open: call openOrCreate first`
  }
}

/**
 * A map of a family that is switched off was asked for.
 *
 * @since 0.1.0
 */
export class FamilyNotEnabled extends Schema.TaggedError<FamilyNotEnabled>()("FamilyNotEnabled", {
  family: Schema.Literals(["ipv4", "ipv6"])
}) {
  override get message(): string {
    return `IP family ${this.family} not enabled`
  }
}
