/**
 * The flags that select maps, before any map is looked at: what contradicts itself is wrong usage.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import { UsageError } from "./Failure.ts"
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
