import { assert, describe, it } from "@effect/vitest"
import { GcInterval } from "ctmap-core"
import { GcSchedule } from "ctmap-gc"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Queue from "effect/Queue"
import * as Schema from "effect/Schema"
import { TestClock } from "effect/testing"
import { brisk, start, useless, withWarnings, worthIt } from "./scheduleRig.ts"

const { minutes, seconds, zero } = Duration
const never = { orphanPurgeInterval: zero }

describe("the initial scan", () => {
  it.effect("takes all families at once, and says when it is done", () =>
    Effect.gen(function* () {
      const { did, schedule } = yield* start({
        settings: never,
        round: () => Effect.delay(Effect.succeed(worthIt), "5 seconds")
      })
      const done = yield* Effect.forkChild(schedule.initialScanDone, { startImmediately: true })
      yield* TestClock.adjust("4 seconds")
      assert.isUndefined(done.pollUnsafe())
      assert.deepStrictEqual((yield* schedule.status).running, {
        trigger: "initial",
        families: ["ipv4", "ipv6"],
        startedAtMillis: 0
      })
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(done)
      assert.deepStrictEqual(did, ["0 initial v4+v6"])
    })
  )

  it.effect("collects the enabled families only, whatever signals say", () =>
    Effect.gen(function* () {
      const { did, signal } = yield* start({ settings: { ...never, families: ["ipv6"] } })
      yield* signal("ipv4")
      yield* TestClock.adjust("5 minutes")
      assert.deepStrictEqual(did, ["0 initial v6", "300 interval v6"])
    })
  )

  it.effect("is warned of exactly once when it takes longer than 30 s, and goes on", () =>
    Effect.gen(function* () {
      const { value, warnings } = yield* withWarnings(
        Effect.gen(function* () {
          const { schedule } = yield* start({
            settings: never,
            round: () => Effect.delay(Effect.succeed(worthIt), "10 minutes")
          })
          yield* TestClock.adjust("60 minutes")
          return yield* schedule.status
        })
      )
      assert.deepStrictEqual(warnings, ["the initial scan has not finished within 30s; it goes on"])
      assert.isTrue(value.initialScanDone)
    })
  )

  it.effect("is not warned of when it is quick, nor with startupWarning 0", () =>
    Effect.gen(function* () {
      const quick = Effect.gen(function* () {
        yield* start({ settings: never })
        yield* TestClock.adjust("2 minutes")
      })
      const unwatched = Effect.gen(function* () {
        const settings = { ...never, startupWarning: zero }
        yield* start({ settings, round: () => Effect.delay(Effect.succeed(worthIt), "10 minutes") })
        yield* TestClock.adjust("20 minutes")
      })
      assert.deepStrictEqual((yield* withWarnings(Effect.andThen(quick, unwatched))).warnings, [])
    })
  )
})

