/** Starts the cells of a hive one after another, and stops them in reverse. */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Scope from "effect/Scope"
import type * as Cell from "../Cell.ts"
import * as Graph from "../Graph.ts"
import { Health, Reporter } from "../Health.ts"
import { GraphError, type HiveError, StartError } from "../HiveError.ts"
import { Jobs } from "../Job.ts"
import { Lifecycle } from "../Lifecycle.ts"
import * as Settings from "../Settings.ts"
import { within } from "./deadline.ts"
import * as HealthStore from "./healthStore.ts"
import * as JobMetrics from "./jobMetrics.ts"
import * as CellJobs from "./jobs.ts"
import * as LifecycleStore from "./lifecycleStore.ts"
import { reasonOf, sentence } from "./sentence.ts"

export interface Options {
  readonly settings: Settings.Settings["Service"] | undefined
  readonly startTimeout: Duration.Input
  readonly stopTimeout: Duration.Input
}

/** What the parts of this module share while a hive runs. */
interface Running {
  readonly hive: string
  readonly options: Options
  readonly graph: Graph.Graph
  readonly settings: Settings.Settings["Service"]
  readonly health: HealthStore.HealthStore
  readonly lifecycle: LifecycleStore.LifecycleStore
  /** The surrounding context with what every cell may use. */
  readonly base: Context.Context<never>
  /** What started cells provide, by their ids. */
  readonly provided: Map<string, Context.Context<never>>
  readonly scope: Scope.Scope
}

/** Starts all, each with a finalizer in the scope. A layer closes its scope when it fails or is interrupted, too. */
export const run = (
  cells: Graph.Cells,
  options: Options
): Effect.Effect<Context.Context<never>, HiveError, Scope.Scope> =>
  Effect.gen(function* () {
    const graph = yield* Graph.check(cells)
    const settings = options.settings ?? (yield* Settings.load(cells))
    const outer = yield* Effect.context<Scope.Scope>()
    yield* checkGiven(cells, outer)
    const health = yield* HealthStore.make(cells.name)
    const lifecycle = LifecycleStore.make(cells.name, graph.order)
    const visible = Context.empty().pipe(
      Context.add(Health, health.health),
      Context.add(Lifecycle, lifecycle.lifecycle),
      Context.add(Settings.Settings, settings)
    )
    const scope = yield* Effect.scope
    yield* Scope.addFinalizer(scope, Effect.andThen(health.say([], { status: "stopped", message: "" }), health.close))
    const running: Running = {
      hive: cells.name,
      options,
      graph,
      settings,
      health,
      lifecycle,
      base: Context.merge(outer, visible) as Context.Context<never>,
      provided: new Map(),
      scope
    }
    for (const { id } of graph.nodes)
      yield* health.add(pathOf(graph, id), { kind: "cell", status: "stopped", message: "not started yet" })
    const [, millis] = yield* LifecycleStore.timed(
      Effect.forEach(graph.order, (id) => startCell(running, id), { discard: true })
    )
    yield* Scope.addFinalizer(scope, endOf(running))
    yield* health.say([], { status: "ok", message: "" })
    yield* lifecycle.setReady(true)
    yield* Effect.logDebug(`hive "${cells.name}" has started`).pipe(
      Effect.annotateLogs({ cells: graph.order.length, millis })
    )
    const exported = [...running.provided].map(([id, context]) => publicPart(graph, id, context))
    return Context.mergeAll(visible, ...exported)
  })

/** Runs before the first cell is stopped. */
const endOf = ({ health, lifecycle }: Running): Effect.Effect<void> =>
  Effect.andThen(lifecycle.setReady(false), health.say([], { status: "stopped", message: "stopping" }))

const checkGiven = ({ given, name }: Graph.Cells, outer: Context.Context<never>) => {
  const absent = given.filter(({ key }) => !outer.mapUnsafe.has(key))
  return absent.length === 0
    ? Effect.void
    : Effect.fail(
        new GraphError({
          hive: name,
          problems: absent.map(({ key }) => ({
            kind: "not-given",
            cells: [],
            service: key,
            message: `the service "${key}" is to be given from outside, but nobody gives it: provide it to the hive's layer`
          }))
        })
      )
}

