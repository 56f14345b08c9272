/**
 * The settings of all cells of a hive: from flags, the environment and a file, checked, each with where it came from.
 *
 * Owns names, precedence and what is said of mistakes. A setting is declared once, in the schema of its cell. Reads no
 * file and no environment itself: the program hands it their contents.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import * as Duration_ from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as SchemaIssue from "effect/SchemaIssue"
import * as SchemaTransformation from "effect/SchemaTransformation"
import * as Cell from "./Cell.ts"
import type { Cells } from "./Graph.ts"
import { SettingsError } from "./HiveError.ts"
import { format, parse } from "./internal/durationText.ts"
import { grouped } from "./internal/grouped.ts"
import { decodeCell } from "./internal/settingDecode.ts"
import { type Definition as DefinitionOf, definitionsOf, prefixOf } from "./internal/settingDefinitions.ts"
import { gather } from "./internal/settingSources.ts"

/**
 * A duration in settings: `30s`, `5m`, `1h30m`, `1.5h`, `500ms`; bare numbers are seconds. Whole milliseconds, at most a
 * hundred years.
 *
 * **Example** (Reading and writing)
 *
 * ```ts
 * import { Settings } from "ctmap-cell"
 * import * as Duration from "effect/Duration"
 * import * as Schema from "effect/Schema"
 *
 * Schema.decodeUnknownSync(Settings.Duration)("1h30m").pipe(Duration.toSeconds) // => 5400
 * Schema.encodeSync(Settings.Duration)(Duration.seconds(90)) // => "1m30s"
 * ```
 *
 * @since 0.1.0
 */
export const Duration = Schema.String.pipe(
  Schema.decodeTo(
    Schema.Duration,
    SchemaTransformation.transformEffect({
      decode: (text: string, options) => {
        const duration = parse(text)
        return duration === undefined || Duration_.toDays(duration) > 36_500
          ? Effect.fail(
              new SchemaIssue.InvalidValue({ message: "Expected a duration such as 30s, 5m or 1h30m" }, text, options)
            )
          : Effect.succeed(duration)
      },
      encode: (duration: Duration_.Duration) => Effect.succeed(format(duration))
    })
  )
)

/**
 * One setting as it can be set.
 *
 * @since 0.1.0
 */
export type Definition = DefinitionOf

/**
 * What settings are read from. Flags win over the environment, that over the file, and all over defaults.
 *
 * @since 0.1.0
 */
export interface Sources {
  /**
   * `--name value`, `--name=value`, for booleans `--name` and `--no-name`; a list setting may be repeated. Or flags that
   * were parsed already, by name. Anything else is a mistake.
   */
  readonly flags?: ReadonlyArray<string> | Readonly<Record<string, string | ReadonlyArray<string>>> | undefined
  /** Such as `process.env`. Variables without the prefix are not looked at. */
  readonly env?: Readonly<Record<string, string | undefined>> | undefined
  /** Variables with the prefix that somebody else reads. What Kubernetes adds for services is ignored anyway. */
  readonly ignore?: ReadonlyArray<string> | undefined
  /** A mapping in YAML (Effect's subset of 1.2) or, where the path ends in `.json`, JSON. Keys are the names of flags. */
  readonly file?: { readonly path: string; readonly text: string } | undefined
  /** Default: the hive's name, so that `agent` reads `AGENT_…`. */
  readonly prefix?: string | undefined
}

/**
 * One setting as it is.
 *
 * @since 0.1.0
 */
export interface Effective {
  readonly cell: string
  readonly name: string
  /** As it would be written in a flag; `<redacted>` for secrets, `undefined` where it is not set and has no default. */
  readonly value: string | undefined
  readonly source: "flag" | "environment" | "file" | "default"
  /** `--max-age`, `APP_MAX_AGE`, `app.yaml: max-age`, `default`. */
  readonly where: string
  readonly secret: boolean
}

/**
 * Checked settings.
 *
 * @since 0.1.0
 */
export class Settings extends Context.Service<
  Settings,
  {
    /** Every setting, in the order of the cells. */
    readonly effective: ReadonlyArray<Effective>
    /** What the layer of a cell is given, by id. */
    readonly values: ReadonlyMap<string, unknown>
  }
>()("ctmap-cell/Settings") {}

