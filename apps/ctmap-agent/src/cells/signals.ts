/**
 * Hears from the datapath that a table is full.
 *
 * @since 0.1.0
 */
import { Cell, Health, Job } from "ctmap-cell"
import { Bpf, Pins } from "ctmap-kernel"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import * as SignalFeed from "../SignalFeed.ts"
import { keys } from "./kernel.ts"

const config = Schema.Struct({
  signals: Schema.Boolean.annotate({
    description:
      "collect as soon as the datapath says that a table is full; takes these signals from Cilium's agent, if one runs"
  }).pipe(Schema.withDecodingDefaultKey(Effect.succeed(false)))
})

const none: SignalFeed.SignalFeed["Service"] = { signals: Stream.never, mute: Effect.void, unmute: Effect.void }

/** @since 0.1.0 */
export const cell = Cell.make("signals", {
  description: "hears from the datapath that a table is full",
  config,
  needs: keys,
  provides: [SignalFeed.SignalFeed],
  layer: ({ signals }) =>
    Layer.effect(
      SignalFeed.SignalFeed,
      Effect.gen(function* () {
        if (!signals) {
          yield* Health.stopped("off: tables are collected at intervals; --signals turns it on")
          return none
        }
        const kernel = Context.make(Bpf.Bpf, yield* Bpf.Bpf).pipe(Context.add(Pins.BpfFsRoot, yield* Pins.BpfFsRoot))
        const { feed, readOnce } = yield* SignalFeed.make
        const read = Effect.gen(function* () {
          // In its own words: a map that is not there yet is waited for.
          yield* Effect.tapError(readOnce(Health.ok("reading")), ({ message }) => Health.degraded(message))
          return yield* Effect.fail("the map was replaced")
        })
        yield* Job.oneShot("read", Effect.provide(read, kernel), { retry: Schedule.spaced(SignalFeed.LOOK) })
        return feed
      })
    )
})
