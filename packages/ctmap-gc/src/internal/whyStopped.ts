/** Why a pass ended before its table did, in the words of its report; `undefined` where it did not. */
import * as Cause from "effect/Cause"
import * as Exit from "effect/Exit"

export const whyStopped = <E>(exit: Exit.Exit<void, E>): string | undefined =>
  Exit.isSuccess(exit)
    ? undefined
    : Cause.hasInterruptsOnly(exit.cause)
      ? "interrupted"
      : Cause.prettyErrors(exit.cause)
          .map(({ message }) => message)
          .join("; ")