describe("signals", () => {
  it.effect("one for v4 brings exactly one pass over v4, and a purge of its orphans", () =>
    Effect.gen(function* () {
      const { did, signal } = yield* start({ settings: never })
      yield* TestClock.adjust("7 seconds")
      yield* signal("ipv4")
      yield* TestClock.adjust("4 minutes")
      assert.deepStrictEqual(did, ["0 initial v4+v6", "7 signal v4", "7 orphans v4"])
    })
  )

  it.effect("many during a pass bring one more pass between them, not one each", () =>
    Effect.gen(function* () {
      const { did, muting, signal } = yield* start({
        settings: never,
        round: () => Effect.delay(Effect.succeed(brisk), "10 seconds")
      })
      yield* TestClock.adjust("3 seconds")
      for (let i = 0; i < 500; i++) yield* signal(i % 2 === 0 ? "ipv4" : "ipv6")
      assert.deepStrictEqual(muting, [])
      yield* TestClock.adjust("4 minutes")
      assert.deepStrictEqual(did, ["0 initial v4+v6", "10 signal v4+v6", "20 orphans v4", "20 orphans v6"])
      assert.deepStrictEqual(muting, ["mute", "unmute"])
    })
  )

  it.effect("soon after a pass that was worth it wait for the gap to end", () =>
    Effect.gen(function* () {
      const { did, schedule, signal } = yield* start({ settings: { ...never, signalMinGap: seconds(4) } })
      yield* TestClock.adjust("1 second")
      yield* signal("ipv4")
      yield* TestClock.adjust("1 second")
      yield* signal("ipv4")
      yield* signal("ipv4")
      yield* TestClock.adjust("1 second")
      const { next, signals } = yield* schedule.status
      assert.deepInclude(next, { atMillis: 5000, trigger: "signal", families: ["ipv4"], reason: "signal-gap" })
      assert.deepInclude(signals.ipv4, { heard: 3, ignored: 0 })
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(
        did.filter((line) => !line.includes("orphans")),
        ["0 initial v4+v6", "1 signal v4", "5 signal v4"]
      )
    })
  )

  it.effect.each([1000, 7000, 299_000])(
    "a storm of one family every %i ms for an hour leaves at least one full pass per deadline (G7)",
    (everyMillis) =>
      Effect.gen(function* () {
        const { rounds, signal } = yield* start({ settings: { ...never, whenNothingDeleted: "keep" } })
        for (let at = 0; at < 3_600_000; at += everyMillis) {
          yield* TestClock.adjust(everyMillis)
          yield* signal("ipv4")
        }
        const full = rounds.filter(({ families }) => families.length === 2).map(({ at }) => at)
        assert.isAtLeast(full.length, 12)
        full.slice(1).forEach((at, i) => assert.isAtMost(at - full[i]!, 300_000))
      })
  )

  it.effect("Cilium's own case: a maximum of 500 ms and signals every 50 ms of one family, the other, and both", () =>
    Effect.gen(function* () {
      const { rounds, signal } = yield* start({
        settings: { ...never, conntrackGcMaxInterval: Duration.millis(500), signalMinGap: zero }
      })
      for (const families of [["ipv4"], ["ipv6"], ["ipv4", "ipv6"]] as const) {
        const before = rounds.length
        for (let i = 0; i < 20; i++) {
          yield* TestClock.adjust("50 millis")
          yield* Effect.forEach(families, signal)
        }
        assert.isTrue(rounds.slice(before).some(({ trigger }) => trigger === "interval"))
      }
    })
  )

  it.effect("end without ending the schedule", () =>
    Effect.gen(function* () {
      const { did, signals } = yield* start({ settings: never })
      yield* Queue.shutdown(signals)
      yield* TestClock.adjust("5 minutes")
      assert.deepStrictEqual(did, ["0 initial v4+v6", "300 interval v4+v6"])
    })
  )
})

