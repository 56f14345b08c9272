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
import * as PassHealth from "../PassHealth.ts"
import * as PassLog from "../PassLog.ts"
import { Reload } from "../Reload.ts"
import { SignalFeed } from "../SignalFeed.ts"

const { fields } = GcConfig.Settings
const defaults = Schema.encodeSync(GcConfig.Settings)(GcConfig.defaults)

type Fields = typeof fields

/** A setting with the collector's own default, described for people who run hosts. */
const setting = <K extends keyof Fields>(name: K, description: string) =>
  Schema.withDecodingDefaultKey<Fields[K]>(Effect.succeed(defaults[name]))(
    fields[name].annotate({ description }) as Fields[K]
  )

/** What can be set of the collector; names and defaults that users of Cilium know are Cilium's. */
const config = Schema.Struct({
  families: setting("families", "families that are collected"),
  conntrackGcInterval: setting("conntrackGcInterval", "always this between two full passes; 0: it adapts"),
  conntrackGcMaxInterval: setting("conntrackGcMaxInterval", "the interval never grows beyond this; 0: 12 hours"),
  whenNothingDeleted: setting(
    "whenNothingDeleted",
    "what a pass that deleted nothing does to the interval; keep is Cilium's"
  ),
  startupWarning: setting("startupWarning", "warn when the first pass takes longer; 0: never"),
  signalMinGap: setting("signalMinGap", "least time between two passes for signals of a family"),
  signalMaxGap: setting("signalMaxGap", "that gap doubles up to this while such passes free next to nothing"),
  signalMinYield: setting("signalMinYield", "a smaller share of what a pass saw is next to nothing"),
  orphanPurgeInterval: setting(
    "orphanPurgeInterval",
    "how often NAT entries without a connection are looked for; 0: on signals only"
  ),
  backlogThreshold: setting(
    "backlogThreshold",
    "collect a family early when so large a share of it has expired; 0: at intervals only"
  ),
  backlogCheckInterval: setting("backlogCheckInterval", "how often that share is estimated"),
  engine: setting("engine", "what deletes: auto, hybrid, kernel or portable"),
  budget: setting("budget", "the share of one core that a pass may use"),
  maxDeleteRatio: setting(
    "maxDeleteRatio",
    "guard: the largest share of a table that may go for another reason than expiry"
  ),
  maxDeleteFloor: setting("maxDeleteFloor", "guard: so many may always go"),
  maxDeletions: setting("maxDeletions", "guard: the most that one pass over a table may delete; 0: no limit")
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

/** How often to look whether what was wrong is over: a pair that is gone has no pass that could say so. */
const LOOK = "10 seconds"

interface Tellers {
  /** Says in health what is wrong by now. */
  readonly speak: Effect.Effect<void>
  readonly write: (pass: GcPass.GcPass) => Effect.Effect<void>
}

/** A collector that cannot collect is not well. */
const watchPasses = Effect.fnUntraced(function* (
  health: PassHealth.PassHealth,
  runner: GcRunner.GcRunner["Service"],
  { speak, write }: Tellers
) {
  yield* Job.observer("passes", runner.passes, (pass) =>
    Effect.gen(function* () {
      yield* write(pass)
      yield* Effect.logDebug(`a pass over ${pass.family} ${pass.owner} has ended`, pass)
      health.note(pass)
      yield* speak
    })
  )
  const look = Effect.gen(function* () {
    health.compare((yield* runner.status).last)
    yield* speak
  })
  yield* Job.timer("look", look, { every: LOOK })
})

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
        const health = PassHealth.make()
        const voice = yield* (yield* Health.Reporter).part("pairs")
        const speak = Effect.suspend(() => {
          const complaint = health.complaint()
          return complaint === undefined ? voice.ok() : voice.degraded(complaint)
        })
        const made = yield* GcRunner.make({
          signals: yield* SignalFeed,
          purged: (ran, families) => Effect.sync(() => health.purged(ran, families)),
          natEnded: (pass) =>
            Effect.andThen(
              Effect.sync(() => health.notePurge(pass)),
              speak
            )
        })
        yield* log.follow(made.lastPasses)
        yield* watchPasses(health, made, { speak, write: log.write })
        const { register } = yield* Reload
        yield* register("gc", changeable, (next) => made.reconfigure(next as GcConfig.Settings))
        return made
      })
    )
    return Layer.provideMerge(runner, Layer.mergeAll(collector, GcConfig.layer(settings)))
  }
})
