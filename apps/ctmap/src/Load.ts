/**
 * Code that is loaded when it is needed: commands, the kernel, what only some flags need.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import { Unloadable } from "./Failure.ts"

/**
 * Loads a module. Errors: `Unloadable` where its file, or one that it needs, is missing, unreadable or broken.
 *
 * @since 0.1.0
 */
export const load = <M>(module: () => Promise<M>): Effect.Effect<M, Unloadable> =>
  Effect.tryPromise({ try: module, catch: (cause) => new Unloadable({ cause }) })
