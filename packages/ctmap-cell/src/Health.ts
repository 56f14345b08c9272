/**
 * How cells and their jobs are: a tree that anybody can read, in which everybody writes about himself only.
 *
 * Owns the tree and its changes. Health says whether work gets done; whether a hive is ready is `Lifecycle.ready` and
 * does not wait for a job.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import type * as Stream from "effect/Stream"

/**
 * **Details**
 *
 * `ok`: it does what it is for. `degraded`: it does not, or not all of it. `stopped`: it does nothing, as it should: it
 * has not started, is done, or was stopped.
 *
 * @since 0.1.0
 */
export const Status = Schema.Literals(["ok", "degraded", "stopped"])
/** @since 0.1.0 */
export type Status = typeof Status.Type

/**
 * One thing's health and that of its parts, in the order they appeared.
 *
 * @since 0.1.0
 */
export type Node = {
  readonly name: string
  readonly kind: "hive" | "cell" | "job" | "part"
  readonly status: Status
  /** A sentence, or empty where there is nothing to say. */
  readonly message: string
  /** Since when it has this status and message: milliseconds since 1970. */
  readonly sinceMillis: number
  readonly parts: ReadonlyArray<Node>
}

/** @since 0.1.0 */
export const Node: Schema.Codec<Node> = Schema.Struct({
  name: Schema.String,
  kind: Schema.Literals(["hive", "cell", "job", "part"]),
  status: Status,
  message: Schema.String,
  sinceMillis: Schema.Finite,
  parts: Schema.Array(Schema.suspend((): Schema.Codec<Node> => Node))
}).annotate({ identifier: "HealthNode" })

/**
 * Where a cell, or a job of it, says how it is. To say the same again changes nothing.
 *
 * @since 0.1.0
 */
export interface Voice {
  readonly ok: (message?: string) => Effect.Effect<void>
  readonly degraded: (message: string) => Effect.Effect<void>
  readonly stopped: (message?: string) => Effect.Effect<void>
  /** Something within that has a health of its own, until the scope closes. */
  readonly part: (name: string) => Effect.Effect<Voice, never, Scope.Scope>
}

/**
 * The {@link Voice} of the cell that asks; within a job, of the job.
 *
 * @since 0.1.0
 */
export class Reporter extends Context.Service<Reporter, Voice>()("ctmap-cell/Health/Reporter") {}

/**
 * The health of everything in the hive.
 *
 * @since 0.1.0
 */
export class Health extends Context.Service<
  Health,
  {
    readonly tree: Effect.Effect<Node>
    /** The tree now, and after every change. A slow reader misses trees between, never the last. */
    readonly changes: Stream.Stream<Node>
  }
>()("ctmap-cell/Health") {}

/** Says that the cell or job at hand works. @since 0.1.0 */
export const ok = (message?: string): Effect.Effect<void, never, Reporter> => Reporter.use((voice) => voice.ok(message))

/** Says that it does not, or not all of it. @since 0.1.0 */
export const degraded = (message: string): Effect.Effect<void, never, Reporter> =>
  Reporter.use((voice) => voice.degraded(message))

/** Says that it has nothing more to do. @since 0.1.0 */
export const stopped = (message?: string): Effect.Effect<void, never, Reporter> =>
  Reporter.use((voice) => voice.stopped(message))

/**
 * The health of a thing with all its parts: degraded if anything in it is, else its own.
 *
 * **Example** (One bad part)
 *
 * ```ts
 * import { Health } from "ctmap-cell"
 *
 * const leaf = { kind: "job", message: "", sinceMillis: 0, parts: [] } as const
 * const cell = { ...leaf, kind: "cell", name: "store", status: "ok", parts: [{ ...leaf, name: "scan", status: "degraded" }] } as const
 * Health.overall(cell) // => "degraded"
 * ```
 *
 * @since 0.1.0
 */
export const overall = (node: Node): Status =>
  node.parts.some((part) => overall(part) === "degraded") ? "degraded" : node.status

/**
 * A tree as text, one line for each thing: for a terminal.
 *
 * @since 0.1.0
 */
export const render = (node: Node, indent = ""): string =>
  [
    `${indent}${node.name}: ${node.status}${node.message === "" ? "" : `, ${node.message}`}`,
    ...node.parts.map((part) => render(part, `${indent}  `))
  ].join("\n")
