/**
 * Whether tables can be asked by a filter at all, before anybody is asked whether entries shall go.
 *
 * @since 0.1.0
 */
import type { Filter, Release } from "ctmap-core"
import * as FilterPredicate from "ctmap-core/FilterPredicate"
import * as Releases from "ctmap-core/Release"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"

/** Any time: filters that look at the clock get one. */
const aTime = { now: 0, secondsPerUnit: 1 }

/** Refuses what CT tables of one of these releases do not have. Errors: `FilterUnsupported`. @since 0.1.0 */
export const ct = (
  filter: Filter.Filter | undefined,
  releases: ReadonlyArray<Release.Release>
): Effect.Effect<void, Filter.FilterUnsupported> =>
  filter === undefined
    ? Effect.void
    : Effect.forEach(
        releases,
        (release) => Effect.fromResult(FilterPredicate.compileCt(filter, { family: "ipv4", release, ...aTime })),
        { discard: true }
      )

/** Refuses what no CT table has, of whatever release. Errors: `FilterUnsupported`. @since 0.1.0 */
export const anyCt = (filter: Filter.Filter): Effect.Effect<void, Filter.FilterUnsupported> => {
  const tried = Releases.all.map((release) => FilterPredicate.compileCt(filter, { family: "ipv4", release, ...aTime }))
  return tried.some(Result.isSuccess) ? Effect.void : Effect.asVoid(Effect.fromResult(tried[0]!))
}

/** Refuses what NAT tables do not have. Errors: `FilterUnsupported`. @since 0.1.0 */
export const nat = (
  filter: Filter.Filter | undefined,
  release: Release.Release
): Effect.Effect<void, Filter.FilterUnsupported> =>
  filter === undefined
    ? Effect.void
    : Effect.asVoid(Effect.fromResult(FilterPredicate.compileNat(filter, { family: "ipv4", release, ...aTime })))
