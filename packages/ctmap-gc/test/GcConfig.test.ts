import { assert, describe, it } from "@effect/vitest"
import { GcConfig, Guard } from "ctmap-gc"
import * as ConfigProvider from "effect/ConfigProvider"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"

const fromEnv = (env: Record<string, string>) =>
  Effect.provide(GcConfig.config, ConfigProvider.layer(ConfigProvider.fromEnvRecord(env)))

describe("durations", () => {
  const decode = Schema.decodeUnknownResult(GcConfig.Duration)
  it.each([
    ["0", 0],
    ["0s", 0],
    ["30", 30_000],
    ["30s", 30_000],
    ["5m0s", 300_000],
    ["12h0m0s", 43_200_000],
    ["1.5h", 5_400_000],
    ["2h13m20s", 8_000_000],
    ["500ms", 500],
    ["2d", 172_800_000]
  ])("%s is %i ms", (text, millis) => {
    assert.strictEqual(Duration.toMillis(Result.getOrThrow(decode(text))), millis)
  })

  it.each(["", "s", "5 minutes", "-3s", "3s5m", "5M", "Infinity", "1e3s", "400d"])("%j is none", (text) => {
    assert.isTrue(Result.isFailure(decode(text)))
  })

  it.prop(
    "what is written is read back",
    [Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 3e10 }))],
    ([millis]) => {
      const text = Schema.encodeSync(GcConfig.Duration)(Duration.millis(millis))
      assert.strictEqual(Duration.toMillis(Result.getOrThrow(decode(text))), millis)
    }
  )
})

describe("settings", () => {
  it.effect("are Cilium's where nothing is said", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* fromEnv({}), GcConfig.defaults)
      assert.deepStrictEqual(yield* GcConfig.make({}), GcConfig.defaults)
      const { interval, maxInterval } = GcConfig.intervalOptions(GcConfig.defaults)
      assert.deepStrictEqual([interval, maxInterval], [undefined, undefined])
      assert.deepStrictEqual(GcConfig.guardLimits(GcConfig.defaults), Guard.defaults)
    })
  )

  it.effect("all have a variable", () =>
    Effect.gen(function* () {
      const encoded = Schema.encodeSync(GcConfig.Settings)({
        ...GcConfig.defaults,
        families: ["ipv6"],
        conntrackGcInterval: Duration.seconds(1),
        conntrackGcMaxInterval: Duration.seconds(2),
        whenNothingDeleted: "keep",
        startupWarning: Duration.seconds(3),
        signalMinGap: Duration.seconds(4),
        signalMaxGap: Duration.seconds(5),
        signalMinYield: 0.5,
        orphanPurgeInterval: Duration.seconds(6),
        backlogThreshold: 0.75,
        backlogCheckInterval: Duration.seconds(7),
        engine: "portable",
        budget: 0.25,
        maxDeleteRatio: 0.1,
        maxDeleteFloor: 8,
        maxDeletions: 9
      })
      const names = Object.keys(GcConfig.defaults) as ReadonlyArray<keyof GcConfig.Settings>
      const env = Object.fromEntries(names.map((name) => [GcConfig.variable(name), String(encoded[name])]))
      const settings = yield* fromEnv(env)
      assert.deepStrictEqual(Schema.encodeSync(GcConfig.Settings)(settings), encoded)
      for (const name of names) assert.notDeepEqual(settings[name], GcConfig.defaults[name], name)
      assert.strictEqual(GcConfig.guardLimits(settings).maxDeletions, 9)
    })
  )

  it.effect.each([
    { env: { CTMAP_CONNTRACK_GC_INTERVAL: "soon" }, says: "a duration such as 30s, 5m or 1h30m" },
    { env: { CTMAP_BUDGET: "0" }, says: "a CPU budget is a share of one core, above 0 and up to 1" },
    { env: { CTMAP_BACKLOG_THRESHOLD: "25" }, says: "a share between 0 and 1" },
    { env: { CTMAP_BACKLOG_CHECK_INTERVAL: "0" }, says: "at least 1s between two estimates" },
    { env: { CTMAP_ENGINE: "fastest" }, says: '"auto"' },
    { env: { CTMAP_FAMILIES: "ipv5" }, says: '"ipv4"' },
    { env: { CTMAP_FAMILIES: "ipv4,ipv4" }, says: "ipv4, ipv6 or both, each at most once" },
    { env: { CTMAP_SIGNAL_MIN_GAP: "10m" }, says: "signalMaxGap (5m) is shorter than signalMinGap (10m)" }
  ])("$env is refused, and the error says what is allowed", ({ env, says }) =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(fromEnv(env))
      assert.include(error.message, says)
    })
  )

  it.effect("that do not exist are refused", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(GcConfig.make({ conntrackGcIntervall: Duration.zero } as object))
      assert.include(error.message, "conntrackGcIntervall")
    })
  )

  it.effect("are provided by layers", () =>
    Effect.gen(function* () {
      const { budget } = yield* Effect.provide(GcConfig.GcConfig, GcConfig.layer({ budget: 0.5 }))
      assert.strictEqual(budget, 0.5)
      const env = ConfigProvider.layer(ConfigProvider.fromEnvRecord({ CTMAP_BUDGET: "0.25" }))
      const read = yield* Effect.provide(GcConfig.GcConfig, Layer.provide(GcConfig.layerConfig, env))
      assert.strictEqual(read.budget, 0.25)
    })
  )
})
