/** Other settings in the middle of a schedule: the decisions, and the loop that follows them. */
import { assert, describe, it } from "@effect/vitest"
import { GcConfig, type GcSchedule } from "ctmap-gc"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { TestClock } from "effect/testing"
import { reconfigured } from "../src/internal/scheduleReconfigure.ts"
import { int, optionsFor, play, Settings, Turns } from "./schedulePlay.ts"
import { start, useless, worthIt } from "./scheduleRig.ts"

const { hours, minutes, seconds, zero } = Duration
const never = { orphanPurgeInterval: zero }

const change = (schedule: GcSchedule.GcSchedule, settings: Partial<GcConfig.Settings>) =>
  Effect.flatMap(Effect.orDie(GcConfig.make(settings)), schedule.reconfigure)

describe("whatever was before", () => {
  const given = [Settings, Settings, Turns, int(1, 80)] as const

  it.prop("the same settings change nothing", [Settings, Turns], ([settings, turns]) => {
    const options = optionsFor(settings)
    for (const { at, state } of play(options, turns)) {
      assert.deepStrictEqual(reconfigured(options, optionsFor(settings), state, at), state)
    }
  })

  it.prop(
    "nothing but the new families is collected after a change, and each of them is",
    [...given],
    ([was, is, turns, turn]) => {
      const options = optionsFor(is)
      for (const { action, state } of play(optionsFor(was), turns, { turn, options }).slice(turn)) {
        const families =
          action._tag === "Round" ? action.round.families : action._tag === "Purge" ? action.families : []
        for (const family of families) assert.include(options.families, family)
        if (action._tag === "Wait") {
          for (const family of options.families) assert.isDefined(state.startedAt[family])
        }
      }
    }
  )

  it.prop("no wait ends in the past, or later than a full pass is due", [...given], ([was, is, turns, turn]) => {
    for (const { action, at, state } of play(optionsFor(was), turns, { turn, options: optionsFor(is) })) {
      if (action._tag !== "Wait") continue
      assert.isAbove(action.until, at)
      assert.isAtMost(action.until, state.fullAt)
    }
  })

  it.prop("an interval that is fixed then holds for the next full pass", [...given], ([was, is, turns, turn]) => {
    const fixed = { ...is, interval: 45 } as const
    const [changed] = play(optionsFor({ ...was, interval: 0 }), turns, { turn, options: optionsFor(fixed) }).slice(turn)
    if (changed === undefined || changed.before.failedFull > 0 || changed.event.result?._tag === "Round") return
    const { fullAt, fullEndedAt } = changed.before
    if (fullEndedAt !== undefined) assert.strictEqual(fullAt, Math.max(changed.at, fullEndedAt + 45_000))
  })
})

