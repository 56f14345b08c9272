/**
 * The collector of a host: the periodic loop, passes on request, and the streams of what they delete.
 *
 * Owns the composition of schedule, collector, sources and signals; each of them can be had alone. What an agent runs, and
 * what Cilium's `GCRunner` is.
 *
 * @since 0.1.0
 */
import type { Family } from "ctmap-core"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Ref from "effect/Ref"
import * as Stream from "effect/Stream"
import { Bpf, type KernelClock } from "ctmap-kernel"
import { type Collected, type CollectError, Collector, type Terms } from "./Collector.ts"
import { CtMapSources, nameOf, type OpenError, type PairSource } from "./CtMapSources.ts"
import * as Backlog from "./Backlog.ts"
import { Endpoints } from "./Endpoints.ts"
import * as GcConfig from "./GcConfig.ts"
import { type Deleted, type GcEvent, GcEvents, layer as eventsLayer } from "./GcEvents.ts"
import * as GcMetrics from "./GcMetrics.ts"
import type * as GcPass from "./GcPass.ts"
import type * as GcRequest from "./GcRequest.ts"
import * as GcSchedule from "./GcSchedule.ts"
import { everyPair } from "./internal/everyPair.ts"
import * as OrphanPurge from "./internal/orphanPurge.ts"
import { complainer, outcomeOf } from "./internal/roundOutcome.ts"
import type * as NatPass from "./NatPass.ts"
import type * as NatPurge from "./NatPurge.ts"

/**
 * What a request came to, pair by pair: a pair that fails does not keep the others from being collected.
 *
 * @since 0.1.0
 */
export interface Ran<A, E> {
  readonly pairs: ReadonlyArray<{
    readonly pair: string
    readonly source: PairSource
    readonly exit: Exit.Exit<A, E>
  }>
  /** Entries deleted, for this request, over all pairs. */
  readonly deleted: number
  /** Why there may be further pairs that were left out: some could not be listed. Absent where all were. */
  readonly unlisted?: ReadonlyArray<OpenError>
}

/** @since 0.1.0 */
export type RanCt = Ran<Collected, CollectError>
/** @since 0.1.0 */
export type RanNat = Ran<NatPass.NatPass | undefined, NatPurge.NatPassError | OpenError>

/**
 * Which pairs a request is about. Default all.
 *
 * @since 0.1.0
 */
export type Choice = (source: Pick<PairSource, "family" | "owner">) => boolean

/**
 * Where the schedule hears that a table is full.
 *
 * @since 0.1.0
 */
export type Signals = Pick<GcSchedule.Parameters, "signals" | "mute" | "unmute">

/**
 * See the module.
 *
 * @since 0.1.0
 */
