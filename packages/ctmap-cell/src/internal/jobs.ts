/** The jobs of one cell while it runs. */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as FiberMap from "effect/FiberMap"
import * as Option from "effect/Option"
import * as Scope from "effect/Scope"
import * as Tracer from "effect/Tracer"
import type * as Duration from "effect/Duration"
import type { JobError } from "../HiveError.ts"
import type * as Health from "../Health.ts"
import type { Jobs, Post } from "../Job.ts"
import { within } from "./deadline.ts"
import type { HealthStore } from "./healthStore.ts"
import { jobMetrics } from "./jobMetrics.ts"
import { isKebab } from "./naming.ts"

export interface CellJobs {
  readonly jobs: Jobs["Service"]
  /** Interrupts all. The names of those that were not done in time. */
  readonly stop: (limit: Duration.Input) => Effect.Effect<ReadonlyArray<string>>
}

export interface Parameters {
  readonly cell: string
  readonly health: HealthStore
  /** Where the cell stands in the tree of health. */
  readonly path: ReadonlyArray<string>
  readonly giveUp: (error: JobError) => Effect.Effect<void>
}

export const make = ({ cell, giveUp, health, path }: Parameters): Effect.Effect<CellJobs> =>
  Effect.gen(function* () {
    const scope = yield* Scope.make()
    const fibers = yield* Scope.provide(FiberMap.make<string>(), scope)
    const names = new Set<string>()

    const start: Jobs["Service"]["start"] = (name, run) =>
      Effect.gen(function* () {
        if (!isKebab(name)) return yield* wrong(`the name of job "${name}" of cell "${cell}" is not kebab-case`)
        if (names.has(name))
          return yield* wrong(`cell "${cell}" has two jobs named "${name}": names are unique in a cell`)
        names.add(name)
        const at = [...path, name]
        yield* health.add(at, { kind: "job", status: "ok", message: "" })
        const labels = { cell, job: name }
        const voice = health.voice(at)
        const post = { cell, name, giveUp, voice, own: listenedTo(voice), metrics: jobMetrics(cell, name) }
        const job = run(post).pipe(
          Effect.onInterrupt(() => health.say(at, { status: "stopped", message: "" })),
          Effect.annotateLogs(labels),
          Effect.annotateSpans(labels),
          // Not a part of the start, which is over long before.
          withoutParent
        )
        return yield* FiberMap.run(fibers, name, job)
      })

    const stop: CellJobs["stop"] = (limit) =>
      Effect.gen(function* () {
        const all = [...fibers]
        const ended = yield* within(Fiber.interruptAll(all.map(([, fiber]) => fiber)), limit)
        const late = Option.isSome(ended) ? [] : [...fibers].map(([name]) => name)
        for (const name of late)
          yield* health.say([...path, name], { status: "degraded", message: "did not stop in time" })
        if (late.length === 0) yield* Scope.close(scope, Exit.void)
        else yield* Effect.forkDetach(Scope.close(scope, Exit.void), { startImmediately: true })
        return late
      })

    return { jobs: { cell, start }, stop }
  })

const withoutParent = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.updateContext(
    effect,
    (context: Context.Context<R>) => Context.omit(Tracer.ParentSpan)(context) as Context.Context<R>
  )

/** The voice, and whether anybody spoke with it. */
const listenedTo = (voice: Health.Voice): Post["own"] => {
  let hasSpoken = false
  const heard = (saying: Effect.Effect<void>) =>
    Effect.suspend(() => {
      hasSpoken = true
      return saying
    })
  return {
    ok: (message) => heard(voice.ok(message)),
    degraded: (message) => heard(voice.degraded(message)),
    stopped: (message) => heard(voice.stopped(message)),
    part: voice.part,
    hasSpoken: () => hasSpoken,
    forget: () => void (hasSpoken = false)
  }
}

const wrong = (message: string): Effect.Effect<never> => Effect.die(new Error(message))
