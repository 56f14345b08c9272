/**
 * Tells systemd how the agent is. Started by hand, or in a container, it does nothing.
 *
 * @since 0.1.0
 */
import { Cell, Health, Job, Lifecycle } from "ctmap-cell"
import { Bpf } from "ctmap-kernel"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import { Reload } from "../Reload.ts"
import * as SdNotify from "../SdNotify.ts"

/** At most one sentence in this time. */
const PACE = "1 second"

/** @since 0.1.0 */
export const cell = Cell.make("systemd", {
  description: "tells systemd that the agent is ready, how it is, and that it is alive",
  needs: [Bpf.Bpf, Reload],
  layer: Layer.effectDiscard(
    Effect.gen(function* () {
      const systemd = yield* SdNotify.make
      if (systemd === undefined) return yield* Health.stopped("off: systemd has not started this process")
      const { notify, watchdog } = systemd
      const { monotonic } = yield* Bpf.Bpf
      const { announce } = yield* Reload
      const { changes } = yield* Health.Health
      const { ready } = yield* Lifecycle.Lifecycle

      // Last in the hive, so that this is the first thing to happen when it stops.
      yield* Effect.addFinalizer(() => Effect.ignore(notify({ STOPPING: 1, STATUS: "stopping" })))
      yield* announce(
        Effect.ignore(Effect.suspend(() => notify({ RELOADING: 1, MONOTONIC_USEC: String(monotonic() / 1000n) }))),
        Effect.ignore(notify({ READY: 1 }))
      )
      yield* Job.oneShot("ready", Effect.andThen(ready, notify({ READY: 1 })), { retry: Schedule.spaced(PACE) })
      const sentences = changes.pipe(Stream.map(SdNotify.sentence), Stream.changes)
      yield* Job.observer("status", sentences, (text) => Effect.andThen(notify({ STATUS: text }), Effect.sleep(PACE)))
      if (watchdog !== undefined) {
        // A timer that runs shows that the event loop turns; whether work gets done is in the status.
        yield* Job.timer("watchdog", notify({ WATCHDOG: 1 }), {
          every: Duration.times(watchdog, 0.5),
          immediately: true
        })
      }
    })
  )
})
