/**
 * Jobs: what a cell does by itself. Once, at times, or for everything that a stream shows.
 *
 * Owns names, supervision, retries, counts and health of jobs. A job belongs to the cell that it was started in and
 * stops with it: jobs are interrupted before the layer of their cell is released, so what they use is there to the end.
 *
 * Counted as `cell_job_runs_total{cell,job,outcome}`, `cell_job_run_seconds{cell,job}`, `cell_job_running{cell,job}` and
 * `cell_job_items_total{cell,job}`. Logs and spans of a job carry `cell` and `job`.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Queue from "effect/Queue"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import { Reporter, type Voice } from "./Health.ts"
import { JobError } from "./HiveError.ts"
import type { JobMetrics } from "./internal/jobMetrics.ts"
import { sentence } from "./internal/sentence.ts"

/**
 * What a job knows of itself while it runs.
 *
 * @since 0.1.0
 */
export interface Post {
  readonly cell: string
  readonly name: string
  /** Speaks of the job on behalf of its supervisor. */
  readonly voice: Voice
  /** The job's own: what it said of itself in a run that succeeded stays until the next run. */
  readonly own: Voice & { readonly hasSpoken: () => boolean; readonly forget: () => void }
  readonly metrics: JobMetrics
  /** Ends the hive with this error. */
  readonly giveUp: (error: JobError) => Effect.Effect<void>
}

/**
 * The jobs of the cell that asks.
 *
 * @since 0.1.0
 */
export class Jobs extends Context.Service<
  Jobs,
  {
    readonly cell: string
    /** Starts a job under supervision. Dies when the cell has a job of that name, or when the name is not kebab-case. */
    readonly start: <A, E, R>(
      name: string,
      run: (post: Post) => Effect.Effect<A, E, R>
    ) => Effect.Effect<Fiber.Fiber<A, E>, never, R>
  }
>()("ctmap-cell/Jobs") {}

/** A job that was started. @since 0.1.0 */
export interface Job {
  readonly name: string
  /** Waits until it has ended, however that is. */
  readonly done: Effect.Effect<void>
}

/** A job that runs at times. @since 0.1.0 */
export interface Timer extends Job {
  /** Runs it now, or once more after the run at hand. Triggers that wait share a run. Does not wait for it. */
  readonly trigger: Effect.Effect<void>
}

/** @since 0.1.0 */
export interface Options {
  /**
   * When a run that failed is tried again; a run that threw failed, too. The policy begins anew after a success.
   * Default: never, but for observers.
   */
  readonly retry?: Schedule.Schedule<unknown> | undefined
  /**
   * The hive cannot do without: when it has failed for good, `Hive.launch` stops with a `JobError`, and
   * `Lifecycle.failure` fails for those who run the layer themselves. Default: no.
   */
  readonly essential?: boolean | undefined
}

/** What observers do about failures unless told otherwise: 100 ms, doubling up to 30 s, for ever. @since 0.1.0 */
export const patient: Schedule.Schedule<unknown> = Schedule.min([
  Schedule.exponential("100 millis"),
  Schedule.spaced("30 seconds")
])

/** The context that jobs bring along. */
type Own = Reporter

/**
 * Runs an effect once. It is `ok` while it runs and `stopped` when it is done, unless it says something else of itself
 * with {@link Reporter}; readiness does not wait for it.
 *
 * @since 0.1.0
 */
export const oneShot = <E, R>(
  name: string,
  effect: Effect.Effect<unknown, E, R>,
  options: Options = {}
): Effect.Effect<Job, never, Jobs | Exclude<R, Own>> =>
  begin(name, (post) =>
    Effect.gen(function* () {
      yield* post.voice.ok()
      const exit = yield* persistently(post, inSpan(post, effect), options)
      if (Exit.isSuccess(exit) && !post.own.hasSpoken()) yield* post.voice.stopped("done")
    })
  )

/** When a timer runs. @since 0.1.0 */
export interface TimerOptions extends Options {
  /** From the end of one run to the beginning of the next: a time, or a schedule, with whose end the timer ends. */
  readonly every: Duration.Input | Schedule.Schedule<unknown>
  /** The first run is at once instead of after the first wait. Default: no. */
  readonly immediately?: boolean | undefined
}

/**
 * Runs an effect at times, and whenever it is triggered. One run at a time; one that failed for good leaves the timer
 * `degraded` until a later one succeeds.
 *
 * **Example** (A timer, and a trigger between)
 *
 * ```ts
 * import { Cell, Hive, Job } from "ctmap-cell"
 * import * as Effect from "effect/Effect"
 * import * as Layer from "effect/Layer"
 * import { TestClock } from "effect/testing"
 *
 * let runs = 0
 * let trigger = Effect.void
 * const sweep = Effect.sync(() => void runs++)
 * const cell = Cell.make("sweeper", {
 *   description: "sweeps once a minute",
 *   layer: Layer.effectDiscard(
 *     Effect.map(Job.timer("sweep", sweep, { every: "1 minute" }), (timer) => void (trigger = timer.trigger))
 *   )
 * })
 * const program = Effect.gen(function* () {
 *   yield* TestClock.adjust("2 minutes")
 *   yield* trigger
 *   yield* TestClock.adjust("30 seconds")
 *   return runs
 * })
 * const hive = Hive.layer(Hive.make("app", { cells: [cell] }))
 * await Effect.runPromise(Effect.provide(program, Layer.provideMerge(hive, TestClock.layer())))
 * // => 3
 * ```
 *
 * @since 0.1.0
 */
