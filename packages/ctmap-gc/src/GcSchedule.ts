/**
 * When to collect, and which families: the schedule, taking the pass as a parameter.
 *
 * Owns the decisions and the loop that carries them out; what a pass is, how orphans are found and where signals come
 * from is given. The decisions are pure (`internal/scheduleStep.ts`), so a day of schedule runs in milliseconds under a
 * test clock.
 *
 * @see `pkg/maps/ctmap/gc` of Cilium, whose interval this keeps and whose starvation, spinning and storms it does not
 * @since 0.1.0
 */
import { Family, type GcInterval, type Signal } from "ctmap-core"
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import * as GcConfig from "./GcConfig.ts"
import * as GcPass from "./GcPass.ts"
import { format } from "./internal/durationText.ts"
import * as Inbox from "./internal/scheduleInbox.ts"
import { reconfigured } from "./internal/scheduleReconfigure.ts"
import {
  type Action,
  initial,
  optionsOf,
  type Event,
  type Options,
  type Outcome as StepOutcome,
  type Round
} from "./internal/scheduleState.ts"
import { Status as StatusSchema, statusOf } from "./internal/scheduleStatus.ts"
import { step } from "./internal/scheduleStep.ts"

/** Why a pass runs: see {@link GcPass.Trigger}. @since 0.1.0 */
export const Trigger = GcPass.Trigger
/** @since 0.1.0 */
export type Trigger = typeof Trigger.Type

/** @since 0.1.0 */
export interface RoundContext {
  readonly trigger: Trigger
  readonly families: ReadonlyArray<Family.Family>
}

/**
 * What a pass over some families came to.
 *
 * @since 0.1.0
 */
export interface Outcome {
  /** Every table of these families was collected. */
  readonly success: boolean
  /** The largest share of a table's capacity that was deleted: `GcPass.deleteRatio`. */
  readonly ratio: number
  /** CT entries deleted. */
  readonly deleted: number
  /** CT entries seen: with it, a pass that freed next to nothing is told from a useful one. */
  readonly seen?: number | undefined
  /** The same by family, so that a useful pass over one does not excuse a useless one over the other. */
  readonly byFamily?: Partial<Record<Family.Family, { readonly deleted: number; readonly seen?: number | undefined }>>
  /** What kept tables from being collected, a sentence each: the status shows them. */
  readonly problems?: ReadonlyArray<string>
}

/**
 * What a schedule needs. No effect that fails, dies or is interrupted ends it: that is logged, and counts as a pass
 * that failed or as an answer that nobody gave.
 *
 * @since 0.1.0
 */
export interface Parameters<R = never> {
  readonly settings: GcConfig.Settings
  /** Deletes what has expired of these families, no more. One at a time. */
  readonly round: (families: ReadonlyArray<Family.Family>, context: RoundContext) => Effect.Effect<Outcome, unknown, R>
  /** Deletes NAT entries of these families whose connection is gone. Never during a `round`. */
  readonly purgeOrphans: (
    families: ReadonlyArray<Family.Family>
  ) => Effect.Effect<{ readonly deleted: number }, unknown, R>
  /** What the datapath says. When it ends or fails, the schedule goes on without. Default: nothing. */
  readonly signals?: Stream.Stream<Signal.FillUp, unknown, R> | undefined
  /** Signals are muted during passes, except the initial scan; unmuted afterwards whatever happens. */
  readonly mute?: Effect.Effect<void, unknown, R> | undefined
  readonly unmute?: Effect.Effect<void, unknown, R> | undefined
  /** Estimates which share of a family's entries has expired. Needed for a `backlogThreshold`. */
  readonly backlog?:
    | Effect.Effect<ReadonlyArray<{ readonly family: Family.Family; readonly expiredRatio: number }>, unknown, R>
    | undefined
  /** Hears of what was decided whenever there is nothing to do but to wait. */
  readonly decided?: ((status: Status) => Effect.Effect<void, never, R>) | undefined
  /** Limits of the interval maths other than Cilium's. */
  readonly bounds?: GcInterval.Bounds | undefined
}

/**
 * What a schedule does, did and will do next: what `ctmap gc status` prints. Times are milliseconds since 1970.
 *
 * @since 0.1.0
 */
export const Status = StatusSchema
/** @since 0.1.0 */
export type Status = typeof Status.Type

/**
 * A schedule.
 *
 * @since 0.1.0
 */
export interface GcSchedule<R = never> {
  /**
   * The loop. Ends by interruption only, at any point, and leaves signals unmuted. Begins anew each time it is run,
   * with an initial scan; not to be run twice at once.
   */
  readonly run: Effect.Effect<never, never, R>
  /** Can be asked at any time, before the loop runs and after it was interrupted too. */
  readonly status: Effect.Effect<Status>
  /** Waits until the first pass has ended, successful or not: Cilium's "initial scan complete". */
  readonly initialScanDone: Effect.Effect<void>
  /** Asks for a pass over enabled families, at once or after the one that runs. Requests that wait share a pass. */
  readonly request: (families?: ReadonlyArray<Family.Family>) => Effect.Effect<void>
  /**
   * Goes by other settings from now on, whatever the loop does.
   *
   * **Details**
   *
   * What the schedule has learnt stays, and so does a pass that runs. The next full pass, orphan purge, estimate and the end of a gap
   * are counted anew from where they were counted from, so what the new settings make overdue begins at once. A family
   * that is added has an initial pass; one that is removed is not collected any more.
   */
  readonly reconfigure: (settings: GcConfig.Settings) => Effect.Effect<void>
}

