/**
 * Fill-up signals in a bounded queue, for the schedule to drain: what does not fit is dropped and counted, for one that
 * waits says as much as a thousand.
 *
 * @since 0.1.0
 */
import { CodecError, type Family, Signal } from "ctmap-core"
import type * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Queue from "effect/Queue"
import * as Stream from "effect/Stream"
import { type Handler, type RegisterError, Signals } from "./Signals.ts"

/** Messages that wait, at most. @since 0.1.0 */
export const CAPACITY = 1024

/**
 * A handler and the queue it fills.
 *
 * @since 0.1.0
 */
export interface Channel {
  readonly handler: Handler
  /** Ends when signals stop. */
  readonly queue: Queue.Dequeue<Signal.FillUp, Cause.Done>
  /** Messages that found no room. */
  readonly dropped: () => number
}

/** A message of each kind, as there are no others. */
const messages = (["nat_fill_up", "ct_fill_up"] as const).map((signal) =>
  (["ipv4", "ipv6"] as const satisfies ReadonlyArray<Family.Family>).map(
    (family) => new Signal.FillUp({ signal, family })
  )
)

/**
 * A new queue. Decodes the leading word of a payload, and refuses protocols that do not exist.
 *
 * @since 0.1.0
 */
export const make = (capacity: number = CAPACITY): Effect.Effect<Channel> =>
  Effect.map(Queue.dropping<Signal.FillUp, Cause.Done>(capacity), (queue) => {
    let dropped = 0
    const handler: Handler = {
      handle: (signal, payload) => {
        if (payload.byteLength < 4) {
          const actual = 4 + payload.byteLength
          const error = new CodecError.CodecError({ structure: "signal message", expected: Signal.SIZE, actual, at: 0 })
          return { status: "parse error", error }
        }
        const protocol = new DataView(payload.buffer, payload.byteOffset).getUint32(0, true)
        const message = messages[signal]?.[protocol]
        if (message === undefined) {
          return { status: "parse error", error: new Signal.UnknownSignal({ signal, protocol }) }
        }
        if (Queue.offerUnsafe(queue, message)) return { status: "received", data: message.family }
        dropped += 1
        return { status: "channel overflow" }
      },
      close: () => void Queue.endUnsafe(queue)
    }
    return { handler, queue, dropped: () => dropped }
  })

/**
 * What a schedule needs of signals.
 *
 * @since 0.1.0
 */
export interface Subscription {
  /** Messages as they come, several at a time where several wait. Ends when signals stop. One consumer. */
  readonly signals: Stream.Stream<Signal.FillUp>
  readonly queue: Channel["queue"]
  readonly dropped: Channel["dropped"]
  /** Of the signals subscribed to. */
  readonly mute: Effect.Effect<void>
  readonly unmute: Effect.Effect<void>
}

/**
 * Registers a queue for these signals, by default for both kinds of fill-up. Before signals are started.
 *
 * @since 0.1.0
 */
export const subscribe: (...signals: ReadonlyArray<number>) => Effect.Effect<Subscription, RegisterError, Signals> =
  Effect.fnUntraced(function* (...signals: ReadonlyArray<number>) {
    const wanted = signals.length === 0 ? [Signal.NAT_FILL_UP, Signal.CT_FILL_UP] : signals
    const { register, mute, unmute } = yield* Signals
    const { handler, queue, dropped } = yield* make()
    yield* register(handler, ...wanted)
    return {
      signals: Stream.fromQueue(queue),
      queue,
      dropped,
      // Their numbers were accepted above.
      mute: Effect.orDie(mute(...wanted)),
      unmute: Effect.orDie(unmute(...wanted))
    }
  })
