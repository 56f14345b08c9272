/** The agent as a process, as far as that can be seen without one. */
import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import { run } from "../src/Run.ts"

describe("the program", () => {
  it.effect(
    "hears SIGHUP before it has started, as the signal would end it otherwise, and no more once it has ended",
    () =>
      Effect.gen(function* () {
        const before = process.listenerCount("SIGHUP")
        const asked = yield* Deferred.make<void>()
        const load = Effect.andThen(Deferred.succeed(asked, undefined), Effect.never)
        const fiber = yield* Effect.forkChild(run({ load }, "0.0.0"))
        yield* Deferred.await(asked)
        assert.strictEqual(process.listenerCount("SIGHUP"), before + 1)
        yield* Fiber.interrupt(fiber)
        assert.strictEqual(process.listenerCount("SIGHUP"), before)
      })
  )
})