/**
 * Reads and checks the settings of a hive. Errors: `SettingsError`, with everything that is wrong: unknown names with
 * what was probably meant, and values with where they came from and what is allowed.
 *
 * **Example** (Three sources)
 *
 * ```ts
 * import { Cell, Hive, Settings } from "ctmap-cell"
 * import * as Effect from "effect/Effect"
 * import * as Layer from "effect/Layer"
 * import * as Schema from "effect/Schema"
 *
 * const api = Cell.make("api", {
 *   description: "answers requests",
 *   config: Schema.Struct({
 *     bindHost: Schema.String.pipe(Schema.withDecodingDefaultKey(Effect.succeed("127.0.0.1"))),
 *     maxAge: Schema.Int,
 *     token: Schema.RedactedFromValue(Schema.String)
 *   }),
 *   layer: Layer.empty
 * })
 * const hive = Hive.make("app", { cells: [api] })
 * const settings = await Effect.runPromise(
 *   Settings.load(hive, {
 *     flags: ["--max-age", "7"],
 *     env: { APP_MAX_AGE: "8", APP_TOKEN: "hush" },
 *     file: { path: "app.yaml", text: "bind-host: 0.0.0.0" }
 *   })
 * )
 * Settings.render(settings.effective)
 * // => [
 *   //   "# api",
 *   //   "bind-host = 0.0.0.0     # app.yaml: bind-host",
 *   //   "max-age   = 7           # --max-age",
 *   //   "token     = <redacted>  # APP_TOKEN"
 *   //   ].join("\n")
 * const wrong = await Effect.runPromise(Effect.flip(Settings.load(hive, { flags: ["--max-agee=x", "--token=t"] })))
 * wrong.issues.map(({ message }) => message)
 * // => [
 *   //   "--max-agee: there is no such setting; did you mean --max-age?",
 *   //   "max-age has no value and no default: set it with --max-age, APP_MAX_AGE or the key max-age of a file"
 *   //   ]
 * ```
 *
 * @since 0.1.0
 */
export const load = (cells: Cells, sources: Sources = {}): Effect.Effect<Settings["Service"], SettingsError> =>
  Effect.suspend(() => {
    const prefix = sources.prefix ?? prefixOf(cells.name)
    const all = Cell.flatten(cells.cells)
    const definitions = all.map((cell) => definitionsOf(cell, prefix))
    const { given, issues } = gather(definitions.flat(), sources, prefix)
    const decoded = all.map((cell, i) => decodeCell(cell, definitions[i] ?? [], given))
    const wrong = [...issues, ...decoded.flatMap((result) => result.issues)]
    if (wrong.length > 0) return Effect.fail(new SettingsError({ hive: cells.name, issues: wrong }))
    return Effect.succeed({
      effective: decoded.flatMap(({ effective }) => effective),
      values: new Map(all.map(({ id }, i) => [id, decoded[i]?.value]))
    })
  })

/**
 * Every setting that a hive has, for `--help`, documentation, or another parser of flags.
 *
 * @since 0.1.0
 */
export const definitions = (cells: Cells, prefix: string = prefixOf(cells.name)): ReadonlyArray<Definition> =>
  Cell.flatten(cells.cells).flatMap((cell) => definitionsOf(cell, prefix))

/**
 * Effective settings as text, by cell: secrets redacted, each with where it came from.
 *
 * @since 0.1.0
 */
export const render = (effective: ReadonlyArray<Effective>): string =>
  [...grouped(effective, ({ cell }) => cell)]
    .map(([cell, settings]) => {
      const rows = settings.map(({ name, value, where }) => [name, value ?? "unset", where] as const)
      const [names, values] = [widest(rows.map(([name]) => name)), widest(rows.map(([, value]) => value))]
      const lines = rows.map(([name, value, where]) => `${name.padEnd(names)} = ${value.padEnd(values)}  # ${where}`)
      return [`# ${cell}`, ...lines].join("\n")
    })
    .join("\n\n")

/**
 * Every setting as text, by cell: flag, description, default and variable.
 *
 * @since 0.1.0
 */
export const help = (cells: Cells, prefix?: string): string =>
  [...grouped(definitions(cells, prefix), ({ cell }) => cell)]
    .map(([cell, settings]) => {
      const flags = settings.map(({ flag, shape }) => (shape === "boolean" ? flag : `${flag} ${shape.toUpperCase()}`))
      const lines = settings.map(({ description, fallback, variable }, i) => {
        const text = [description, fallback === undefined ? "required" : `default ${fallback}`, variable].filter(
          Boolean
        )
        return `  ${flags[i]?.padEnd(widest(flags))}  ${text.join("; ")}`
      })
      return [`${cell}:`, ...lines].join("\n")
    })
    .join("\n\n")

// internal

const widest = (texts: ReadonlyArray<string>): number => Math.max(...texts.map(({ length }) => length))
