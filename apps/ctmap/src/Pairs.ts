/**
 * From the flags that select maps to the pairs they belong to: what deletes works on pairs.
 *
 * @since 0.1.0
 */
import type { MapKind, Release } from "ctmap-core"
import * as CtMapSources from "ctmap-gc/CtMapSources"
import type * as Bpf from "ctmap-kernel/Bpf"
import * as CtMaps from "ctmap-kernel/CtMaps"
import type * as CtPair from "ctmap-kernel/CtPair"
import * as Layout from "ctmap-kernel/Layout"
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
  /** Whose layout its CT maps have, as far as that is known. */
  readonly releases: ReadonlyArray<Release.Release>
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
  Effect.flatMap(Effect.scoped(Selection.ctMaps(options)), (maps) => group(options, maps))

/**
 * The pairs that the NAT maps of a selection belong to: at least one. Errors: as `Selection.natMaps`.
 *
 * @since 0.1.0
 */
export const chooseNat = (
  options: SelectionOptions
): Effect.Effect<ReadonlyArray<Chosen>, Selection.SelectionError, Bpf.Bpf | Scope.Scope> =>
  Effect.flatMap(Effect.scoped(Selection.natMaps(options)), (maps) => group(options, maps))

const group = (
  options: SelectionOptions,
  found: ReadonlyArray<Pick<CtPair.CtMap, "family" | "owner"> & Partial<Pick<CtPair.CtMap, "layout" | "transport">>>
): Effect.Effect<ReadonlyArray<Chosen>, never, Bpf.Bpf | Scope.Scope> =>
  Effect.gen(function* () {
    const maps = Context.make(CtMaps.CtMaps, yield* CtMaps.make({ assumedRelease: options.release })).pipe(
      Context.add(NatMaps.NatMaps, yield* NatMaps.make({}))
    )
    const chosen = new Map<string, Chosen>()
    for (const { family, layout, owner, transport } of found) {
      const source = CtMapSources.of(family, owner, maps)
      const name = CtMapSources.nameOf(source)
      const { transports = [], releases = [] } = chosen.get(name) ?? {}
      // A map that is named twice is one map.
      chosen.set(name, {
        source,
        transports: withOne(transports, transport),
        releases: withOne(releases, layout === undefined ? undefined : Layout.releaseOf(layout))
      })
    }
    return [...chosen.values()]
  })

const withOne = <T>(some: ReadonlyArray<T>, one: T | undefined): ReadonlyArray<T> =>
  one === undefined || some.includes(one) ? some : [...some, one]

/**
 * `the global IPv4 and IPv6 tables`, `the IPv6 TCP table of cluster 3`, in the words of a question.
 *
 * @since 0.1.0
 */
export const describe = (chosen: ReadonlyArray<Chosen>, tables: "tables" | "NAT tables" = "tables"): string => {
  const owners = new Map<string, { readonly owner: Owner.Owner; readonly parts: Array<string>; count: number }>()
  for (const { source, transports } of chosen) {
    const { owner, family } = source
    const of = owners.get(Owner.describe(owner)) ?? { owner, parts: [], count: 0 }
    const only = transports.length === 1 ? (transports[0] === "tcp" ? " TCP" : " non-TCP") : ""
    of.parts.push(`${family === "ipv4" ? "IPv4" : "IPv6"}${only}`)
    of.count += only === "" && tables === "tables" ? 2 : 1
    owners.set(Owner.describe(owner), of)
  }
  return [...owners.values()]
    .map(({ owner, parts, count }) => {
      const what = `${parts.join(" and ")} ${count === 1 ? tables.slice(0, -1) : tables}`
      return owner._tag === "Global" ? `the global ${what}` : `the ${what} of ${Owner.describe(owner)}`
    })
    .join(", ")
}
