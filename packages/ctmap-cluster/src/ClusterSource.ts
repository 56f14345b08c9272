/**
 * Per-cluster maps where the collector and the gauges look for tables.
 *
 * Owns the list: every cluster that has a pin, as it is now. A pair is always made of one cluster's CT maps and that
 * cluster's own NAT map, so a purge cannot mistake another cluster's connections, or the node's, for its own.
 *
 * @since 0.1.0
 */
import { Family, type MapName } from "ctmap-core"
import { CtMapSources, type MapPressure } from "ctmap-gc"
import { type Bpf, type BpfError, BpfMap, type CtMaps, type NatMaps, Owner, Pins } from "ctmap-kernel"
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"

/**
 * The pair of one cluster and family, with that cluster's NAT map if it is pinned.
 *
 * @since 0.1.0
 */
export const pair = <F extends Family.Family, Id extends number>(
  family: F,
  clusterId: Id,
  maps: Context.Context<CtMaps.CtMaps | NatMaps.NatMaps>
): CtMapSources.PairSource<F, Owner.Cluster<Id>> => CtMapSources.of(family, Owner.cluster(clusterId), maps)

/**
 * Registers the pairs of all clusters with the collector.
 *
 * **Details**
 *
 * A pair is listed where a CT map of its cluster and family is pinned; if the other is not, opening the pair says so. By
 * rising id, IPv4 before IPv6. Nothing is open between two passes, and one pair at a time during one.
 *
 * **Example** (What a pass would go through)
 *
 * ```ts
 * import { CtMapSources } from "ctmap-gc"
 * import { BpfMemory, CtMaps, NatMaps } from "ctmap-kernel"
 * import { ClusterSource, PerClusterCtMaps } from "ctmap-cluster"
 * import * as Effect from "effect/Effect"
 * import * as Layer from "effect/Layer"
 *
 * const limits = { ctTcp: 1024, ctAny: 1024, nat: 1024 }
 * const program = Effect.gen(function* () {
 *   const clusters = yield* PerClusterCtMaps.PerClusterCtMaps
 *   yield* clusters.openOrCreate
 *   yield* clusters.create(7)
 *   const { pairs } = yield* CtMapSources.CtMapSources
 *   return (yield* pairs).map(CtMapSources.nameOf)
 * })
 * const layers = Layer.mergeAll(PerClusterCtMaps.layer(), ClusterSource.layer()).pipe(
 *   Layer.provideMerge(Layer.mergeAll(CtMapSources.layer, CtMaps.layer({ limits }), NatMaps.layer({ limits }))),
 *   Layer.provide(BpfMemory.layer)
 * )
 * await Effect.runPromise(Effect.provide(program, layers)) // => ["ipv4 cluster 7", "ipv6 cluster 7"]
 * ```
 *
 * @since 0.1.0
 */
export const layer = (
  families: ReadonlyArray<Family.Family> = Family.all
): Layer.Layer<never, never, CtMapSources.CtMapSources | CtMaps.CtMaps | NatMaps.NatMaps | Bpf.Bpf> =>
  Layer.effectDiscard(
    Effect.gen(function* () {
      const { register } = yield* CtMapSources.CtMapSources
      const services = yield* Effect.context<CtMaps.CtMaps | NatMaps.NatMaps | Bpf.Bpf>()
      yield* register(
        Effect.map(Effect.provide(discover, services), (clusters) =>
          clusters.flatMap(({ clusterId, ct }) =>
            families.filter((family) => ct.includes(family)).map((family) => pair(family, clusterId, services))
          )
        )
      )
    })
  )

/**
 * A cluster as its pins show it.
 *
 * @since 0.1.0
 */
export interface Discovered {
  readonly clusterId: number
  /** Families that a CT map is pinned of. */
  readonly ct: ReadonlyArray<Family.Family>
  /** Families that a NAT map is pinned of. */
  readonly nat: ReadonlyArray<Family.Family>
  readonly pins: ReadonlyArray<Pins.Pin>
}

/**
 * The clusters that have a pin, by rising id; none where nothing is pinned at all. Errors: `NotPermitted`.
 *
 * @since 0.1.0
 */
export const discover: Effect.Effect<ReadonlyArray<Discovered>, BpfError.BpfError, Bpf.Bpf> = Effect.gen(function* () {
  const pins = yield* Pins.discover.pipe(Effect.catchReason("BpfError", "PinNotFound", () => Effect.succeed([])))
  const byCluster = new Map<number, Array<Pins.Pin>>()
  for (const pin of pins) {
    const owner = Pins.ownerOf(pin.denoted)
    if (owner?._tag !== "Cluster") continue
    const found = byCluster.get(owner.clusterId)
    if (found === undefined) byCluster.set(owner.clusterId, [pin])
    else found.push(pin)
  }
  const having = (
    own: ReadonlyArray<Pins.Pin>,
    tag: "ClusterInner" | "ClusterNatInner"
  ): ReadonlyArray<Family.Family> =>
    Family.all.filter((family) => own.some(({ denoted }) => denoted._tag === tag && familyOf(denoted) === family))
  return [...byCluster]
    .toSorted(([a], [b]) => a - b)
    .map(([clusterId, own]) => ({
      clusterId,
      ct: having(own, "ClusterInner"),
      nat: having(own, "ClusterNatInner"),
      pins: own
    }))
})

const familyOf = (denoted: MapName.Denoted): Family.Family | undefined =>
  denoted._tag === "ClusterInner"
    ? denoted.kind.family
    : denoted._tag === "ClusterNatInner"
      ? denoted.family
      : undefined

/**
 * The CT and NAT maps of all clusters, for `MapPressure.layer({ tables })`; Cilium has no gauges for them.
 *
 * **Details**
 *
 * Where the pins cannot be listed there is one table, named after the directory, that does not open: so looking fails and
 * says why.
 *
 * @since 0.1.0
 */
export const tables: Effect.Effect<ReadonlyArray<MapPressure.Table>, never, Bpf.Bpf> = discover.pipe(
  Effect.map((clusters) =>
    clusters.flatMap(({ pins }) =>
      pins.map(({ name, path, denoted }): MapPressure.Table => {
        const kind = denoted._tag === "ClusterInner" ? "ct" : "nat"
        return { name, kind, open: BpfMap.open(path) }
      })
    )
  ),
  Effect.catch((error) =>
    Effect.map(Pins.pathOf(""), (directory): ReadonlyArray<MapPressure.Table> => [
      { name: directory, kind: "ct", open: Effect.fail(error) }
    ])
  )
)
