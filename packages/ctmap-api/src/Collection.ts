/**
 * What a request to collect, purge or clean up came to, pair of maps by pair of maps.
 *
 * @since 0.1.0
 */
import * as Family from "ctmap-core/Family"
import * as GcPass from "ctmap-gc/GcPass"
import * as NatPass from "ctmap-gc/NatPass"
import * as Schema from "effect/Schema"

/**
 * How a pair fared: `collected`; `absent`, its maps are not pinned; `stopped`, the guard or a check refused; `failed`.
 *
 * @since 0.1.0
 */
export const Outcome = Schema.Literals(["collected", "absent", "stopped", "failed"])
/** @since 0.1.0 */
export type Outcome = typeof Outcome.Type

const about = {
  pair: Schema.String.annotate({ description: "Family and owner.", examples: ["ipv4 global"] }),
  family: Family.Family,
  owner: Schema.String.annotate({ examples: ["global", "cluster 3", "endpoint 7"] }),
  outcome: Outcome,
  why: Schema.optionalKey(Schema.String.annotate({ description: "Why it was not collected, in a sentence." })),
  wanted: Schema.Int.annotate({ description: "Entries that this request wanted." }),
  deleted: Schema.Int.annotate({ description: "Entries that were deleted for this request." })
}

/**
 * One pair of CT maps. `pass` is the whole pass, which others may have shared; `wanted` and `deleted` are of this request.
 *
 * @since 0.1.0
 */
export const CtOutcome = Schema.Struct({ ...about, pass: Schema.optionalKey(GcPass.GcPass) }).annotate({
  identifier: "CtOutcome"
})
/** @since 0.1.0 */
export type CtOutcome = typeof CtOutcome.Type

/** One NAT map. @since 0.1.0 */
export const NatOutcome = Schema.Struct({ ...about, pass: Schema.optionalKey(NatPass.NatPass) }).annotate({
  identifier: "NatOutcome"
})
/** @since 0.1.0 */
export type NatOutcome = typeof NatOutcome.Type

const sums = {
  dryRun: Schema.Boolean,
  wanted: Schema.Int.annotate({ description: "Entries that this request wanted, over all pairs." }),
  deleted: Schema.Int.annotate({ description: "Entries that were deleted for this request, over all pairs." })
}

/** Every pair was collected, or has no maps. @since 0.1.0 */
export const CtCollection = Schema.Struct({ ...sums, pairs: Schema.Array(CtOutcome) }).annotate({
  identifier: "CtCollection"
})
/** @since 0.1.0 */
export type CtCollection = typeof CtCollection.Type

/** Every NAT map was cleaned, or is not there. @since 0.1.0 */
export const NatCollection = Schema.Struct({ ...sums, pairs: Schema.Array(NatOutcome) }).annotate({
  identifier: "NatCollection"
})
/** @since 0.1.0 */
export type NatCollection = typeof NatCollection.Type

/** What was done until something was refused or failed: part of a problem. @since 0.1.0 */
export const Done = {
  deleted: Schema.Int.annotate({ description: "Entries that were deleted for this request all the same." }),
  pairs: Schema.Array(Schema.Union([CtOutcome, NatOutcome]))
}