describe("an interval", () => {
  it.effect("that gets shorter holds at once, from the end of the last full pass", () =>
    Effect.gen(function* () {
      const { did, schedule } = yield* start({ settings: { ...never, conntrackGcInterval: hours(1) } })
      yield* TestClock.adjust("10 minutes")
      yield* change(schedule, { ...never, conntrackGcInterval: minutes(12) })
      const { next } = yield* schedule.status
      assert.deepInclude(next, { atMillis: 720_000, reason: "reconfigured" })
      assert.strictEqual(next?.why, "the settings changed: the interval is 12m now")
      yield* TestClock.adjust("2 minutes")
      assert.deepStrictEqual(did, ["0 initial v4+v6", "720 interval v4+v6"])
    })
  )

  it.effect("that is over already under the new settings brings a pass now", () =>
    Effect.gen(function* () {
      const { did, schedule } = yield* start({ settings: { ...never, conntrackGcInterval: hours(1) } })
      yield* TestClock.adjust("10 minutes")
      yield* change(schedule, { ...never, conntrackGcInterval: minutes(1) })
      yield* TestClock.adjust("61 seconds")
      assert.deepStrictEqual(did, ["0 initial v4+v6", "600 interval v4+v6", "660 interval v4+v6"])
    })
  )

  it.effect("that gets longer holds at once too", () =>
    Effect.gen(function* () {
      const { did, schedule } = yield* start({ settings: { ...never, conntrackGcInterval: minutes(5) } })
      yield* TestClock.adjust("1 minute")
      yield* change(schedule, { ...never, conntrackGcInterval: minutes(20) })
      yield* TestClock.adjust("18 minutes")
      assert.deepStrictEqual(did, ["0 initial v4+v6"])
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(did, ["0 initial v4+v6", "1200 interval v4+v6"])
    })
  )

  it.effect("goes on from the fixed one when it adapts again, below a maximum that is new", () =>
    Effect.gen(function* () {
      const { did, schedule } = yield* start({ settings: { ...never, conntrackGcInterval: hours(2) } })
      yield* TestClock.adjust("1 minute")
      yield* change(schedule, never)
      assert.strictEqual((yield* schedule.status).intervalMillis, 7_200_000)
      yield* change(schedule, { ...never, conntrackGcMaxInterval: minutes(30) })
      assert.strictEqual((yield* schedule.status).intervalMillis, 1_800_000)
      yield* TestClock.adjust("29 minutes")
      assert.deepStrictEqual(did, ["0 initial v4+v6", "1800 interval v4+v6"])
    })
  )

  it.effect("does not bring forward or put off a failed pass that is to be tried again", () =>
    Effect.gen(function* () {
      let fails = true
      const { did, schedule } = yield* start({
        settings: { ...never, conntrackGcInterval: hours(1) },
        round: () => Effect.suspend(() => Effect.succeed({ ...worthIt, success: !fails }))
      })
      yield* TestClock.adjust("1 second")
      yield* change(schedule, { ...never, conntrackGcInterval: hours(2) })
      fails = false
      yield* TestClock.adjust("8 seconds")
      assert.deepStrictEqual(did, ["0 initial v4+v6"])
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(did, ["0 initial v4+v6", "10 interval v4+v6"])
    })
  )
})

describe("a family", () => {
  it.effect("that is added has its initial pass at once, and the others keep their time", () =>
    Effect.gen(function* () {
      const fixed = { ...never, conntrackGcInterval: minutes(5) }
      const { did, schedule } = yield* start({ settings: { ...fixed, families: ["ipv4"] } })
      yield* TestClock.adjust("1 minute")
      yield* change(schedule, fixed)
      yield* TestClock.adjust("4 minutes")
      assert.deepStrictEqual(did, ["0 initial v4", "60 initial v6", "300 interval v4+v6"])
    })
  )

  it.effect("whose first pass fails is tried again soon", () =>
    Effect.gen(function* () {
      const { did, schedule } = yield* start({
        settings: { ...never, families: ["ipv4"] },
        round: ({ at }) => Effect.succeed({ ...worthIt, success: at !== 60_000 })
      })
      yield* TestClock.adjust("1 minute")
      yield* change(schedule, never)
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* schedule.status).next?.reason, "retry")
      yield* TestClock.adjust("9 seconds")
      assert.deepStrictEqual(did, ["0 initial v4", "60 initial v6", "70 interval v4+v6"])
    })
  )

  it.effect("that is removed is collected no more, and anew when it comes back", () =>
    Effect.gen(function* () {
      const fixed = { ...never, conntrackGcInterval: minutes(5) }
      const { did, schedule, signal } = yield* start({ settings: fixed })
      yield* TestClock.adjust("1 minute")
      yield* change(schedule, { ...fixed, families: ["ipv4"] })
      yield* signal("ipv6")
      yield* TestClock.adjust("5 minutes")
      yield* change(schedule, fixed)
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(did, ["0 initial v4+v6", "300 interval v4", "360 initial v6"])
    })
  )

  it.effect("that is added during a pass over the other has its own right after it", () =>
    Effect.gen(function* () {
      const { did, schedule } = yield* start({
        settings: { ...never, families: ["ipv4"] },
        round: () => Effect.delay(Effect.succeed(worthIt), "30 seconds")
      })
      yield* TestClock.adjust("10 seconds")
      yield* change(schedule, never)
      assert.deepStrictEqual((yield* schedule.status).running?.families, ["ipv4"])
      yield* TestClock.adjust("30 seconds")
      assert.deepStrictEqual(did, ["0 initial v4", "30 initial v6"])
    })
  )
})

