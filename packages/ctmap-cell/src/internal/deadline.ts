/** Work that must not keep others waiting: after its time it is left to itself. */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import type * as Option from "effect/Option"

/**
 * How the effect ended, or nothing once the time is over. It is interrupted then, but nobody waits for it: what cannot
 * be interrupted would keep a stop from ever ending.
 */
export const within = <A, E, R>(
  effect: Effect.Effect<A, E, R>,
  limit: Duration.Input
): Effect.Effect<Option.Option<Exit.Exit<A, E>>, never, R> =>
  Effect.gen(function* () {
    const fiber = yield* Effect.forkDetach(effect, { startImmediately: true })
    const leave = Effect.forkDetach(Fiber.interrupt(fiber), { startImmediately: true })
    const millis = Duration.toMillis(limit)
    // In a fiber of its own: finalizers of an interrupted fiber run this too, where nothing can be interrupted again.
    const watch = Effect.interruptible(Effect.timeoutOption(Fiber.await(fiber), millis))
    const watcher = yield* Effect.forkDetach(watch, { startImmediately: true })
    const exit = yield* Effect.onInterrupt(Fiber.join(watcher), () => Effect.andThen(leave, Fiber.interrupt(watcher)))
    if (exit._tag === "None") yield* leave
    return exit
  })
