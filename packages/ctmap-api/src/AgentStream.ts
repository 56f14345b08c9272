/**
 * What streams carry: lines of entries, and live events.
 *
 * @since 0.1.0
 */
import * as CtJson from "ctmap-core/CtJson"
import * as Family from "ctmap-core/Family"
import * as GcPass from "ctmap-gc/GcPass"
import * as GcReason from "ctmap-gc/GcReason"
import * as Schema from "effect/Schema"

/**
 * The last line of a listing that could not be finished: what came before is not all there is.
 *
 * @since 0.1.0
 */
export const ListingFailed = Schema.Struct({
  type: Schema.Literal("error"),
  detail: Schema.String.annotate({ description: "What happened, in a sentence." }),
  entries: Schema.Int.annotate({ description: "Entries that were sent before." })
}).annotate({ identifier: "ListingFailed" })
/** @since 0.1.0 */
export type ListingFailed = typeof ListingFailed.Type

/** A line of `GET /v1/entries`. @since 0.1.0 */
export const Line = Schema.Union([CtJson.CtRecord, CtJson.NatRecord, ListingFailed])
/** @since 0.1.0 */
export type Line = typeof Line.Type

/** An entry that went, and why. @since 0.1.0 */
export const DeletedEntry = Schema.Struct({ reason: GcReason.GcReason, entry: CtJson.CtRecord }).annotate({
  identifier: "DeletedEntry"
})
/** @since 0.1.0 */
export type DeletedEntry = typeof DeletedEntry.Type

/**
 * Entries that a pass deleted from one map; a batch of it, in several events where it is large.
 *
 * @since 0.1.0
 */
export const Deleted = Schema.Struct({
  serial: Schema.Int.annotate({ description: "Of the pass." }),
  dryRun: Schema.Boolean.annotate({ description: "Nothing was deleted: these would have been." }),
  family: Family.Family,
  owner: Schema.String,
  map: Schema.String,
  entries: Schema.Array(DeletedEntry)
}).annotate({ identifier: "Deleted" })
/** @since 0.1.0 */
export type Deleted = typeof Deleted.Type

/** This reader was too slow: so many deleted entries, and so many passes, are missing here. @since 0.1.0 */
export const Lost = Schema.Struct({ entries: Schema.Int, passes: Schema.Int }).annotate({ identifier: "Lost" })
/** @since 0.1.0 */
export type Lost = typeof Lost.Type

const event = <const Name extends string, S extends Schema.Top>(name: Name, data: S) =>
  Schema.Struct({ event: Schema.Literal(name), data: Schema.fromJsonString(data) })

/**
 * An event of `GET /v1/events`: `deleted`, `pass` (one has ended), `lost`.
 *
 * @since 0.1.0
 */
export const Event = Schema.Union([event("deleted", Deleted), event("pass", GcPass.GcPass), event("lost", Lost)])
/** @since 0.1.0 */
export type Event = typeof Event.Type