describe("the interval", () => {
  /** Intervals between full passes, in seconds. */
  const intervals = (rounds: ReadonlyArray<{ readonly at: number }>) =>
    rounds.slice(1).map(({ at }, i) => (at - rounds[i]!.at) / 1000)

  it.effect("shrinks and grows with what passes delete", () =>
    Effect.gen(function* () {
      const ratios = [0.5, 0.6, 0.95, 0.1, 0.01, 0.01, 0.26, 0.25]
      const { rounds } = yield* start({
        settings: never,
        round: () => Effect.sync(() => ({ success: true, ratio: ratios.shift() ?? 0.1, deleted: 1 }))
      })
      yield* TestClock.adjust("20 minutes")
      assert.deepStrictEqual(intervals(rounds).slice(0, 8), [150, 60, 10, 10, 15, 23, 17, 17])
    })
  )

  it.effect("ratchets down to a tenth at a time and up by half, within the given bounds", () =>
    Effect.gen(function* () {
      let ratio = 0.9
      const millis = Duration.millis
      const { rounds, schedule } = yield* start({
        settings: { ...never, conntrackGcMaxInterval: seconds(2) },
        bounds: { min: millis(1), max: seconds(2), rounding: millis(10) },
        round: () => Effect.sync(() => ({ success: true, ratio, deleted: 1 }))
      })
      yield* TestClock.adjust("5 seconds")
      assert.isAtMost((yield* schedule.status).intervalMillis, 200)
      ratio = 0.01
      const before = rounds.length
      yield* TestClock.adjust("20 seconds")
      assert.strictEqual((yield* schedule.status).intervalMillis, 2000)
      assert.isAbove(rounds.length, before)
    })
  )

  it.effect.each([
    { settings: {}, expected: [300, 450, 675, 1013] },
    { settings: { whenNothingDeleted: "keep" as const }, expected: [300, 300, 300, 300] },
    { settings: { conntrackGcMaxInterval: minutes(6) }, expected: [300, 360, 360, 360] },
    { settings: { conntrackGcInterval: seconds(42) }, expected: [42, 42, 42, 42] }
  ])("on an idle node, with $settings, it is $expected s (G21)", ({ expected, settings }) =>
    Effect.gen(function* () {
      let first = true
      const { rounds } = yield* start({
        settings: { ...never, ...settings },
        round: () =>
          Effect.sync(() => {
            const outcome = first ? worthIt : useless
            first = false
            return outcome
          })
      })
      yield* TestClock.adjust("60 minutes")
      assert.deepStrictEqual(intervals(rounds).slice(0, 4), expected)
    })
  )

  it.effect("is not misled by a pass over one family just before: the families that waited count", () =>
    Effect.gen(function* () {
      const { rounds, signal } = yield* start({ settings: never })
      yield* TestClock.adjust("299 seconds")
      yield* signal("ipv4")
      yield* TestClock.adjust("11 minutes")
      // The full pass at 300 s deleted a tenth in 300 s, not in 1 s.
      assert.deepStrictEqual(
        rounds.filter(({ trigger }) => trigger === "interval").map(({ at }) => at / 1000),
        [300, 600, 900]
      )
    })
  )

  it.effect("does not depend on the time of day, which may be set", () =>
    Effect.gen(function* () {
      let time = 0
      const clock = yield* Clock.Clock
      const currentTimeMillis = Effect.sync(() => (time = time === 0 ? 9e12 : 0))
      const wild: Clock.Clock = Object.create(clock, { currentTimeMillis: { value: currentTimeMillis } })
      const { rounds } = yield* Effect.provideService(start({ settings: never }), Clock.Clock, wild)
      yield* TestClock.adjust("16 minutes")
      assert.strictEqual(rounds.length, 4)
    })
  )
})

describe("passes that fail", () => {
  const failing = { error: Effect.fail("no such map"), defect: Effect.die("broken"), interruption: Effect.interrupt }

  it.effect.each(["error", "defect", "interruption"] as const)(
    "that end as an %s are tried again after 10 s, 20 s and so on, and do not spin (G6)",
    (kind) =>
      Effect.gen(function* () {
        const { value, warnings } = yield* withWarnings(
          Effect.gen(function* () {
            const { did, schedule } = yield* start({ settings: never, round: () => failing[kind] })
            yield* TestClock.adjust("1500 seconds")
            const { consecutiveFailures, next } = yield* schedule.status
            assert.strictEqual(consecutiveFailures, 9)
            assert.deepInclude(next, { atMillis: 1_510_000, reason: "retry" })
            return did
          })
        )
        assert.deepStrictEqual(
          value.map((line) => Number.parseInt(line, 10)),
          [0, 10, 30, 70, 150, 310, 610, 910, 1210]
        )
        assert.strictEqual(warnings[0], "the pass over ipv4 and ipv6 failed")
      })
  )

  it.effect("are not made more frequent by signals, whose gap grows", () =>
    Effect.gen(function* () {
      const { rounds, signal } = yield* start({
        settings: never,
        round: () => Effect.succeed({ ...useless, success: false })
      })
      for (let at = 0; at < 3600; at++) {
        yield* TestClock.adjust("1 second")
        yield* signal("ipv4")
      }
      assert.isAtMost(rounds.filter(({ trigger }) => trigger === "signal").length, 3600 / 300 + 9)
      assert.isAtMost(rounds.length, 2 * (3600 / 300 + 9))
    })
  )
})

