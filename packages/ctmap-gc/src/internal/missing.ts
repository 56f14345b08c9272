/** Whether an exit says that a pair is not there: no map of it is pinned, so there is nothing to collect or to complain of. */
import * as Exit from "effect/Exit"

/** What the errors of opening and of sweeping have in common. */
export interface Problem {
  readonly _tag: string
  readonly message: string
  readonly reason?: unknown
}

export const errorOf = (exit: Exit.Exit<unknown, Problem>): Problem | undefined => {
  const error = Exit.findErrorOption(exit)
  return error._tag === "None" ? undefined : error.value
}

export const isMissing = (exit: Exit.Exit<unknown, Problem>): boolean => {
  const error = errorOf(exit)
  if (error === undefined || error._tag !== "BpfError") return false
  const { reason } = error
  return typeof reason === "object" && reason !== null && "_tag" in reason && reason._tag === "PinNotFound"
}
