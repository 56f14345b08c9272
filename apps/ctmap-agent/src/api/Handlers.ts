/**
 * The contract, carried out.
 *
 * @since 0.1.0
 */
import { AgentApi, EntryRows, Problem, type Status } from "ctmap-api"
import { Health, Lifecycle } from "ctmap-cell"
import { GcPass, GcRunner } from "ctmap-gc"
import { KernelClock } from "ctmap-kernel"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as HttpApiBuilder from "effect/http-api/HttpApiBuilder"
import * as HttpServerRequest from "effect/http/HttpServerRequest"
import * as HttpServerResponse from "effect/http/HttpServerResponse"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { LogControl } from "../Logs.ts"
import { Reload } from "../Reload.ts"
import { version } from "../Version.ts"
import * as Collecting from "./Collecting.ts"
import * as Listing from "./Listing.ts"
import * as MapReport from "./MapReport.ts"
import * as Streams from "./Streams.ts"
import * as Watching from "./Watching.ts"

const summary = (pass: GcPass.GcPass): Status.PassSummary => ({
  serial: pass.serial,
  family: pass.family,
  owner: pass.owner,
  dryRun: pass.dryRun,
  startedAtMillis: pass.startedAtMillis,
  millis: pass.millis,
  completed: pass.completed,
  ...(pass.why === undefined ? {} : { why: pass.why }),
  seen: GcPass.total(pass, "seen"),
  deleted: GcPass.total(pass, "deleted")
})

/** Names of what is degraded, with what it says. */
const complaints = (node: Health.Node, above = ""): ReadonlyArray<string> => {
  const name = above === "" ? node.name : `${above}/${node.name}`
  return [
    ...(node.status === "degraded" ? [`${name}${node.message === "" ? "" : `: ${node.message}`}`] : []),
    ...node.parts.flatMap((part) => complaints(part, node.kind === "hive" ? "" : name))
  ]
}

const clock = (of: KernelClock.KernelClock["Service"]): Effect.Effect<Status.Status["clock"]> =>
  Effect.match(of.now, {
    onSuccess: (now) => ({ source: of.source, now }),
    onFailure: ({ message }) => ({ source: of.source, why: message })
  })

/** What handlers need, taken when they are made; but not the scope, for each request has its own. */
const ambient = <R>(): Effect.Effect<Context.Context<R>, never, R> =>
  Effect.map(Effect.context<R>(), (context) => Context.omit(Scope.Scope)(context) as Context.Context<R>)

const status = HttpApiBuilder.group(AgentApi.AgentApi, "status", (handlers) =>
  Effect.gen(function* () {
    const { tree } = yield* Health.Health
    const { isReady, times } = yield* Lifecycle.Lifecycle
    const runner = yield* GcRunner.GcRunner
    const datapath = yield* KernelClock.KernelClock
    const startedAtMillis = yield* Clock.currentTimeMillis
    return handlers.handleAll({
      status: () =>
        Effect.gen(function* () {
          const health = yield* tree
          return {
            version,
            pid: process.pid,
            startedAtMillis,
            uptimeMillis: (yield* Clock.currentTimeMillis) - startedAtMillis,
            ready: yield* isReady,
            status: Health.overall(health),
            health,
            cells: yield* times,
            clock: yield* clock(datapath),
            gc: yield* runner.status,
            passes: (yield* runner.lastPasses).map(summary)
          }
        }),
      health: () =>
        Effect.flatMap(tree, (health) =>
          Health.overall(health) === "degraded"
            ? Effect.fail(new Problem.Unhealthy({ detail: complaints(health).join("; "), health }))
            : Effect.succeed(health)
        )
    })
  })
)

/** Many who ask at once are told the same. */
const SHARED = "1 second"

const maps = HttpApiBuilder.group(AgentApi.AgentApi, "maps", (handlers) =>
  Effect.gen(function* () {
    const streams = yield* Streams.Streams
    const kernel = yield* ambient<Listing.Kernel | MapReport.Needs>()
    const report = yield* Effect.cachedWithTTL(Effect.provideContext(MapReport.report, kernel), SHARED)
    return handlers.handleAll({
      maps: () => report,
      entries: ({ query }) =>
        Effect.gen(function* () {
          yield* streams.listing
          const lines = yield* Effect.provideContext(Listing.open(query), kernel)
          return yield* streamed(lines, "application/x-ndjson")
        }),
      rows: ({ query }) =>
        Effect.gen(function* () {
          yield* streams.listing
          const rows = yield* Effect.provideContext(Listing.open(query, "rows"), kernel)
          return yield* streamed(rows, EntryRows.CONTENT_TYPE)
        })
    })
  })
)

/** Ends when the agent stops: what is cut off there breaks, and does not look complete. */
const streamed = (bytes: Stream.Stream<Uint8Array>, contentType: string) =>
  Effect.gen(function* () {
    const { method } = yield* HttpServerRequest.HttpServerRequest
    if (method === "HEAD") return HttpServerResponse.empty({ status: 200, headers: { "content-type": contentType } })
    yield* Streams.impatient
    return HttpServerResponse.stream(bytes, { contentType })
  })

const collector = HttpApiBuilder.group(AgentApi.AgentApi, "collector", (handlers) =>
  Effect.gen(function* () {
    const streams = yield* Streams.Streams
    const runner = yield* GcRunner.GcRunner
    const collecting = yield* ambient<GcRunner.GcRunner>()
    const events = yield* ambient<Watching.Needs>()
    return handlers.handleAll({
      gc: ({ payload }) => Effect.provideContext(Collecting.gc(payload), collecting),
      purge: ({ payload }) => Effect.provideContext(Collecting.purge(payload), collecting),
      purgeOrphans: ({ payload }) => Effect.provideContext(Collecting.purgeOrphans(payload), collecting),
      passes: () => Effect.all({ ct: runner.history, nat: runner.natHistory }),
      events: ({ query }) =>
        Effect.gen(function* () {
          yield* streams.events
          const heard = yield* Effect.provideContext(Watching.open(query), events)
          return yield* streamed(Stream.interruptWhen(heard, streams.stopping), "text/event-stream")
        })
    })
  })
)

const settings = HttpApiBuilder.group(AgentApi.AgentApi, "settings", (handlers) =>
  Effect.gen(function* () {
    const { effective, reload } = yield* Reload
    const log = yield* LogControl
    const level = Effect.map(log.level, (now) => ({ level: now }))
    return handlers.handleAll({
      config: () =>
        Effect.map(effective, (all) => ({
          settings: all.map(({ value, ...setting }) => ({ ...setting, ...(value === undefined ? {} : { value }) }))
        })),
      reload: () =>
        Effect.mapError(reload, (error) => {
          const issues =
            error._tag === "SettingsError"
              ? error.issues
              : [{ setting: "config", where: error.path, message: error.message }]
          return new Problem.SettingsInvalid({ detail: error.message, issues })
        }),
      logLevel: () => level,
      setLogLevel: ({ payload }) =>
        Effect.gen(function* () {
          const before = yield* log.level
          yield* log.setLevel(payload.level)
          yield* Effect.logInfo(`log lines of level ${payload.level} and above are written now; it was ${before}`)
          return yield* level
        })
    })
  })
)

/**
 * Everything that the contract lists.
 *
 * @since 0.1.0
 */
export const layer = Layer.mergeAll(status, maps, collector, settings)
