// An agent of three cells, none of which knows of conntrack: what is composed is found out, checked, started and watched.
import { Cell, Health, Hive, Inspect, Job, Settings } from "ctmap-cell"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import { TestClock } from "effect/testing"

class Disk extends Context.Service<Disk, { readonly free: Effect.Effect<number> }>()("example/Disk") {}
class Alarm extends Context.Service<Alarm, { readonly ring: (why: string) => Effect.Effect<void> }>()(
  "example/Alarm"
) {}

const readings = [40, 12, 3]
const disk = Cell.make("disk", {
  description: "knows how much room is left, in percent",
  provides: [Disk],
  layer: Layer.succeed(Disk, { free: Effect.sync(() => readings.shift() ?? 50) })
})

const alarm = Cell.make("alarm", {
  description: "tells people",
  provides: [Alarm],
  layer: Layer.succeed(Alarm, { ring: (why) => Effect.sync(() => console.log(`ring: ${why}`)) })
})

const watch = Cell.make("watch", {
  description: "looks once a minute, and rings when there is little room",
  config: Schema.Struct({
    alarmBelow: Schema.Int.annotate({ description: "percent that is too little" }).pipe(
      Schema.withDecodingDefaultKey(Effect.succeed(10))
    )
  }),
  needs: [Disk, Alarm],
  layer: ({ alarmBelow }) =>
    Layer.effectDiscard(
      Effect.gen(function* () {
        const { free } = yield* Disk
        const { ring } = yield* Alarm
        const look = Effect.gen(function* () {
          const percent = yield* free
          if (percent < alarmBelow) yield* Effect.andThen(ring(`${percent} %`), Health.degraded("little room"))
        })
        yield* Job.timer("look", look, { every: "1 minute", immediately: true })
      })
    )
})

// The ten lines: an agent is a list of cells, in any order.
const agent = Hive.make("agent", { cells: [watch, alarm, disk] })
console.log(Inspect.text(agent))
const settings = await Effect.runPromise(Settings.load(agent, { flags: ["--alarm-below", "15"] }))
const twoMinutes = Effect.gen(function* () {
  yield* TestClock.adjust("2 minutes")
  const { tree } = yield* Health.Health
  console.log(Health.render(yield* tree))
})
const running = Layer.provideMerge(Hive.layer(agent, { settings }), TestClock.layer())
await Effect.runPromise(Effect.provide(twoMinutes, running))
