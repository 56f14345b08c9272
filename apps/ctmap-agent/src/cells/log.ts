/**
 * How the agent logs. The loggers themselves are around the hive, so that its start is in the log, too.
 *
 * @since 0.1.0
 */
import { Cell } from "ctmap-cell"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as Logs from "../Logs.ts"
import { Reload } from "../Reload.ts"

/** Its settings, which the program needs before the hive starts. */
const config = Schema.Struct({
  logLevel: Logs.Level.annotate({
    description: "the least severe lines that are written: trace to error, or none"
  }).pipe(Schema.withDecodingDefaultKey(Effect.succeed("info" as const))),
  logFormat: Logs.Format.annotate({
    description: "pretty for people, logfmt or json for machines; auto: pretty on a terminal, else logfmt"
  }).pipe(Schema.withDecodingDefaultKey(Effect.succeed("auto" as const)))
})

/** @since 0.1.0 */
export type Config = typeof config.Type

/** @since 0.1.0 */
export const cell = Cell.make("log", {
  description: "log lines on the standard error, at a level that can change",
  config,
  needs: [Logs.LogControl, Reload],
  layer: ({ logLevel }) =>
    Layer.effectDiscard(
      Effect.gen(function* () {
        const { level, setLevel } = yield* Logs.LogControl
        const { announce, register } = yield* Reload
        let setting = logLevel
        yield* setLevel(setting)
        yield* register("log", ["log-level"], (next) => {
          setting = (next as Config).logLevel
          return setLevel(setting)
        })
        // Who looks closely must not lose that to a reload of something else; nor may it stay unnoticed.
        const remind = Effect.flatMap(level, (now) =>
          now === setting
            ? Effect.void
            : Effect.logWarning(
                `log lines of level ${now} and above are still written, by request; the setting log-level is ${setting}`
              )
        )
        yield* announce(Effect.void, remind)
      })
    )
})
