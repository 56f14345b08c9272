/** What the passes of a round came to: for the schedule, and for the log. */
import type { Family } from "ctmap-core"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as GcPass from "../GcPass.ts"
import type { RanCt } from "../GcRunner.ts"
import type * as GcSchedule from "../GcSchedule.ts"

export const complain = ({
  pairs
}: {
  readonly pairs: ReadonlyArray<Pick<RanCt["pairs"][number], "pair"> & { readonly exit: Exit.Exit<unknown, Problem> }>
}): Effect.Effect<void> =>
  Effect.forEach(
    pairs,
    ({ pair, exit }) =>
      Exit.isFailure(exit) && !isMissing(exit) && !Cause.hasInterruptsOnly(exit.cause)
        ? Effect.logWarning(
            `${pair}: ${Cause.prettyErrors(exit.cause)
              .map(({ message }) => message)
              .join("; ")}`
          )
        : Effect.void,
    { discard: true }
  )

/** What both kinds of errors have. */
interface Problem {
  readonly _tag: string
  readonly message: string
  readonly reason?: unknown
}

/** The maps of a pair are not pinned: nothing to collect, and nothing to complain of. */
const isMissing = (exit: Exit.Exit<unknown, Problem>): boolean => {
  const error = Exit.findErrorOption(exit)
  if (error._tag === "None" || error.value._tag !== "BpfError") return false
  const { reason } = error.value
  return typeof reason === "object" && reason !== null && "_tag" in reason && reason._tag === "PinNotFound"
}

export const outcomeOf = ({ pairs, deleted }: RanCt): GcSchedule.Outcome => {
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
  const success = isAny && pairs.every(({ exit }) => Exit.isSuccess(exit) || isMissing(exit))
  return { success, ratio, deleted, seen, byFamily }
}
