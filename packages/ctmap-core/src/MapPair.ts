/**
 * The TCP map and the Any map of a family, which belong together: a NAT map is cleaned against both or not at all.
 *
 * @since 0.1.0
 */
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type { Family } from "./Family.ts"
import type { MapKind } from "./MapKind.ts"

/**
 * Two maps of one family and scope. The family is in the type, so an IPv4 pair never passes for an IPv6
 * one.
 *
 * @since 0.1.0
 */
export interface MapPair<out M, out F extends Family = Family> {
  readonly family: F
  readonly tcp: M
  readonly any: M
}

/**
 * There is no unambiguous pair in a list of maps.
 *
 * @since 0.1.0
 */
export class PairError extends Schema.TaggedError<PairError>()("PairError", {
  family: Schema.Literals(["ipv4", "ipv6"]),
  transport: Schema.Literals(["tcp", "any"]),
  /** How many maps there were where there must be one. */
  found: Schema.Int,
  /** Set where the other map of the pair is of the other scope. */
  scope: Schema.optionalKey(Schema.Literals(["global", "local"]))
}) {
  override get message(): string {
    const which = `${this.scope === undefined ? "" : `${this.scope} `}${this.family} ${this.transport === "tcp" ? "TCP" : "non-TCP"} map`
    return this.found === 0
      ? `there is no ${which} in the list: a pair needs both maps of its family`
      : `there are ${this.found} candidates for the ${which}: give the maps of one owner and one cluster only`
  }
}

/**
 * Picks the pair of a family out of a list: Cilium's `FilterMapsByProto`.
 *
 * **Details**
 *
 * The original takes the last map of each kind and says nothing, so that an appended map of another owner would silently
 * stand in for the right one. Here a list with none or with two candidates, or with maps of an endpoint beside global
 * ones, is an error. Kinds do not know clusters: give the maps of one cluster only.
 *
 * **Example** (The order of the list does not matter)
 *
 * ```ts
 * import { MapKind, MapPair } from "ctmap-core"
 * import * as Result from "effect/Result"
 *
 * const maps = MapKind.globals.toReversed().map((kind) => ({ kind, name: MapKind.shortName(kind) }))
 * const pair = Result.getOrThrow(MapPair.select(maps, "ipv6"))
 * pair.tcp.name // => "tcp6"
 * pair.any.name // => "any6"
 * ```
 *
 * @since 0.1.0
 */
export const select = <M extends { readonly kind: MapKind }, F extends Family>(
  maps: ReadonlyArray<M>,
  family: F
): Result.Result<MapPair<M, F>, PairError> => {
  const one = (transport: MapKind["transport"]): Result.Result<M, PairError> => {
    const found = maps.filter(({ kind }) => kind.family === family && kind.transport === transport)
    const [map] = found
    return map !== undefined && found.length === 1
      ? Result.succeed(map)
      : Result.fail(new PairError({ family, transport, found: found.length }))
  }
  return Result.flatMap(one("tcp"), (tcp) =>
    Result.flatMap(one("any"), (any) =>
      tcp.kind.scope === any.kind.scope
        ? Result.succeed({ family, tcp, any })
        : Result.fail(new PairError({ family, transport: "any", found: 0, scope: tcp.kind.scope }))
    )
  )
}
