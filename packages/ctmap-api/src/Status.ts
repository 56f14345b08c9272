/**
 * What the agent tells of itself: how it is, which maps there are, which settings are in force.
 *
 * Times of day are milliseconds since 1970, durations milliseconds unless a name says otherwise.
 *
 * @since 0.1.0
 */
import * as Health from "ctmap-cell/Health"
import * as CtTime from "ctmap-core/CtTime"
import * as Family from "ctmap-core/Family"
import * as GcPass from "ctmap-gc/GcPass"
import * as GcSchedule from "ctmap-gc/GcSchedule"
import * as NatPass from "ctmap-gc/NatPass"
import * as Schema from "effect/Schema"

/** When a cell started and stopped: `Lifecycle.CellTimes` of ctmap-cell. @since 0.1.0 */
export const CellTimes = Schema.Struct({
  cell: Schema.String,
  state: Schema.Literals(["waiting", "starting", "started", "failed", "stopping", "stopped", "stop-failed"]),
  startedAtMillis: Schema.optionalKey(Schema.Finite),
  startMillis: Schema.optionalKey(Schema.Finite),
  stoppedAtMillis: Schema.optionalKey(Schema.Finite),
  stopMillis: Schema.optionalKey(Schema.Finite),
  why: Schema.optionalKey(Schema.String)
}).annotate({ identifier: "CellTimes" })

/** The last pass over a pair, in a few numbers; `GET /v1/passes` has all of them. @since 0.1.0 */
export const PassSummary = Schema.Struct({
  serial: Schema.Int,
  family: Family.Family,
  owner: Schema.String,
  dryRun: Schema.Boolean,
  startedAtMillis: Schema.Finite,
  millis: Schema.Finite,
  completed: Schema.Boolean,
  why: Schema.optionalKey(Schema.String),
  seen: Schema.Int,
  deleted: Schema.Int
}).annotate({ identifier: "PassSummary" })
/** @since 0.1.0 */
export type PassSummary = typeof PassSummary.Type

/** The clock that the datapath counts with, and what it reads now in its units. @since 0.1.0 */
export const Clock = Schema.Struct({
  source: CtTime.ClockSource,
  now: Schema.optionalKey(Schema.Int),
  why: Schema.optionalKey(Schema.String.annotate({ description: "Why it cannot be read." }))
}).annotate({ identifier: "Clock" })

/** `GET /v1/status`. @since 0.1.0 */
export const Status = Schema.Struct({
  version: Schema.String,
  pid: Schema.Int,
  startedAtMillis: Schema.Finite,
  uptimeMillis: Schema.Finite,
  ready: Schema.Boolean.annotate({ description: "Every cell has started. Does not wait for a pass." }),
  status: Health.Status.annotate({ description: "Degraded if anything within is." }),
  health: Health.Node,
  cells: Schema.Array(CellTimes),
  clock: Clock,
  gc: GcSchedule.Status,
  passes: Schema.Array(PassSummary)
}).annotate({ identifier: "Status" })
/** @since 0.1.0 */
export type Status = typeof Status.Type

/** `GET /v1/passes`: the last pass over each pair, the latest last. @since 0.1.0 */
export const Passes = Schema.Struct({
  ct: Schema.Array(GcPass.GcPass),
  nat: Schema.Array(NatPass.NatPass).annotate({ description: "Purges of orphans." })
}).annotate({ identifier: "Passes" })
/** @since 0.1.0 */
export type Passes = typeof Passes.Type

/** What was last found in a table: sampled or counted, by a loop, not for the request. @since 0.1.0 */
export const Fill = Schema.Struct({
  method: Schema.Literals(["sampled", "counted"]),
  entries: Schema.Finite,
  error: Schema.Finite.annotate({
    description: "The standard error of entries, in entries; 0 where they were counted."
  }),
  pressure: Schema.Finite.annotate({ description: "Entries by capacity, where 1 means full." }),
  expiredRatio: Schema.optionalKey(Schema.Finite.annotate({ description: "The share of entries that have expired." })),
  sampledAtMillis: Schema.Finite
}).annotate({ identifier: "Fill" })

/** A map that is pinned. @since 0.1.0 */
export const PinnedMap = Schema.Struct({
  name: Schema.String,
  path: Schema.String,
  kind: Schema.Literals(["ct", "nat", "ct-outer", "nat-outer", "nat-retries", "signals"]),
  family: Schema.optionalKey(Family.Family),
  owner: Schema.optionalKey(Schema.String.annotate({ examples: ["global", "cluster 3", "endpoint 7"] })),
  id: Schema.optionalKey(Schema.Int.annotate({ description: "The kernel's number of the map." })),
  type: Schema.optionalKey(Schema.String.annotate({ examples: ["lru-hash"] })),
  keySize: Schema.optionalKey(Schema.Int),
  valueSize: Schema.optionalKey(Schema.Int),
  capacity: Schema.optionalKey(Schema.Int),
  flags: Schema.optionalKey(Schema.Int),
  fill: Schema.optionalKey(Fill),
  layout: Schema.optionalKey(
    Schema.String.annotate({
      description: "The Cilium release whose layout the entries have, nat, or unknown.",
      examples: ["1.17", "1.20 assumed", "nat"]
    })
  ),
  health: Schema.Array(Schema.String).annotate({ description: "What is wrong with it; nothing, where empty." })
}).annotate({ identifier: "PinnedMap" })
/** @since 0.1.0 */
export type PinnedMap = typeof PinnedMap.Type

/** `GET /v1/maps`. @since 0.1.0 */
export const Maps = Schema.Struct({ root: Schema.String, maps: Schema.Array(PinnedMap) }).annotate({
  identifier: "Maps"
})
/** @since 0.1.0 */
export type Maps = typeof Maps.Type

/** A setting as it is: `Settings.Effective` of ctmap-cell. @since 0.1.0 */
export const Setting = Schema.Struct({
  cell: Schema.String,
  name: Schema.String,
  value: Schema.optionalKey(
    Schema.String.annotate({ description: "Absent where it is not set; secrets are redacted." })
  ),
  source: Schema.Literals(["flag", "environment", "file", "default"]),
  where: Schema.String.annotate({ examples: ["--api-socket", "CTMAP_API_SOCKET", "agent.yaml: api-socket"] }),
  secret: Schema.Boolean
}).annotate({ identifier: "Setting" })
/** @since 0.1.0 */
export type Setting = typeof Setting.Type

/** `GET /v1/config`. @since 0.1.0 */
export const Config = Schema.Struct({ settings: Schema.Array(Setting) }).annotate({ identifier: "Config" })
/** @since 0.1.0 */
export type Config = typeof Config.Type

/** `POST /v1/reload`, by the names of settings as flags. @since 0.1.0 */
export const Reloaded = Schema.Struct({
  applied: Schema.Array(Schema.String).annotate({ description: "In force from now on." }),
  needRestart: Schema.Array(Schema.String).annotate({ description: "In force once the agent is started again." })
}).annotate({ identifier: "Reloaded" })
/** @since 0.1.0 */
export type Reloaded = typeof Reloaded.Type

/** Levels by rising severity. @since 0.1.0 */
export const Level = Schema.Literals(["trace", "debug", "info", "warn", "error", "none"])
/** @since 0.1.0 */
export type Level = typeof Level.Type

/** `GET` and `PUT /v1/log-level`. @since 0.1.0 */
export const LogLevel = Schema.Struct({
  level: Level.annotate({ description: "The least severe lines that are written." })
}).annotate({ identifier: "LogLevel", examples: [{ level: "debug" }] })
/** @since 0.1.0 */
export type LogLevel = typeof LogLevel.Type
