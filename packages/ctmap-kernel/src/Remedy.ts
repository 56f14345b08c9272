/**
 * Who reads an error, and hence by what name the remedy is known to them: a flag, a field of a request, a setting.
 *
 * An error whose remedy has several names says it to each reader in a sentence of the same facts. Its `message` names
 * settings, which is what logs, records and health are read with.
 *
 * @since 0.1.0
 */

/**
 * `command`: who typed a command, and has its flags. `request`: who asked an agent, and has the fields of the request; the
 * agent's settings are somebody's else, perhaps. `settings`: who runs the program, and has its settings.
 *
 * @since 0.1.0
 */
export type Reader = "command" | "request" | "settings"

/** An error that has a sentence for each reader. @since 0.1.0 */
export interface Addressed {
  readonly sentenceFor: (reader: Reader) => string
}

const isAddressed = (error: unknown): error is Addressed =>
  typeof error === "object" && error !== null && "sentenceFor" in error && typeof error.sentenceFor === "function"

/**
 * What an error says to a reader: its message, where it says the same to all.
 *
 * **Example** (A table that does not fit the clock)
 *
 * ```ts
 * import { CtTime } from "ctmap-core"
 * import { KernelClock, Remedy } from "ctmap-kernel"
 *
 * const times = { now: 60, latest: 4_000_000, maxLifetimeSeconds: 604_800 }
 * const error = new KernelClock.ImplausibleClock({ map: "cilium_ct4_global", source: CtTime.ktime, ...times })
 * Remedy.sentence(error, "command").endsWith("choose it with --clock, or override the time with --now") // => true
 * Remedy.sentence(new Error("no"), "command") // => "no"
 * ```
 *
 * @since 0.1.0
 */
export const sentence = (error: unknown, reader: Reader): string =>
  isAddressed(error) ? error.sentenceFor(reader) : error instanceof Error ? error.message : String(error)
