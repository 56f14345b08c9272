import { assert, describe, it } from "@effect/vitest"
import { Cell, Hive, Settings } from "ctmap-cell"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"

const fallback =
  <S extends Schema.Constraint>(value: S["Encoded"]) =>
  (schema: S) =>
    Schema.withDecodingDefaultKey<S>(Effect.succeed(value))(schema)

const Port = Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 65_535 }))
const config = Schema.Struct({
  apiPort: Port.annotate({ description: "where the API listens" }).pipe(fallback(80)),
  maxAge: Settings.Duration.annotate({ description: "how old" }).pipe(fallback("5m")),
  verbose: Schema.Boolean.pipe(fallback(false)),
  families: Schema.Array(Schema.Literals(["ipv4", "ipv6"])).pipe(fallback(["ipv4", "ipv6"] as const)),
  limits: Schema.Record(Schema.String, Schema.Int).pipe(fallback({})),
  note: Schema.optionalKey(Schema.String),
  token: Schema.RedactedFromValue(Schema.String.check(Schema.isMinLength(4))).pipe(fallback("none yet"))
})

class Seen extends Context.Service<Seen, typeof config.Type>()("test/Seen") {}

const cell = Cell.make("api", {
  description: "answers",
  config,
  provides: [Seen],
  layer: (values) => Layer.succeed(Seen, values)
})
const hive = Hive.make("my-app", {
  cells: [cell, Cell.make("bare", { description: "has no settings", layer: Layer.empty })]
})

const variable = (name: string) => `MY_APP_${name.replaceAll("-", "_").toUpperCase()}`

const load = (sources: Settings.Sources) => Settings.load(hive, sources)

const valuesOf = (sources: Settings.Sources) =>
  Effect.map(load(sources), ({ effective }) => Object.fromEntries(effective.map(({ name, value }) => [name, value])))
const wrong = (sources: Settings.Sources) =>
  Effect.map(Effect.flip(load(sources)), ({ issues }) => issues.map(({ message }) => message))

describe("settings", () => {
  it.effect("reach the layer of their cell, decoded", () =>
    Effect.gen(function* () {
      const settings = yield* load({ flags: ["--api-port", "8080", "--token=hush"], env: { MY_APP_FAMILIES: "ipv6" } })
      const context = yield* Layer.build(Hive.layer(hive, { settings }))
      const seen = Context.get(context, Seen)
      assert.strictEqual(seen.apiPort, 8080)
      assert.strictEqual(Duration.toMinutes(seen.maxAge), 5)
      assert.deepStrictEqual(seen.families, ["ipv6"])
      assert.strictEqual(Redacted.value(seen.token), "hush")
      assert.isFalse("note" in seen)
      assert.strictEqual(Context.get(context, Settings.Settings), settings)
    })
  )

  it.effect("are their defaults when nothing is said", () =>
    Effect.gen(function* () {
      const seen = Context.get(yield* Layer.build(Hive.layer(hive)), Seen)
      assert.deepStrictEqual([seen.apiPort, seen.verbose, seen.limits], [80, false, {}])
    })
  )

  it.effect("come from flags before the environment before the file before defaults, and say which", () =>
    Effect.gen(function* () {
      const file = { path: "/etc/app.yaml", text: "api-port: 1\nmax-age: 1m\nverbose: true\n" }
      const env = { MY_APP_API_PORT: "2", MY_APP_MAX_AGE: "120", PATH: "/bin", OTHER: undefined }
      const { effective } = yield* load({ file, env, flags: ["--api-port=3"] })
      assert.deepStrictEqual(
        effective.slice(0, 4).map(({ name, source, value, where }) => [name, value, source, where]),
        [
          ["api-port", "3", "flag", "--api-port"],
          ["max-age", "2m", "environment", "MY_APP_MAX_AGE"],
          ["verbose", "true", "file", "/etc/app.yaml: verbose"],
          ["families", "ipv4,ipv6", "default", "default"]
        ]
      )
    })
  )

  it.effect("may be written in every way that fits", () =>
    Effect.gen(function* () {
      const flags = ["--verbose", "--families", "ipv4", "--families=ipv6", "--limits", "a=1, b=2", "--note=a=b"]
      const parsed = { verbose: "true", families: ["ipv4", "ipv6"], limits: "a=1,b=2", note: "a=b" }
      const json = JSON.stringify({ verbose: true, families: ["ipv4", "ipv6"], limits: { a: 1, b: 2 }, note: "a=b" })
      const yaml = "verbose: true\nfamilies: ipv4, ipv6\nlimits:\n  a: 1\n  b: 2\nnote: a=b\n"
      const env = { MY_APP_VERBOSE: "true", MY_APP_FAMILIES: "ipv4,ipv6", MY_APP_LIMITS: "a=1,b=2", MY_APP_NOTE: "a=b" }
      const expected = { verbose: "true", families: "ipv4,ipv6", limits: "a=1,b=2", note: "a=b" }
      const ways: ReadonlyArray<Settings.Sources> = [
        { flags },
        { flags: parsed },
        { env },
        { file: { path: "a.json", text: json } },
        { file: { path: "a.yaml", text: yaml } },
        { file: { path: "a.yml", text: json } }
      ]
      for (const way of ways) assert.deepInclude(yield* valuesOf(way), expected)
      const off = yield* valuesOf({ file: { path: "a.yaml", text: yaml }, flags: ["--no-verbose"] })
      assert.strictEqual(off["verbose"], "false")
    })
  )

  it.effect("of an empty file are none", () =>
    Effect.gen(function* () {
      const defaults = yield* valuesOf({})
      for (const text of ["", "\n", "# nothing yet\n", "{}"])
        assert.deepStrictEqual(yield* valuesOf({ file: { path: "a.yaml", text } }), defaults)
    })
  )

  it.effect("have another prefix where a program wants one", () =>
    Effect.gen(function* () {
      const values = yield* valuesOf({ prefix: "CT", env: { CT_API_PORT: "9", MY_APP_API_PORT: "8" } })
      assert.strictEqual(values["api-port"], "9")
    })
  )

  it.effect("can be loaded again from what they were shown as", () =>
    Effect.gen(function* () {
      const flags = ["--max-age", "1h 30m", "--limits", "a=1,b=2", "--note", "x", "--families", "ipv6"]
      const { effective } = yield* load({ flags })
      const shown = effective.filter(({ secret, value }) => !secret && value !== undefined)
      const again = yield* load({ flags: shown.map(({ name, value }) => `--${name}=${value}`) })
      const values = (settings: Settings.Settings["Service"]) => settings.effective.map(({ value }) => value)
      assert.deepStrictEqual(values(again), values({ ...again, effective }))
    })
  )
})

