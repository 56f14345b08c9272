/**
 * The maps of clusters whose id is above the range: what they hold, and taking them away.
 *
 * Owns what a smaller range leaves behind. Cilium makes smaller outer maps when `max-connected-clusters` shrinks, and
 * leaves the pins of the clusters that have no slot any more; outer maps that are kept go on naming them. Entries are
 * not lost unless that is said: while one map of a cluster holds entries, all of its maps stay.
 *
 * @since 0.1.0
 */
import type { Family } from "ctmap-core"
import { type Bpf, type BpfError, BpfMap, type CtMaps, type NatMaps } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import * as ClusterSource from "./ClusterSource.ts"
import { describe as sentence, type Place, type Removed, takeAway } from "./internal/aboveRange.ts"
import { type ClusterTable, ctTables, natTables } from "./internal/clusterTable.ts"
import { heldBy, totalOf } from "./internal/heldEntries.ts"

/**
 * A cluster above the range that has a pin.
 *
 * @since 0.1.0
 */
export interface Above {
  readonly clusterId: number
  /** Names of its maps that are pinned, CT and NAT. */
  readonly maps: ReadonlyArray<string>
  /** Of all of them. */
  readonly entries: number
}

/**
 * The clusters with a higher id than `max` that have a pin, by rising id. Errors: `BpfError` where pins or maps cannot be
 * looked at.
 *
 * @since 0.1.0
 */
export const above = (max: number): Effect.Effect<ReadonlyArray<Above>, BpfError.BpfError, Bpf.Bpf> =>
  Effect.gen(function* () {
    const clusters = (yield* ClusterSource.discover).filter(({ clusterId }) => clusterId > max)
    return yield* Effect.forEach(clusters, ({ clusterId, pins }) =>
      Effect.map(heldBy(clusterId), (held) => ({
        clusterId,
        maps: pins.map(({ name }) => name),
        entries: totalOf(held)
      }))
    )
  })

/**
 * @since 0.1.0
 */
export interface Options {
  /** Default both. */
  readonly families?: ReadonlyArray<Family.Family>
  /** NAT maps as well. Default yes. */
  readonly nat?: boolean
  /** Also takes maps away that hold entries, which are lost. Default no. */
  readonly discardEntries?: boolean
}

export type {
  /** @since 0.1.0 */
  Removed
} from "./internal/aboveRange.ts"

/**
 * One sentence about what became of a cluster.
 *
 * **Example** (What it says)
 *
 * ```ts
 * import { ClusterRange } from "ctmap-cluster"
 *
 * ClusterRange.describe({ clusterId: 300, outcome: "left", entries: 12 })
 * // => "the maps of cluster 300 stay: they hold 12 entries"
 * ClusterRange.describe({ clusterId: 300, outcome: "deleted", entries: 1 })
 * // => "the maps of cluster 300 were deleted, and 1 entry with them"
 * ```
 *
 * @since 0.1.0
 */
export const describe = (removed: Removed): string => sentence(removed)

/**
 * Takes the maps of these clusters out of the outer maps, as far as those have slots for them, and their pins away.
 *
 * **Details**
 *
 * Slots are emptied first, which no program outlasts; then entries are counted once more, and a cluster that has got some
 * meanwhile is entered again. What connects to a cluster is cut with its maps. A cluster that fails keeps none of the
 * others from it. Needs no open service. Errors: in the result. Kernel: CAP_BPF, and write access to the directory of the
 * pins; a slot that changes waits 10 ms and more, on another thread.
 *
 * **Example** (A range that has shrunk from 511 to 255)
 *
 * ```ts
 * import { ClusterRange, PerClusterCtMaps } from "ctmap-cluster"
 * import { BpfMemory, CtMaps, NatMaps } from "ctmap-kernel"
 * import * as Effect from "effect/Effect"
 * import * as Layer from "effect/Layer"
 *
 * const limits = { ctTcp: 1024, ctAny: 1024, nat: 1024 }
 * const program = Effect.gen(function* () {
 *   const clusters = yield* PerClusterCtMaps.PerClusterCtMaps
 *   yield* clusters.openOrCreate
 *   yield* clusters.create(255)
 *   yield* clusters.create(300)
 *   const gone = yield* ClusterRange.remove([300])
 *   const left = yield* clusters.getAll
 *   return [gone.map(ClusterRange.describe), left.map(({ owner }) => owner.clusterId)]
 * })
 * const layers = PerClusterCtMaps.layer({ families: ["ipv4"], max: 511 }).pipe(
 *   Layer.provideMerge(Layer.mergeAll(CtMaps.layer({ limits }), NatMaps.layer({ limits }))),
 *   Layer.provideMerge(BpfMemory.layer)
 * )
 * await Effect.runPromise(Effect.provide(program, layers))
 * // => [["the maps of cluster 300 were deleted"], [255, 255]]
 * ```
 *
 * @since 0.1.0
 */
export const remove = (
  clusterIds: ReadonlyArray<number>,
  { discardEntries = false, families, nat = true }: Options = {}
): Effect.Effect<ReadonlyArray<Removed>, BpfError.BpfError, Bpf.Bpf | CtMaps.CtMaps | NatMaps.NatMaps> =>
  Effect.scoped(
    Effect.gen(function* () {
      const tables = [...(yield* ctTables(families)), ...(nat ? yield* natTables(families) : [])]
      const places = yield* Effect.forEach(tables, placeOf)
      return yield* Effect.forEach(clusterIds, (clusterId) => takeAway(places, clusterId, discardEntries))
    })
  )

/** An outer map that is not pinned has no slots to be emptied. */
const placeOf = (table: ClusterTable) =>
  BpfMap.open(table.outer.path).pipe(
    Effect.map((outer): Place => ({ table, outer })),
    Effect.catchReason("BpfError", "PinNotFound", () => Effect.succeed<Place>({ table, outer: undefined }))
  )
