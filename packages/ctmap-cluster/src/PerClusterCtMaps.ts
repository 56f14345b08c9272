/**
 * The per-cluster CT maps of a host: an outer map for each kind, which the datapath indexes by cluster id, and an inner
 * map for each cluster and kind, which is pinned under a name of its own.
 *
 * Owns making, finding and deleting them; whose connections they hold is the datapath's. What is known of clusters is read
 * from the pins each time, so it is the same after a restart. What their maps hold is collected as `ClusterSource` says.
 *
 * @see `pkg/maps/ctmap/per_cluster_ctmap.go` of Cilium
 * @since 0.1.0
 */
import { type ClusterId, Family, type MapKind } from "ctmap-core"
import { type Bpf, type BpfError, CtMaps, type CtPair, Owner } from "ctmap-kernel"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import type { ClusterFailed, Label } from "./ClusterError.ts"
import * as ClusterTable from "./internal/clusterTable.ts"
import * as OuterMaps from "./internal/outerMaps.ts"

export type {
  /** @since 0.1.0 */
  ClusterError,
  /** @since 0.1.0 */
  Options
} from "./internal/outerMaps.ts"

/**
 * An inner map: not open, and not known to exist.
 *
 * @since 0.1.0
 */
export interface ClusterCtMap extends CtMaps.Which<Family.Family, MapKind.Transport, Owner.Cluster> {
  readonly label: Label
  readonly name: string
  readonly path: string
  /** Errors: `PinNotFound`, `NotPermitted`. */
  readonly open: Effect.Effect<
    CtPair.CtMap<Family.Family, MapKind.Transport, Owner.Cluster>,
    BpfError.BpfError,
    Scope.Scope
  >
}

/**
 * See the module.
 *
 * @since 0.1.0
 */
export class PerClusterCtMaps extends Context.Service<
  PerClusterCtMaps,
  {
    /**
     * Opens the outer maps of the enabled families, or makes them. What was cut off half-way is finished, and maps of
     * clusters above the range are deleted as far as `aboveRange` says; what of that fails is logged, and tried again by
     * the next operation.
     */
    readonly openOrCreate: Effect.Effect<void, ClusterFailed>
    /** Closes the outer maps; pins stay. Harmless twice. */
    readonly close: Effect.Effect<void>
    /**
     * Makes the maps of a cluster that are missing and enters all of them into the outer maps. A cluster that cannot be
     * made whole is not made at all.
     */
    readonly create: (clusterId: number) => Effect.Effect<void, OuterMaps.ClusterError>
    /** Takes the maps of a cluster out of the outer maps, and their pins away. Nothing to do is fine. */
    readonly delete: (clusterId: number) => Effect.Effect<void, OuterMaps.ClusterError>
    /** The maps of a cluster, of the enabled families, in the order tcp4, any4, tcp6, any6. */
    readonly get: (clusterId: number) => Effect.Effect<ReadonlyArray<ClusterCtMap>, ClusterId.InvalidClusterId>
    /** The maps of every cluster that has a pin, by rising id, each as {@link get}. */
    readonly getAll: Effect.Effect<ReadonlyArray<ClusterCtMap>, BpfError.BpfError>
  }
>()("ctmap-cluster/PerClusterCtMaps") {}

/** See {@link layer}. @since 0.1.0 */
export const make: (
  options?: OuterMaps.Options
) => Effect.Effect<PerClusterCtMaps["Service"], never, CtMaps.CtMaps | Bpf.Bpf | Scope.Scope> = Effect.fnUntraced(
  function* (options: OuterMaps.Options = {}) {
    const maps = yield* CtMaps.CtMaps
    const tables = yield* ClusterTable.ctTables(options.families)
    const outer = yield* OuterMaps.make(tables, { maps: "CT", update: "update outer CT map" }, options)
    const mapsOf = (clusterId: number): ReadonlyArray<ClusterCtMap> =>
      tables.map(({ label, family, transport = "tcp", innerName, innerPath }) => {
        const owner = Owner.cluster(clusterId)
        const [name, path] = [innerName(clusterId), innerPath(clusterId)]
        return { family, transport, owner, label, name, path, open: maps.open({ family, transport, owner }) }
      })
    return PerClusterCtMaps.of({
      openOrCreate: outer.openOrCreate,
      close: outer.close,
      create: outer.create,
      delete: outer.delete,
      get: (clusterId) => Effect.map(outer.check(clusterId), mapsOf),
      getAll: Effect.map(outer.ids, (ids) => ids.flatMap(mapsOf))
    })
  }
)

