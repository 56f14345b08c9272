/**
 * Which pairs of maps are collected: those of the node and of its endpoints. Clusters join from their own cell.
 *
 * @since 0.1.0
 */
import { Cell } from "ctmap-cell"
import { CtMapSources, Endpoints } from "ctmap-gc"
import { CtMaps, NatMaps } from "ctmap-kernel"
import * as Layer from "effect/Layer"

/** @since 0.1.0 */
export const cell = Cell.make("sources", {
  description: "lists the pairs of maps there are to collect, as they are pinned by then",
  needs: [CtMaps.CtMaps, NatMaps.NatMaps, Endpoints.Endpoints],
  provides: [CtMapSources.CtMapSources],
  layer: Layer.provideMerge(CtMapSources.layerNode(), CtMapSources.layer)
})
