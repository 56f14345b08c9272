/**
 * The configuration of garbage collection, checked.
 *
 * Owns names, defaults and what is allowed. Names and defaults that Cilium's users know are Cilium's. The same settings
 * come from a program (`layer`), from the environment (`layerConfig`) or from JSON (`Settings`).
 *
 * @since 0.1.0
 */
import { Family, type GcInterval } from "ctmap-core"
import * as Config from "effect/Config"
import * as Context from "effect/Context"
import * as Duration_ from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as SchemaIssue from "effect/SchemaIssue"
import * as SchemaTransformation from "effect/SchemaTransformation"
import * as GcPass from "./GcPass.ts"
import * as Guard from "./Guard.ts"
import { format, parse } from "./internal/durationText.ts"
import * as Pace from "./Pace.ts"

const LONGEST_MILLIS = 365 * 86_400_000

/**
 * A duration as Cilium's options write it: `30s`, `5m`, `12h0m0s`, `1.5h`, `500ms`; `0` and bare numbers are seconds.
 *
 * **Example** (Reading and writing)
 *
 * ```ts
 * import { GcConfig } from "ctmap-gc"
 * import * as Duration from "effect/Duration"
 * import * as Schema from "effect/Schema"
 *
 * Schema.decodeUnknownSync(GcConfig.Duration)("2h13m20s").pipe(Duration.toSeconds) // => 8000
 * Schema.encodeSync(GcConfig.Duration)(Duration.seconds(90)) // => "1m30s"
 * ```
 *
 * @since 0.1.0
 */
export const Duration = Schema.String.pipe(
  Schema.decodeTo(
    Schema.Duration.check(
      Schema.makeFilter(
        (duration) =>
          (Duration_.toMillis(duration) >= 0 && Duration_.toMillis(duration) <= LONGEST_MILLIS) ||
          "a duration between 0 and 365 days"
      )
    ),
    SchemaTransformation.transformEffect({
      decode: (text: string, options) => {
        const duration = parse(text)
        return duration === undefined
          ? Effect.fail(new SchemaIssue.InvalidValue({ message: "a duration such as 30s, 5m or 1h30m" }, text, options))
          : Effect.succeed(duration)
      },
      encode: (duration: Duration_.Duration) => Effect.succeed(format(duration))
    })
  )
)

const Share = Schema.Finite.check(
  Schema.makeFilter((share: number) => (share >= 0 && share <= 1) || "a share between 0 and 1")
)

/** Which engine deletes; `auto` takes the best that loads. @since 0.1.0 */
export const Engine = Schema.Literals(["auto", ...GcPass.Engine.literals])
/** @since 0.1.0 */
export type Engine = typeof Engine.Type

const fields = {
  /** Address families that are collected. Default both. */
  families: Schema.Array(Family.Family).check(
    Schema.makeFilter(
      (families) =>
        (families.length > 0 && new Set(families).size === families.length) || "ipv4, ipv6 or both, each at most once"
    )
  ),
  /** Cilium's `conntrack-gc-interval`: always this between two full passes. Default 0: the interval adapts. */
  conntrackGcInterval: Duration,
  /** Cilium's `conntrack-gc-max-interval`: the interval never grows beyond this. Default 0: 12 hours. */
  conntrackGcMaxInterval: Duration,
  /** What a pass that deleted nothing does to the interval. Default `grow`; Cilium's is `keep`. */
  whenNothingDeleted: Schema.Literals(["grow", "keep"]),
  /** A warning is logged once when the first scan takes longer. Default 30 s; 0 is never. */
  startupWarning: Duration,
  /** Between two passes that signals of a family cause lies at least this. Default 1 s; 0 is Cilium's, none. */
  signalMinGap: Duration,
  /** The gap doubles with every such pass that frees next to nothing, up to this. Default 5 min. */
  signalMaxGap: Duration,
  /** A pass that frees a smaller share of what it has seen frees next to nothing. Default 0.01. */
  signalMinYield: Share,
  /** How often NAT entries without a connection are looked for when no signal does. Default 1 h; 0 is only on signals. */
  orphanPurgeInterval: Duration,
  /** A family is collected early when so large a share of its entries has expired. Default 0: Cilium's schedule. */
  backlogThreshold: Share,
  /** How often that share is estimated. Default 30 s. */
  backlogCheckInterval: Duration.check(
    Schema.makeFilter((duration) => Duration_.toMillis(duration) >= 1000 || "at least 1s between two estimates")
  ),
  /** Of passes, and of orphan purges: `portable` loads no program for either. Default `auto`. */
  engine: Engine,
  /** The share of one core that a pass may use: above 0, up to 1. Default 1. */
  budget: Pace.Budget,
  /** See `Guard.Limits`. Default 0.5. */
  maxDeleteRatio: Share,
  /** See `floor` of `Guard.Limits`. Default 1,024. */
  maxDeleteFloor: Schema.Int.check(Schema.isGreaterThanOrEqualTo(0)),
  /** The most entries that one pass over a table may delete. Default 0: no limit. */
  maxDeletions: Schema.Int.check(Schema.isGreaterThanOrEqualTo(0))
}

/**
 * Every setting. Encoded, durations are text.
 *
 * @since 0.1.0
 */
export const Settings = Schema.Struct(fields).check(
  Schema.makeFilter(({ signalMinGap, signalMaxGap }) =>
    Duration_.isGreaterThan(signalMinGap, signalMaxGap)
      ? {
          path: ["signalMaxGap"],
          issue: `signalMaxGap (${format(signalMaxGap)}) is shorter than signalMinGap (${format(signalMinGap)}): raise the one or lower the other`
        }
      : undefined
  )
)
/** @since 0.1.0 */
export type Settings = typeof Settings.Type

