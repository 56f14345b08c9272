/**
 * What can go wrong with a hive: its graph, its settings, the start of a cell, a job that it cannot do without.
 *
 * @since 0.1.0
 */
import * as Schema from "effect/Schema"

/**
 * One thing that is wrong with the graph of a hive.
 *
 * @since 0.1.0
 */
export const Problem = Schema.Struct({
  kind: Schema.Literals([
    "bad-id",
    "bad-setting",
    "cycle",
    "duplicate-cell",
    "duplicate-provider",
    "duplicate-setting",
    "missing-provider",
    "no-layer",
    "not-given",
    "no-such-cell",
    "reserved-service"
  ]),
  /** The ids of the cells that it is about. */
  cells: Schema.Array(Schema.String),
  /** The key of the service that it is about. */
  service: Schema.optionalKey(Schema.String),
  /** What is wrong, and what to do about it. */
  message: Schema.String
})
/** @since 0.1.0 */
export type Problem = typeof Problem.Type

/**
 * The cells of a hive do not fit together. Nothing was started.
 *
 * @since 0.1.0
 */
export class GraphError extends Schema.TaggedError<GraphError>()("GraphError", {
  hive: Schema.String,
  problems: Schema.Array(Problem)
}) {
  override get message(): string {
    return `hive "${this.hive}" cannot be composed:${lines(this.problems)}`
  }
}

/**
 * One setting that is wrong.
 *
 * @since 0.1.0
 */
export const SettingIssue = Schema.Struct({
  /** The setting's name, or the unknown name that was used. */
  setting: Schema.String,
  /** Where its value came from: a flag, a variable, a file with its key. */
  where: Schema.String,
  message: Schema.String
})
/** @since 0.1.0 */
export type SettingIssue = typeof SettingIssue.Type

/**
 * Settings that no cell has, or values that are not allowed. Lists everything that is wrong; names no secret value.
 *
 * @since 0.1.0
 */
export class SettingsError extends Schema.TaggedError<SettingsError>()("SettingsError", {
  hive: Schema.String,
  issues: Schema.Array(SettingIssue)
}) {
  override get message(): string {
    return `the settings of hive "${this.hive}" are wrong:${lines(this.issues)}`
  }
}

/**
 * A cell did not start. The cells that had started were stopped, in reverse.
 *
 * **Details**
 *
 * `failed`: its layer failed. `died`: it threw. `timed-out`: it was not done in time. `incomplete`: its layer is done, but
 * does not make what the cell says it provides.
 *
 * @since 0.1.0
 */
export class StartError extends Schema.TaggedError<StartError>()("StartError", {
  hive: Schema.String,
  cell: Schema.String,
  reason: Schema.Literals(["failed", "died", "interrupted", "timed-out", "incomplete"]),
  /** In one sentence. */
  why: Schema.String,
  /** The cells that had started, in the order in which they did. */
  started: Schema.Array(Schema.String),
  cause: Schema.Defect()
}) {
  override get message(): string {
    const others =
      this.started.length === 0 ? "it was the first to start" : `stopped again, in reverse: ${this.started.join(", ")}`
    return `cell "${this.cell}" of hive "${this.hive}" did not start: ${this.why} (${others})`
  }
}

/**
 * A job that its hive cannot do without has failed for good.
 *
 * @since 0.1.0
 */
export class JobError extends Schema.TaggedError<JobError>()("JobError", {
  cell: Schema.String,
  job: Schema.String,
  attempts: Schema.Int,
  why: Schema.String,
  cause: Schema.Defect()
}) {
  override get message(): string {
    return `job "${this.job}" of cell "${this.cell}" failed for good after ${this.attempts} attempts: ${this.why}`
  }
}

/** Why a hive does not start. @since 0.1.0 */
export type HiveError = GraphError | SettingsError | StartError

// internal

const lines = (problems: ReadonlyArray<{ readonly message: string }>): string =>
  problems.length === 1 ? ` ${problems[0]?.message}` : problems.map(({ message }) => `\n  - ${message}`).join("")
