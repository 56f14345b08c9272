/**
 * Opens the NAT maps that the datapath has pinned, and pairs them with the CT maps they belong to.
 *
 * @since 0.1.0
 */
import { type Family, type MapKind, MapName, MapSpec } from "ctmap-core"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import * as Bpf from "./Bpf.ts"
import type { BpfError } from "./BpfError.ts"
import * as BpfMap from "./BpfMap.ts"
import { CtMaps } from "./CtMaps.ts"
import * as CtPair from "./CtPair.ts"
import * as Layout from "./Layout.ts"
import type * as Owner from "./Owner.ts"
import * as Pins from "./Pins.ts"

/** Who can have a NAT map: endpoints cannot. @since 0.1.0 */
export type NatOwner = Owner.Global | Owner.Cluster

/**
 * Opens and makes NAT maps.
 *
 * @since 0.1.0
 */
export class NatMaps extends Context.Service<
  NatMaps,
  {
    /** Opens a pinned map. Errors: `PinNotFound`, `NotPermitted`. */
    readonly open: <F extends Family.Family, O extends NatOwner>(
      family: F,
      owner: O
    ) => Effect.Effect<CtPair.NatMap<F, O>, BpfError, Scope.Scope>
    /** Opens the map if it is the one that is wanted, else makes it: see {@link BpfMap.openOrCreate}. */
    readonly openOrCreate: <F extends Family.Family, O extends NatOwner>(
      family: F,
      owner: O
    ) => Effect.Effect<CtPair.NatMap<F, O>, BpfError, Scope.Scope>
    /** The blueprint of a family's maps under the configured size. */
    readonly spec: (family: Family.Family) => MapSpec.MapSpec
    /** The path of a map's pin. */
    readonly path: (family: Family.Family, owner: NatOwner) => string
  }
>()("ctmap-kernel/NatMaps") {}

/** Over the configured bpffs ({@link Pins.BpfFsRoot}). @since 0.1.0 */
export const layer = (options: MapSpec.Options = {}): Layer.Layer<NatMaps, never, Bpf.Bpf> =>
  Layer.effect(NatMaps, make(options))

/** See {@link layer}. @since 0.1.0 */
export const make: (options: MapSpec.Options) => Effect.Effect<NatMaps["Service"], never, Bpf.Bpf> = Effect.fnUntraced(
  function* (options: MapSpec.Options) {
    const bpf = yield* Bpf.Bpf
    const root = yield* Pins.BpfFsRoot
    const withBpf = Effect.provideService(Bpf.Bpf, bpf)
    const prefix = yield* Pins.ClusterPrefix
    const spec = (family: Family.Family): MapSpec.MapSpec => MapSpec.nat(family, options)
    const path = (family: Family.Family, owner: NatOwner): string =>
      MapName.pinPath(
        root,
        owner._tag === "Global" ? MapName.nat(family) : MapName.clusterNatInner(family, owner.clusterId, prefix)
      )
    const typed = <F extends Family.Family, O extends NatOwner>(
      family: F,
      owner: O,
      map: BpfMap.BpfMap
    ): CtPair.NatMap<F, O> => ({ _tag: "NatMap", family, owner, mismatch: Layout.natMismatch(map.info, family), map })
    return NatMaps.of({
      open: (family, owner) =>
        Effect.map(BpfMap.open(path(family, owner)).pipe(withBpf), (map) => typed(family, owner, map)),
      openOrCreate: (family, owner) =>
        Effect.map(BpfMap.openOrCreate(spec(family), path(family, owner)).pipe(withBpf), ({ map }) =>
          typed(family, owner, map)
        ),
      spec,
      path
    })
  }
)

/**
 * Why a pair does not open.
 *
 * @since 0.1.0
 */
export type PairError = BpfError | CtPair.NotAPair | CtPair.HalfPair

/**
 * Opens the pair of a family and owner with its NAT map, if that is pinned. Endpoints have none.
 *
 * **Details**
 *
 * Errors: `BpfError` where a map does not open, the NAT map included: a pass that skipped NAT clean-up without a word
 * would leak mappings. `PinNotFound` among them says that neither CT map is pinned; `HalfPair` that only one is.
 * `NotAPair` where the maps do not belong together.
 *
 * @since 0.1.0
 */
export const openPair: <F extends Family.Family, O extends Owner.Owner>(
  family: F,
  owner: O
) => Effect.Effect<CtPair.CtPair<F, O>, PairError, CtMaps | NatMaps | Scope.Scope> = Effect.fnUntraced(function* <
  F extends Family.Family,
  O extends Owner.Owner
>(family: F, owner: O) {
  const ct = yield* CtMaps
  const open = <T extends MapKind.Transport>(transport: T) =>
    ct
      .open({ family, transport, owner })
      .pipe(Effect.catchReason("BpfError", "PinNotFound", (_reason, error) => Effect.succeed(error)))
  const [tcp, any] = [yield* open("tcp"), yield* open("any")]
  if (tcp._tag === "BpfError" || any._tag === "BpfError") {
    if (tcp._tag === any._tag) return yield* Effect.fail(tcp as BpfError)
    const [gone, there] = tcp._tag === "BpfError" ? (["tcp", "any"] as const) : (["any", "tcp"] as const)
    const pathOf = (transport: MapKind.Transport) => ct.path({ family, transport, owner })
    return yield* new CtPair.HalfPair({ missing: pathOf(gone), pinned: pathOf(there) })
  }
  return yield* CtPair.makeUnsafe(tcp, any, yield* natOf(family, owner))
})

/** The NAT map of an owner, if it can have one and it is pinned. */
const natOf = <F extends Family.Family, O extends Owner.Owner>(
  family: F,
  owner: O
): Effect.Effect<CtPair.NatMap<F, O> | undefined, BpfError, NatMaps | Scope.Scope> =>
  canHaveNat(owner)
    ? Effect.flatMap(NatMaps, ({ open }) => open(family, owner)).pipe(
        Effect.catchReason("BpfError", "PinNotFound", () => Effect.undefined)
      )
    : Effect.undefined

const canHaveNat = <O extends Owner.Owner>(owner: O): owner is O & NatOwner => owner._tag !== "Endpoint"