export const timer = <E, R>(
  name: string,
  effect: Effect.Effect<unknown, E, R>,
  { every, immediately = false, ...options }: TimerOptions
): Effect.Effect<Timer, never, Jobs | Exclude<R, Own>> =>
  Effect.gen(function* () {
    const triggers = yield* Queue.sliding<void>(1)
    const schedule = Schedule.isSchedule(every) ? every : Schedule.spaced(Duration.fromInputUnsafe(every))
    const job = yield* begin(name, (post) =>
      Effect.gen(function* () {
        yield* post.voice.ok()
        const wait = yield* Schedule.toStepWithSleep(schedule)
        const run = Effect.suspend(() => persistently(post, inSpan(post, effect), options))
        if (immediately) yield* run
        for (;;) {
          // Whatever comes first; with the end of the schedule the timer ends.
          const next = yield* Effect.exit(Effect.raceFirst(wait(undefined), Queue.take(triggers)))
          if (Exit.isFailure(next)) break
          yield* run
        }
        yield* post.voice.stopped("the schedule has ended")
      })
    )
    return { ...job, trigger: Effect.asVoid(Queue.offer(triggers, undefined)) }
  })

/**
 * Does something for everything that a stream shows, one after another. Whatever fails, the stream or what is done,
 * begins anew after a while: see {@link patient}.
 *
 * @since 0.1.0
 */
export const observer = <A, E, R, E2, R2>(
  name: string,
  stream: Stream.Stream<A, E, R>,
  handle: (item: A) => Effect.Effect<unknown, E2, R2>,
  options: Options = {}
): Effect.Effect<Job, never, Jobs | Exclude<R | R2, Own>> =>
  begin(name, (post) =>
    Effect.gen(function* () {
      let hadSuccess = false
      const each = (item: A) =>
        Effect.tap(handle(item), () => {
          const isFirst = !hadSuccess
          hadSuccess = true
          return isFirst ? Effect.andThen(post.metrics.item, works(post)) : post.metrics.item
        })
      const watch = Effect.suspend(() => {
        hadSuccess = false
        return Stream.runForEach(stream, each)
      })
      yield* post.voice.ok()
      const exit = yield* persistently(post, watch, { retry: patient, ...options }, () => hadSuccess)
      if (Exit.isSuccess(exit)) yield* post.voice.stopped("the stream has ended")
    })
  )

// internal

const begin = <R>(
  name: string,
  run: (post: Post) => Effect.Effect<void, never, R>
): Effect.Effect<Job, never, Jobs | Exclude<R, Own>> =>
  Effect.gen(function* () {
    const jobs = yield* Jobs
    const fiber = yield* jobs.start(name, (post) => Effect.provideService(run(post), Reporter, post.own))
    return { name, done: Effect.asVoid(Fiber.await(fiber)) }
  })

const inSpan = <A, E, R>({ cell, name }: Post, effect: Effect.Effect<A, E, R>) =>
  Effect.withSpan(effect, `${cell}.${name}`)

/** It works, unless it has said something else of itself. */
const works = ({ own, voice }: Post): Effect.Effect<void> =>
  Effect.suspend(() => (own.hasSpoken() ? Effect.void : voice.ok()))

/** Runs until it succeeds or the policy has had enough. Says how it is, and never fails. */
const persistently = <A, E, R>(
  post: Post,
  effect: Effect.Effect<A, E, R>,
  { essential = false, retry }: Options,
  hadSuccess: () => boolean = () => false
): Effect.Effect<Exit.Exit<A, E>, never, R> =>
  Effect.gen(function* () {
    let next = retry === undefined ? undefined : yield* Schedule.toStepWithSleep(retry)
    for (let attempts = 1; ; attempts++) {
      post.own.forget()
      const exit = yield* Effect.exit(post.metrics.counted(effect))
      if (Exit.isSuccess(exit)) {
        yield* works(post)
        return exit
      }
      const why = sentence(exit.cause)
      yield* post.voice.degraded(why)
      if (hadSuccess()) {
        attempts = 1
        if (retry !== undefined) next = yield* Schedule.toStepWithSleep(retry)
      }
      const goesOn = next !== undefined && Exit.isSuccess(yield* Effect.exit(next(Cause.squash(exit.cause))))
      if (goesOn) {
        yield* Effect.logDebug("a job failed and is tried again", why)
        continue
      }
      yield* Effect.logWarning(essential ? "a job failed that its hive cannot do without" : "a job failed", why)
      const error = { cell: post.cell, job: post.name, attempts, why, cause: Cause.squash(exit.cause) }
      if (essential) yield* post.giveUp(new JobError(error))
      return exit
    }
  })
