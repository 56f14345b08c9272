/**
 * Who may sweep a pair, and when: one writer per pair, and requests that arrive meanwhile share the next pass.
 *
 * Owns the queue of every pair, serial numbers, and the log of passes. A hundred endpoints that are deleted at once cost
 * one pass, not a hundred; each caller gets the counts of its own request.
 *
 * @since 0.1.0
 */
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
import * as GcPass from "./GcPass.ts"
import type { GcRequest } from "./GcRequest.ts"
import { GuardStopped } from "./Guard.ts"

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
     * caller waits for any more is interrupted between two batches.
     */
    readonly collect: (
      source: PairSource,
      request: GcRequest,
      terms?: Terms,
      progress?: GcEngine.Plan["progress"]
    ) => Effect.Effect<Collected, CollectError>
    /** Does something else with a pair that nobody may sweep meanwhile. */
    readonly exclusively: <A, E>(source: PairSource, use: Effect.Effect<A, E>) => Effect.Effect<A, E>
    /** A new serial number. */
    readonly nextSerial: Effect.Effect<number>
    /** The last pass over each pair, the latest last. */
    readonly lastPasses: Effect.Effect<ReadonlyArray<GcPass.GcPass>>
    /** Records of passes as they end, from now on; a slow reader misses some. */
    readonly passes: Stream.Stream<GcPass.GcPass>
  }
>()("ctmap-gc/Collector") {}

/** A request in the queue of a pair. */
interface Job {
  /** Opened by whoever asks: what was registered under a name may have been replaced since. */
  readonly source: PairSource
  readonly request: GcRequest
  readonly terms: Terms
  readonly progress: GcEngine.Plan["progress"]
  readonly done: Deferred.Deferred<Collected, CollectError>
  /** Its caller has gone. */
  isWithdrawn: boolean
}

/** The queue of a pair and what is being done with it. */
interface Line {
  readonly waiting: Array<Job>
  isServed: boolean
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
    const ended = yield* Effect.acquireRelease(PubSub.sliding<GcPass.GcPass>(64), PubSub.shutdown)
    const lines = new Map<string, Line>()
    const last = new Map<string, GcPass.GcPass>()
    let serial = 0

    const lineOf = (source: PairSource): Line => {
      const name = nameOf(source)
      const known = lines.get(name)
      if (known !== undefined) return known
      const permit = Semaphore.makeUnsafe(1)
      const line: Line = { waiting: [], isServed: false, running: undefined, deleted: 0, permit }
      lines.set(name, line)
      return line
    }

    const record = (name: string, pass: GcPass.GcPass): void => {
      last.delete(name)
      last.set(name, pass)
      PubSub.publishUnsafe(ended, pass)
    }

    /** One pass that serves all of `jobs`, whose terms are the same. */
    const pass = (line: Line, jobs: ReadonlyArray<Job>): Effect.Effect<GcPass.GcPass, CollectError> =>
      Effect.scoped(
        Effect.gen(function* () {
          line.deleted = 0
          const { source, terms } = jobs.at(-1)!
          const pair = yield* source.open
          const heard = jobs.flatMap(({ progress }) => (progress === undefined ? [] : [progress]))
          return yield* engine.sweep(pair, {
            ...terms,
            serial: ++serial,
            requests: jobs.map(({ request }) => request),
            publish: events.isObserved(source.family) ? events.publish : undefined,
            progress: heard.length === 0 ? undefined : (map, seen) => heard.forEach((hear) => hear(map, seen)),
            recorded: (made) => {
              line.deleted = GcPass.total(made, "deleted")
              record(nameOf(source), made)
            }
          })
        })
      )

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
    const work = (line: Line): Effect.Effect<void> =>
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
          if (Exit.isSuccess(exit)) return Effect.void
          line.isServed = false
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
      collect: (source, request, terms = {}, progress) =>
        Effect.uninterruptibleMask((restore) =>
          Effect.gen(function* () {
            const line = lineOf(source)
            const done = yield* Deferred.make<Collected, CollectError>()
            const job: Job = { source, request, terms, progress, done, isWithdrawn: false }
            if (scope.state._tag === "Closed") return yield* Effect.interrupt
            line.waiting.push(job)
            if (!line.isServed) {
              line.isServed = true
              yield* Effect.forkIn(Effect.interruptible(work(line)), scope)
            }
            return yield* restore(Deferred.await(job.done)).pipe(Effect.onInterrupt(() => withdraw(line, job)))
          })
        ),
      exclusively: (source, use) => lineOf(source).permit.withPermit(use),
      nextSerial: Effect.sync(() => ++serial),
      lastPasses: Effect.sync(() => [...last.values()]),
      passes: Stream.fromPubSub(ended)
    })
  })
)

const sameTerms = (a: Terms, b: Terms): boolean => JSON.stringify(inOrder(a)) === JSON.stringify(inOrder(b))

/** Terms without what is the default; limits that do not exist in JSON as text. */
const inOrder = ({ dryRun, limits, budget, transports, trustsClock }: Terms): ReadonlyArray<unknown> => [
  dryRun ?? false,
  limits === undefined ? null : [limits.maxDeleteRatio, limits.floor, String(limits.maxDeletions)],
  budget ?? 1,
  transports === undefined ? null : transports.toSorted(),
  trustsClock ?? false
]
