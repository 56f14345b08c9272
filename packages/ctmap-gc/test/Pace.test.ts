import { assert, describe, expect, it } from "@effect/vitest"
import { Pace } from "ctmap-gc"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Schema from "effect/Schema"
import { TestClock } from "effect/testing"

/** A clock that only the test moves: `late` is what every sleep takes longer than it should. */
const played = (late = 0) => {
  let now = 5_000_000n
  let wall = 1_000_000
  const slept: Array<number> = []
  const advance = (millis: number): void => void (now += BigInt(Math.round(millis * 1e6)))
  const clock: Clock.Clock = {
    currentTimeMillisUnsafe: () => wall,
    currentTimeMillis: Effect.sync(() => wall),
    currentTimeNanosUnsafe: () => BigInt(wall) * 1_000_000n,
    currentTimeNanos: Effect.sync(() => BigInt(wall) * 1_000_000n),
    monotonicTimeNanosUnsafe: () => now,
    monotonicTimeNanos: Effect.sync(() => now),
    sleep: (duration) =>
      Effect.sync(() => {
        slept.push(Duration.toMillis(duration))
        advance(Duration.toMillis(duration) + late)
      })
  }
  return { clock, slept, advance, setWall: (millis: number) => void (wall = millis) }
}

/** Works so many milliseconds at a time, resting after each. */
const works = Effect.fnUntraced(function* (
  budget: number,
  pieces: ReadonlyArray<number>,
  { clock, advance }: ReturnType<typeof played>
) {
  const { rest } = yield* Effect.provideService(Pace.make(budget), Clock.Clock, clock)
  for (const millis of pieces) {
    advance(millis)
    yield* Effect.provideService(rest, Clock.Clock, clock)
  }
})

describe("Pace", () => {
  it("owes three times the work at a quarter of a core, and nothing at a whole one", () => {
    expect(Pace.owed(10, 0.25)).toBe(30)
    expect(Pace.owed(10, 0.5)).toBe(10)
    expect(Pace.owed(10, 1)).toBe(0)
  })

  it("takes a share above 0 and up to 1", () => {
    const isShare = Schema.is(Pace.Budget)
    expect([0, -0.5, 1.01, Number.NaN, Number.POSITIVE_INFINITY].filter(isShare)).toEqual([])
    expect([0.001, 0.5, 1].filter(isShare)).toEqual([0.001, 0.5, 1])
  })

  it.effect("sleeps after each piece of work as long as the budget asks for (G23)", () =>
    Effect.gen(function* () {
      const host = played()
      yield* works(0.25, [10, 2, 4], host)
      assert.deepStrictEqual(host.slept, [30, 6, 12])
    })
  )

  it.effect("saves up what is too short for a timer", () =>
    Effect.gen(function* () {
      const host = played()
      yield* works(0.5, [0.4, 0.4, 0.4, 0.4], host)
      assert.strictEqual(host.slept.length, 1)
      assert.approximately(host.slept[0]!, 1.2, 1e-6)
    })
  )

  it.effect("a debt of exactly a millisecond is slept", () =>
    Effect.gen(function* () {
      const host = played()
      yield* works(0.5, [1], host)
      assert.deepStrictEqual(host.slept, [1])
    })
  )

  it.effect("does not count time asleep as work", () =>
    Effect.gen(function* () {
      const host = played()
      yield* works(0.1, [5, 0], host)
      assert.strictEqual(host.slept.length, 1)
    })
  )

  it.effect("works off a timer that was late, but not more than twenty milliseconds of it", () =>
    Effect.gen(function* () {
      const late = played(3)
      yield* works(0.5, [10, 10], late)
      assert.deepStrictEqual(late.slept, [10, 7])
      const later = played(1000)
      yield* works(0.5, [10, 10, 15], later)
      assert.deepStrictEqual(later.slept, [10, 5], "twenty of a thousand are credit")
    })
  )

  it.effect("a step of the time of day changes nothing", () =>
    Effect.gen(function* () {
      const host = played()
      const { rest } = yield* Effect.provideService(Pace.make(0.5), Clock.Clock, host.clock)
      host.setWall(1_000_000 + 3_600_000)
      host.advance(10)
      yield* Effect.provideService(rest, Clock.Clock, host.clock)
      host.setWall(0)
      host.advance(10)
      yield* Effect.provideService(rest, Clock.Clock, host.clock)
      assert.deepStrictEqual(host.slept, [10, 10])
    })
  )

  it.effect("with a whole core it never sleeps, and lets others run", () =>
    Effect.gen(function* () {
      const host = played()
      let turns = 0
      const other = yield* Effect.forkChild(
        Effect.andThen(
          Effect.sync(() => turns++),
          Effect.yieldNow
        ).pipe(Effect.forever({ disableYield: true }))
      )
      yield* works(1, [100, 100, 100, 100], host)
      yield* Fiber.interrupt(other)
      assert.deepStrictEqual(host.slept, [])
      assert.isAtLeast(turns, 3)
    })
  )

  it.effect("lets others run where there is too little to sleep for", () =>
    Effect.gen(function* () {
      const host = played()
      let turns = 0
      yield* Effect.forkChild(
        Effect.andThen(
          Effect.sync(() => turns++),
          Effect.yieldNow
        ).pipe(Effect.forever({ disableYield: true }))
      )
      yield* works(0.9, [0.1, 0.1, 0.1, 0.1], host)
      assert.deepStrictEqual(host.slept, [])
      assert.isAtLeast(turns, 3)
    })
  )

  it.effect("sleeps by the test clock, and can be interrupted there", () =>
    Effect.gen(function* () {
      const { rest } = yield* Pace.make(0.5)
      yield* TestClock.adjust("10 seconds")
      const resting = yield* Effect.forkChild(rest, { startImmediately: true })
      yield* TestClock.adjust("9999 millis")
      assert.isUndefined(resting.pollUnsafe())
      yield* TestClock.adjust("1 millis")
      assert.isDefined(resting.pollUnsafe())
      yield* TestClock.adjust("10 seconds")
      const interrupted = yield* Effect.forkChild(rest, { startImmediately: true })
      yield* Fiber.interrupt(interrupted)
      assert.strictEqual((yield* Fiber.await(interrupted))._tag, "Failure")
    })
  )
})
