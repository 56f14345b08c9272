/** What makes a schedule collect early, and what keeps that from becoming a storm: signals, back-off, backlog, orphans. */
import { assert, describe, it } from "@effect/vitest"
import type { Family } from "ctmap-core"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { TestClock } from "effect/testing"
import { brisk, start, useless, withWarnings, worthIt } from "./scheduleRig.ts"

const never = { orphanPurgeInterval: Duration.zero }

/** So many seconds with a signal of a family in each. */
const storm = (signal: (family: Family.Family) => Effect.Effect<unknown>, family: Family.Family, seconds: number) =>
  Effect.gen(function* () {
    for (let i = 0; i < seconds; i++) {
      yield* signal(family)
      yield* TestClock.adjust("1 second")
    }
  })

const starts = (rounds: ReadonlyArray<{ readonly at: number; readonly trigger: string }>) =>
  rounds.filter(({ trigger }) => trigger === "signal").map(({ at }) => at / 1000)

describe("signals that free nothing", () => {
  it.effect("are honoured ever more rarely, down to every five minutes; those between are counted and ignored", () =>
    Effect.gen(function* () {
      const { rounds, schedule, signal } = yield* start({
        settings: never,
        round: () => Effect.succeed(useless)
      })
      yield* storm(signal, "ipv4", 1200)
      assert.deepStrictEqual(starts(rounds), [0, 2, 6, 14, 30, 62, 126, 254, 510, 810, 1110])
      const { ipv4, ipv6 } = (yield* schedule.status).signals
      assert.deepInclude(ipv4, { heard: 1200, ignored: 1189, useless: 11, gapMillis: 300_000 })
      assert.strictEqual(ipv4.ignoredUntilMillis, 1_410_000)
      assert.deepInclude(ipv6, { heard: 0, ignored: 0, useless: 0, gapMillis: 1000 })
    })
  )

  it.effect("of one family leave signals of the other alone", () =>
    Effect.gen(function* () {
      const { did, signal } = yield* start({
        settings: never,
        round: ({ families, trigger }) =>
          Effect.succeed(trigger === "initial" ? worthIt : families.includes("ipv4") ? useless : brisk)
      })
      yield* storm(signal, "ipv4", 10)
      yield* signal("ipv6")
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(
        did.filter((line) => line.includes("signal")),
        ["0 signal v4", "2 signal v4", "6 signal v4", "10 signal v6"]
      )
    })
  )

  it.effect("of one family are told from useful ones of the other in the same pass", () =>
    Effect.gen(function* () {
      const { schedule, signal } = yield* start({
        settings: never,
        round: () =>
          Effect.succeed({
            ...brisk,
            byFamily: { ipv4: { deleted: 3, seen: 100_000 }, ipv6: { deleted: 3000, seen: 100_000 } }
          })
      })
      yield* TestClock.adjust("2 seconds")
      yield* signal("ipv4")
      yield* signal("ipv6")
      yield* TestClock.adjust("1 second")
      const { signals } = yield* schedule.status
      assert.deepStrictEqual([signals.ipv4.useless, signals.ipv6.useless], [1, 0])
    })
  )

  it.effect("next to nothing is nothing, but orphans that were purged count", () =>
    Effect.gen(function* () {
      let orphans = 9
      const { schedule, signal } = yield* start({
        settings: never,
        round: () => Effect.succeed(useless),
        purgeOrphans: () => Effect.sync(() => ({ deleted: orphans }))
      })
      yield* storm(signal, "ipv4", 1)
      assert.strictEqual((yield* schedule.status).signals.ipv4.useless, 1)
      orphans = 10
      yield* storm(signal, "ipv4", 3)
      assert.strictEqual((yield* schedule.status).signals.ipv4.useless, 0)
    })
  )

  it.effect("are honoured at once again after a pass that freed something", () =>
    Effect.gen(function* () {
      let outcome = useless
      const { rounds, signal } = yield* start({
        settings: { ...never, conntrackGcInterval: Duration.seconds(100) },
        round: ({ trigger }) => Effect.succeed(trigger === "signal" ? useless : outcome)
      })
      yield* storm(signal, "ipv4", 80)
      outcome = worthIt
      yield* TestClock.adjust("20 seconds")
      yield* storm(signal, "ipv4", 4)
      assert.deepStrictEqual(starts(rounds), [0, 2, 6, 14, 30, 62, 100, 102])
    })
  )

  it.effect("are all honoured with no gap, as Cilium does", () =>
    Effect.gen(function* () {
      const { rounds, signal } = yield* start({
        settings: { ...never, signalMinGap: Duration.zero },
        round: ({ trigger }) => Effect.succeed(trigger === "signal" ? useless : worthIt)
      })
      yield* storm(signal, "ipv4", 60)
      assert.strictEqual(starts(rounds).length, 60)
    })
  )
})

