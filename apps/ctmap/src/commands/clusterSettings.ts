/**
 * What the commands about remote clusters go by: families, sizes and range, as they are said or as the pinned maps have
 * them.
 *
 * @since 0.1.0
 */
import * as ClusterSource from "ctmap-cluster/ClusterSource"
import * as PerClusterCtMaps from "ctmap-cluster/PerClusterCtMaps"
import * as PerClusterNatMaps from "ctmap-cluster/PerClusterNatMaps"
import type { ClusterIdMax } from "ctmap-core/ClusterId"
import type { Family } from "ctmap-core/Family"
import * as MapKind from "ctmap-core/MapKind"
import * as MapLimits from "ctmap-core/MapLimits"
import * as MapName from "ctmap-core/MapName"
import * as BpfMap from "ctmap-kernel/BpfMap"
import * as CtMaps from "ctmap-kernel/CtMaps"
import * as NatMaps from "ctmap-kernel/NatMaps"
import * as Pins from "ctmap-kernel/Pins"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Selection from "../Selection.ts"

/** @since 0.1.0 */
export interface Settings {
  readonly family: "ipv4" | "ipv6" | "all" | undefined
  readonly max: "255" | "511" | undefined
  readonly ctTcp: number | undefined
  readonly ctAny: number | undefined
  readonly natSize: number | undefined
}

/** Nothing of them is said. @since 0.1.0 */
export const unset: Omit<Settings, "family"> = {
  max: undefined,
  ctTcp: undefined,
  ctAny: undefined,
  natSize: undefined
}

const every: ReadonlyArray<Family> = ["ipv4", "ipv6"]

/** What is pinned under a name, closed again; nothing where there is no pin. */
const infoOf = (name: string) =>
  Effect.scoped(
    Effect.flatMap(Effect.flatMap(Pins.pathOf(name), BpfMap.open), ({ info }) => Effect.succeed(info))
  ).pipe(Effect.catchReason("BpfError", "PinNotFound", () => Effect.succeed(undefined)))

const firstOf = (names: ReadonlyArray<string>) =>
  Effect.gen(function* () {
    for (const name of names) {
      const info = yield* infoOf(name)
      if (info !== undefined) return info.maxEntries
    }
    return undefined
  })

/** The families that are meant, and those that there are traces of. */
const familiesOf = ({ family }: Pick<Settings, "family">) =>
  Effect.gen(function* () {
    if (family !== undefined) return family === "all" ? every : [family]
    const kinds = (own: Family) => MapKind.globals.filter((kind) => kind.family === own)
    const having = (names: (own: Family) => ReadonlyArray<string>) =>
      Effect.filter(every, (own) => Effect.map(firstOf(names(own)), (found) => found !== undefined))
    const withOuter = yield* having((own) => [
      ...kinds(own).map((kind) => MapName.clusterOuter(kind)),
      MapName.clusterNatOuter(own)
    ])
    if (withOuter.length > 0) return withOuter
    const withGlobal = yield* having((own) => kinds(own).map(MapName.global))
    return withGlobal.length > 0 ? withGlobal : every
  })

/** Sizes as they are said, as the global maps have them, or Cilium's. */
const limitsOf = ({ ctTcp, ctAny, natSize }: Settings) =>
  Effect.gen(function* () {
    const global = (transport: MapKind.Transport) =>
      firstOf(MapKind.globals.filter((kind) => kind.transport === transport).map(MapName.global))
    const limits = {
      ctTcp: ctTcp ?? (yield* global("tcp")) ?? MapLimits.CT_TCP_DEFAULT,
      ctAny: ctAny ?? (yield* global("any")) ?? MapLimits.CT_ANY_DEFAULT,
      nat: natSize ?? (yield* firstOf(every.map(MapName.nat))) ?? MapLimits.NAT_DEFAULT
    }
    // What is there need not be what could be configured.
    const isSaid = ctTcp !== undefined || ctAny !== undefined || natSize !== undefined
    return isSaid ? yield* Effect.fromResult(MapLimits.check(limits)) : limits
  })

/** The range that the outer maps have; where there are none, the one that is said, or that the pinned maps need. */
const maxOf = ({ max }: Settings) =>
  Effect.gen(function* () {
    const outers = [
      ...MapKind.globals.map((kind) => MapName.clusterOuter(kind)),
      ...every.map((own) => MapName.clusterNatOuter(own))
    ]
    const slots = yield* firstOf(outers)
    const last = slots === undefined ? Number(max ?? (yield* highestPinned)) : slots - 1
    const most: ClusterIdMax = last > 255 ? 511 : 255
    return most
  })

const highestPinned = ClusterSource.discover.pipe(Effect.map((found) => found.at(-1)?.clusterId ?? 0))

/** Runs with the services that the settings make; nothing is open yet. @since 0.1.0 */
export const provided = <A, E, R>(
  settings: Settings,
  use: (options: { readonly families: ReadonlyArray<Family>; readonly max: ClusterIdMax }) => Effect.Effect<A, E, R>
) =>
  Effect.gen(function* () {
    yield* Selection.checkBpfFs
    const options = { families: yield* familiesOf(settings), max: yield* maxOf(settings) }
    const limits = yield* limitsOf(settings)
    const maps = Layer.mergeAll(CtMaps.layer({ limits }), NatMaps.layer({ limits }))
    // Nobody asked for maps to be replaced that are of another size, or to be deleted.
    const keep = { ...options, whenDifferent: "keep", aboveRange: "keep" } as const
    const services = Layer.mergeAll(PerClusterCtMaps.layer(keep), PerClusterNatMaps.layer(keep))
    return yield* use(options).pipe(Effect.provide(Layer.provideMerge(services, maps)))
  })

/** `1 entry`, `1,200 entries`. @since 0.1.0 */
export const counted = (entries: number): string =>
  entries === 1 ? "1 entry" : `${entries.toLocaleString("en")} entries`
