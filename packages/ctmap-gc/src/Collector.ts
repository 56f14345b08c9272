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
import type * as GcPass from "./GcPass.ts"
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
     * Errors: those of opening and sweeping. Where the guard stops a shared pass, each of its requests is tried alone, so
     * that only the one that asked for too much fails. Interruption: a request that waits is withdrawn; a pass that no
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
  readonly request: GcRequest
  readonly terms: Terms
  readonly progress: GcEngine.Plan["progress"]
  readonly done: Deferred.Deferred<Collected, CollectError>
}

/** The queue of a pair and what is being done with it. */
interface Line {
  readonly source: PairSource
  readonly waiting: Array<Job>
  isServed: boolean
  running: { readonly jobs: Set<Job>; readonly fiber: Fiber.Fiber<unknown, unknown> } | undefined
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
      const line: Line = {
        source,
        waiting: [],
        isServed: false,
        running: undefined,
        permit: Semaphore.makeUnsafe(1)
      }
      lines.set(name, line)
      return line
    }

    const record = (name: string, pass: GcPass.GcPass): void => {
      last.delete(name)
      last.set(name, pass)
      PubSub.publishUnsafe(ended, pass)
    }

    /** One pass that serves all of `jobs`, whose terms are the same. */
    const pass = ({ source }: Line, jobs: ReadonlyArray<Job>): Effect.Effect<GcPass.GcPass, CollectError> =>
      Effect.scoped(
        Effect.gen(function* () {
          const pair = yield* source.open
          const heard = jobs.flatMap(({ progress }) => (progress === undefined ? [] : [progress]))
          return yield* engine.sweep(pair, {
            ...jobs[0]!.terms,
            serial: ++serial,
            requests: jobs.map(({ request }) => request),
            publish: events.isObserved(source.family) ? events.publish : undefined,
            progress: heard.length === 0 ? undefined : (map, seen) => heard.forEach((hear) => hear(map, seen)),
            recorded: (made) => record(nameOf(source), made)
          })
        })
      )

    const serve = (line: Line, jobs: ReadonlyArray<Job>): Effect.Effect<void> =>
      Effect.gen(function* () {
        const fiber = yield* Effect.forkChild(line.permit.withPermit(pass(line, jobs)), { startImmediately: true })
        line.running = { jobs: new Set(jobs), fiber }
        const exit = yield* Fiber.await(fiber).pipe(
          Effect.onInterrupt(() => Fiber.interrupt(fiber)),
          Effect.ensuring(Effect.sync(() => (line.running = undefined)))
        )
        const error = Exit.findErrorOption(exit)
        if (jobs.length > 1 && error._tag === "Some" && error.value instanceof GuardStopped) {
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

    /** Serves a pair until nobody waits any more. */
    const work = (line: Line): Effect.Effect<void> =>
      Effect.gen(function* () {
        while (line.waiting.length > 0) {
          const { terms } = line.waiting[0]!
          const jobs = line.waiting.filter((job) => sameTerms(job.terms, terms))
          line.waiting.splice(0, line.waiting.length, ...line.waiting.filter((job) => !jobs.includes(job)))
          yield* serve(line, jobs).pipe(
            Effect.onInterrupt(() => Effect.forEach(jobs, ({ done }) => Deferred.interrupt(done)))
          )
        }
      }).pipe(
        Effect.ensuring(
          Effect.suspend(() => {
            line.isServed = false
            return Effect.forEach(line.waiting.splice(0), ({ done }) => Deferred.interrupt(done))
          })
        )
      )

    const withdraw = (line: Line, job: Job): Effect.Effect<void> =>
      Effect.suspend(() => {
        const at = line.waiting.indexOf(job)
        if (at >= 0) {
          line.waiting.splice(at, 1)
          return Effect.void
        }
        const { running } = line
        if (running === undefined || !running.jobs.delete(job) || running.jobs.size > 0) return Effect.void
        return Effect.asVoid(Fiber.interrupt(running.fiber))
      })

    return Collector.of({
      collect: (source, request, terms = {}, progress) =>
        Effect.uninterruptibleMask((restore) =>
          Effect.gen(function* () {
            const line = lineOf(source)
            const job: Job = { request, terms, progress, done: yield* Deferred.make<Collected, CollectError>() }
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
