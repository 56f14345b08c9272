/**
 * The datapath's "table is full", for the schedule: from whatever `cilium_signals` is pinned at the time.
 *
 * Owns coming and going: the map may not be there yet, may be replaced by a new one, and reading it may fail. The
 * stream that the schedule has goes on through all of it.
 *
 * @since 0.1.0
 */
import { MapName, type Signal } from "ctmap-core"
import { SignalQueue, Signals } from "ctmap-gc"
import { type Bpf, type BpfError, BpfMap, Pins } from "ctmap-kernel"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Queue from "effect/Queue"
import * as Stream from "effect/Stream"

/** How long a reader waits before it looks whether the map is still the same, or there by now. @since 0.1.0 */
export const LOOK = Duration.seconds(10)

/**
 * What a `GcRunner` takes.
 *
 * @since 0.1.0
 */
export class SignalFeed extends Context.Service<
  SignalFeed,
  {
    /** One consumer. Ends with the layer. */
    readonly signals: Stream.Stream<Signal.FillUp>
    readonly mute: Effect.Effect<void>
    readonly unmute: Effect.Effect<void>
  }
>()("ctmap-agent/SignalFeed") {}

/** A feed, and what fills it from one map after the other. @since 0.1.0 */
export interface Fed {
  readonly feed: SignalFeed["Service"]
  /**
   * Reads the map that is pinned now, until another one is. Fails where there is none or it cannot be read.
   */
  readonly readOnce: <R>(
    reading: Effect.Effect<void, never, R>
  ) => Effect.Effect<void, BpfError.BpfError | Signals.NoHandlers, Bpf.Bpf | R>
}

/** @since 0.1.0 */
export const make: Effect.Effect<Fed> = Effect.gen(function* () {
  const queue = yield* Queue.dropping<Signal.FillUp>(SignalQueue.CAPACITY)
  let isMuted = false
  let current: Pick<SignalQueue.Subscription, "mute" | "unmute"> | undefined

  const readOnce: Fed["readOnce"] = (reading) =>
    Effect.gen(function* () {
      const id = yield* idOf
      const subscription = yield* SignalQueue.subscribe().pipe(Effect.orDie)
      const { start } = yield* Signals.Signals
      yield* start
      current = subscription
      yield* Effect.addFinalizer(() => Effect.sync(() => void (current = undefined)))
      if (isMuted) yield* subscription.mute
      yield* reading
      const forward = Stream.runForEach(subscription.signals, (signal) => Queue.offer(queue, signal))
      const watch = Effect.repeat(Effect.sleep(LOOK), {
        while: () => Effect.map(Effect.result(idOf), (now) => now._tag === "Success" && now.success === id)
      })
      yield* Effect.raceFirst(forward, watch)
    }).pipe(Effect.provide(Layer.fresh(Signals.layer)), Effect.scoped)

  return {
    readOnce,
    feed: {
      signals: Stream.fromQueue(queue),
      mute: Effect.suspend(() => {
        isMuted = true
        return current?.mute ?? Effect.void
      }),
      unmute: Effect.suspend(() => {
        isMuted = false
        return current?.unmute ?? Effect.void
      })
    }
  }
})

const idOf = Effect.scoped(Effect.map(Effect.flatMap(Pins.pathOf(MapName.SIGNALS), BpfMap.open), ({ info }) => info.id))
