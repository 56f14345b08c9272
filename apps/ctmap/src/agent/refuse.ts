/**
 * Flags that mean nothing to an agent: to ignore them would be to do something else than was asked for.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import { UsageError } from "../Failure.ts"
import type { ClockOptions, Passing, Selection } from "../Options.ts"

/** Flags by name, and whether they are given; one that has a default is where it says anything else. @since 0.1.0 */
export type Given = Readonly<Record<string, boolean>>

/** Errors: `UsageError` that names those that are given. @since 0.1.0 */
export const refuse = (flags: Given, why: string): Effect.Effect<void, UsageError> => {
  const given = Object.keys(flags).filter((name) => flags[name] === true)
  return given.length === 0
    ? Effect.void
    : Effect.fail(new UsageError({ problem: `${given.join(", ")}: not with --agent, ${why}` }))
}

/** @since 0.1.0 */
export const settings = "which goes by settings of its own"

/** @since 0.1.0 */
export const clock = ({ clock: of, hz, now }: ClockOptions): Given => ({
  "--clock": of !== undefined,
  "--hz": hz !== undefined,
  "--now": now !== undefined
})

/** @since 0.1.0 */
export const release = (options: Pick<Selection, "release">): Given => ({ "--release": options.release !== "1.17" })

/** @since 0.1.0 */
export const passing = ({
  budget,
  engine,
  maxDeleteRatio,
  maxDeletions
}: Pick<Passing, "budget" | "engine" | "maxDeleteRatio" | "maxDeletions">): Given => ({
  "--engine": engine !== "auto",
  "--max-delete-ratio": maxDeleteRatio !== undefined,
  "--max-deletions": maxDeletions !== undefined,
  "--budget": budget !== 1
})

/** @since 0.1.0 */
export const maps = ({ map }: Pick<Selection, "map">): Given => ({ "--map": map.length > 0 })

/** @since 0.1.0 */
export const endpoint = (options: Pick<Selection, "endpoint">): Given => ({
  "--endpoint": options.endpoint !== undefined
})