const nodeOf = (graph: Graph.Graph, id: string): Graph.Node => graph.nodes.find((node) => node.id === id)!

const pathOf = (graph: Graph.Graph, id: string | undefined): ReadonlyArray<string> =>
  id === undefined ? [] : [...pathOf(graph, nodeOf(graph, id).parent), id]

const startCell = (running: Running, id: string): Effect.Effect<void, StartError> =>
  Effect.gen(function* () {
    const { graph, health, lifecycle, options } = running
    const node = nodeOf(graph, id)
    const path = pathOf(graph, id)
    const jobs = yield* CellJobs.make({ cell: id, health, path, giveUp: lifecycle.giveUp })
    const scope = yield* Scope.make()
    yield* Scope.addFinalizerExit(running.scope, (exit) => stopCell(running, node, { jobs, scope, exit }))
    yield* lifecycle.note(id, { state: "starting", startedAtMillis: yield* Clock.currentTimeMillis })

    const limit = node.cell.startTimeout ?? options.startTimeout
    const build = buildCell(running, node, scope, Context.make(Jobs, jobs.jobs)).pipe(
      Effect.withSpan("cell.start", { attributes: { cell: id } }),
      Effect.annotateLogs({ cell: id }),
      Effect.annotateSpans({ cell: id })
    )
    const [ended, millis] = yield* LifecycleStore.timed(within(build, limit))
    const failed = failureOf(running, node, ended, limit)
    if (failed !== undefined) {
      yield* lifecycle.note(id, { state: "failed", startMillis: millis, why: failed.why })
      yield* health.say(path, { status: "degraded", message: `did not start: ${failed.why}` })
      return yield* new StartError({ hive: running.hive, cell: id, started: yield* lifecycle.started, ...failed })
    }
    if (Option.isSome(ended) && Exit.isSuccess(ended.value)) running.provided.set(id, ended.value.value)
    yield* lifecycle.note(id, { state: "started", startMillis: millis })
    yield* JobMetrics.started(id, millis)
    // The layer may have said something else by now.
    const said = (yield* health.health.tree).parts
    if (find(said, path)?.message === "starting") yield* health.say(path, { status: "ok", message: "" })
    yield* Effect.logDebug("a cell has started").pipe(Effect.annotateLogs({ cell: id, millis }))
  })

const find = (parts: ReadonlyArray<Parts>, [name, ...rest]: ReadonlyArray<string>): Parts | undefined => {
  const part = parts.find((candidate) => candidate.name === name)
  return part === undefined || rest.length === 0 ? part : find(part.parts, rest)
}

interface Parts {
  readonly name: string
  readonly message: string
  readonly parts: ReadonlyArray<Parts>
}

const buildCell = (
  { base, graph, health, provided, settings }: Running,
  { cell, id, needs }: Graph.Node,
  scope: Scope.Scope,
  jobs: Context.Context<Jobs>
): Effect.Effect<Context.Context<never>, unknown> =>
  Effect.gen(function* () {
    const path = pathOf(graph, id)
    yield* health.say(path, { status: "stopped", message: "starting" })
    const met = needs.flatMap(({ from, service }) => (from === undefined ? [] : pick(provided.get(from), [service])))
    const context = Context.mergeAll(
      base,
      jobs,
      Context.make(Reporter, health.voice(path)),
      Context.makeUnsafe(new Map(met))
    )
    if (cell.layer === undefined) return Context.empty()
    const layer = cell.layer(settings.values.get(id)) as Layer.Layer<never, unknown>
    const memo = yield* Layer.makeMemoMap
    return yield* Effect.provideContext(Layer.buildWithMemoMap(layer, memo, scope), context)
  })

const pick = (context: Context.Context<never> | undefined, keys: ReadonlyArray<string>) =>
  keys.flatMap((key): ReadonlyArray<[string, unknown]> =>
    context?.mapUnsafe.has(key) === true ? [[key, context.mapUnsafe.get(key)]] : []
  )

type Failure = Pick<StartError, "reason" | "why" | "cause">

