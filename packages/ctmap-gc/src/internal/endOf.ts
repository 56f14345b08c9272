/** How a pass ended, for its record: at the end of its tables, or before, and then why. */
import * as Cause from "effect/Cause"
import * as Exit from "effect/Exit"
import type { GcPass } from "../GcPass.ts"
import { GuardStopped } from "../Guard.ts"

type End = Pick<GcPass, "completed" | "why" | "stoppedBy">

export const endOf = <E>(exit: Exit.Exit<unknown, E>): End => {
  if (Exit.isSuccess(exit)) return { completed: true }
  if (Cause.hasInterruptsOnly(exit.cause)) return { completed: false, why: "interrupted", stoppedBy: "interruption" }
  const why = Cause.prettyErrors(exit.cause)
    .map(({ message }) => message)
    .join("; ")
  return { completed: false, why, stoppedBy: Cause.squash(exit.cause) instanceof GuardStopped ? "guard" : "error" }
}
