/** Counts of jobs. Labels are the ids of cells and names of jobs, all known when a cell starts. */
import * as Duration from "effect/Duration"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Metric from "effect/Metric"

const runs = Metric.counter("cell_job_runs_total", {
  description: "Runs of jobs, by how they ended",
  incremental: true
})
const items = Metric.counter("cell_job_items_total", { description: "What observers were shown", incremental: true })
const running = Metric.gauge("cell_job_running", { description: "1 while a job runs" })
const seconds = Metric.histogram("cell_job_run_seconds", {
  description: "How long runs of jobs took",
  boundaries: [0.001, 0.01, 0.1, 1, 10, 60, 600]
})
const starts = Metric.gauge("cell_start_seconds", { description: "How long the start of a cell took" })
const stops = Metric.gauge("cell_stop_seconds", { description: "How long the stop of a cell took" })

export interface JobMetrics {
  /** Counts one run, however it ends. */
  readonly counted: <A, E, R>(run: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
  readonly item: Effect.Effect<void>
}

export const jobMetrics = (cell: string, job: string): JobMetrics => {
  const labels = { cell, job }
  const [took, runningNow] = [Metric.withAttributes(seconds, labels), Metric.withAttributes(running, labels)]
  const ended = (outcome: string) => Metric.withAttributes(runs, { ...labels, outcome })
  const outcomes = { success: ended("success"), failure: ended("failure"), interrupted: ended("interrupted") }
  return {
    counted: (run) =>
      Effect.flatMap(Clock.monotonicTimeNanos, (began) =>
        Metric.update(runningNow, 1).pipe(
          Effect.andThen(run),
          Effect.onExit((exit) =>
            Effect.gen(function* () {
              const outcome = Exit.isSuccess(exit) ? "success" : Exit.hasInterrupts(exit) ? "interrupted" : "failure"
              yield* Metric.update(outcomes[outcome], 1)
              yield* Metric.update(runningNow, 0)
              yield* Metric.update(took, Number((yield* Clock.monotonicTimeNanos) - began) / 1e9)
            })
          )
        )
      ),
    item: Metric.update(Metric.withAttributes(items, labels), 1)
  }
}

export const started = (cell: string, millis: number): Effect.Effect<void> =>
  Metric.update(Metric.withAttributes(starts, { cell }), Duration.toSeconds(Duration.millis(millis)))
export const stopped = (cell: string, millis: number): Effect.Effect<void> =>
  Metric.update(Metric.withAttributes(stops, { cell }), Duration.toSeconds(Duration.millis(millis)))