describe("the backlog", () => {
  const settings = { ...never, backlogThreshold: 0.25, families: ["ipv4", "ipv6"] as const }

  it.effect("a family is collected when so large a share of it has expired, and nothing else is", () =>
    Effect.gen(function* () {
      const shares = { ipv4: 0.1, ipv6: 0.24 }
      const { did, schedule } = yield* start({
        settings,
        backlog: Effect.sync(() => [
          { family: "ipv4", expiredRatio: shares.ipv4 },
          { family: "ipv6", expiredRatio: shares.ipv6 }
        ])
      })
      yield* TestClock.adjust("100 seconds")
      shares.ipv6 = 0.25
      yield* TestClock.adjust("40 seconds")
      shares.ipv6 = 0
      yield* TestClock.adjust("170 seconds")
      assert.deepStrictEqual(did, ["0 initial v4+v6", "120 backlog v6", "300 interval v4+v6"])
      const { estimateAtMillis, schedule: mode } = yield* schedule.status
      assert.deepStrictEqual([mode, estimateAtMillis], ["backlog", 330_000])
    })
  )

  it.effect("passes that it causes leave the interval alone; a pass over everything takes the place of the next", () =>
    Effect.gen(function* () {
      let ratio = 0
      const { did, schedule } = yield* start({
        settings,
        backlog: Effect.sync(() => [
          { family: "ipv4", expiredRatio: ratio },
          { family: "ipv6", expiredRatio: ratio }
        ]),
        round: ({ trigger }) => Effect.succeed(trigger === "backlog" ? { ...worthIt, ratio: 0.9 } : worthIt)
      })
      yield* TestClock.adjust("60 seconds")
      ratio = 0.9
      yield* TestClock.adjust("30 seconds")
      ratio = 0
      yield* TestClock.adjust("300 seconds")
      assert.deepStrictEqual(did, ["0 initial v4+v6", "90 backlog v4+v6", "390 interval v4+v6"])
      assert.strictEqual((yield* schedule.status).intervalMillis, 300_000)
    })
  )

  it.effect.each([
    { kind: "fails", backlog: Effect.fail("no sample") },
    { kind: "never answers", backlog: Effect.never }
  ])("an estimate that $kind leaves the deadline as it is", ({ backlog }) =>
    Effect.gen(function* () {
      const { did } = yield* start({ settings, backlog })
      yield* withWarnings(TestClock.adjust("620 seconds"))
      assert.deepStrictEqual(did, ["0 initial v4+v6", "300 interval v4+v6", "600 interval v4+v6"])
    }).pipe(withWarnings)
  )

  it.effect("an estimate that passes prove wrong is believed ever more rarely", () =>
    Effect.gen(function* () {
      const { did } = yield* start({
        settings: { ...settings, conntrackGcInterval: Duration.hours(2) },
        backlog: Effect.succeed([{ family: "ipv4", expiredRatio: 0.9 }]),
        round: () => Effect.succeed(useless)
      })
      yield* TestClock.adjust("16 minutes")
      assert.deepStrictEqual(did, [
        "0 initial v4+v6",
        "30 backlog v4",
        "90 backlog v4",
        "210 backlog v4",
        "450 backlog v4",
        "750 backlog v4"
      ])
    })
  )

  it.effect("is not asked for without a threshold", () =>
    Effect.gen(function* () {
      let asked = 0
      const backlog = Effect.sync(() => {
        asked++
        return []
      })
      const { schedule } = yield* start({ settings: never, backlog })
      yield* TestClock.adjust("10 minutes")
      assert.deepStrictEqual([asked, (yield* schedule.status).schedule], [0, "cilium"])
    })
  )
})

