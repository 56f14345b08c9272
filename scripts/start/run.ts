/** `npm start` as a process: signals, an output that nobody reads any more, exit codes, and nothing left behind. */
import { constants } from "node:os"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import type { Options } from "./options.ts"
import * as Place from "./place.ts"
import { show } from "./show.ts"

/** The exit code. */
export const run = async (options: Options): Promise<number> => {
  /** What ended it early, and the exit code for that. */
  let early: { readonly why: string | undefined; readonly code: number } | undefined
  let stop = (): void => {}
  const endEarly = (why: string | undefined, code: number): void => {
    early ??= { why, code }
    stop()
  }
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.once(signal, () => endEarly("\nstopped; nothing is left behind", 128 + constants.signals[signal]))
  }
  process.stdout.on("error", ({ code, message }: NodeJS.ErrnoException) =>
    code === "EPIPE" ? endEarly(undefined, 0) : endEarly(`npm start: its output cannot be written: ${message}`, 1)
  )
  // What cannot be said any more is said nowhere.
  process.stderr.on("error", () => {})

  const place = Place.find(options.memory)
  process.once("exit", place.stop)
  console.log(place.title)
  const running = Effect.runFork(Effect.scoped(Effect.provide(show(place, options.seconds, options.keep), place.stage)))
  stop = () => void Effect.runFork(Fiber.interrupt(running))
  const exit = await Effect.runPromise(Fiber.await(running))
  place.stop()
  if (Exit.isSuccess(exit)) return exit.value ? (early?.code ?? 0) : 1
  if (early !== undefined && Cause.hasInterruptsOnly(exit.cause)) {
    if (early.why !== undefined) console.error(early.why)
    return early.code
  }
  console.error(`npm start: ${Cause.pretty(exit.cause)}`)
  return 1
}