/**
 * A schedule that has not begun.
 *
 * **Details**
 *
 * - The first pass takes all families. A warning is logged once when it takes longer than `startupWarning`.
 * - A full pass is due after the interval, which the last passes decide. A pass over one family, or one that failed,
 *   does not postpone it; a full pass that failed is tried again after 10 s, 20 s and so on up to the interval.
 * - A signal brings a pass over its family and a purge of its orphans. Signals that come in the meantime bring one more
 *   between them. After a pass for signals comes a gap, which doubles while such passes free next to nothing; signals
 *   that come in a gap so lengthened are counted and ignored.
 * - With a backlog threshold, families are collected when the estimate says so. Such passes leave the interval alone.
 *   The full pass at the interval remains, so an estimate that fails costs nothing but promptness.
 *
 * **Example** (Half an hour in no time)
 *
 * ```ts
 * import { GcConfig, GcSchedule } from "ctmap-gc"
 * import * as Effect from "effect/Effect"
 * import { TestClock } from "effect/testing"
 *
 * const program = Effect.gen(function* () {
 *   const ran: Array<string> = []
 *   const schedule = yield* GcSchedule.make({
 *     settings: yield* GcConfig.make({ families: ["ipv4"] }),
 *     round: (families, { trigger }) =>
 *       Effect.sync(() => {
 *         ran.push(`${trigger} ${families.join()}`)
 *         return { success: true, ratio: 0.1, deleted: 100 }
 *       }),
 *     purgeOrphans: () => Effect.succeed({ deleted: 0 })
 *   })
 *   yield* Effect.forkChild(schedule.run, { startImmediately: true })
 *   yield* TestClock.adjust("11 minutes")
 *   return { ran, next: (yield* schedule.status).next?.why }
 * })
 * const { next, ran } = await Effect.runPromise(Effect.provide(program, TestClock.layer()))
 * ran // => ["initial ipv4", "interval ipv4", "interval ipv4"]
 * next // => "the last pass deleted 10 % of a table: it stays at 5m"
 * ```
 *
 * @since 0.1.0
 */
export const make = <R = never>(parameters: Parameters<R>): Effect.Effect<GcSchedule<R>> =>
  Effect.sync(() => {
    let { settings } = parameters
    let options = optionsUnder(parameters, settings)
    const inbox = Inbox.make()
    const scanned = Deferred.makeUnsafe<void>()
    let state = initial(options)
    let isActive = false

    const status = Effect.gen(function* () {
      const now = yield* clock
      const times = { now, offset: (yield* Clock.currentTimeMillis) - now }
      return statusOf(options, state, { isActive, heard: inbox.peek(), ...times })
    })

    const observe = Effect.fnUntraced(function* (result: Event["result"]) {
      const now = yield* clock
      const next = step(options, state, { now, heard: inbox.drain(), result })
      state = next.state
      if (state.initialScanDone) yield* Deferred.succeed(scanned, undefined)
      return next.action
    })

    const carryOut = (action: Action): Effect.Effect<Event["result"], never, R> => {
      switch (action._tag) {
        case "Round":
          return Effect.map(carryOutRound(parameters, settings, action.round), (outcome) => ({
            _tag: "Round",
            outcome
          }))
        case "Purge":
          return Effect.as(purge(parameters, action.families), { _tag: "Purged", families: action.families })
        case "Estimate":
          return Effect.map(estimate(parameters, settings), (shares) => ({ _tag: "Estimated", shares }))
        case "Wait":
          return Effect.gen(function* () {
            inbox.doze(action)
            if (parameters.decided !== undefined) {
              yield* answer("what was decided could not be told", parameters.decided(yield* status), undefined)
            }
            const millis = action.until - (yield* clock)
            yield* Effect.timeoutOption(inbox.latch.await, Duration.millis(Math.max(0, millis)))
            return undefined
          })
      }
    }

    const listen =
      parameters.signals === undefined
        ? Effect.void
        : answer(
            "the signals of the datapath failed; passes go on without them",
            Stream.runForEachArray(parameters.signals, (signals) => Effect.sync(() => inbox.hear(signals))),
            undefined
          )

    const loop = Effect.gen(function* () {
      yield* Effect.acquireRelease(
        Effect.sync(() => {
          state = initial(options)
          isActive = true
        }),
        () =>
          Effect.sync(() => {
            state = { ...state, running: undefined }
            isActive = false
          })
      )
      yield* Effect.forkScoped(listen, { startImmediately: true })
      for (let action = yield* observe(undefined); ;) action = yield* observe(yield* carryOut(action))
    })

    return {
      run: Effect.scoped(loop),
      status,
      initialScanDone: Deferred.await(scanned),
      request: (families = options.families) => Effect.sync(() => inbox.request(families)),
      reconfigure: (given) =>
        Effect.map(clock, (now) => {
          const next = optionsUnder(parameters, given)
          state = reconfigured(options, next, state, now)
          options = next
          settings = given
          inbox.wake()
        })
    }
  })

