/**
 * Which pairs of maps there are to collect: an extension point, so that maps of other kinds (per cluster, say) join
 * without being named here.
 *
 * @since 0.1.0
 */
import { Family } from "ctmap-core"
import { type BpfError, CtMaps, type CtPair, NatMaps, Owner } from "ctmap-kernel"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import { Endpoints } from "./Endpoints.ts"

/**
 * A pair that can be opened. Opening it anew for every pass finds what is pinned by then, and holds no fd in between.
 *
 * @since 0.1.0
 */
export interface PairSource<out F extends Family.Family = Family.Family, out O extends Owner.Owner = Owner.Owner> {
  readonly family: F
  readonly owner: O
  readonly open: Effect.Effect<CtPair.CtPair<F, O>, OpenError, Scope.Scope>
}

/** @since 0.1.0 */
export type OpenError = NatMaps.PairError

/** What a pair is known by: `ipv4 global`, `ipv6 cluster 3`. @since 0.1.0 */
export const nameOf = ({ family, owner }: Pick<PairSource, "family" | "owner">): string =>
  `${family} ${Owner.describe(owner)}`

/**
 * Lists pairs of one kind, as they are now.
 *
 * @since 0.1.0
 */
export type Source = Effect.Effect<ReadonlyArray<PairSource>, BpfError.BpfError>

/**
 * What could be listed, and what could not.
 *
 * @since 0.1.0
 */
export interface Listing {
  readonly pairs: ReadonlyArray<PairSource>
  /** What sources said that cannot tell. */
  readonly refusals: ReadonlyArray<BpfError.BpfError>
}

/**
 * All pairs.
 *
 * @since 0.1.0
 */
export class CtMapSources extends Context.Service<
  CtMapSources,
  {
    /** Adds a source for as long as the scope is open. */
    readonly register: (source: Source) => Effect.Effect<void, never, Scope.Scope>
    /**
     * The pairs of every source, in the order they were registered. A source that cannot tell keeps the pairs of the
     * others from nobody; fails where none can.
     */
    readonly list: Effect.Effect<Listing, BpfError.BpfError>
    /** The pairs of {@link list}, with a warning for what is missing among them. */
    readonly pairs: Source
  }
>()("ctmap-gc/CtMapSources") {}

/** No source yet. @since 0.1.0 */
export const layer: Layer.Layer<CtMapSources> = Layer.sync(CtMapSources, () => {
  const sources = new Set<Source>()
  const list: CtMapSources["Service"]["list"] = Effect.gen(function* () {
    const [found, refusals] = yield* Effect.partition([...sources], (source) => source)
    const [refusal] = refusals
    if (refusal !== undefined && found.length === 0) return yield* Effect.fail(refusal)
    return { pairs: found.flat(), refusals }
  })
  return CtMapSources.of({
    register: (source) =>
      Effect.suspend(() => {
        // A source that is registered twice counts twice.
        const own: Source = Effect.suspend(() => source)
        sources.add(own)
        return Effect.addFinalizer(() => Effect.sync(() => sources.delete(own)))
      }),
    list,
    pairs: Effect.flatMap(list, ({ pairs, refusals }) => Effect.as(warn(refusals), pairs))
  })
})

/** Says that tables are missing. @since 0.1.0 */
export const warn = (refusals: Listing["refusals"]): Effect.Effect<void> =>
  Effect.forEach(refusals, ({ message }) => Effect.logWarning(`some tables cannot be listed: ${message}`), {
    discard: true
  })

/**
 * The global maps of the enabled families with their NAT maps, and the local maps of endpoints.
 *
 * @since 0.1.0
 */
export const layerNode = (
  families: ReadonlyArray<Family.Family> = Family.all
): Layer.Layer<never, never, CtMapSources | CtMaps.CtMaps | NatMaps.NatMaps> =>
  Layer.effectDiscard(
    Effect.gen(function* () {
      const { register } = yield* CtMapSources
      const maps = yield* Effect.context<CtMaps.CtMaps | NatMaps.NatMaps>()
      const { local } = yield* Endpoints
      yield* register(
        Effect.map(local, (endpoints) => [
          ...families.map((family) => global(family, maps)),
          ...endpoints.flatMap(({ id }) => families.map((family) => endpoint(family, id, maps)))
        ])
      )
    })
  )

type Maps = Context.Context<CtMaps.CtMaps | NatMaps.NatMaps>

/**
 * The pair of a family and an owner, each said once. Only these two services are kept of what is given: a whole context may
 * have a scope, which would keep every map open that a pass opens.
 *
 * @since 0.1.0
 */
export const of = <F extends Family.Family, O extends Owner.Owner>(
  family: F,
  owner: O,
  maps: Maps
): PairSource<F, O> => {
  const only: Maps = Context.make(CtMaps.CtMaps, Context.get(maps, CtMaps.CtMaps)).pipe(
    Context.add(NatMaps.NatMaps, Context.get(maps, NatMaps.NatMaps))
  )
  return { family, owner, open: Effect.provide(NatMaps.openPair(family, owner), only) }
}

/** The pair of the node. @since 0.1.0 */
export const global = <F extends Family.Family>(family: F, maps: Maps): PairSource<F, Owner.Global> =>
  of(family, Owner.global, maps)

/** The pair of an endpoint, which has no NAT map. @since 0.1.0 */
export const endpoint = <F extends Family.Family>(family: F, id: number, maps: Maps): PairSource<F, Owner.Endpoint> =>
  of(family, Owner.endpoint(id), maps)
