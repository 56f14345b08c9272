/**
 * From the flags that select maps to the pairs they belong to: what deletes works on pairs.
 *
 * @since 0.1.0
 */
import type { Family, MapKind } from "ctmap-core"
import * as CtMapSources from "ctmap-gc/CtMapSources"
import type * as Bpf from "ctmap-kernel/Bpf"
import * as CtMaps from "ctmap-kernel/CtMaps"
import * as NatMaps from "ctmap-kernel/NatMaps"
import * as Owner from "ctmap-kernel/Owner"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { Selection as SelectionOptions } from "./Options.ts"
import * as Selection from "./Selection.ts"

/** A pair, and which of its maps are meant. @since 0.1.0 */
export interface Chosen {
  readonly source: CtMapSources.PairSource
  readonly transports: ReadonlyArray<MapKind.Transport>
}

/**
 * The pairs of a selection: at least one, each with at least one map that is pinned and meant. Errors: as
 * `Selection.ctMaps`; opening a pair of which only one map is pinned says which is missing.
 *
 * @since 0.1.0
 */
export const choose = (
  options: SelectionOptions
): Effect.Effect<ReadonlyArray<Chosen>, Selection.SelectionError, Bpf.Bpf | Scope.Scope> =>
  Effect.gen(function* () {
    const maps = Context.make(CtMaps.CtMaps, yield* CtMaps.make({ assumedRelease: options.release })).pipe(
      Context.add(NatMaps.NatMaps, yield* NatMaps.make({}))
    )
    const chosen = new Map<string, { source: CtMapSources.PairSource; transports: Array<MapKind.Transport> }>()
    for (const { family, owner, transport } of yield* Effect.scoped(Selection.ctMaps(options))) {
      const source = sourceOf(family, owner, maps)
      const name = CtMapSources.nameOf(source)
      const known = chosen.get(name)
      if (known === undefined) chosen.set(name, { source, transports: [transport] })
      else known.transports.push(transport)
    }
    return [...chosen.values()]
  })

const sourceOf = (
  family: Family.Family,
  owner: Owner.Owner,
  maps: Context.Context<CtMaps.CtMaps | NatMaps.NatMaps>
): CtMapSources.PairSource => {
  switch (owner._tag) {
    case "Global":
      return CtMapSources.global(family, maps)
    case "Endpoint":
      return CtMapSources.endpoint(family, owner.endpointId, maps)
    case "Cluster":
      return { family, owner, open: Effect.provide(NatMaps.openPair(family, owner), maps) }
  }
}

/** `the global ipv4 tables`, `the ipv6 tables of cluster 3`. @since 0.1.0 */
export const describe = ({ family, owner }: CtMapSources.PairSource): string =>
  owner._tag === "Global" ? `the global ${family} tables` : `the ${family} tables of ${Owner.describe(owner)}`