describe("settings of any value", () => {
  const values = {
    port: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 65_535 })),
    millis: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 1e12 })),
    verbose: Schema.Boolean,
    families: Schema.Array(Schema.Literals(["ipv4", "ipv6"])),
    note: Schema.String
  }

  it.effect.prop("are the same from each source", values, ({ families, millis, note, port, verbose }) =>
    Effect.gen(function* () {
      const age = Schema.encodeSync(Settings.Duration)(Duration.millis(millis))
      const texts = { "api-port": `${port}`, "max-age": age, verbose: `${verbose}`, families: families.join(), note }
      const file = { ...texts, "api-port": port, verbose, families }
      const ways: ReadonlyArray<Settings.Sources> = [
        { flags: texts },
        { flags: Object.entries(texts).map(([name, text]) => `--${name}=${text}`) },
        { env: Object.fromEntries(Object.entries(texts).map(([name, text]) => [variable(name), text])) },
        { file: { path: "a.json", text: JSON.stringify(file) } }
      ]
      for (const way of ways) {
        const seen = (yield* load(way)).values.get("api") as typeof config.Type
        assert.deepInclude(seen, { apiPort: port, verbose, families, note })
        assert.strictEqual(Duration.toMillis(seen.maxAge), millis)
      }
    })
  )

  it.effect.prop(
    "are read or refused, whatever is said",
    { flags: Schema.Array(Schema.String), text: Schema.String },
    ({ flags, text }) =>
      Effect.gen(function* () {
        for (const words of [flags, flags.map((flag) => `--${flag}`), flags.map((flag) => `--api-port=${flag}`)])
          yield* Effect.catchTag(load({ flags: words }), "SettingsError", () => Effect.void)
        for (const path of ["a.yaml", "a.json"])
          yield* Effect.catchTag(load({ file: { path, text } }), "SettingsError", () => Effect.void)
      })
  )

  it.effect("may have names that every object knows", () =>
    Effect.gen(function* () {
      const fields = { toString: Schema.optionalKey(Schema.String), constructor: Schema.optionalKey(Schema.Int) }
      const odd = Cell.make("odd", { description: "", config: Schema.Struct(fields), layer: Layer.empty })
      const app = Hive.make("app", { cells: [odd] })
      const { effective } = yield* Settings.load(app, { flags: ["--constructor=7"] })
      assert.deepStrictEqual(
        effective.map(({ name, value }) => [name, value]),
        [
          ["to-string", undefined],
          ["constructor", "7"]
        ]
      )
      const error = yield* Effect.flip(Settings.load(app, { flags: ["--__proto__=1", "--has-own-property=2"] }))
      assert.strictEqual(error.issues.length, 2)
    })
  )
})