describe("the other settings", () => {
  it.effect("a gap that runs becomes as long as it would have been", () =>
    Effect.gen(function* () {
      const gap = (length: Duration.Duration) => ({ ...never, signalMinGap: length })
      const { did, schedule, signal } = yield* start({
        settings: gap(minutes(2)),
        round: () => Effect.succeed(worthIt)
      })
      yield* TestClock.adjust("1 second")
      yield* signal("ipv4")
      yield* TestClock.adjust("1 second")
      yield* signal("ipv4")
      yield* TestClock.adjust("8 seconds")
      const passes = () => did.filter((line) => line.includes("signal"))
      assert.deepStrictEqual(passes(), ["1 signal v4"])
      yield* change(schedule, gap(seconds(20)))
      yield* TestClock.adjust("11 seconds")
      assert.deepStrictEqual(passes(), ["1 signal v4", "21 signal v4"])
    })
  )

  it.effect("a back-off keeps how often passes were useless", () =>
    Effect.gen(function* () {
      const { schedule, signal } = yield* start({
        settings: { ...never, conntrackGcInterval: hours(1), signalMinGap: seconds(4) },
        round: () => Effect.succeed(useless)
      })
      yield* TestClock.adjust("1 second")
      yield* signal("ipv4")
      yield* TestClock.adjust("1 second")
      assert.deepInclude((yield* schedule.status).signals.ipv4, { useless: 1, gapMillis: 8000 })
      yield* change(schedule, { ...never, conntrackGcInterval: hours(1), signalMinGap: seconds(30) })
      const { signals } = yield* schedule.status
      assert.deepInclude(signals.ipv4, { useless: 1, gapMillis: 60_000, ignoredUntilMillis: 61_000 })
    })
  )

  it.effect("orphans are looked for at the new interval, from the last time on, or no more", () =>
    Effect.gen(function* () {
      const every = (length: Duration.Duration) => ({ conntrackGcInterval: hours(9), orphanPurgeInterval: length })
      const { did, schedule } = yield* start({ settings: every(hours(1)) })
      yield* TestClock.adjust("10 minutes")
      yield* change(schedule, every(minutes(15)))
      assert.strictEqual((yield* schedule.status).orphansAtMillis, 900_000)
      yield* TestClock.adjust("5 minutes")
      yield* change(schedule, every(zero))
      assert.isUndefined((yield* schedule.status).orphansAtMillis)
      yield* TestClock.adjust("1 hour")
      yield* change(schedule, every(minutes(30)))
      yield* TestClock.adjust("30 minutes")
      assert.deepStrictEqual(did, ["0 initial v4+v6", "900 orphans v4+v6", "6300 orphans v4+v6"])
    })
  )

  it.effect("a backlog is estimated from the moment that there is a threshold", () =>
    Effect.gen(function* () {
      const threshold = (backlogThreshold: number) => ({ ...never, conntrackGcInterval: hours(9), backlogThreshold })
      const { did, schedule } = yield* start({
        settings: threshold(0),
        backlog: Effect.succeed([{ family: "ipv6", expiredRatio: 0.5 }])
      })
      yield* TestClock.adjust("10 minutes")
      assert.deepInclude(yield* schedule.status, { schedule: "cilium" })
      yield* change(schedule, threshold(0.25))
      assert.deepInclude(yield* schedule.status, { schedule: "backlog", estimateAtMillis: 630_000 })
      yield* TestClock.adjust("30 seconds")
      yield* change(schedule, threshold(0))
      yield* TestClock.adjust("10 minutes")
      assert.deepStrictEqual(did, ["0 initial v4+v6", "630 backlog v6"])
    })
  )

  it.effect("before the loop runs, they are what it begins with", () =>
    Effect.gen(function* () {
      const { did, fiber, schedule } = yield* start({ settings: never })
      yield* TestClock.adjust("1 second")
      fiber.interruptUnsafe()
      yield* TestClock.adjust("1 second")
      yield* change(schedule, { ...never, families: ["ipv6"] })
      yield* Effect.forkChild(schedule.run, { startImmediately: true })
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(did, ["0 initial v4+v6", "2 initial v6"])
    })
  )
})
