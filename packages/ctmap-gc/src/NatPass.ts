/**
 * The record of a pass over a NAT map: the orphan purge, or a flush.
 *
 * @since 0.1.0
 */
import { Family } from "ctmap-core"
import * as Schema from "effect/Schema"
import { StoppedBy } from "./GcPass.ts"

/**
 * What a pass did with a NAT map.
 *
 * **Details**
 *
 * Cilium's four counts of an orphan purge (`NatGCStats`) under their names, and ours. Everything seen is accounted for:
 * `seen = ingressAlive + ingressDeleted + egressAlive + egressDeleted + refreshed + vanished + busy`. In a dry run nothing
 * is deleted, and `wanted` of those alive would have been tried. Counts of an incomplete pass are of the part that was done.
 *
 * @since 0.1.0
 */
export const NatPass = Schema.Struct({
  /** Counts up over all passes of a process, CT passes included. */
  serial: Schema.Int,
  kind: Schema.Literals(["orphans", "flush"]),
  family: Family.Family,
  /** `global`, `cluster 3`. */
  owner: Schema.String,
  map: Schema.String,
  capacity: Schema.Int,
  dryRun: Schema.Boolean,
  seen: Schema.Int,
  wanted: Schema.Int,
  ingressAlive: Schema.Int,
  ingressDeleted: Schema.Int,
  egressAlive: Schema.Int,
  egressDeleted: Schema.Int,
  /** Made anew between two looks, and kept. */
  refreshed: Schema.Int,
  vanished: Schema.Int,
  busy: Schema.Int,
  /** Of those alive: looked like orphans at first, and their connection was there at a later look. */
  reprieved: Schema.Int,
  /**
   * Of those reprieved or refreshed: had been deleted, and were put back, as their connection came back, or they were made
   * anew, in that moment.
   */
  restored: Schema.Int,
  startedAtMillis: Schema.Number,
  millis: Schema.Number,
  completed: Schema.Boolean,
  why: Schema.optionalKey(Schema.String),
  stoppedBy: Schema.optionalKey(StoppedBy)
})
/** @since 0.1.0 */
export type NatPass = typeof NatPass.Type

/** How many entries went. @since 0.1.0 */
export const deleted = ({ ingressDeleted, egressDeleted }: Pick<NatPass, "ingressDeleted" | "egressDeleted">): number =>
  ingressDeleted + egressDeleted
