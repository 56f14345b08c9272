/**
 * Open CT and NAT maps that know whose they are, and the value that ties together what belongs together.
 *
 * A pass over a CT map deletes from its NAT map, and the orphan purge deletes from a NAT map what has no CT entry: pairing
 * the wrong maps destroys live connections (it did, twice, in the original). So a TCP map, an Any map and their NAT map
 * are one value, typed by family and owner and made in one place that checks; functions that delete take that value.
 *
 * @since 0.1.0
 */
import type { Family, MapKind } from "ctmap-core"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type { BpfMap } from "./BpfMap.ts"
import type * as Layout from "./Layout.ts"
import * as Owner from "./Owner.ts"

/**
 * An open CT map.
 *
 * @since 0.1.0
 */
export interface CtMap<
  out F extends Family.Family = Family.Family,
  out T extends MapKind.Transport = MapKind.Transport,
  out O extends Owner.Owner = Owner.Owner
> {
  readonly _tag: "CtMap"
  readonly family: F
  readonly transport: T
  readonly owner: O
  readonly layout: Layout.Verdict
  readonly map: BpfMap
}

/**
 * An open NAT map.
 *
 * @since 0.1.0
 */
export interface NatMap<out F extends Family.Family = Family.Family, out O extends Owner.Owner = Owner.Owner> {
  readonly _tag: "NatMap"
  readonly family: F
  readonly owner: O
  /** Why its entries must not be interpreted, where they must not. */
  readonly mismatch: string | undefined
  readonly map: BpfMap
}

/** What only the functions of this module put on a value: a copy of a pair with another map in it is no pair. */
declare class Paired {
  private readonly paired: true
}

/**
 * The maps of one family and one owner. `NatMaps.openPair` opens one, {@link make} and {@link makeUnsafe} tie one together;
 * there is no other way, and none around the check that these maps belong together.
 *
 * @since 0.1.0
 */
export interface CtPair<
  out F extends Family.Family = Family.Family,
  out O extends Owner.Owner = Owner.Owner
> extends Paired {
  readonly family: F
  readonly owner: O
  readonly tcp: CtMap<F, "tcp", O>
  readonly any: CtMap<F, "any", O>
  /** The NAT map of the same family and owner; none where NAT is off, and for maps of an endpoint. */
  readonly nat: NatMap<F, O> | undefined
}

/**
 * Maps that do not belong together were given as a pair.
 *
 * @since 0.1.0
 */
export class NotAPair extends Schema.TaggedError<NotAPair>()("NotAPair", {
  maps: Schema.Array(Schema.String),
  why: Schema.String
}) {
  override get message(): string {
    return `${this.maps.join(", ")} do not belong together: ${this.why}; nothing was touched`
  }
}

/**
 * Of the CT maps of a pair, one is pinned and the other is not: other than a pair of which nothing is pinned, which is
 * merely not there.
 *
 * @since 0.1.0
 */
export class HalfPair extends Schema.TaggedError<HalfPair>()("HalfPair", {
  /** Path of the pin that is not there. */
  missing: Schema.String,
  /** Path of the one that is. */
  pinned: Schema.String
}) {
  override get message(): string {
    return `${this.missing}: nothing is pinned there, though ${this.pinned} is, and they are used together: nothing was touched; the datapath pins both when it starts, so find out who removed the one, or remove the other too`
  }
}

/**
 * Ties maps together whose types say that they belong together: one family, and everybody's or one cluster's of a known id.
 *
 * **Details**
 *
 * Maps of two families, two owners or two clusters do not compile, nor do maps of which the types do not say enough: those
 * are for {@link makeUnsafe}, or better for `NatMaps.openPair`, which takes family and owner once. What no type can see
 * (two handles of one kernel map, values that are not what their type says) is checked. Errors: `NotAPair`.
 *
 * **Example** (Another cluster's NAT map)
 *
 * ```ts
 * import { CtPair, type Owner } from "ctmap-kernel"
 *
 * type Ct<T extends "tcp" | "any"> = CtPair.CtMap<"ipv4", T, Owner.Cluster<3>>
 *
 * const paired = (tcp: Ct<"tcp">, any: Ct<"any">) => CtPair.make(tcp, any, undefined)
 * const mixedUp = (tcp: Ct<"tcp">, any: Ct<"any">, other: CtPair.NatMap<"ipv4", Owner.Cluster<4>>) =>
 *   // @ts-expect-error the NAT map is cluster 4's
 *   CtPair.make(tcp, any, other)
 * const taken = [paired, mixedUp].map((make) => make.length)
 * taken // => [2, 3]
 * ```
 *
 * @since 0.1.0
 */
export const make = <F extends Family.Family, O extends Owner.Owner>(
  tcp: CtMap<F, "tcp", O>,
  any: CtMap<NoInfer<F>, "any", NoInfer<O>>,
  nat: NatMap<NoInfer<F>, NoInfer<O>> | undefined,
  ..._told: Told<F, O> extends true ? [] : [theTypesDoNotSayWhoseMapsTheseAre: never]
): Effect.Effect<CtPair<F, O>, NotAPair> => makeUnsafe(tcp, any, nat)

type Told<F extends Family.Family, O extends Owner.Owner> = [Owner.IsOne<F>, Owner.IsKnown<O>] extends [true, true]
  ? true
  : false

/**
 * Ties maps together of which only the values say whose they are: unsafe to compile, checked when it is run.
 *
 * **Details**
 *
 * Errors: `NotAPair` where owners or families differ, or where two of them are one and the same kernel map. A passing
 * check rests on what the maps say of themselves.
 *
 * @since 0.1.0
 */
export const makeUnsafe = <F extends Family.Family, O extends Owner.Owner>(
  tcp: CtMap<F, "tcp", O>,
  any: CtMap<F, "any", O>,
  nat: NatMap<F, O> | undefined
): Effect.Effect<CtPair<F, O>, NotAPair> =>
  Effect.suspend(() => {
    const why = objection(tcp, any, nat)
    const maps = [tcp, any, ...(nat === undefined ? [] : [nat])]
    if (why !== undefined) return Effect.fail(new NotAPair({ maps: maps.map(({ map }) => map.name), why }))
    const pair: Pick<CtPair<F, O>, keyof CtPair> = { family: tcp.family, owner: tcp.owner, tcp, any, nat }
    return Effect.succeed(pair as CtPair<F, O>)
  })

const objection = (tcp: CtMap, any: CtMap, nat: NatMap | undefined): string | undefined => {
  const all = [tcp, any, ...(nat === undefined ? [] : [nat])]
  const stranger = all.find(({ owner }) => !Owner.same(owner, tcp.owner))
  if (stranger !== undefined) {
    return `${stranger.map.name} is of ${Owner.describe(stranger.owner)} and ${tcp.map.name} of ${Owner.describe(tcp.owner)}`
  }
  if (all.some(({ family }) => family !== tcp.family)) return "they are of two address families"
  if (new Set(all.map(({ map }) => map.info.id)).size !== all.length) return "two of them are the same kernel map"
  return undefined
}

/** The map of a pair that holds a protocol: TCP, or everything else. @since 0.1.0 */
export const mapOf = <F extends Family.Family, O extends Owner.Owner>(
  pair: CtPair<F, O>,
  protocol: number
): CtMap<F, MapKind.Transport, O> => (protocol === 6 ? pair.tcp : pair.any)