// internal

/** Whole milliseconds of a clock that is not set: a step of the time of day moves no pass. */
const clock: Effect.Effect<number> = Effect.map(Clock.monotonicTimeNanos, (nanos) => Number(nanos / 1_000_000n))

/** The answer, or `otherwise` with a line in the log. An interruption of the loop itself goes through. */
const answer = <A, R>(what: string, effect: Effect.Effect<A, unknown, R>, otherwise: A): Effect.Effect<A, never, R> =>
  Effect.catchCause(effect, (cause) => Effect.as(Effect.logWarning(what, Cause.squash(cause)), otherwise))

const failed = (cause: Cause.Cause<unknown>): Outcome => ({
  success: false,
  ratio: 0,
  deleted: 0,
  problems: Cause.prettyErrors(cause).map(({ message }) => message)
})

const optionsUnder = <R>({ backlog, bounds }: Parameters<R>, settings: GcConfig.Settings): Options =>
  optionsOf(settings, { ...GcConfig.intervalOptions(settings), ...bounds }, backlog !== undefined)

const carryOutRound = <R>(
  parameters: Parameters<R>,
  { startupWarning }: GcConfig.Settings,
  round: Round
): Effect.Effect<StepOutcome, never, R> => {
  const { families, trigger } = round
  const collect = Effect.suspend(() => parameters.round(families, { trigger, families }))
  const pass = Effect.catchCause(collect, (cause) => {
    const outcome = failed(cause)
    return Effect.as(Effect.logWarning(`the pass over ${families.join(" and ")} failed`, Cause.squash(cause)), outcome)
  })
  const all = Effect.gen(function* () {
    const outcome = yield* trigger === "initial" ? watched(startupWarning, pass) : pass
    const orphansOf: Partial<Record<Family.Family, number>> = {}
    for (const family of round.orphans) orphansOf[family] = yield* purge(parameters, [family])
    return outcomeOf(outcome, orphansOf)
  })
  return trigger === "initial" ? all : muted(parameters, all)
}

const muted = <A, R>(
  { mute = Effect.void, unmute = Effect.void }: Parameters<R>,
  effect: Effect.Effect<A, never, R>
): Effect.Effect<A, never, R> =>
  Effect.acquireUseRelease(
    answer("signals could not be muted", mute, undefined),
    () => effect,
    () => answer("signals could not be unmuted", unmute, undefined)
  )

const watched = <A, R>(limit: Duration.Duration, pass: Effect.Effect<A, never, R>): Effect.Effect<A, never, R> =>
  Duration.isZero(limit)
    ? pass
    : Effect.scoped(
        Effect.gen(function* () {
          const warn = Effect.logWarning(`the initial scan has not finished within ${format(limit)}; it goes on`)
          yield* Effect.forkScoped(Effect.delay(warn, limit), { startImmediately: true })
          return yield* pass
        })
      )

const purge = <R>({ purgeOrphans }: Parameters<R>, families: ReadonlyArray<Family.Family>) =>
  Effect.map(
    answer(
      `the purge of NAT entries without a connection failed for ${families.join(" and ")}`,
      Effect.suspend(() => purgeOrphans(families)),
      { deleted: 0 }
    ),
    ({ deleted }) => deleted
  )

/** An estimate that takes longer than until the next one is none. */
const estimate = <R>({ backlog }: Parameters<R>, { backlogCheckInterval }: GcConfig.Settings) =>
  Effect.gen(function* () {
    const shares: Partial<Record<Family.Family, number>> = {}
    if (backlog === undefined) return shares
    const asked = Effect.timeoutOption(backlog, backlogCheckInterval)
    const answered = yield* answer("the backlog could not be estimated", asked, Option.none())
    for (const { expiredRatio, family } of Option.getOrElse(answered, () => [])) {
      shares[family] = Math.max(shares[family] ?? 0, expiredRatio)
    }
    return shares
  })

const outcomeOf = (outcome: Outcome, orphansOf: StepOutcome["orphansOf"]): StepOutcome => {
  const deletedOf: Partial<Record<Family.Family, number>> = {}
  const seenOf: Partial<Record<Family.Family, number>> = {}
  for (const family of Family.all) {
    const counts = outcome.byFamily?.[family]
    if (counts !== undefined) deletedOf[family] = counts.deleted
    if (counts?.seen !== undefined) seenOf[family] = counts.seen
  }
  const { deleted, problems = [], ratio, seen, success } = outcome
  return { success, ratio, deleted, seen, deletedOf, seenOf, orphansOf, problems }
}