describe("mistakes", () => {
  it.effect.each<readonly [string, Settings.Sources, string]>([
    [
      "an unknown flag",
      { flags: ["--api-prot", "7"] },
      "--api-prot: there is no such setting; did you mean --api-port?"
    ],
    [
      "a flag unlike any",
      { flags: ["--zzzzzz"] },
      "--zzzzzz: there is no such setting; there are --api-port, --max-age, --verbose, --families, --limits, --note, --token"
    ],
    [
      "an unknown variable",
      { env: { MY_APP_TOKN: "x" } },
      "MY_APP_TOKN: there is no such setting; did you mean MY_APP_TOKEN?"
    ],
    [
      "an unknown key",
      { file: { path: "a.yaml", text: "max_age: 1s" } },
      "a.yaml: max_age: there is no such setting; did you mean max-age?"
    ],
    ["a word", { flags: ["api-port", "--verbose"] }, '"api-port" is not a flag: settings are --name value'],
    ["a flag without its value", { flags: ["--api-port", "--verbose"] }, "--api-port: the value is missing"],
    [
      "a value out of range",
      { flags: ["--api-port=99999"] },
      '--api-port: "99999" is not allowed: expected a value between 1 and 65535 (where the API listens)'
    ],
    [
      "a value of another kind",
      { env: { MY_APP_MAX_AGE: "soon" } },
      'MY_APP_MAX_AGE: "soon" is not allowed: expected a duration such as 30s, 5m or 1h30m (how old)'
    ],
    [
      "a word for a boolean",
      { flags: ["--verbose=yes"] },
      '--verbose: "yes" is not allowed: expected "true" | "false"'
    ],
    [
      "one item of a list",
      { file: { path: "a.yaml", text: "families: [ipv4, ipx]" } },
      'a.yaml: families: "ipv4,ipx" is not allowed: expected "ipv4" | "ipv6" at 1'
    ],
    [
      "a key without a value",
      { file: { path: "a.yaml", text: "note:" } },
      "a.yaml: note: there is no value: give one, or leave the key out"
    ],
    [
      "a file that is a list",
      { file: { path: "a.yaml", text: "- 1\n- 2" } },
      'a.yaml is not a mapping of settings: write one "name: value" a line'
    ],
    [
      "a secret that is too short",
      { env: { MY_APP_TOKEN: "abc" } },
      "MY_APP_TOKEN: the secret is not allowed: expected a value with a length of at least 4"
    ]
  ])("%s", ([, sources, message]) =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* wrong(sources), [message])
    })
  )

  it.effect("a file that cannot be read says where", () =>
    Effect.gen(function* () {
      for (const path of ["a.yaml", "a.json"]) {
        const [message] = yield* wrong({ file: { path, text: '{"a": [1' } })
        assert.match(message ?? "", new RegExp(`^${path} cannot be read: .`))
      }
    })
  )

  it.effect("are all told at once, in one error", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(load({ flags: ["--api-port=0", "--nope"], env: { MY_APP_MAX_AGE: "x" } }))
      assert.deepStrictEqual(
        error.issues.map(({ setting }) => setting),
        ["nope", "api-port", "max-age"]
      )
      assert.match(
        error.message,
        /^the settings of hive "my-app" are wrong:\n {2}- --nope: .*\n {2}- --api-port: .*\n {2}- MY_APP_MAX_AGE: /
      )
    })
  )

  it.effect("a setting without a default has to be set", () =>
    Effect.gen(function* () {
      const strict = Cell.make("strict", {
        description: "",
        config: Schema.Struct({ home: Schema.String }),
        layer: Layer.empty
      })
      const error = yield* Effect.flip(Settings.load(Hive.make("app", { cells: [strict] })))
      assert.strictEqual(
        error.message,
        'the settings of hive "app" are wrong: home has no value and no default: set it with --home, APP_HOME or the key home of a file'
      )
    })
  )

  it.effect("checks over several fields name the one that they blame", () =>
    Effect.gen(function* () {
      const range = Schema.Struct({ low: Schema.Int, high: Schema.Int }).check(
        Schema.makeFilter(({ high, low }) => (high < low ? { path: ["high"], issue: "high is below low" } : undefined))
      )
      const strict = Cell.make("strict", { description: "", config: range, layer: Layer.empty })
      const error = yield* Effect.flip(
        Settings.load(Hive.make("app", { cells: [strict] }), { flags: ["--low=5", "--high=3"] })
      )
      assert.deepStrictEqual(
        error.issues.map(({ message }) => message),
        ['--high: "3" is not allowed: high is below low']
      )
    })
  )

  it.effect("variables that Kubernetes adds, or that are somebody else's, are none", () =>
    Effect.gen(function* () {
      const env = {
        MY_APP_SERVICE_HOST: "10.0.0.1",
        MY_APP_SERVICE_PORT: "80",
        MY_APP_SERVICE_PORT_HTTP: "80",
        MY_APP_PORT: "tcp://10.0.0.1:80",
        MY_APP_PORT_80_TCP: "tcp://10.0.0.1:80",
        MY_APP_PORT_80_TCP_ADDR: "10.0.0.1",
        MY_APP_SOCKET: "mine"
      }
      assert.strictEqual((yield* valuesOf({ env, ignore: ["MY_APP_SOCKET"] }))["api-port"], "80")
      assert.strictEqual((yield* wrong({ env })).length, 1)
    })
  )
})

