import { assert, describe, it } from "@effect/vitest"
import { GcInterval } from "ctmap-core"
import { Vectors } from "ctmap-testing"
import * as Duration from "effect/Duration"
import * as Schema from "effect/Schema"

const seconds = Duration.seconds
const inSeconds = (duration: Duration.Duration): number => Duration.toSeconds(duration)

describe("calculate", () => {
  it.each(Vectors.vectors.calculateInterval)("$prevSec s and ratio $ratio give $sec s", ({ prevSec, ratio, sec }) => {
    assert.strictEqual(inSeconds(GcInterval.calculate(seconds(prevSec), ratio)), sec)
  })

  it("tiny ratios grow the interval from 5 minutes to 12 hours", () => {
    const grown: Array<number> = [300]
    while (grown.length < Vectors.vectors.idleGrowthSec.length) {
      grown.push(inSeconds(GcInterval.calculate(seconds(grown.at(-1)!), 0.001)))
    }
    assert.deepStrictEqual(grown, Vectors.vectors.idleGrowthSec)
  })

  it("a pass that deletes nothing keeps Cilium's interval for ever, and grows ours when asked to (G21)", () => {
    assert.strictEqual(inSeconds(GcInterval.calculate(seconds(300), 0)), 300)
    assert.strictEqual(inSeconds(GcInterval.calculate(seconds(300), 0, { whenNothingDeleted: "grow" })), 450)
  })

  it("an interval shorter than the rounding grows all the same, and does not round down to nothing", () => {
    const bounds = { min: Duration.millis(1), rounding: Duration.millis(10) }
    const grown = [1]
    while (grown.length < 6)
      grown.push(Duration.toMillis(GcInterval.calculate(Duration.millis(grown.at(-1)!), 0.01, bounds)))
    assert.deepStrictEqual(grown, [1, 10, 20, 30, 50, 80])
  })

  it.prop(
    "stays within its bounds and never turns a ratio that is not a number into a shorter wait",
    [Schema.Int.check(Schema.isBetween({ minimum: 10, maximum: 43_200 })), Schema.Number],
    ([previous, ratio]) => {
      const next = inSeconds(GcInterval.calculate(seconds(previous), ratio))
      assert.isTrue(next >= 10 && next <= 43_200, `${next}`)
      if (Number.isNaN(ratio)) assert.isTrue(next >= previous)
    }
  )
})

describe("next117, which remembers", () => {
  const observed = { actual: seconds(60), ratio: 0.1 }
  it("default, override, maximum, and back again", () => {
    let cached: Duration.Duration | undefined = seconds(60)
    const get = (overrides?: GcInterval.Overrides) => {
      const next = GcInterval.next117(cached, observed, overrides)
      cached = next.cached
      return inSeconds(next.interval)
    }
    assert.deepStrictEqual(
      [get(), get({ interval: seconds(10) }), get(), get({ maxInterval: seconds(20) }), get()],
      [60, 10, 60, 20, 60]
    )
  })

  it("a pass woken early counts for more", () => {
    assert.strictEqual(inSeconds(GcInterval.next117(seconds(60), { actual: seconds(15), ratio: 0.1 }).interval), 36)
  })

  it("remembers the value before it is clipped, and nothing under an override or an empty pass", () => {
    const cached = (ratio: number, overrides?: GcInterval.Overrides) =>
      GcInterval.next117(seconds(60), { actual: seconds(60), ratio }, overrides).cached
    assert.strictEqual(inSeconds(cached(0.01, { maxInterval: seconds(20) })!), 90)
    assert.strictEqual(inSeconds(cached(0.5, { interval: seconds(5) })!), 60)
    assert.strictEqual(inSeconds(cached(0)!), 60)
    assert.isUndefined(GcInterval.next117(undefined, { actual: Duration.zero, ratio: 0 }).cached)
  })

  it("starts at five minutes", () => {
    assert.strictEqual(inSeconds(GcInterval.next117(undefined, { actual: Duration.zero, ratio: 0.1 }).interval), 300)
  })
})

describe("next120, which does not", () => {
  it("takes its limits and rounding as parameters", () => {
    const bounds = { rounding: Duration.millis(10), min: Duration.millis(1), max: seconds(2) }
    const next = (ms: number, ratio: number) =>
      Duration.toMillis(GcInterval.next120(Duration.millis(ms), { actual: Duration.millis(ms), ratio }, bounds))
    assert.deepStrictEqual(
      [next(1000, 0.9), next(100, 0.9), next(10, 0.9), next(200, 0.01), next(1900, 0.01)],
      [100, 10, 1, 300, 2000]
    )
  })

  it("is overridden, and never longer than the maximum", () => {
    const next = (options?: GcInterval.Overrides) =>
      inSeconds(GcInterval.next120(seconds(60), { actual: seconds(60), ratio: 0.01 }, options))
    assert.deepStrictEqual(
      [next(), next({ maxInterval: seconds(20) }), next({ maxInterval: seconds(91) }), next({ interval: seconds(7) })],
      [90, 20, 90, 7]
    )
  })

  it.each([
    { actual: 15, seconds: 36 },
    { actual: 59, seconds: 60 },
    { actual: 60, seconds: 60 },
    { actual: 600, seconds: 60 },
    { actual: 0, seconds: 60 }
  ])("expecting 60 s, a tenth deleted after $actual s gives $seconds s", ({ actual, seconds: expected }) => {
    const observed = { actual: seconds(actual), ratio: 0.1 }
    assert.strictEqual(inSeconds(GcInterval.next120(seconds(60), observed)), expected)
    assert.strictEqual(inSeconds(GcInterval.next117(seconds(60), observed).interval), expected)
  })
})

