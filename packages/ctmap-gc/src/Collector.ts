/**
 * Who may sweep a pair, and when: one writer per pair, and requests that arrive meanwhile share the next pass.
 *
 * Owns the queue of every pair, serial numbers, the log of passes and their metrics. A hundred endpoints that are deleted at once cost
 * one pass, not a hundred; each caller gets the counts of its own request.
 *
 * @since 0.1.0
 */
import { Owner } from "ctmap-kernel"
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as PubSub from "effect/PubSub"
import * as Semaphore from "effect/Semaphore"
import * as Stream from "effect/Stream"
import { nameOf, type OpenError, type PairSource } from "./CtMapSources.ts"
import * as GcEngine from "./GcEngine.ts"
import { GcEvents } from "./GcEvents.ts"
import * as GcMetrics from "./GcMetrics.ts"
import * as GcPass from "./GcPass.ts"
import type { GcRequest } from "./GcRequest.ts"
import { GuardStopped } from "./Guard.ts"
import { endOf } from "./internal/endOf.ts"
import { isMissing } from "./internal/missing.ts"
import * as PassLog from "./internal/passLog.ts"

/**
 * How a request is to be carried out. Requests share a pass only where all of this is the same.
 *
 * @since 0.1.0
 */
export type Terms = Pick<GcEngine.Plan, "dryRun" | "limits" | "budget" | "transports" | "trustsClock">

/**
 * What a request came to.
 *
 * @since 0.1.0
 */
export interface Collected {
  /** The pass that served it, with others perhaps. */
  readonly pass: GcPass.GcPass
  /** What it alone wanted and got. */
  readonly counts: GcPass.RequestCounts
}

/**
 * What else there is to say of a request; it may share a pass all the same.
 *
 * @since 0.1.0
 */
export interface About {
  readonly progress?: GcEngine.Plan["progress"]
  /** Stands in the record of the pass. */
  readonly trigger?: GcPass.Trigger | undefined
}

/** @since 0.1.0 */
export type CollectError = GcEngine.SweepError | OpenError

/**
 * See the module.
 *
 * @since 0.1.0
 */
export class Collector extends Context.Service<
  Collector,
  {
    /**
     * Has a request carried out, alone or with others.
     *
     * **Details**
     *
     * Errors: those of opening and sweeping. Where the guard stops a shared pass, before anything is deleted, each of its
     * requests is tried alone, so that only the one that asked for too much fails. Interruption: also where the layer
     * closes, or is closed. By the caller: a request that waits is withdrawn; a pass that no
     * caller waits for any more is interrupted between two batches. One that others wait for goes on for them, and from
     * its next batch on takes nothing more that only the withdrawn request wanted; what went for it by then stands in the
     * record. Every pass leaves a record and its metrics, before
     * anybody hears of it; one over maps of which none is pinned is no pass.
     */
    readonly collect: (
      source: PairSource,
      request: GcRequest,
      terms?: Terms,
      about?: About
    ) => Effect.Effect<Collected, CollectError>
    /** Does something else with a pair that nobody may sweep meanwhile. */
    readonly exclusively: <A, E>(source: PairSource, use: Effect.Effect<A, E>) => Effect.Effect<A, E>
    /** A new serial number. */
    readonly nextSerial: Effect.Effect<number>
    /** The last pass over each of the 1,024 pairs that were swept last, the latest last. */
    readonly lastPasses: Effect.Effect<ReadonlyArray<GcPass.GcPass>>
    /** The last 128 passes, newest last. */
    readonly history: Effect.Effect<ReadonlyArray<GcPass.GcPass>>
    /** Records of passes as they end, from now on; a reader who is more than 128 behind misses some. */
    readonly passes: Stream.Stream<GcPass.GcPass>
    /** How many pairs are swept, waited for or used now. */
    readonly busy: Effect.Effect<number>
  }
>()("ctmap-gc/Collector") {}

/** A request in the queue of a pair. */
interface Job {
  /** Opened by whoever asks: what was registered under a name may have been replaced since. */
  readonly source: PairSource
  readonly request: GcRequest
  readonly terms: Terms
  readonly about: About
  readonly done: Deferred.Deferred<Collected, CollectError>
  /** Its caller has gone. */
  isWithdrawn: boolean
}

/** The queue of a pair and what is being done with it; there is one for as long as there is anything to be done. */
interface Line {
  readonly waiting: Array<Job>
  isServed: boolean
  /** Those who use the pair exclusively, or wait for that. */
  users: number
  running: { readonly jobs: ReadonlyArray<Job>; readonly fiber: Fiber.Fiber<unknown, unknown> } | undefined
  /** Entries that the last pass deleted, done or not. */
  deleted: number
  /** Held while anybody writes to the pair. */
  readonly permit: Semaphore.Semaphore
}

