/**
 * The flags that select maps, before any map is looked at: what contradicts itself is wrong usage.
 *
 * @since 0.1.0
 */
import * as MapName from "ctmap-core/MapName"
import * as Effect from "effect/Effect"
import { NotFound, UsageError } from "./Failure.ts"
import type { Selection } from "./Options.ts"

/** @since 0.1.0 */
export type MapFlags = Pick<Selection, "cluster" | "endpoint" | "family" | "map">

/**
 * Refuses flags of which one would not be heeded. Errors: `UsageError` where two owners are named, or whole maps and what
 * else would select some.
 *
 * @since 0.1.0
 */
export const check = ({ cluster, endpoint, family, map }: MapFlags): Effect.Effect<void, UsageError> => {
  if (cluster !== undefined && endpoint !== undefined) {
    return Effect.fail(new UsageError({ problem: "--cluster and --endpoint name two owners: give one of them" }))
  }
  const others = [
    ...(family === "all" ? [] : ["--family"]),
    ...(cluster === undefined ? [] : ["--cluster"]),
    ...(endpoint === undefined ? [] : ["--endpoint"])
  ]
  return map.length === 0 || others.length === 0
    ? Effect.void
    : Effect.fail(new UsageError({ problem: `--map names whole maps: leave out ${others.join(" and ")}` }))
}

/** The names that `--map` gives, in their order. @since 0.1.0 */
export const names = ({ map }: Pick<MapFlags, "map">): ReadonlyArray<string> => map.flatMap((some) => some.split(","))

/**
 * The pinned maps that are meant, of any kind: all of them where no flag selects some. `where` is the directory they were
 * looked for in, for a sentence. Errors: `NotFound` where there are none, or not all that are named.
 *
 * @since 0.1.0
 */
export const select = <P extends { readonly name: string }>(
  flags: MapFlags,
  pins: ReadonlyArray<P>,
  where: string
): Effect.Effect<ReadonlyArray<P>, NotFound> => {
  const named = names(flags)
  const missing = named.filter((name) => !pins.some((pin) => pin.name === name))
  const meant = pins.filter(({ name }) => (named.length > 0 ? named.includes(name) : isMeant(flags, name)))
  if (meant.length > 0 && missing.length === 0) return Effect.succeed(meant)
  const what =
    missing.length > 0
      ? `${missing.join(", ")} ${missing.length === 1 ? "is" : "are"} not pinned in ${where}`
      : pins.length > 0
        ? `no CT or NAT map of the selection is pinned in ${where}`
        : `no CT or NAT map is pinned in ${where}`
  const hint = pins.length > 0 ? "`ctmap maps` lists what is" : "the datapath pins its maps when it starts"
  return Effect.fail(new NotFound({ what: `${what}: ${hint}` }))
}

const isMeant = ({ cluster, endpoint, family }: MapFlags, name: string): boolean => {
  const denoted = MapName.parse(name)
  if (denoted === undefined) return false
  const of = "family" in denoted ? denoted.family : "kind" in denoted ? denoted.kind.family : undefined
  return (
    (family === "all" || of === family) &&
    (cluster === undefined || ("clusterId" in denoted && denoted.clusterId === cluster)) &&
    (endpoint === undefined || ("endpointId" in denoted && denoted.endpointId === endpoint))
  )
}

/** What is said of a name that denotes no map of the kind that a command reads. @since 0.1.0 */
export const wrongKind = (name: string, kind: "CT" | "NAT", maps = "ctmap maps"): UsageError => {
  const tag = MapName.parse(name)?._tag
  const other = kind === "CT" ? natTags : ctTags
  const what = `"${name}" is not the name of a ${kind} map`
  return new UsageError({
    problem:
      tag === undefined || !other.has(tag)
        ? `${what}; \`${maps}\` lists what is pinned`
        : kind === "CT"
          ? `${what} but of a NAT map, which \`ctmap nat list\` and \`ctmap nat flush\` work on`
          : `${what} but of a CT map, which \`ctmap list\` and \`ctmap flush\` work on`
  })
}

/** Maps of CT entries. @since 0.1.0 */
export const ctTags: ReadonlySet<string> = new Set(["Global", "Local", "ClusterInner"])

/** Maps of NAT entries. @since 0.1.0 */
export const natTags: ReadonlySet<string> = new Set(["Nat", "ClusterNatInner"])

/** As {@link check}; what is named must be the name of a map, too. @since 0.1.0 */
export const checkAny = (flags: MapFlags): Effect.Effect<void, UsageError> => {
  const wrong = names(flags).find((name) => MapName.parse(name) === undefined)
  return wrong === undefined
    ? check(flags)
    : Effect.fail(
        new UsageError({
          problem: `"${wrong}" is not the name of a CT or NAT map; \`ctmap maps\` lists what is pinned`
        })
      )
}
