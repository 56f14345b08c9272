/**
 * The log of the agent: lines on the standard error, in a format for people or for machines, at a level that can change
 * while it runs.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as LogLevel from "effect/LogLevel"
import * as References from "effect/References"
import * as Schema from "effect/Schema"

/** Levels by rising severity, as settings and the API write them. @since 0.1.0 */
export const Level = Schema.Literals(["trace", "debug", "info", "warn", "error", "none"])
/** @since 0.1.0 */
export type Level = typeof Level.Type

/** `auto`: for people on a terminal, else `logfmt`. @since 0.1.0 */
export const Format = Schema.Literals(["auto", "pretty", "logfmt", "json"])
/** @since 0.1.0 */
export type Format = typeof Format.Type

const levels: Readonly<Record<Level, LogLevel.LogLevel>> = {
  trace: "Trace",
  debug: "Debug",
  info: "Info",
  warn: "Warn",
  error: "Error",
  none: "None"
}

/**
 * Which lines are written, from now on.
 *
 * @since 0.1.0
 */
export class LogControl extends Context.Service<
  LogControl,
  {
    readonly level: Effect.Effect<Level>
    readonly setLevel: (level: Level) => Effect.Effect<void>
  }
>()("ctmap-agent/LogControl") {}

/**
 * Writes log lines to the standard error. The formatter is asked once; the level for every line.
 *
 * @since 0.1.0
 */
export const layer = (format: Exclude<Format, "auto">): Layer.Layer<LogControl> =>
  Layer.effectContext(
    Effect.gen(function* () {
      let level: Level = "info"
      // Those of OpenTelemetry, where there are any: they obey the same level.
      const others = [...(yield* Logger.CurrentLoggers)].filter((logger) => logger !== Logger.defaultLogger)
      const all = [loggers[format], ...others]
      const chosen = Logger.make<unknown, void>((options) => {
        if (LogLevel.isGreaterThanOrEqualTo(options.logLevel, levels[level])) for (const each of all) each.log(options)
      })
      const control = LogControl.of({
        level: Effect.sync(() => level),
        setLevel: (next) => Effect.sync(() => void (level = next))
      })
      const built = yield* Layer.build(Logger.layer([chosen]))
      return built.pipe(
        Context.add(LogControl, control),
        Context.add(Logger.LogToStderr, true),
        // The logger decides: a level that is fixed here could not change.
        Context.add(References.MinimumLogLevel, "All")
      )
    })
  )

const loggers = {
  pretty: Logger.consolePretty(),
  logfmt: Logger.withConsoleError(Logger.formatLogFmt),
  json: Logger.withConsoleError(Logger.formatJson)
}