/**
 * Over the configured bpffs, with sizes as `CtMaps` has them: inner maps are as large as the global map of their kind.
 *
 * **Details**
 *
 * Nothing is opened before `openOrCreate`. Every operation is tried on all outer maps and tells of every one that failed
 * (`ClusterFailed`); one operation runs at a time. Errors: `InvalidClusterId`, `OuterMapsNotOpen`, `ClusterFailed`.
 * Ownership: fds of outer maps are the layer's; pins outlive it. Kernel: CAP_BPF, and write access to the directory of the
 * pins. A slot that changes waits 10 ms and more for the kernel, on another thread.
 *
 * **Example** (Two clusters, found again after a restart)
 *
 * ```ts
 * import { PerClusterCtMaps } from "ctmap-cluster"
 * import { BpfMemory, CtMaps } from "ctmap-kernel"
 * import * as Effect from "effect/Effect"
 * import * as Layer from "effect/Layer"
 *
 * const limits = { ctTcp: 1024, ctAny: 1024, nat: 1024 }
 * const agent = PerClusterCtMaps.layer({ families: ["ipv4"] }).pipe(Layer.provide(CtMaps.layer({ limits })))
 * const first = Effect.gen(function* () {
 *   const clusters = yield* PerClusterCtMaps.PerClusterCtMaps
 *   yield* clusters.openOrCreate
 *   yield* clusters.create(1)
 *   yield* clusters.create(255)
 * })
 * const second = Effect.flatMap(PerClusterCtMaps.PerClusterCtMaps, ({ getAll }) => getAll)
 * const both = Effect.andThen(
 *   Effect.provide(first, Layer.fresh(agent)),
 *   Effect.map(Effect.provide(second, Layer.fresh(agent)), (maps) => maps.map(({ name }) => name))
 * )
 * await Effect.runPromise(Effect.provide(both, BpfMemory.layer))
 * // => ["cilium_per_cluster_ct_tcp4_1", "cilium_per_cluster_ct_any4_1", "cilium_per_cluster_ct_tcp4_255", "cilium_per_cluster_ct_any4_255"]
 * ```
 *
 * @since 0.1.0
 */
export const layer = (options?: OuterMaps.Options): Layer.Layer<PerClusterCtMaps, never, CtMaps.CtMaps | Bpf.Bpf> =>
  Layer.effect(PerClusterCtMaps, make(options))

/**
 * Deletes the per-cluster CT maps of families, inner and outer: Cilium's `CleanupPerClusterCTMaps`.
 *
 * **Details**
 *
 * For when the feature is off: what still uses the outer maps keeps using them. Of clusters in any range. Nothing to do is
 * fine. Errors: `ClusterFailed`, after everything has been tried.
 *
 * @since 0.1.0
 */
export const cleanup = (
  families: ReadonlyArray<Family.Family> = Family.all
): Effect.Effect<void, ClusterFailed, CtMaps.CtMaps | Bpf.Bpf> =>
  Effect.flatMap(ClusterTable.ctTables(families), OuterMaps.cleanup)

/**
 * The tester's side of {@link layerTest}.
 *
 * @since 0.1.0
 */
export class Control extends Context.Service<
  Control,
  {
    readonly has: (clusterId: number) => boolean
    /** Rising. */
    readonly ids: () => ReadonlyArray<number>
  }
>()("ctmap-cluster/PerClusterCtMaps/Control") {}

/**
 * A stand-in that notes ids, as Cilium's: it checks none of them, and has no maps.
 *
 * **Example** (What a caller made)
 *
 * ```ts
 * import { PerClusterCtMaps } from "ctmap-cluster"
 * import * as Effect from "effect/Effect"
 *
 * const program = Effect.gen(function* () {
 *   const { create } = yield* PerClusterCtMaps.PerClusterCtMaps
 *   yield* create(7)
 *   const { has } = yield* PerClusterCtMaps.Control
 *   return [has(7), has(8)]
 * })
 * Effect.runSync(Effect.provide(program, PerClusterCtMaps.layerTest)) // => [true, false]
 * ```
 *
 * @since 0.1.0
 */
export const layerTest: Layer.Layer<PerClusterCtMaps | Control> = Layer.effectContext(
  Effect.sync(() => {
    const { control, create, remove } = OuterMaps.notes()
    const maps = PerClusterCtMaps.of({
      openOrCreate: Effect.void,
      close: Effect.void,
      create,
      delete: remove,
      get: () => Effect.succeed([]),
      getAll: Effect.succeed([])
    })
    return Context.make(PerClusterCtMaps, maps).pipe(Context.add(Control, control))
  })
)