describe("after: how long to wait", () => {
  const round = (change: Partial<GcInterval.Round>): GcInterval.Round => ({
    now: 0,
    actual: seconds(300),
    ratio: 0.1,
    success: true,
    full: true,
    initialScan: false,
    ...change
  })

  /** When full passes begin, given signals of one family every so often: each wakes the schedule for a partial pass. */
  const fullPasses = (
    signalEveryMs: number,
    untilMs: number,
    bounds: GcInterval.Bounds & GcInterval.Overrides = {}
  ) => {
    const begun = [0]
    let { wait, state } = GcInterval.after(GcInterval.initial, round({ initialScan: true }), bounds)
    let last = 0
    for (let now = 0, signal = signalEveryMs; now < untilMs;) {
      const due = last + Duration.toMillis(wait)
      const full = due <= signal
      now = full ? due : signal
      if (full) begun.push(now)
      else signal += signalEveryMs
      ;({ wait, state } = GcInterval.after(state, round({ now, full, actual: Duration.millis(now - last) }), bounds))
      last = now
    }
    return begun
  }

  it.each([1000, 5000, 7000, 15_000, 299_000])(
    "signals of one family every %i ms never postpone the full pass, and never for ever (G7)",
    (signalEveryMs) => {
      const begun = fullPasses(signalEveryMs, 3_600_000)
      assert.isAtLeast(begun.length, 12)
      begun.slice(1).forEach((at, i) => assert.isAtMost(at - begun[i]!, 300_000))
    }
  )

  it("with a maximum of 500 ms, signals every 50 ms leave a full pass within a second", () => {
    const maximum = { maxInterval: Duration.millis(500), rounding: Duration.millis(10), min: Duration.millis(1) }
    const begun = fullPasses(50, 5000, maximum)
    begun.slice(1).forEach((at, i) => assert.isAtMost(at - begun[i]!, 500))
    assert.isAtLeast(begun.length, 10)
  })

  it("a failed full pass is not tried again before the minimum, whatever signals come meanwhile (G6)", () => {
    const opened = GcInterval.after(GcInterval.initial, round({ initialScan: true })).state
    const failed = GcInterval.after(opened, round({ now: 400_000, success: false }))
    assert.strictEqual(inSeconds(failed.wait), 10)
    const partial = GcInterval.after(failed.state, round({ now: 404_000, full: false, actual: seconds(4) }))
    assert.strictEqual(inSeconds(partial.wait), 6)
  })

  it("a partial pass that does not shorten the wait moves the expectation", () => {
    const state = { expected: seconds(60), fullPassDueAt: 900_000, retryFullAt: 0 }
    const partial = GcInterval.after(state, round({ now: 10_000, full: false, actual: seconds(60), ratio: 0.6 }))
    assert.deepStrictEqual([inSeconds(partial.wait), inSeconds(partial.state.expected!)], [24, 24])
  })

  it("the minimum of the options is the floor of a retry", () => {
    const failed = round({ now: 400_000, success: false })
    assert.strictEqual(inSeconds(GcInterval.after(GcInterval.initial, failed, { min: seconds(3) }).wait), 3)
  })

  it("a full pass that fails is tried again after the minimum, not at once (G6)", () => {
    const failed = round({ now: 400_000, success: false, ratio: 0 })
    const state = GcInterval.after(GcInterval.initial, round({ initialScan: true })).state
    assert.strictEqual(inSeconds(GcInterval.after(state, failed).wait), 10)
    const never = GcInterval.after(GcInterval.initial, round({ success: false, initialScan: true, ratio: 0 }))
    assert.strictEqual(inSeconds(never.wait), 300)
    assert.strictEqual(inSeconds(GcInterval.after(never.state, failed).wait), 10)
  })

  it("an override shorter than the minimum is the floor of a retry", () => {
    const failed = round({ now: 400_000, success: false })
    assert.strictEqual(inSeconds(GcInterval.after(GcInterval.initial, failed, { interval: seconds(2) }).wait), 2)
  })

  it("a full success moves the deadline and the expectation", () => {
    const { wait, state } = GcInterval.after(GcInterval.initial, round({ now: 1000, ratio: 0.5 }))
    assert.strictEqual(inSeconds(wait), 150)
    assert.deepStrictEqual([inSeconds(state.expected!), state.fullPassDueAt], [150, 151_000])
  })

  it("a partial pass may shorten the wait but leaves the deadline alone", () => {
    const state = { expected: seconds(300), fullPassDueAt: 300_000, retryFullAt: 0 }
    const partial = GcInterval.after(state, round({ now: 10_000, full: false, actual: seconds(10), ratio: 0.5 }))
    assert.strictEqual(inSeconds(partial.wait), 30)
    assert.strictEqual(partial.state.fullPassDueAt, 300_000)
  })
})
