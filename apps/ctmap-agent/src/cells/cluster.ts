/**
 * The maps of remote clusters: they join the collector; and where this agent is asked to, it keeps the outer maps.
 *
 * @since 0.1.0
 */
import { Cell, Health } from "ctmap-cell"
import { ClusterSource, PerClusterCtMaps, PerClusterNatMaps } from "ctmap-cluster"
import { ClusterId } from "ctmap-core"
import { CtMapSources } from "ctmap-gc"
import { CtMaps, NatMaps } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import { keys } from "./kernel.ts"

const config = Schema.Struct({
  clusterMaps: Schema.Literals(["collect", "keep"])
    .annotate({
      description:
        "collect: what the datapath pins of clusters is collected, and nothing made; keep: this agent also makes and " +
        "mends the outer maps that clusters are entered into"
    })
    .pipe(Schema.withDecodingDefaultKey(Effect.succeed("collect" as const))),
  maxConnectedClusters: Schema.Literals(ClusterId.CLUSTER_ID_MAX)
    .annotate({ description: "the highest cluster id" })
    .pipe(Schema.withDecodingDefaultKey(Effect.succeed(255 as const)))
})

/** @since 0.1.0 */
export const cell = Cell.make("cluster", {
  description: "collects the maps of remote clusters, each pair with its own NAT map",
  config,
  needs: [...keys, CtMaps.CtMaps, NatMaps.NatMaps, CtMapSources.CtMapSources],
  provides: [PerClusterCtMaps.PerClusterCtMaps, PerClusterNatMaps.PerClusterNatMaps],
  layer: ({ clusterMaps, maxConnectedClusters: max }) => {
    const maps = Layer.merge(
      PerClusterCtMaps.layer({ max, whenDifferent: "keep" }),
      PerClusterNatMaps.layer({ max, whenDifferent: "keep" })
    )
    const open = Effect.gen(function* () {
      const ct = yield* PerClusterCtMaps.PerClusterCtMaps
      const nat = yield* PerClusterNatMaps.PerClusterNatMaps
      const opened = yield* Effect.result(Effect.andThen(ct.openOrCreate, nat.openOrCreate))
      // The maps of the node are collected all the same.
      if (opened._tag === "Failure") yield* Health.degraded(opened.failure.message)
    })
    return Layer.mergeAll(
      ClusterSource.layer(),
      clusterMaps === "keep" ? Layer.provideMerge(Layer.effectDiscard(open), maps) : maps
    )
  }
})
