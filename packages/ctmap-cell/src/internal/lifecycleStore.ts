/** Where the times of a hive's cells are written down. */
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import type { JobError } from "../HiveError.ts"
import type { CellTimes, Lifecycle } from "../Lifecycle.ts"

export interface LifecycleStore {
  readonly lifecycle: Lifecycle["Service"]
  readonly note: (cell: string, change: Partial<CellTimes>) => Effect.Effect<void>
  /** All have started, or one begins to stop. */
  readonly setReady: (isReady: boolean) => Effect.Effect<void>
  readonly giveUp: (error: JobError) => Effect.Effect<void>
  /** The cells that have started, in order. */
  readonly started: Effect.Effect<ReadonlyArray<string>>
}

export const make = (hive: string, order: ReadonlyArray<string>): LifecycleStore => {
  const times = new Map(order.map((cell): [string, CellTimes] => [cell, { cell, state: "waiting" }]))
  const ready = Deferred.makeUnsafe<void>()
  const failure = Deferred.makeUnsafe<never, JobError>()
  let isReady = false
  return {
    lifecycle: {
      hive,
      times: Effect.sync(() => [...times.values()]),
      ready: Deferred.await(ready),
      isReady: Effect.sync(() => isReady),
      failure: Deferred.await(failure)
    },
    note: (cell, change) =>
      Effect.sync(() => void times.set(cell, { cell, state: "waiting", ...times.get(cell), ...change })),
    setReady: (value) =>
      Effect.suspend(() => {
        isReady = value
        return value ? Deferred.succeed(ready, undefined) : Effect.void
      }),
    giveUp: (error) => Effect.asVoid(Deferred.fail(failure, error)),
    started: Effect.sync(() => [...times.values()].filter(({ state }) => state === "started").map(({ cell }) => cell))
  }
}

/** How long an effect took, in milliseconds rounded to a thousandth. */
export const timed = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<readonly [A, number], E, R> =>
  Effect.gen(function* () {
    const began = yield* Clock.monotonicTimeNanos
    const result = yield* effect
    return [result, Math.round(Number((yield* Clock.monotonicTimeNanos) - began) / 1000) / 1000] as const
  })