describe("interruption", () => {
  it.effect("ends a pass that runs, and undoes muting (G20)", () =>
    Effect.gen(function* () {
      let interrupted = 0
      const hanging = Effect.onInterrupt(Effect.never, () => Effect.sync(() => interrupted++))
      const { fiber, muting, schedule, signal, rounds } = yield* start({
        settings: never,
        round: ({ trigger }) => (trigger === "signal" ? hanging : Effect.succeed(worthIt))
      })
      yield* signal("ipv6")
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual([muting, rounds.length], [["mute"], 2])
      const { warnings } = yield* withWarnings(Fiber.interrupt(fiber))
      assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(fiber)))
      assert.deepStrictEqual([interrupted, muting, warnings], [1, ["mute", "unmute"], []])
      const { active, next, running } = yield* schedule.status
      assert.deepStrictEqual([active, next, running], [false, undefined, undefined])
      yield* TestClock.adjust("1 hour")
      assert.strictEqual(rounds.length, 2)
    })
  )

  it.effect("a loop that is run again begins with an initial scan", () =>
    Effect.gen(function* () {
      const { did, fiber, schedule } = yield* start({ settings: never })
      yield* Fiber.interrupt(fiber)
      yield* TestClock.adjust("1 minute")
      yield* Effect.forkChild(schedule.run, { startImmediately: true })
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(did, ["0 initial v4+v6", "60 initial v4+v6"])
    })
  )
})

describe("requests", () => {
  it.effect("run at once, whatever gap there is; those that wait share a pass", () =>
    Effect.gen(function* () {
      const { did, schedule } = yield* start({
        settings: never,
        round: () => Effect.delay(Effect.succeed(useless), "2 seconds")
      })
      yield* TestClock.adjust("1 second")
      yield* schedule.request(["ipv6"])
      yield* schedule.request(["ipv6"])
      yield* TestClock.adjust("10 seconds")
      yield* schedule.request()
      yield* TestClock.adjust("10 seconds")
      assert.deepStrictEqual(did, ["0 initial v4+v6", "2 request v6", "11 request v4+v6"])
    })
  )
})

describe("the status", () => {
  it.effect("is of the shape it is published in, and uses the time of day", () =>
    Effect.gen(function* () {
      yield* TestClock.setTime(Date.UTC(2026, 0, 1))
      const { schedule } = yield* start()
      yield* TestClock.adjust("1 minute")
      const status = yield* schedule.status
      assert.deepStrictEqual(yield* Schema.decodeUnknownEffect(GcSchedule.Status)(status), status)
      const now = yield* Clock.currentTimeMillis
      assert.strictEqual(status.next?.atMillis, now + Duration.toMillis(GcInterval.START) - 60_000)
      assert.strictEqual(status.next?.why, "the first pass deleted 10 % of a table; the first interval is 5m")
    })
  )
})

describe("who is told of decisions", () => {
  it.effect("may die of it: the schedule goes on", () =>
    Effect.gen(function* () {
      const { value, warnings } = yield* withWarnings(
        Effect.gen(function* () {
          const { did } = yield* start({ settings: never, decided: () => Effect.die(new Error("no registry")) })
          yield* TestClock.adjust("5 minutes")
          return did
        })
      )
      assert.deepStrictEqual(value, ["0 initial v4+v6", "300 interval v4+v6"])
      assert.deepStrictEqual(warnings, Array(2).fill("what was decided could not be told"))
    })
  )
})