const failureOf = (
  { graph }: Running,
  { id, cell }: Graph.Node,
  ended: Option.Option<Exit.Exit<Context.Context<never>, unknown>>,
  limit: Duration.Input
): Failure | undefined => {
  if (Option.isNone(ended)) {
    const time = Duration.format(Duration.fromInputUnsafe(limit))
    const why = `it was not done within ${time}; see what its layer waits for, or allow more with startTimeout`
    return { reason: "timed-out", why, cause: undefined }
  }
  if (Exit.isFailure(ended.value)) {
    const { cause } = ended.value
    return { reason: reasonOf(cause), why: sentence(cause), cause }
  }
  const made = ended.value.value.mapUnsafe
  const lacking = ownKeys(graph, id, cell).filter((key) => !made.has(key))
  if (lacking.length === 0) return undefined
  const why = `its layer does not make ${lacking.map((key) => `"${key}"`).join(", ")}, which the cell says it provides`
  return { reason: "incomplete", why, cause: undefined }
}

const ownKeys = (graph: Graph.Graph, id: string, cell: Cell.Any): ReadonlyArray<string> => {
  const nested = new Set(
    graph.nodes.filter(({ parent }) => parent === id).flatMap(({ id: inner }) => offered(graph, inner))
  )
  return [...nodeOf(graph, id).provides, ...cell.private.map(({ key }) => key).filter((key) => !nested.has(key))]
}

/** What a cell and those nested in it offer to what is around. */
const offered = (graph: Graph.Graph, id: string): ReadonlyArray<string> => {
  const hidden = nodeOf(graph, id).private
  const below = graph.nodes.filter(({ parent }) => parent === id).flatMap((node) => offered(graph, node.id))
  return [...nodeOf(graph, id).provides, ...below].filter((key) => !hidden.includes(key))
}

/** What the hive offers of what a cell made: nothing that it or a cell around it keeps private. */
const publicPart = (graph: Graph.Graph, id: string, context: Context.Context<never>): Context.Context<never> => {
  const around = new Set(pathOf(graph, id).flatMap((cell) => nodeOf(graph, cell).private))
  const keys = nodeOf(graph, id).provides.filter((key) => !around.has(key))
  return Context.makeUnsafe(new Map(pick(context, keys)))
}

interface Stopping {
  readonly jobs: CellJobs.CellJobs
  readonly scope: Scope.Closeable
  readonly exit: Exit.Exit<unknown, unknown>
}

/** Jobs first, then the layer. Nothing that goes wrong here keeps the other cells from being stopped. */
const stopCell = ({ graph, health, lifecycle, options }: Running, { cell, id }: Graph.Node, parts: Stopping) =>
  Effect.gen(function* () {
    const before = (yield* lifecycle.lifecycle.times).find((times) => times.cell === id)
    const hasStarted = before?.state === "started"
    if (hasStarted) yield* lifecycle.note(id, { state: "stopping" })
    const limit = cell.stopTimeout ?? options.stopTimeout
    const time = Duration.format(Duration.fromInputUnsafe(limit))
    const [why, millis] = yield* LifecycleStore.timed(
      Effect.gen(function* () {
        const late = yield* parts.jobs.stop(limit)
        const ended = yield* within(Scope.close(parts.scope, parts.exit), limit)
        return [
          ...late.map((job) => `job "${job}" did not stop within ${time}`),
          ...(Option.isNone(ended) ? [`its layer was not released within ${time}`] : []),
          ...(Option.isSome(ended) && Exit.isFailure(ended.value) ? [sentence(ended.value.cause)] : [])
        ].join("; ")
      })
    )
    const stoppedAtMillis = yield* Clock.currentTimeMillis
    if (why !== "") {
      yield* Effect.logError(`a cell did not stop cleanly: ${why}`).pipe(Effect.annotateLogs({ cell: id }))
    }
    yield* JobMetrics.stopped(id, millis)
    const path = pathOf(graph, id)
    if (!hasStarted) return yield* lifecycle.note(id, { stoppedAtMillis, stopMillis: millis })
    yield* health.say(path, why === "" ? { status: "stopped", message: "" } : { status: "degraded", message: why })
    const state = why === "" ? "stopped" : "stop-failed"
    yield* lifecycle.note(id, { state, stoppedAtMillis, stopMillis: millis, ...(why === "" ? {} : { why }) })
  })
