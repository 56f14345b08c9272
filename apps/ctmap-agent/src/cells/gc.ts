/**
 * The collector: passes, their schedule, their events.
 *
 * @since 0.1.0
 */
import { Cell, Health, Job } from "ctmap-cell"
import { Collector, CtMapSources, Endpoints, GcConfig, GcEngine, GcEvents, type GcPass, GcRunner } from "ctmap-gc"
import { Bpf, KernelClock, MapIterator } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as PassLog from "../PassLog.ts"
import { Reload } from "../Reload.ts"
import { SignalFeed } from "../SignalFeed.ts"

const { fields } = GcConfig.Settings
const defaults = Schema.encodeSync(GcConfig.Settings)(GcConfig.defaults)

/** A setting with the collector's own default. */
const withDefault = <S extends Schema.Constraint>(schema: S, otherwise: S["Encoded"]) =>
  Schema.withDecodingDefaultKey<S>(Effect.succeed(otherwise))(schema)

/** What can be set of the collector; names and defaults that users of Cilium know are Cilium's. */
const config = Schema.Struct({
  families: withDefault(fields.families.annotate({ description: "families that are collected" }), defaults.families),
  conntrackGcInterval: withDefault(
    fields.conntrackGcInterval.annotate({ description: "always this between two full passes; 0: it adapts" }),
    defaults.conntrackGcInterval
  ),
  conntrackGcMaxInterval: withDefault(
    fields.conntrackGcMaxInterval.annotate({ description: "the interval never grows beyond this; 0: 12 hours" }),
    defaults.conntrackGcMaxInterval
  ),
  whenNothingDeleted: withDefault(
    fields.whenNothingDeleted.annotate({
      description: "what a pass that deleted nothing does to the interval; keep is Cilium's"
    }),
    defaults.whenNothingDeleted
  ),
  startupWarning: withDefault(
    fields.startupWarning.annotate({ description: "warn when the first pass takes longer; 0: never" }),
    defaults.startupWarning
  ),
  signalMinGap: withDefault(
    fields.signalMinGap.annotate({ description: "least time between two passes for signals of a family" }),
    defaults.signalMinGap
  ),
  signalMaxGap: withDefault(
    fields.signalMaxGap.annotate({ description: "that gap doubles up to this while such passes free next to nothing" }),
    defaults.signalMaxGap
  ),
  signalMinYield: withDefault(
    fields.signalMinYield.annotate({ description: "a smaller share of what a pass saw is next to nothing" }),
    defaults.signalMinYield
  ),
  orphanPurgeInterval: withDefault(
    fields.orphanPurgeInterval.annotate({
      description: "how often NAT entries without a connection are looked for; 0: on signals only"
    }),
    defaults.orphanPurgeInterval
  ),
  backlogThreshold: withDefault(
    fields.backlogThreshold.annotate({
      description: "collect a family early when so large a share of it has expired; 0: at intervals only"
    }),
    defaults.backlogThreshold
  ),
  backlogCheckInterval: withDefault(
    fields.backlogCheckInterval.annotate({ description: "how often that share is estimated" }),
    defaults.backlogCheckInterval
  ),
  engine: withDefault(
    fields.engine.annotate({ description: "what deletes: auto, hybrid, kernel or portable" }),
    defaults.engine
  ),
  budget: withDefault(
    fields.budget.annotate({ description: "the share of one core that a pass may use" }),
    defaults.budget
  ),
  maxDeleteRatio: withDefault(
    fields.maxDeleteRatio.annotate({
      description: "guard: the largest share of a table that may go for another reason than expiry"
    }),
    defaults.maxDeleteRatio
  ),
  maxDeleteFloor: withDefault(
    fields.maxDeleteFloor.annotate({ description: "guard: so many may always go" }),
    defaults.maxDeleteFloor
  ),
  maxDeletions: withDefault(
    fields.maxDeletions.annotate({ description: "guard: the most that one pass over a table may delete; 0: no limit" }),
    defaults.maxDeletions
  )
}).check(
  Schema.makeFilter((settings) => {
    const checked = Schema.decodeUnknownResult(Schema.toType(GcConfig.Settings))(settings)
    return checked._tag === "Success" || checked.failure.message
  })
)

/** All but the engine, which is loaded once. */
const changeable = Object.keys(config.fields)
  .filter((field) => field !== "engine")
  .map((field) => field.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`))

/** What became of the last pass over each pair: a collector that cannot collect is not well. */
const reportOf = (pass: GcPass.GcPass) =>
  Effect.andThen(
    Effect.logDebug(`a pass over ${pass.family} ${pass.owner} has ended`, pass),
    pass.completed ? Health.ok() : Health.degraded(`the last pass over ${pass.family} ${pass.owner}: ${pass.why ?? ""}`)
  )

/** @since 0.1.0 */
export const cell = Cell.make("gc", {
  description: "collects what has expired, with the NAT entries that belong to it, and finds NAT entries left behind",
  config,
  needs: [
    Bpf.Bpf,
    KernelClock.KernelClock,
    MapIterator.MapIterator,
    CtMapSources.CtMapSources,
    Endpoints.Endpoints,
    SignalFeed,
    Reload
  ],
  provides: [GcRunner.GcRunner, Collector.Collector, GcEvents.GcEvents, GcConfig.GcConfig],
  layer: (settings) => {
    const log = PassLog.make()
    const collector = Collector.layer.pipe(
      Layer.provide(GcEngine.layer({ engine: settings.engine })),
      Layer.provideMerge(GcEvents.layer),
      Layer.provide(log.rest)
    )
    const runner = Layer.effect(
      GcRunner.GcRunner,
      Effect.gen(function* () {
        const made = yield* GcRunner.make({ signals: yield* SignalFeed })
        const { lastPasses, passes } = yield* Collector.Collector
        yield* log.follow(lastPasses)
        yield* Job.observer("passes", passes, (pass) => Effect.andThen(log.write(pass), reportOf(pass)))
        const { register } = yield* Reload
        yield* register("gc", changeable, (next) => made.reconfigure(next as GcConfig.Settings))
        yield* made.enable
        return made
      })
    )
    return Layer.provideMerge(runner, Layer.merge(collector, GcConfig.layer(settings)))
  }
})
