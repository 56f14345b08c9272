/**
 * Which endpoints live on this node: whose local maps are collected too, and who wants to hear of live connections.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import type { EmitKept } from "./GcRequest.ts"

/**
 * An endpoint with conntrack maps of its own.
 *
 * @since 0.1.0
 */
export interface Endpoint {
  /** Its low 16 bits name the maps. */
  readonly id: number
}

/**
 * What the agent that owns the endpoints tells.
 *
 * @since 0.1.0
 */
export interface Shape {
  /** Endpoints with local maps, now. */
  readonly local: Effect.Effect<ReadonlyArray<Endpoint>>
  /**
   * Hears of the entries of global maps that a scheduled pass keeps: what Cilium keeps the names of a DNS cache alive
   * with. Called with every batch, see {@link EmitKept}.
   */
  readonly emitCtEntry: EmitKept | undefined
}

/** None, unless provided. @since 0.1.0 */
export const Endpoints = Context.Reference<Shape>("ctmap-gc/Endpoints", {
  defaultValue: () => ({ local: Effect.succeed([]), emitCtEntry: undefined })
})
