/**
 * Where the settings of this process come from, so that they can be read again: given to the hive by the program.
 *
 * @since 0.1.0
 */
import type { HiveError, Settings } from "ctmap-cell"
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"

/** The file with settings cannot be read. @since 0.1.0 */
export class ConfigUnreadable extends Schema.TaggedError<ConfigUnreadable>()("ConfigUnreadable", {
  path: Schema.String,
  why: Schema.String
}) {
  override get message(): string {
    return `cannot read settings from ${this.path}: ${this.why}`
  }
}

/** @since 0.1.0 */
export type LoadError = HiveError.SettingsError | ConfigUnreadable

/**
 * Reads flags, environment and file anew, and checks everything.
 *
 * @since 0.1.0
 */
export class Configuration extends Context.Service<
  Configuration,
  { readonly load: Effect.Effect<Settings.Settings["Service"], LoadError> }
>()("ctmap-agent/Configuration") {}
