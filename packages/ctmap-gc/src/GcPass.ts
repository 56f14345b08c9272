/**
 * The record of a pass: what it saw, what it did and why, so that every count adds up.
 *
 * @since 0.1.0
 */
import { Family } from "ctmap-core"
import * as Schema from "effect/Schema"
import * as GcReason from "./GcReason.ts"

/** `hybrid` and `portable` piece by piece, `kernel` in one stretch. @since 0.1.0 */
export const Engine = Schema.Literals(["hybrid", "kernel", "portable"])
/** @since 0.1.0 */
export type Engine = typeof Engine.Type

/**
 * What brought a pass about.
 *
 * **Details**
 *
 * `initial`: the first of a process, or of a family that was added. `interval`: the time for a pass over everything has
 * come. `signal`: the datapath said that a table is full. `backlog`: so much of a table has expired. `request`: somebody
 * asked.
 *
 * @since 0.1.0
 */
export const Trigger = Schema.Literals(["initial", "interval", "signal", "backlog", "request"])
/** @since 0.1.0 */
export type Trigger = typeof Trigger.Type

/** What ended a pass before its time: a limit, nobody who wanted it any more, or trouble. @since 0.1.0 */
export const StoppedBy = Schema.Literals(["guard", "interruption", "error"])
/** @since 0.1.0 */
export type StoppedBy = typeof StoppedBy.Type

/**
 * NAT entries of the CT entries that went.
 *
 * @since 0.1.0
 */
export const NatCounts = Schema.Struct({
  /** OUT mappings deleted, swapped ones of direct server return included. */
  egress: Schema.Int,
  /** IN halves deleted. */
  ingress: Schema.Int,
  /** CT entries that would own a mapping, but the NAT map has none. */
  absent: Schema.Int,
  /** OUT mappings deleted whose IN half was missing, or belongs to another mapping: that one stays. */
  halves: Schema.Int,
  /** Mappings kept because the connection was back, or the mapping was made anew meanwhile. */
  kept: Schema.Int,
  /** Mappings that the kernel could not delete; the orphan purge will. */
  failed: Schema.Int
})
/** @since 0.1.0 */
export type NatCounts = typeof NatCounts.Type

/** @since 0.1.0 */
export const noNat: NatCounts = { egress: 0, ingress: 0, absent: 0, halves: 0, kept: 0, failed: 0 }

/**
 * What a pass did with one CT map.
 *
 * **Details**
 *
 * `seen = kept + deleted + refreshed + vanished + busy`, always; in a dry run `wanted` is what would have been tried and
 * everything seen was kept. `restored` are those of `refreshed` that had to be put back. Counts of an incomplete pass
 * are of the part that was done.
 *
 * @since 0.1.0
 */
export const MapPass = Schema.Struct({
  map: Schema.String,
  transport: Schema.Literals(["tcp", "any"]),
  engine: Engine,
  /** The size of the table. */
  capacity: Schema.Int,
  seen: Schema.Int,
  kept: Schema.Int,
  /** Entries that a rule wanted, as they were read. */
  wanted: Schema.Int,
  deleted: Schema.Int,
  refreshed: Schema.Int,
  restored: Schema.Int,
  vanished: Schema.Int,
  busy: Schema.Int,
  /** Why those that went (in a dry run: would have gone) did. */
  reasons: GcReason.Counts,
  nat: NatCounts,
  /** Batches, or runs of a program. */
  reads: Schema.Int,
  /** How often a walk by next key was thrown back, and went back one key. */
  restarts: Schema.Int,
  fallbacks: Schema.Int,
  /** The longest single call into the kernel, by the clock; walks are made on another thread. */
  longestCallMillis: Schema.Number,
  millis: Schema.Number,
  completed: Schema.Boolean
})
/** @since 0.1.0 */
export type MapPass = typeof MapPass.Type

/**
 * Counts of one request of a pass: what it alone would have deleted. Requests that want the same entry both count it.
 *
 * @since 0.1.0
 */
export const RequestCounts = Schema.Struct({ wanted: Schema.Int, deleted: Schema.Int })
/** @since 0.1.0 */
export type RequestCounts = typeof RequestCounts.Type

/**
 * A pass over the maps of a pair.
 *
 * @since 0.1.0
 */
export const GcPass = Schema.Struct({
  /** Counts up over all passes of a process. */
  serial: Schema.Int,
  /** Absent where nobody said; of requests that share a pass, that of the first. */
  trigger: Schema.optionalKey(Trigger),
  family: Family.Family,
  /** `global`, `endpoint 7`, `cluster 3`. */
  owner: Schema.String,
  /** The NAT map that was cleaned with the CT maps; absent where none is pinned. */
  nat: Schema.optionalKey(Schema.String),
  dryRun: Schema.Boolean,
  /** The clock's reading that decided, in its units; 0 where the pass ended before it was read. */
  now: Schema.Int,
  startedAtMillis: Schema.Number,
  millis: Schema.Number,
  /** Every entry that was there throughout was seen, in every map. */
  completed: Schema.Boolean,
  /** Why it is not, in words: an error, a guard, an interruption. */
  why: Schema.optionalKey(Schema.String),
  /** The same for programs. */
  stoppedBy: Schema.optionalKey(StoppedBy),
  /** Those that the pass has begun with: none where the maps or the clock could not be had. */
  maps: Schema.Array(MapPass),
  requests: Schema.Array(RequestCounts)
})
/** @since 0.1.0 */
export type GcPass = typeof GcPass.Type

/** The sum of a count over the maps of a pass. @since 0.1.0 */
export const total = (
  { maps }: Pick<GcPass, "maps">,
  name: "seen" | "kept" | "wanted" | "deleted" | "refreshed" | "restored" | "vanished" | "busy"
): number => maps.reduce((sum, map) => sum + map[name], 0)

/**
 * The largest share of a table that was deleted, in entries per capacity as Cilium's schedule measures it.
 *
 * @since 0.1.0
 */
export const deleteRatio = ({ maps }: Pick<GcPass, "maps">): number =>
  maps.reduce((most, { deleted, capacity }) => Math.max(most, capacity === 0 ? 0 : deleted / capacity), 0)
