/**
 * Opens the CT maps that the datapath has pinned and hands them out typed, with their owner and layout.
 *
 * Owns which CT map belongs to whom. Fds live as long as the scope that asked for them; nothing is cached, and nothing
 * is closed under somebody's feet. Never resizes or unpins on its own.
 *
 * @since 0.1.0
 */
import { CtColumns, type Family, MapKind, MapName, MapSpec, type Release } from "ctmap-core"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import * as Bpf from "./Bpf.ts"
import type { BpfError } from "./BpfError.ts"
import * as BpfMap from "./BpfMap.ts"
import type * as CtPair from "./CtPair.ts"
import * as Layout from "./Layout.ts"
import type * as Owner from "./Owner.ts"
import * as Pins from "./Pins.ts"
import * as Scan from "./Scan.ts"

/**
 * What sizes and readings depend on.
 *
 * @since 0.1.0
 */
export interface Options extends MapSpec.Options {
  /** The release a table is read as when no entry tells. Default `"1.17"`. */
  readonly assumedRelease?: Release.Release
}

/**
 * One CT map, by what it holds.
 *
 * @since 0.1.0
 */
export interface Which<
  out F extends Family.Family = Family.Family,
  out T extends MapKind.Transport = MapKind.Transport,
  out O extends Owner.Owner = Owner.Owner
> {
  readonly family: F
  readonly transport: T
  readonly owner: O
}

/**
 * Opens and makes CT maps.
 *
 * @since 0.1.0
 */
export class CtMaps extends Context.Service<
  CtMaps,
  {
    /** Opens a pinned map. Errors: `PinNotFound`, `NotPermitted`. A map of another layout opens with an `Unknown` verdict. */
    readonly open: <F extends Family.Family, T extends MapKind.Transport, O extends Owner.Owner>(
      which: Which<F, T, O>
    ) => Effect.Effect<CtPair.CtMap<F, T, O>, BpfError, Scope.Scope>
    /** Opens the map if it is the one that is wanted, else makes it: see {@link BpfMap.openOrCreate}. */
    readonly openOrCreate: <F extends Family.Family, T extends MapKind.Transport, O extends Owner.Owner>(
      which: Which<F, T, O>
    ) => Effect.Effect<CtPair.CtMap<F, T, O>, BpfError, Scope.Scope>
    /** Opens those maps of an owner that are pinned, in the order tcp4, any4, tcp6, any6. */
    readonly openAll: (
      owner: Owner.Owner,
      families?: { readonly ipv4: boolean; readonly ipv6: boolean }
    ) => Effect.Effect<ReadonlyArray<CtPair.CtMap>, BpfError, Scope.Scope>
    /**
     * Cilium's `Exists`: false if at least one of the maps is not pinned, true otherwise. No family asked for, nothing
     * missing.
     */
    readonly exists: (
      owner: Owner.Owner,
      families?: { readonly ipv4: boolean; readonly ipv6: boolean }
    ) => Effect.Effect<boolean, BpfError>
    /** The blueprint of a map under the configured sizes. */
    readonly spec: (which: Which) => MapSpec.MapSpec
    /** The path of a map's pin. */
    readonly path: (which: Which) => string
    /** The release that tables are read as whose entries do not tell; NAT entries never do. */
    readonly assumedRelease: Release.Release
  }
>()("ctmap-kernel/CtMaps") {}

const both = { ipv4: true, ipv6: true }

/**
 * Over the configured bpffs ({@link Pins.BpfFsRoot}).
 *
 * @since 0.1.0
 */
export const layer = (options: Options = {}): Layer.Layer<CtMaps, never, Bpf.Bpf> => Layer.effect(CtMaps, make(options))

