/**
 * What the flags of the commands come to, as plain values: flags are declared in `Flags`, handlers take these.
 *
 * @since 0.1.0
 */
import type { Family, Release } from "ctmap-core"
import type * as Redacted from "effect/Redacted"

/** Which agent is asked. @since 0.1.0 */
export interface Agent {
  /** The path of its socket, or its URL; absent for where agents are unless the environment says otherwise. */
  readonly at: string | undefined
  /** For TCP. */
  readonly token: Redacted.Redacted | undefined
}

/** Which maps. @since 0.1.0 */
export interface Selection {
  readonly family: Family.Family | "all"
  /** Pin names; empty for all maps of the owner. */
  readonly map: ReadonlyArray<string>
  readonly cluster: number | undefined
  readonly endpoint: number | undefined
  /** How to read a table that does not show which release wrote it. */
  readonly release: Release.Release
}

/** What time it is. @since 0.1.0 */
export interface ClockOptions {
  readonly clock: "ktime" | "jiffies" | undefined
  readonly hz: number | undefined
  readonly now: number | undefined
}

/** How entries are printed. @since 0.1.0 */
export type Format = "text" | "table" | "json" | "ndjson" | "cilium-json"

/** What is printed of the entries, and how. @since 0.1.0 */
export interface Listing extends Selection, ClockOptions {
  readonly where: string | undefined
  readonly output: Format
  readonly limit: number | undefined
  readonly sort: string | undefined
}

/** Map sizes as Cilium's options name them. @since 0.1.0 */
export interface Sizes {
  readonly ctTcp: number
  readonly ctAny: number
  readonly nat: number
}

/** How a pass that deletes is done. @since 0.1.0 */
export interface Passing extends Selection, ClockOptions {
  readonly dryRun: boolean
  readonly engine: "auto" | "hybrid" | "kernel" | "portable"
  /** Of a table's entries; absent for the guard's own. */
  readonly maxDeleteRatio: number | undefined
  readonly maxDeletions: number | undefined
  /** Share of one core. */
  readonly budget: number
  readonly output: "text" | "table" | "json" | "ndjson"
}