/** What holds where nothing is said. @since 0.1.0 */
export const defaults: Settings = {
  families: ["ipv4", "ipv6"],
  conntrackGcInterval: Duration_.zero,
  conntrackGcMaxInterval: Duration_.zero,
  whenNothingDeleted: "grow",
  startupWarning: Duration_.seconds(30),
  signalMinGap: Duration_.seconds(1),
  signalMaxGap: Duration_.minutes(5),
  signalMinYield: 0.01,
  orphanPurgeInterval: Duration_.hours(1),
  backlogThreshold: 0,
  backlogCheckInterval: Duration_.seconds(30),
  engine: "auto",
  budget: 1,
  maxDeleteRatio: Guard.defaults.maxDeleteRatio,
  maxDeleteFloor: Guard.defaults.floor,
  maxDeletions: 0
}

/**
 * Settings with defaults for what is left out. Errors: `SchemaError`, with everything that is wrong.
 *
 * @since 0.1.0
 */
export const make = (settings: Partial<Settings>): Effect.Effect<Settings, Schema.SchemaError> =>
  check({ ...defaults, ...settings }, { errors: "all", onExcessProperty: "error" })

const check = Schema.decodeUnknownEffect(Schema.toType(Settings))

/** The limits of the guard, in its own terms. @since 0.1.0 */
export const guardLimits = ({ maxDeleteRatio, maxDeleteFloor, maxDeletions }: Settings): Guard.Limits => ({
  maxDeleteRatio,
  floor: maxDeleteFloor,
  maxDeletions: maxDeletions === 0 ? Number.POSITIVE_INFINITY : maxDeletions
})

/** What the interval maths is told of the settings. @since 0.1.0 */
export const intervalOptions = (settings: Settings): GcInterval.Overrides & GcInterval.Bounds => {
  const set = (duration: Duration_.Duration) => (Duration_.isZero(duration) ? undefined : duration)
  return {
    interval: set(settings.conntrackGcInterval),
    maxInterval: set(settings.conntrackGcMaxInterval),
    whenNothingDeleted: settings.whenNothingDeleted
  }
}

/** The environment variable of a setting: `CTMAP_CONNTRACK_GC_INTERVAL`. @since 0.1.0 */
export const variable = (name: keyof Settings): string =>
  `CTMAP_${name.replaceAll(/[A-Z]/g, (letter) => `_${letter}`).toUpperCase()}`

const setting = <K extends keyof Settings>(name: K, config: Config.Config<Settings[K]>) =>
  config.pipe(Config.withDefault(defaults[name]))

const ofField = <K extends Exclude<keyof Settings, "families">>(name: K): Config.Config<Settings[K]> =>
  setting(name, Config.schema(fields[name] as unknown as Schema.Codec<Settings[K], unknown>, variable(name)))

/**
 * The settings from `CTMAP_…` variables; lists are separated by commas.
 *
 * **Example** (A cap on the interval)
 *
 * ```ts
 * import { GcConfig } from "ctmap-gc"
 * import * as ConfigProvider from "effect/ConfigProvider"
 * import * as Duration from "effect/Duration"
 * import * as Effect from "effect/Effect"
 *
 * const env = ConfigProvider.fromEnvRecord({ CTMAP_CONNTRACK_GC_MAX_INTERVAL: "30m", CTMAP_FAMILIES: "ipv4" })
 * const read = Effect.provide(GcConfig.config, ConfigProvider.layer(env))
 * const settings = await Effect.runPromise(read)
 * settings.families // => ["ipv4"]
 * Duration.toMinutes(settings.conntrackGcMaxInterval) // => 30
 * ```
 *
 * @since 0.1.0
 */
export const config: Config.Config<Settings> = Config.all({
  families: setting("families", Config.Array(Family.Family, variable("families"))),
  conntrackGcInterval: ofField("conntrackGcInterval"),
  conntrackGcMaxInterval: ofField("conntrackGcMaxInterval"),
  whenNothingDeleted: ofField("whenNothingDeleted"),
  startupWarning: ofField("startupWarning"),
  signalMinGap: ofField("signalMinGap"),
  signalMaxGap: ofField("signalMaxGap"),
  signalMinYield: ofField("signalMinYield"),
  orphanPurgeInterval: ofField("orphanPurgeInterval"),
  backlogThreshold: ofField("backlogThreshold"),
  backlogCheckInterval: ofField("backlogCheckInterval"),
  engine: ofField("engine"),
  budget: ofField("budget"),
  maxDeleteRatio: ofField("maxDeleteRatio"),
  maxDeleteFloor: ofField("maxDeleteFloor"),
  maxDeletions: ofField("maxDeletions")
}).pipe(Config.mapEffect((settings) => Effect.mapError(make(settings), (error) => new Config.ConfigError(error))))

/**
 * The settings of this process.
 *
 * @since 0.1.0
 */
export class GcConfig extends Context.Service<GcConfig, Settings>()("ctmap-gc/GcConfig") {}

/** Given settings, with defaults for the rest. @since 0.1.0 */
export const layer = (settings: Partial<Settings> = {}): Layer.Layer<GcConfig, Schema.SchemaError> =>
  Layer.effect(GcConfig, make(settings))

/** The settings of the environment. @since 0.1.0 */
export const layerConfig: Layer.Layer<GcConfig, Config.ConfigError> = Layer.effect(GcConfig, config)