describe("orphans", () => {
  it.effect("are looked for at a low rate, and later where a signal had them purged (G10)", () =>
    Effect.gen(function* () {
      const { did, schedule, signal } = yield* start({
        settings: { orphanPurgeInterval: Duration.hours(1), conntrackGcInterval: Duration.hours(12) }
      })
      yield* TestClock.adjust("90 minutes")
      yield* signal("ipv6")
      yield* TestClock.adjust("90 minutes")
      assert.deepStrictEqual(did, [
        "0 initial v4+v6",
        "3600 orphans v4+v6",
        "5400 signal v6",
        "5400 orphans v6",
        "7200 orphans v4",
        "9000 orphans v6",
        "10800 orphans v4"
      ])
      assert.strictEqual((yield* schedule.status).orphansAtMillis, 12_600_000)
    })
  )

  it.effect("a purge that fails is tried again at its time", () =>
    Effect.gen(function* () {
      const { did } = yield* start({
        settings: { orphanPurgeInterval: Duration.hours(1), conntrackGcInterval: Duration.hours(12) },
        purgeOrphans: () => Effect.fail("no NAT map")
      })
      yield* TestClock.adjust("2 hours")
      assert.deepStrictEqual(did, ["0 initial v4+v6", "3600 orphans v4+v6", "7200 orphans v4+v6"])
    }).pipe(withWarnings)
  )
})

describe("a day", () => {
  it.effect("is what it should be, pass by pass", () =>
    Effect.gen(function* () {
      // Entries expire at a steady rate for half an hour, hardly ever afterwards; what has expired is deleted.
      const cleanedAt = { ipv4: 0, ipv6: 0 }
      const { did, signal } = yield* start({
        settings: { conntrackGcMaxInterval: Duration.hours(4), orphanPurgeInterval: Duration.hours(8) },
        round: ({ at, families }) =>
          Effect.sync(() => {
            const seconds = (at - Math.min(...families.map((family) => cleanedAt[family]))) / 1000
            for (const family of families) cleanedAt[family] = at
            return { ...worthIt, ratio: seconds / (at < 1_800_000 ? 1000 : 1_000_000) }
          })
      })
      yield* TestClock.adjust("1000 seconds")
      yield* signal("ipv4")
      yield* TestClock.adjust("2600 seconds")
      yield* signal("ipv4")
      yield* signal("ipv6")
      yield* TestClock.adjust(Duration.seconds(86_400 - 3600))
      assert.deepStrictEqual(did, [
        "0 initial v4+v6",
        "450 interval v4+v6",
        "698 interval v4+v6",
        "946 interval v4+v6",
        "1000 signal v4",
        "1000 orphans v4",
        "1194 interval v4+v6",
        "1442 interval v4+v6",
        "1690 interval v4+v6",
        "1938 interval v4+v6",
        "2310 interval v4+v6",
        "2868 interval v4+v6",
        "3600 signal v4",
        "3600 orphans v4",
        "3600 signal v6",
        "3600 orphans v6",
        "3705 interval v4+v6",
        "4961 interval v4+v6",
        "6845 interval v4+v6",
        "9671 interval v4+v6",
        "13910 interval v4+v6",
        "20269 interval v4+v6",
        "29808 interval v4+v6",
        "32400 orphans v4+v6",
        "44117 interval v4+v6",
        "58517 interval v4+v6",
        "61200 orphans v4+v6",
        "72917 interval v4+v6"
      ])
    })
  )
})