export class GcRunner extends Context.Service<
  GcRunner,
  {
    /** Starts the periodic loop, once; it ends with the layer. */
    readonly enable: Effect.Effect<void>
    /**
     * Carries out a request on every pair, or on those that are chosen. Errors: `BpfError` where the pairs cannot be
     * listed; what happens to a pair stands in its exit.
     */
    readonly run: (
      request: GcRequest.GcRequest,
      options?: Terms & { readonly choose?: Choice; readonly trigger?: GcPass.Trigger }
    ) => Effect.Effect<RanCt, OpenError>
    /** Carries out a request on one pair: Cilium's `Run(map, filter)`. */
    readonly runPair: (
      source: PairSource,
      request: GcRequest.GcRequest,
      terms?: Terms
    ) => Effect.Effect<Collected, CollectError>
    /** Deletes NAT entries whose connection is gone, of every pair that has a NAT map or of those chosen. */
    readonly purgeOrphans: (
      options?: Pick<NatPurge.Options, "dryRun" | "limits" | "budget"> & { readonly choose?: Choice }
    ) => Effect.Effect<RanNat, OpenError>
    /** What passes delete of IPv4 tables, from now on; ends with the layer. */
    readonly observe4: Stream.Stream<GcEvent>
    /** See {@link observe4}. */
    readonly observe6: Stream.Stream<GcEvent>
    /** The pass that ended last; `undefined` before the first. */
    readonly lastPass: Effect.Effect<GcPass.GcPass | undefined>
    /** The last pass over each of the 1,024 pairs that were swept last. */
    readonly lastPasses: Effect.Effect<ReadonlyArray<GcPass.GcPass>>
    /** The last 128 passes over CT maps, newest last: scheduled ones and those on request, with what brought each about. */
    readonly history: Effect.Effect<ReadonlyArray<GcPass.GcPass>>
    /** The last 128 purges of orphans, newest last, the incomplete ones too. */
    readonly natHistory: Effect.Effect<ReadonlyArray<NatPass.NatPass>>
    /** Those passes as they end, from now on; a reader who is more than 128 behind misses some. Ends with the layer. */
    readonly passes: Stream.Stream<GcPass.GcPass>
    /** What the schedule does next, and why. */
    readonly status: Effect.Effect<GcSchedule.Status>
    /** Waits until the first scheduled pass has ended, successful or not. */
    readonly initialScanDone: Effect.Effect<void>
    /** Asks the schedule for a pass over families soon. */
    readonly request: (families?: ReadonlyArray<Family.Family>) => Effect.Effect<void>
    /** The settings that hold now. */
    readonly settings: Effect.Effect<GcConfig.Settings>
    /**
     * Goes by other settings from now on, as an agent does that is told to read its configuration again.
     *
     * **Details**
     *
     * The limits of the guard and the budget hold from the next pass on, also for requests that say nothing of their
     * own; everything about time from the next decision on, see `GcSchedule.reconfigure`. A pass that runs ends under the
     * settings that it began with. The engine cannot change: a warning says so where it would, and the old one is kept.
     * Families that are added must be listed by a source (`CtMapSources.layerNode` lists both by default). Interruption
     * and errors: none.
     */
    readonly reconfigure: (settings: GcConfig.Settings) => Effect.Effect<void>
  }
>()("ctmap-gc/GcRunner") {}

/**
 * What the layer can be given besides its services.
 *
 * @since 0.1.0
 */
export interface Options {
  readonly signals?: Signals
  /** Estimates the expired share of families, for a schedule with a backlog threshold. Default: by sampling. */
  readonly backlog?: GcSchedule.Parameters["backlog"]
  /** Hears what came of every purge of orphans that the schedule made over families: where one cannot, mappings leak. */
  readonly purged?: (ran: RanNat, families: ReadonlyArray<Family.Family>) => Effect.Effect<void>
  /** Hears of every purge of orphans over a pair, scheduled or on request, in the step that ends it. */
  readonly natEnded?: (pass: NatPass.NatPass) => Effect.Effect<void>
}

