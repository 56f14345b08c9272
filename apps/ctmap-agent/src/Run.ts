/**
 * The agent as a process: settings, log, hive, and what a signal does.
 *
 * @since 0.1.0
 */
import { Hive, Lifecycle } from "ctmap-cell"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Queue from "effect/Queue"
import { hive } from "./Agent.ts"
import type * as Log from "./cells/log.ts"
import { Configuration } from "./Configuration.ts"
import * as Logs from "./Logs.ts"
import { Reload } from "./Reload.ts"
import * as Telemetry from "./Telemetry.ts"

/** How long a cell may take to stop: all of them together have the five seconds that an init system grants. */
const STOP_TIMEOUT = "2 seconds"

/**
 * Runs until it is interrupted, or until a job that the agent cannot do without has failed for good. Errors: settings
 * that are wrong, cells that do not start.
 *
 * @since 0.1.0
 */
export const run = (configuration: Configuration["Service"], version: string) =>
  Effect.gen(function* () {
    const hangups = yield* hearHangups
    const settings = yield* configuration.load
    const { logFormat } = settings.values.get("log") as Log.Config
    const format = logFormat === "auto" ? (process.stderr.isTTY ? "pretty" : "logfmt") : logFormat
    const around = Layer.mergeAll(Logs.layer(format), Layer.succeed(Configuration, configuration)).pipe(
      Layer.provideMerge(Telemetry.layer(environment(), version))
    )
    const agent = Hive.layer(hive, { settings, stopTimeout: STOP_TIMEOUT })
    return yield* Effect.gen(function* () {
      yield* Effect.logInfo(`ctmap-agent ${version} is running`)
      yield* Effect.addFinalizer(() => Effect.logInfo("ctmap-agent stops"))
      const { failure } = yield* Lifecycle.Lifecycle
      return yield* Effect.raceFirst(failure, reloads(hangups))
    }).pipe(Effect.scoped, Effect.provide(Layer.provideMerge(agent, around)))
  }).pipe(Effect.scoped)

const environment = () =>
  Object.fromEntries(Object.entries(process.env).flatMap(([name, text]) => (text === undefined ? [] : [[name, text]])))

/** From the beginning: a SIGHUP that nobody hears would end a process that has not started yet. */
const hearHangups = Effect.gen(function* () {
  const hangups = yield* Queue.sliding<void>(1)
  const hear = () => void Queue.offerUnsafe(hangups, undefined)
  yield* Effect.acquireRelease(
    Effect.sync(() => process.on("SIGHUP", hear)),
    () => Effect.sync(() => process.off("SIGHUP", hear))
  )
  return hangups
})

/** Every SIGHUP brings a reload; those that come meanwhile share the next. */
const reloads = (hangups: Queue.Dequeue<void>) =>
  Effect.gen(function* () {
    const { reload } = yield* Reload
    // What is wrong has been logged.
    return yield* Effect.forever(Effect.andThen(Queue.take(hangups), Effect.ignore(reload)))
  })