/** See {@link layer}. @since 0.1.0 */
export const make: (options: Options) => Effect.Effect<CtMaps["Service"], never, Bpf.Bpf> = Effect.fnUntraced(
  function* (options: Options) {
    const bpf = yield* Bpf.Bpf
    const root = yield* Pins.BpfFsRoot
    const withBpf = Effect.provideService(Bpf.Bpf, bpf)

    const prefix = yield* Pins.ClusterPrefix
    const { assumedRelease = "1.17" } = options
    const path = (which: Which): string => MapName.pinPath(root, nameOf(which, prefix))
    const spec = (which: Which): MapSpec.MapSpec => MapSpec.ct(kindOf(which), options)

    const typed = <F extends Family.Family, T extends MapKind.Transport, O extends Owner.Owner>(
      which: Which<F, T, O>,
      map: BpfMap.BpfMap
    ): Effect.Effect<CtPair.CtMap<F, T, O>, BpfError> =>
      Effect.map(verdict(map, which.family, assumedRelease).pipe(withBpf), (layout) => ({
        _tag: "CtMap" as const,
        ...pick(which),
        layout,
        map
      }))

    const open: CtMaps["Service"]["open"] = (which) =>
      Effect.flatMap(BpfMap.open(path(which)).pipe(withBpf), (map) => typed(which, map))

    const kinds = (families = both): ReadonlyArray<MapKind.MapKind> => MapKind.select("global", families)

    return CtMaps.of({
      open,
      openOrCreate: (which) =>
        Effect.flatMap(BpfMap.openOrCreate(spec(which), path(which)).pipe(withBpf), ({ map }) => typed(which, map)),
      openAll: (owner, families) =>
        Effect.map(
          Effect.forEach(kinds(families), ({ family, transport }) =>
            open({ family, transport, owner }).pipe(
              Effect.catchReason("BpfError", "PinNotFound", () => Effect.succeed(undefined))
            )
          ),
          (maps) => maps.filter((map) => map !== undefined)
        ),
      exists: (owner, families) =>
        Effect.map(
          Effect.forEach(kinds(families), ({ family, transport }) =>
            BpfMap.exists(path({ family, transport, owner })).pipe(
              withBpf,
              // A path that cannot be looked at may well be there: only a pin that is known to be missing counts.
              Effect.catchReason("BpfError", "NotPermitted", () => Effect.succeed(true))
            )
          ),
          (found) => found.every((there) => there)
        ),
      spec,
      path,
      assumedRelease
    })
  }
)

const pick = <F extends Family.Family, T extends MapKind.Transport, O extends Owner.Owner>(
  which: Which<F, T, O>
): Which<F, T, O> => ({ family: which.family, transport: which.transport, owner: which.owner })

/** Per-cluster inner maps are as large as the global map of their kind. */
const kindOf = ({ family, transport, owner }: Which): MapKind.MapKind => ({
  family,
  transport,
  scope: owner._tag === "Endpoint" ? "local" : "global"
})

const nameOf = (which: Which, prefix: string | undefined): string => {
  const kind = kindOf(which)
  switch (which.owner._tag) {
    case "Global":
      return MapName.global(kind)
    case "Endpoint":
      return MapName.local(kind, which.owner.endpointId)
    case "Cluster":
      return MapName.clusterInner(kind, which.owner.clusterId, prefix)
  }
}

/** Entries that are looked at to tell the layout. */
const SAMPLE = 1024

/**
 * The verdict on an open map: sizes first, then what a first batch of entries says.
 *
 * @since 0.1.0
 */
export const verdict = (
  map: BpfMap.BpfMap,
  family: Family.Family,
  assumed: Release.Release
): Effect.Effect<Layout.Verdict, BpfError, Bpf.Bpf> =>
  Effect.suspend(() => {
    const why = Layout.ctMismatch(map.info, family)
    if (why !== undefined) return Effect.succeed<Layout.Verdict>({ _tag: "Unknown", why })
    const columns = new CtColumns.CtColumns({ family, release: assumed })
    return Effect.map(Scan.first(map, SAMPLE), ({ rows }) => Layout.judge(Layout.evidence(columns.bind(rows)), assumed))
  })
