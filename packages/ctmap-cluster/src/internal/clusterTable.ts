/**
 * An outer map and its inner maps by name and blueprint: what the six of them differ in. Nothing here is open.
 */
import { type ClusterId, Family, MapKind, MapName, MapSpec } from "ctmap-core"
import { CtMaps, NatMaps, Owner, Pins } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import type { Label } from "../ClusterError.ts"

/** One of the six. */
export interface ClusterTable {
  readonly label: Label
  readonly kind: "ct" | "nat"
  readonly family: Family.Family
  readonly transport: MapKind.Transport | undefined
  readonly outer: { readonly name: string; readonly path: string }
  readonly innerName: (clusterId: number) => string
  readonly innerPath: (clusterId: number) => string
  readonly innerSpec: MapSpec.MapSpec
}

/** The blueprint of a table's outer map. */
export const outerSpec = ({ innerSpec }: ClusterTable, max: ClusterId.ClusterIdMax): MapSpec.MapSpec => ({
  ...MapSpec.clusterOuter(MapKind.globals[0], max),
  inner: innerSpec
})

/** tcp4, any4, tcp6, any6, as far as their family is on. */
export const ctTables = (
  families: ReadonlyArray<Family.Family> = Family.all
): Effect.Effect<ReadonlyArray<ClusterTable>, never, CtMaps.CtMaps> =>
  Effect.gen(function* () {
    const maps = yield* CtMaps.CtMaps
    const [root, prefix] = [yield* Pins.BpfFsRoot, yield* Pins.ClusterPrefix]
    const kinds = MapKind.globals.filter(({ family }) => families.includes(family))
    return kinds.map((kind): ClusterTable => {
      const { family, transport } = kind
      const outer = MapName.clusterOuter(kind, prefix)
      return {
        label: MapKind.shortName(kind),
        kind: "ct",
        family,
        transport,
        outer: { name: outer, path: MapName.pinPath(root, outer) },
        innerName: (clusterId) => MapName.clusterInner(kind, clusterId, prefix),
        innerPath: (clusterId) => maps.path({ family, transport, owner: Owner.cluster(clusterId) }),
        innerSpec: maps.spec({ family, transport, owner: Owner.cluster(1) })
      }
    })
  })

/** ipv4, ipv6, as far as they are on. */
export const natTables = (
  families: ReadonlyArray<Family.Family> = Family.all
): Effect.Effect<ReadonlyArray<ClusterTable>, never, NatMaps.NatMaps> =>
  Effect.gen(function* () {
    const maps = yield* NatMaps.NatMaps
    const [root, prefix] = [yield* Pins.BpfFsRoot, yield* Pins.ClusterPrefix]
    return Family.all
      .filter((family) => families.includes(family))
      .map((family): ClusterTable => {
        const outer = MapName.clusterNatOuter(family, prefix)
        return {
          label: family,
          kind: "nat",
          family,
          transport: undefined,
          outer: { name: outer, path: MapName.pinPath(root, outer) },
          innerName: (clusterId) => MapName.clusterNatInner(family, clusterId, prefix),
          innerPath: (clusterId) => maps.path(family, Owner.cluster(clusterId)),
          innerSpec: maps.spec(family)
        }
      })
  })
