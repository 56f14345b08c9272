/**
 * When the cells of a hive started and stopped, and whether it is ready.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import type * as HiveError from "./HiveError.ts"

/**
 * What became of one cell.
 *
 * **Details**
 *
 * Moments are milliseconds since 1970; durations are milliseconds of a clock that nobody sets.
 *
 * @since 0.1.0
 */
export interface CellTimes {
  readonly cell: string
  readonly state: "waiting" | "starting" | "started" | "failed" | "stopping" | "stopped" | "stop-failed"
  readonly startedAtMillis?: number
  readonly startMillis?: number
  readonly stoppedAtMillis?: number
  readonly stopMillis?: number
  /** Why it failed to start or to stop. */
  readonly why?: string
}

/**
 * The life of a hive.
 *
 * @since 0.1.0
 */
export class Lifecycle extends Context.Service<
  Lifecycle,
  {
    readonly hive: string
    /** Every cell in the order of start. Can be asked after the hive has stopped, too. */
    readonly times: Effect.Effect<ReadonlyArray<CellTimes>>
    /** Waits until every cell has started. Jobs do not count: a scan may take its time. */
    readonly ready: Effect.Effect<void>
    /** Every cell has started, and none has begun to stop. */
    readonly isReady: Effect.Effect<boolean>
    /** Never succeeds; fails when a job that is essential has failed for good. */
    readonly failure: Effect.Effect<never, HiveError.JobError>
  }
>()("ctmap-cell/Lifecycle") {}

/**
 * Times as text, one line for each cell.
 *
 * @since 0.1.0
 */
export const render = (times: ReadonlyArray<CellTimes>): string =>
  times
    .map(({ cell, state, startMillis, stopMillis, why }) =>
      [
        `${cell}: ${state}`,
        startMillis === undefined ? "" : `, start ${startMillis} ms`,
        stopMillis === undefined ? "" : `, stop ${stopMillis} ms`,
        why === undefined ? "" : `: ${why}`
      ].join("")
    )
    .join("\n")