describe("secrets", () => {
  it.effect("are shown nowhere: not in values, defaults, help or mistakes", () =>
    Effect.gen(function* () {
      const quoting = Schema.RedactedFromValue(
        Schema.String.check(Schema.makeFilter((text: string) => text.length < 5 || `"${text}" is too long`))
      )
      const nested = Schema.Array(Schema.Redacted(Schema.String))
      const leaky = Cell.make("leaky", {
        description: "",
        config: Schema.Struct({
          key: quoting.pipe(fallback("s3cr")),
          keys: nested.pipe(Schema.withDecodingDefaultTypeKey(Effect.succeed([Redacted.make("s3cr")])))
        }),
        layer: Layer.empty
      })
      const app = Hive.make("app", { cells: [leaky] })
      const { effective } = yield* Settings.load(app, { flags: ["--keys=s3cr,s3cr"] })
      assert.deepStrictEqual(
        effective.map(({ value }) => value),
        ["<redacted>", "<redacted>"]
      )
      const error = yield* Effect.flip(Settings.load(app, { env: { APP_KEY: "s3cr-and-more" } }))
      assert.strictEqual(error.issues[0]?.message, "APP_KEY: the secret is not allowed")
      for (const text of [Settings.render(effective), Settings.help(app), JSON.stringify(effective), error.message])
        assert.notInclude(text, "s3cr")
    })
  )
})

describe("durations", () => {
  it.prop("read what they write", [Schema.Natural], ([millis]) => {
    const duration = Duration.millis(millis % (36_500 * 86_400_000))
    const text = Schema.encodeSync(Settings.Duration)(duration)
    assert.strictEqual(
      Duration.toMillis(Schema.decodeUnknownSync(Settings.Duration)(text)),
      Duration.toMillis(duration)
    )
  })

  it.each([
    ["30s", 30_000],
    ["0", 0],
    ["12h0m0s", 43_200_000],
    ["1.5h", 5_400_000],
    ["1h 30m", 5_400_000],
    ["500ms", 500],
    ["2d", 172_800_000]
  ] as const)("%s", (text, millis) => {
    assert.strictEqual(Duration.toMillis(Schema.decodeUnknownSync(Settings.Duration)(text)), millis)
  })

  it.each(["", " ", "s", "5 minutes", "-5s", "1h-30m", "1e3", "5m!", "99999999d"])("%j is none", (text) => {
    assert.throws(() => Schema.decodeUnknownSync(Settings.Duration)(text), "Expected a duration such as 30s")
  })
})

describe("help", () => {
  it("lists every setting by cell, with its default and its variable", () => {
    assert.strictEqual(
      Settings.help(hive),
      [
        "api:",
        "  --api-port VALUE  where the API listens; default 80; MY_APP_API_PORT",
        "  --max-age VALUE   how old; default 5m; MY_APP_MAX_AGE",
        "  --verbose         default false; MY_APP_VERBOSE",
        "  --families LIST   default ipv4,ipv6; MY_APP_FAMILIES",
        "  --limits MAPPING  default (empty); MY_APP_LIMITS",
        "  --note VALUE      default unset; MY_APP_NOTE",
        "  --token VALUE     default <redacted>; MY_APP_TOKEN"
      ].join("\n")
    )
  })
})
