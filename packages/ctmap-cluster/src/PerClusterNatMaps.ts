/**
 * The per-cluster NAT maps of a host: the twin of `PerClusterCtMaps`, with an outer map for each family.
 *
 * @see `pkg/maps/nat/per_cluster_nat.go` of Cilium
 * @since 0.1.0
 */
import { type ClusterId, Family } from "ctmap-core"
import { type Bpf, type BpfError, type CtPair, NatMaps, Owner } from "ctmap-kernel"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import { type ClusterFailed, FamilyNotEnabled, type Label } from "./ClusterError.ts"
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
export interface ClusterNatMap {
  readonly family: Family.Family
  readonly owner: Owner.Cluster
  readonly label: Label
  readonly name: string
  readonly path: string
  /** Errors: `PinNotFound`, `NotPermitted`. */
  readonly open: Effect.Effect<CtPair.NatMap<Family.Family, Owner.Cluster>, BpfError.BpfError, Scope.Scope>
}

/**
 * See the module.
 *
 * @since 0.1.0
 */
export class PerClusterNatMaps extends Context.Service<
  PerClusterNatMaps,
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
    /** The map of a cluster and family. Errors: `FamilyNotEnabled` where that is off. */
    readonly get: (
      clusterId: number,
      family: Family.Family
    ) => Effect.Effect<ClusterNatMap, ClusterId.InvalidClusterId | FamilyNotEnabled>
    /** The maps of every cluster that has a pin, by rising id, IPv4 before IPv6. */
    readonly getAll: Effect.Effect<ReadonlyArray<ClusterNatMap>, BpfError.BpfError>
  }
>()("ctmap-cluster/PerClusterNatMaps") {}

/** See {@link layer}. @since 0.1.0 */
export const make: (
  options?: OuterMaps.Options
) => Effect.Effect<PerClusterNatMaps["Service"], never, NatMaps.NatMaps | Bpf.Bpf | Scope.Scope> = Effect.fnUntraced(
  function* (options: OuterMaps.Options = {}) {
    const maps = yield* NatMaps.NatMaps
    const tables = yield* ClusterTable.natTables(options.families)
    const outer = yield* OuterMaps.make(tables, { maps: "NAT", update: "update outer map" }, options)
    const mapsOf = (clusterId: number): ReadonlyArray<ClusterNatMap> =>
      tables.map(({ label, family, innerName, innerPath }) => {
        const owner = Owner.cluster(clusterId)
        const [name, path] = [innerName(clusterId), innerPath(clusterId)]
        return { family, owner, label, name, path, open: maps.open(family, owner) }
      })
    return PerClusterNatMaps.of({
      openOrCreate: outer.openOrCreate,
      close: outer.close,
      create: outer.create,
      delete: outer.delete,
      get: (clusterId, family) =>
        Effect.gen(function* () {
          yield* outer.check(clusterId)
          const map = mapsOf(clusterId).find((each) => each.family === family)
          return map ?? (yield* new FamilyNotEnabled({ family }))
        }),
      getAll: Effect.map(outer.ids, (ids) => ids.flatMap(mapsOf))
    })
  }
)

/**
 * Over the configured bpffs, with sizes as `NatMaps` has them.
 *
 * **Details**
 *
 * Nothing is opened before `openOrCreate`. Every operation is tried on all outer maps and tells of every one that failed
 * (`ClusterFailed`); one operation runs at a time. Errors: `InvalidClusterId`, `OuterMapsNotOpen`, `ClusterFailed`.
 * Ownership: fds of outer maps are the layer's; pins outlive it. Kernel: CAP_BPF, and write access to the directory of the
 * pins. A slot that changes waits 10 ms and more for the kernel, on another thread.
 *
 * **Example** (A family that is off)
 *
 * ```ts
 * import { PerClusterNatMaps } from "ctmap-cluster"
 * import { BpfMemory, NatMaps } from "ctmap-kernel"
 * import * as Effect from "effect/Effect"
 * import * as Layer from "effect/Layer"
 *
 * const program = Effect.gen(function* () {
 *   const { get } = yield* PerClusterNatMaps.PerClusterNatMaps
 *   return [(yield* get(3, "ipv4")).name, (yield* Effect.flip(get(3, "ipv6"))).message]
 * })
 * const layer = PerClusterNatMaps.layer({ families: ["ipv4"] }).pipe(
 *   Layer.provide(NatMaps.layer()),
 *   Layer.provide(BpfMemory.layer)
 * )
 * await Effect.runPromise(Effect.provide(program, layer))
 * // => ["cilium_per_cluster_snat_v4_external_3", "IP family ipv6 not enabled"]
 * ```
 *
 * @since 0.1.0
 */
export const layer = (options?: OuterMaps.Options): Layer.Layer<PerClusterNatMaps, never, NatMaps.NatMaps | Bpf.Bpf> =>
  Layer.effect(PerClusterNatMaps, make(options))

/**
 * Deletes the per-cluster NAT maps of families, inner and outer: Cilium's `CleanupPerClusterNATMaps`.
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
): Effect.Effect<void, ClusterFailed, NatMaps.NatMaps | Bpf.Bpf> =>
  Effect.flatMap(ClusterTable.natTables(families), OuterMaps.cleanup)

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
>()("ctmap-cluster/PerClusterNatMaps/Control") {}

/**
 * A stand-in that notes ids, as Cilium's: it checks none of them, and has no maps, so no family is on.
 *
 * **Example** (What a caller made)
 *
 * ```ts
 * import { PerClusterNatMaps } from "ctmap-cluster"
 * import * as Effect from "effect/Effect"
 *
 * const program = Effect.gen(function* () {
 *   const { create } = yield* PerClusterNatMaps.PerClusterNatMaps
 *   yield* create(7)
 *   const { has } = yield* PerClusterNatMaps.Control
 *   return [has(7), has(8)]
 * })
 * Effect.runSync(Effect.provide(program, PerClusterNatMaps.layerTest)) // => [true, false]
 * ```
 *
 * @since 0.1.0
 */
export const layerTest: Layer.Layer<PerClusterNatMaps | Control> = Layer.effectContext(
  Effect.sync(() => {
    const { control, create, remove } = OuterMaps.notes()
    const maps = PerClusterNatMaps.of({
      openOrCreate: Effect.void,
      close: Effect.void,
      create,
      delete: remove,
      get: (_, family) => Effect.fail(new FamilyNotEnabled({ family })),
      getAll: Effect.succeed([])
    })
    return Context.make(PerClusterNatMaps, maps).pipe(Context.add(Control, control))
  })
)