/** See {@link GcRunner}. @since 0.1.0 */
export const make = Effect.fnUntraced(function* (options: Options = {}) {
  let settings = yield* GcConfig.GcConfig
  const collector = yield* Collector
  const { list } = yield* CtMapSources
  const events = yield* GcEvents
  const bpf = yield* Bpf.Bpf
  const scope = yield* Effect.scope
  const { emitCtEntry } = yield* Endpoints
  const isEnabled = yield* Ref.make(false)
  const complain = complainer()
  const complainOfPurge = complainer("purge of NAT entries of ")
  /** What a pass that begins now goes by, unless its request says otherwise. */
  const terms = (): Terms => ({ limits: GcConfig.guardLimits(settings), budget: settings.budget })

  const overPairs = everyPair(list)

  const collect = (source: PairSource, request: GcRequest.GcRequest, given: Terms = {}, trigger?: GcPass.Trigger) =>
    Effect.suspend(() => collector.collect(source, request, { ...terms(), ...given }, { trigger })).pipe(
      Effect.tapErrorTag("GuardStopped", () => GcMetrics.recordGuardStop)
    )

  const run: GcRunner["Service"]["run"] = (request, { choose = () => true, trigger = "request", ...given } = {}) =>
    overPairs(
      choose,
      (source) => collect(source, request, given, trigger),
      ({ counts }) => counts.deleted
    )

  const { natHistory, purgeOrphans } = OrphanPurge.make({
    bpf,
    collector,
    overPairs,
    terms,
    engine: settings.engine,
    ended: options.natEnded ?? (() => Effect.void)
  })

  const schedule = yield* GcSchedule.make({
    ...options.signals,
    settings,
    backlog: options.backlog ?? (yield* Backlog.make),
    decided: ({ intervalMillis, next }) =>
      Effect.gen(function* () {
        yield* GcMetrics.recordInterval(Duration.millis(intervalMillis))
        for (const family of next?.families ?? []) yield* GcMetrics.recordNextRun(family, next!.atMillis)
      }),
    round: (families, { trigger }) =>
      overPairs(
        ({ family }) => families.includes(family),
        (source) => collect(source, { expired: true, emit: isGlobal(source) ? emitCtEntry : undefined }, {}, trigger),
        ({ counts }) => counts.deleted
      ).pipe(Effect.tap(complain), Effect.map(outcomeOf)),
    purgeOrphans: (families) =>
      purgeOrphans({ choose: ({ family }) => families.includes(family) }).pipe(
        Effect.tap(complainOfPurge),
        Effect.tap((ran) => options.purged?.(ran, families) ?? Effect.void)
      )
  })

  yield* GcMetrics.initialise
  yield* GcMetrics.exportLost(events)

  return GcRunner.of({
    enable: Effect.gen(function* () {
      if (yield* Ref.getAndSet(isEnabled, true)) return
      yield* Effect.forkIn(schedule.run, scope)
    }),
    run,
    runPair: (source, request, given) => collect(source, request, given, "request"),
    purgeOrphans,
    observe4: events.observe4,
    observe6: events.observe6,
    lastPass: Effect.map(collector.lastPasses, (passes) => passes.at(-1)),
    lastPasses: collector.lastPasses,
    history: collector.history,
    natHistory,
    passes: collector.passes,
    status: schedule.status,
    initialScanDone: schedule.initialScanDone,
    request: schedule.request,
    settings: Effect.sync(() => settings),
    reconfigure: (given) =>
      Effect.gen(function* () {
        const { engine } = settings
        if (given.engine !== engine) {
          yield* Effect.logWarning(
            `the engine is ${engine} until the collector is started anew: it cannot become ${given.engine} meanwhile`
          )
        }
        settings = { ...given, engine }
        yield* schedule.reconfigure(settings)
      })
  })
})

const isGlobal = ({ owner }: PairSource): boolean => owner._tag === "Global"

/**
 * The collector over a kernel.
 *
 * @since 0.1.0
 */
export const layer = (
  options: Options = {}
): Layer.Layer<
  GcRunner,
  never,
  GcConfig.GcConfig | Collector | CtMapSources | GcEvents | KernelClock.KernelClock | Bpf.Bpf
> => Layer.effect(GcRunner, make(options))

/**
 * A collector that does nothing, as Cilium's fake: no loop, no passes, and streams without an event that never end, for
 * an end says that the collector has gone.
 *
 * @since 0.1.0
 */
