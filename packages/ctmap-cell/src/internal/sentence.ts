/** Causes in one sentence. */
import * as Cause from "effect/Cause"

export const sentence = (cause: Cause.Cause<unknown>): string => {
  const error = Cause.squash(cause)
  const text = error instanceof Error ? error.message || error.name : String(error)
  return text === "" ? "no reason was given" : text
}

export const reasonOf = (cause: Cause.Cause<unknown>): "failed" | "died" | "interrupted" =>
  cause.reasons.some(Cause.isFailReason) ? "failed" : Cause.hasInterruptsOnly(cause) ? "interrupted" : "died"