/** @since 0.1.0 */
export const layer: Layer.Layer<Collector, never, GcEngine.GcEngine | GcEvents> = Layer.effect(
  Collector,
  Effect.gen(function* () {
    const engine = yield* GcEngine.GcEngine
    const events = yield* GcEvents
    const scope = yield* Effect.scope
    const context = yield* Effect.context()
    const ended = yield* Effect.acquireRelease(PubSub.sliding<GcPass.GcPass>(PassLog.HISTORY), PubSub.shutdown)
    const lines = new Map<string, Line>()
    const log = PassLog.make()
    let serial = 0

    const lineOf = (source: PairSource): Line => {
      const name = nameOf(source)
      const known = lines.get(name)
      if (known !== undefined) return known
      const permit = Semaphore.makeUnsafe(1)
      const line: Line = { waiting: [], isServed: false, users: 0, running: undefined, deleted: 0, permit }
      lines.set(name, line)
      return line
    }

    /** Forgets a pair that nobody wants anything of. */
    const leave = (source: PairSource, line: Line): void => {
      const name = nameOf(source)
      if (!line.isServed && line.users === 0 && lines.get(name) === line) lines.delete(name)
    }

    /** In one step with the pass itself, whatever ended it: no pass is ever missing in the counts. */
    const record = (source: PairSource, pass: GcPass.GcPass): void => {
      log.add(nameOf(source), pass)
      GcMetrics.recordUnsafe(pass, context)
      PubSub.publishUnsafe(ended, pass)
    }

    /** One pass that serves all of `jobs`, whose terms are the same. */
    const pass = (line: Line, jobs: ReadonlyArray<Job>): Effect.Effect<GcPass.GcPass, CollectError> =>
      Effect.gen(function* () {
        const { source, terms } = jobs.at(-1)!
        const triggers = jobs.flatMap(({ about }) => about.trigger ?? [])
        const heard = jobs.flatMap(({ about }) => about.progress ?? [])
        const began = performance.now()
        const startedAtMillis = yield* Clock.currentTimeMillis
        let made: GcPass.GcPass | undefined
        line.deleted = 0
        const swept = Effect.flatMap(source.open, (pair) =>
          engine.sweep(pair, {
            ...terms,
            serial: ++serial,
            requests: jobs.map(({ request }) => request),
            isWanted: (i) => !jobs[i]!.isWithdrawn,
            publish: events.isObserved(source.family) ? events.publish : undefined,
            progress: heard.length === 0 ? undefined : (map, seen) => heard.forEach((hear) => hear(map, seen)),
            recorded: (written) => {
              line.deleted = GcPass.total(written, "deleted")
              made = triggers[0] === undefined ? written : { ...written, trigger: triggers[0] }
            }
          })
        )
        const plain = yield* Effect.scoped(swept).pipe(
          Effect.onExit((end) => {
            if (made === undefined && isFailed(end) && !isMissing(end)) {
              made = {
                serial: ++serial,
                ...(triggers[0] === undefined ? {} : { trigger: triggers[0] }),
                family: source.family,
                owner: Owner.describe(source.owner),
                dryRun: terms.dryRun ?? false,
                now: 0,
                startedAtMillis,
                millis: performance.now() - began,
                ...endOf(end),
                maps: [],
                requests: jobs.map(() => ({ wanted: 0, deleted: 0 }))
              }
            }
            if (made !== undefined) record(source, made)
            return Effect.void
          })
        )
        return made ?? plain
      })

    const serve = (line: Line, all: ReadonlyArray<Job>): Effect.Effect<void> =>
      Effect.gen(function* () {
        const jobs = all.filter(({ isWithdrawn }) => !isWithdrawn)
        if (jobs.length === 0) return
        const fiber = yield* Effect.forkChild(line.permit.withPermit(pass(line, jobs)), { startImmediately: true })
        line.running = { jobs, fiber }
        if (jobs.every(({ isWithdrawn }) => isWithdrawn)) fiber.interruptUnsafe()
        const exit = yield* Fiber.await(fiber).pipe(
          Effect.onInterrupt(() => Fiber.interrupt(fiber)),
          Effect.ensuring(Effect.sync(() => (line.running = undefined)))
        )
        const error = Exit.findErrorOption(exit)
        const isStopped = error._tag === "Some" && error.value instanceof GuardStopped
        // Nothing is gone yet that would be missing in the counts of one of them.
        if (jobs.length > 1 && isStopped && line.deleted === 0) {
          for (const job of jobs) yield* serve(line, [job])
          return
        }
        for (const [i, job] of jobs.entries()) {
          yield* Deferred.done(
            job.done,
            Exit.map(exit, (made): Collected => ({ pass: made, counts: made.requests[i]! }))
          )
        }
      })

    /** The jobs that share the next pass; without any, the pair is not served any more, from this moment on. */
    const take = (line: Line): ReadonlyArray<Job> => {
      const [first] = line.waiting
      if (first === undefined) {
        line.isServed = false
        return []
      }
      const jobs = line.waiting.filter((job) => sameTerms(job.terms, first.terms))
      line.waiting.splice(0, line.waiting.length, ...line.waiting.filter((job) => !jobs.includes(job)))
      return jobs
    }

    /** Serves a pair until nobody waits any more. Whatever happens, nobody who asked waits for ever. */
    const work = (source: PairSource, line: Line): Effect.Effect<void> =>
      Effect.gen(function* () {
        for (let jobs = take(line); jobs.length > 0; jobs = take(line)) {
          yield* serve(line, jobs).pipe(
            Effect.onExit((exit) =>
              Exit.isSuccess(exit)
                ? Effect.void
                : Effect.forEach(jobs, ({ done }) => Deferred.failCause(done, exit.cause), { discard: true })
            )
          )
        }
      }).pipe(
        Effect.onExit((exit) => {
          if (Exit.isSuccess(exit)) return Effect.sync(() => leave(source, line))
          line.isServed = false
          leave(source, line)
          return Effect.forEach(line.waiting.splice(0), ({ done }) => Deferred.failCause(done, exit.cause), {
            discard: true
          })
        })
      )

    const withdraw = (line: Line, job: Job): Effect.Effect<void> =>
      Effect.suspend(() => {
        job.isWithdrawn = true
        const at = line.waiting.indexOf(job)
        if (at >= 0) {
          line.waiting.splice(at, 1)
          return Effect.void
        }
        const { running } = line
        if (running === undefined || !running.jobs.includes(job)) return Effect.void
        return running.jobs.every(({ isWithdrawn }) => isWithdrawn)
          ? Effect.asVoid(Fiber.interrupt(running.fiber))
          : Effect.void
      })

    return Collector.of({
      collect: (source, request, terms = {}, about = {}) =>
        Effect.uninterruptibleMask((restore) =>
          Effect.gen(function* () {
            const done = yield* Deferred.make<Collected, CollectError>()
            const job: Job = { source, request, terms, about, done, isWithdrawn: false }
            if (scope.state._tag === "Closed") return yield* Effect.interrupt
            const line = lineOf(source)
            line.waiting.push(job)
            if (!line.isServed) {
              line.isServed = true
              yield* Effect.forkIn(Effect.interruptible(work(source, line)), scope)
            }
            return yield* restore(Deferred.await(job.done)).pipe(Effect.onInterrupt(() => withdraw(line, job)))
          })
        ),
      exclusively: (source, use) =>
        Effect.acquireUseRelease(
          Effect.sync(() => {
            const line = lineOf(source)
            line.users++
            return line
          }),
          ({ permit }) => permit.withPermit(use),
          (line) =>
            Effect.sync(() => {
              line.users--
              leave(source, line)
            })
        ),
      nextSerial: Effect.sync(() => ++serial),
      lastPasses: Effect.sync(log.last),
      history: Effect.sync(log.history),
      passes: Stream.fromPubSub(ended),
      busy: Effect.sync(() => lines.size)
    })
  })
)

/** Ended by an error, not because nobody wanted it any more. */
const isFailed = <A, E>(exit: Exit.Exit<A, E>): exit is Exit.Failure<A, E> =>
  Exit.isFailure(exit) && !Cause.hasInterruptsOnly(exit.cause)

const sameTerms = (a: Terms, b: Terms): boolean => JSON.stringify(inOrder(a)) === JSON.stringify(inOrder(b))

/** Terms without what is the default; limits that do not exist in JSON as text. */
const inOrder = ({ dryRun, limits, budget, transports, trustsClock }: Terms): ReadonlyArray<unknown> => [
  dryRun ?? false,
  limits === undefined ? null : [limits.maxDeleteRatio, limits.floor, String(limits.maxDeletions)],
  budget ?? 1,
  transports === undefined ? null : transports.toSorted(),
  trustsClock ?? false
]