export const layerNoop: Layer.Layer<GcRunner> = Layer.succeed(GcRunner, {
  enable: Effect.void,
  run: () => Effect.succeed({ pairs: [], deleted: 0 }),
  runPair: (source) =>
    Effect.succeed({
      pass: {
        serial: 0,
        family: source.family,
        owner: nameOf(source),
        dryRun: false,
        now: 0,
        startedAtMillis: 0,
        millis: 0,
        completed: true,
        maps: [],
        requests: []
      },
      counts: { wanted: 0, deleted: 0 }
    }),
  purgeOrphans: () => Effect.succeed({ pairs: [], deleted: 0 }),
  observe4: Stream.never,
  observe6: Stream.never,
  lastPass: Effect.succeed(undefined),
  lastPasses: Effect.succeed([]),
  history: Effect.succeed([]),
  natHistory: Effect.succeed([]),
  passes: Stream.never,
  status: Effect.flatMap(
    Effect.suspend(() => idle),
    ({ status }) => status
  ),
  initialScanDone: Effect.void,
  request: () => Effect.void,
  settings: Effect.succeed(GcConfig.defaults),
  reconfigure: () => Effect.void
})

const idle = GcSchedule.make({
  settings: GcConfig.defaults,
  round: () => Effect.succeed({ success: true, ratio: 0, deleted: 0 }),
  purgeOrphans: () => Effect.succeed({ deleted: 0 })
})

/**
 * The tester's side of {@link layerTest}.
 *
 * @since 0.1.0
 */
export class Control extends Context.Service<
  Control,
  {
    /** Requests that `run` and `runPair` were given, in order. */
    readonly requests: Effect.Effect<ReadonlyArray<GcRequest.GcRequest>>
    readonly isEnabled: Effect.Effect<boolean>
    /** Settings that `reconfigure` was given, in order. */
    readonly settings: Effect.Effect<ReadonlyArray<GcConfig.Settings>>
    /** Tells whoever observes. */
    readonly publish: (event: Deleted) => Effect.Effect<void>
    /** What `run` answers from now on. Default: nothing deleted. */
    readonly answer: (ran: Ran<Collected, CollectError>) => Effect.Effect<void>
  }
>()("ctmap-gc/GcRunner/Control") {}

/**
 * A collector that a test plays: it notes what it is asked for, answers what it is told to, and deletes nothing.
 *
 * **Example** (An agent that scrubs an address)
 *
 * ```ts
 * import { GcRequest, GcRunner } from "ctmap-gc"
 * import * as Effect from "effect/Effect"
 *
 * const program = Effect.gen(function* () {
 *   const { run } = yield* GcRunner.GcRunner
 *   yield* run(GcRequest.expired)
 *   return yield* Effect.flatMap(GcRunner.Control, ({ requests }) => requests)
 * })
 * await Effect.runPromise(Effect.provide(program, GcRunner.layerTest)) // => [{ expired: true }]
 * ```
 *
 * @since 0.1.0
 */
export const layerTest: Layer.Layer<GcRunner | Control> = Layer.effectContext(
  Effect.gen(function* () {
    const { observe4, observe6, publish } = yield* GcEvents
    const noop = yield* GcRunner.pipe(Effect.provide(layerNoop))
    const requests: Array<GcRequest.GcRequest> = []
    const settings: Array<GcConfig.Settings> = []
    let isEnabled = false
    let answered: RanCt = { pairs: [], deleted: 0 }
    const runner = GcRunner.of({
      ...noop,
      enable: Effect.sync(() => void (isEnabled = true)),
      run: (request) =>
        Effect.sync(() => {
          requests.push(request)
          return answered
        }),
      runPair: (source, request) =>
        Effect.andThen(
          Effect.sync(() => requests.push(request)),
          noop.runPair(source, request)
        ),
      observe4,
      observe6,
      settings: Effect.sync(() => settings.at(-1) ?? GcConfig.defaults),
      reconfigure: (given) => Effect.sync(() => void settings.push(given))
    })
    const control = Control.of({
      requests: Effect.sync(() => [...requests]),
      isEnabled: Effect.sync(() => isEnabled),
      settings: Effect.sync(() => [...settings]),
      publish: (event) => Effect.sync(() => publish(event)),
      answer: (ran) => Effect.sync(() => void (answered = ran))
    })
    return Context.make(GcRunner, runner).pipe(Context.add(Control, control))
  })
).pipe(Layer.provide(eventsLayer))
