/**
 * How much a pass may delete before it stops: the limit that contains a mistake.
 *
 * Owns the decision, pure. Expiry is the datapath's own verdict and is not limited by share; what people ask for is. An
 * orphan purge compares two tables, which has gone wrong elsewhere twice and wiped live mappings: it is limited too.
 *
 * @since 0.1.0
 */
import type { Remedy } from "ctmap-kernel"
import * as Schema from "effect/Schema"

/**
 * Limits of a pass.
 *
 * @since 0.1.0
 */
export interface Limits {
  /** The largest share of a table's entries that may go for another reason than expiry. */
  readonly maxDeleteRatio: number
  /** Up to so many entries of a table go whatever their share is: small tables turn over completely. */
  readonly floor: number
  /** The most entries that one pass over a table may delete, whatever the reason. */
  readonly maxDeletions: number
}

/**
 * Half of a table, never less than 1,024 entries, no absolute limit.
 *
 * @since 0.1.0
 */
export const defaults: Limits = { maxDeleteRatio: 0.5, floor: 1024, maxDeletions: Number.POSITIVE_INFINITY }

/** No limit at all: for a flush that was confirmed. @since 0.1.0 */
export const unlimited: Limits = { maxDeleteRatio: 1, floor: 0, maxDeletions: Number.POSITIVE_INFINITY }

/**
 * A pass would delete more than it may. What it wanted is counted, and nothing was deleted beyond `deleted`.
 *
 * @since 0.1.0
 */
export class GuardStopped extends Schema.TaggedError<GuardStopped>()("GuardStopped", {
  map: Schema.String,
  /** Entries that the pass wanted to delete when it was stopped: all of them, or the first one too many. */
  wanted: Schema.Int,
  /** The entries of the table. */
  entries: Schema.Int,
  /** The most that may go. */
  allowed: Schema.Int,
  /** How many had gone by then. */
  deleted: Schema.Int,
  limit: Schema.Literals(["max-delete-ratio", "max-deletions"])
}) {
  override get message(): string {
    return this.sentenceFor("settings")
  }

  /** The same facts, and what this reader can do. */
  sentenceFor(reader: Remedy.Reader): string {
    const share = this.entries === 0 ? 0 : Math.round((this.wanted / this.entries) * 1000) / 10
    const what =
      this.limit === "max-delete-ratio"
        ? `${this.wanted} of its ${this.entries} entries (${share} %) would go, where at most ${this.allowed} may`
        : `it reached the limit of ${this.allowed} deletions`
    const done = this.deleted === 0 ? "nothing was deleted" : `${this.deleted} were deleted before, no more since`
    const { look, more } = remedies[reader]
    return `the guard stopped the pass over map ${this.map}: ${what}; ${done}. Look at them ${look}, then allow more with ${more(this.limit)} if they are meant`
  }
}

/** How a reader can look at what a pass would delete, and what lets more go. */
interface Way {
  readonly look: string
  readonly more: (limit: GuardStopped["limit"]) => string
}

/**
 * By who reads of it.
 *
 * @since 0.1.0
 */
export const remedies: Readonly<Record<Remedy.Reader, Way>> = {
  command: { look: "with --dry-run", more: (limit) => `--${limit}` },
  request: { look: 'in a dry run ("dryRun": true)', more: (limit) => `the agent's setting ${limit}` },
  settings: { look: "in a dry run", more: (limit) => `the setting ${limit}` }
}

/**
 * How many entries of a table may go for another reason than expiry.
 *
 * **Example** (Shares and the floor)
 *
 * ```ts
 * import { Guard } from "ctmap-gc"
 *
 * Guard.allowance({ ...Guard.defaults, maxDeleteRatio: 0.25 }, 100_000) // => 25000
 * Guard.allowance(Guard.defaults, 800) // => 1024
 * Guard.allowance({ ...Guard.defaults, maxDeletions: 10 }, 800) // => 10
 * ```
 *
 * @since 0.1.0
 */
export const allowance = ({ maxDeleteRatio, floor, maxDeletions }: Limits, entries: number): number =>
  Math.min(maxDeletions, Math.max(floor, Math.floor(entries * maxDeleteRatio)))

/** The stop, where `wanted` deletions are more than may be; `undefined` otherwise. @since 0.1.0 */
export const check = (
  limits: Limits,
  about: { readonly map: string; readonly entries: number; readonly wanted: number; readonly deleted: number }
): GuardStopped | undefined => {
  const allowed = allowance(limits, about.entries)
  if (about.wanted <= allowed) return undefined
  const limit = allowed === limits.maxDeletions ? "max-deletions" : "max-delete-ratio"
  return new GuardStopped({ ...about, allowed, limit })
}
