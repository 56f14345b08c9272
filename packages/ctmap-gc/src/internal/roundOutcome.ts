/** What the passes of a round came to: for the schedule, and for the log. */
import type { Family } from "ctmap-core"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as GcMetrics from "../GcMetrics.ts"
import * as GcPass from "../GcPass.ts"
import type { RanCt } from "../GcRunner.ts"
import type * as GcSchedule from "../GcSchedule.ts"
import { errorOf, isMissing, type Problem } from "./missing.ts"

interface RanPair {
  readonly pair: string
  readonly source: Pick<RanCt["pairs"][number]["source"], "family">
  readonly exit: Exit.Exit<unknown, Problem>
}

type Ran = { readonly pairs: ReadonlyArray<RanPair> }

/**
 * Logs what went wrong with pairs: at first, and again when it is something else, for it can stay as it is until somebody
 * does something about it. That it is over is said, too. `what` says what pairs were to have done with them.
 */
export const complainer = (what = ""): ((ran: Ran) => Effect.Effect<void>) => {
  const said = new Map<string, { readonly family: Family.Family; readonly kind: string }>()
  return ({ pairs }) =>
    Effect.gen(function* () {
      const families = new Set(pairs.map(({ source }) => source.family))
      const names = new Set(pairs.map(({ pair }) => pair))
      for (const [pair, { family }] of said) if (families.has(family) && !names.has(pair)) said.delete(pair)
      for (const { pair, source, exit } of pairs) {
        const before = said.get(pair)
        const text = problemOf(pair, exit)
        if (text !== undefined) {
          const kind = kindOf(exit)
          said.set(pair, { family: source.family, kind })
          yield* GcMetrics.recordFailedPair(source.family)
          if (before?.kind !== kind) yield* Effect.logWarning(`${what}${text}`)
        } else if (!wasInterrupted(exit)) {
          said.delete(pair)
          if (before !== undefined && Exit.isSuccess(exit)) yield* Effect.logInfo(`${what}${pair}: well again`)
        }
      }
    })
}

/** What went wrong and where, without the numbers, which are others each time. */
const kindOf = (exit: Exit.Exit<unknown, Problem>): string => {
  const error = errorOf(exit)
  if (error === undefined) return "defect"
  const { reason } = error
  const why = typeof reason === "object" && reason !== null && "_tag" in reason ? String(reason._tag) : ""
  return [...Object.values(error).filter((value) => typeof value === "string"), why].join(" ")
}

const wasInterrupted = (exit: Exit.Exit<unknown, Problem>): boolean =>
  Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause)

/** What went wrong with a pair, in words; nothing where it did not, is not there, or was interrupted. */
const problemOf = (pair: string, exit: Exit.Exit<unknown, Problem>): string | undefined =>
  Exit.isSuccess(exit) || isMissing(exit) || Cause.hasInterruptsOnly(exit.cause)
    ? undefined
    : `${pair}: ${Cause.prettyErrors(exit.cause)
        .map(({ message }) => message)
        .join("; ")}`

/** Problems that are told one by one. */
const MOST = 16

export const outcomeOf = ({ pairs, deleted, unlisted = [] }: RanCt): GcSchedule.Outcome => {
  const byFamily: Partial<Record<Family.Family, { deleted: number; seen: number }>> = {}
  let ratio = 0
  let seen = 0
  for (const { source, exit } of pairs) {
    if (Exit.isFailure(exit)) continue
    const { pass } = exit.value
    const counts = (byFamily[source.family] ??= { deleted: 0, seen: 0 })
    counts.deleted += GcPass.total(pass, "deleted")
    counts.seen += GcPass.total(pass, "seen")
    seen += GcPass.total(pass, "seen")
    ratio = Math.max(ratio, GcPass.deleteRatio(pass))
  }
  // Maps that are not there yet are not collected: a round over nothing is tried again soon, not after ever longer.
  const isAny = pairs.some(({ exit }) => Exit.isSuccess(exit))
  const isWhole = unlisted.length === 0 && pairs.every(({ exit }) => Exit.isSuccess(exit) || isMissing(exit))
  const all = [
    ...unlisted.map(({ message }) => message),
    ...pairs.flatMap(({ pair, exit }) => problemOf(pair, exit) ?? [])
  ]
  const problems = all.length > MOST ? [...all.slice(0, MOST), `and ${all.length - MOST} more`] : all
  return { success: isAny && isWhole, ratio, deleted, seen, byFamily, problems }
}
