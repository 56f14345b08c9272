/**
 * The maps of remote clusters: they join the collector; and where this agent is asked to, it keeps the outer maps.
 *
 * @since 0.1.0
 */
import { Cell, Health } from "ctmap-cell"
import { ClusterRange, ClusterSource, PerClusterCtMaps, PerClusterNatMaps } from "ctmap-cluster"
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
    .pipe(Schema.withDecodingDefaultKey(Effect.succeed(255 as const))),
  clustersAboveRange: Schema.Literals(["keep", "delete-empty", "delete"])
    .annotate({
      description:
        "what becomes of maps of clusters above the highest id when the agent starts; keep: nothing; delete-empty: those " +
        "of clusters that hold no entry are deleted; delete: all are, and their entries are lost"
    })
    .pipe(Schema.withDecodingDefaultKey(Effect.succeed("keep" as const)))
})

/** @since 0.1.0 */
export const cell = Cell.make("cluster", {
  description: "collects the maps of remote clusters, each pair with its own NAT map",
  config,
  needs: [...keys, CtMaps.CtMaps, NatMaps.NatMaps, CtMapSources.CtMapSources],
  provides: [PerClusterCtMaps.PerClusterCtMaps, PerClusterNatMaps.PerClusterNatMaps],
  layer: ({ clusterMaps, clustersAboveRange, maxConnectedClusters: max }) => {
    const keep = { max, whenDifferent: "keep", aboveRange: "keep" } as const
    const maps = Layer.merge(PerClusterCtMaps.layer(keep), PerClusterNatMaps.layer(keep))
    const open = Effect.gen(function* () {
      const ct = yield* PerClusterCtMaps.PerClusterCtMaps
      const nat = yield* PerClusterNatMaps.PerClusterNatMaps
      const opened = yield* Effect.result(Effect.andThen(ct.openOrCreate, nat.openOrCreate))
      return opened._tag === "Failure" ? [opened.failure.message] : []
    })
    const prepare = Effect.gen(function* () {
      const failed = clusterMaps === "keep" ? yield* open : []
      const left = clustersAboveRange === "keep" ? [] : yield* shrink(max, clustersAboveRange === "delete")
      // The maps of the node are collected all the same.
      const wrong = [...failed, ...left]
      if (wrong.length > 0) yield* Health.degraded(wrong.join("\n"))
    })
    return Layer.mergeAll(ClusterSource.layer(), Layer.provideMerge(Layer.effectDiscard(prepare), maps))
  }
})

/** Deletes what is above the range, says of each cluster what became of it, and answers what failed. */
const shrink = (max: ClusterId.ClusterIdMax, discardEntries: boolean) =>
  Effect.gen(function* () {
    const clusterIds = (yield* ClusterRange.above(max)).map(({ clusterId }) => clusterId)
    const removed = clusterIds.length === 0 ? [] : yield* ClusterRange.remove(clusterIds, { discardEntries })
    for (const each of removed) {
      const log = each.entries > 0 ? Effect.logWarning : Effect.logInfo
      const said = `cluster ${each.clusterId} is above the highest id, ${max}: ${ClusterRange.describe(each)}`
      if (each.outcome !== "failed") yield* log(said)
    }
    return removed.filter(({ outcome }) => outcome === "failed").map(ClusterRange.describe)
  }).pipe(Effect.catch(({ message }) => Effect.succeed([message])))
