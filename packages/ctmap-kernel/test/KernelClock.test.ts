import { assert, describe, it } from "@effect/vitest"
import { CtColumns, CtTime, Rows } from "ctmap-core"
import { BpfMemory, KernelClock } from "ctmap-kernel"
import { Recorded } from "ctmap-testing"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Result from "effect/Result"
import { TestClock } from "effect/testing"

const table = (set: Recorded.SetName): CtColumns.CtColumns => {
  const ct4 = Recorded.tables(set, "before").get("cilium_ct4_global")!
  return new CtColumns.CtColumns({ family: "ipv4", release: "1.17" }).bind(Rows.separate(ct4.keys, ct4.values, ct4))
}
const empty = new CtColumns.CtColumns({ family: "ipv4", release: "1.17" })

describe("whether a table fits a clock", () => {
  const fits = (set: Recorded.SetName, source: CtTime.ClockSource, now: number) =>
    KernelClock.checkPlausible({ source, now }, table(set), "cilium_ct4_global")

  it("the recorded tables fit the clock they were written under", () => {
    assert.isTrue(Result.isSuccess(fits("pods-ktime", CtTime.ktime, 5461)))
    assert.isTrue(Result.isSuccess(fits("pods-jiffies", CtTime.jiffies(250), 16_782_264)))
  })

  it("a table of jiffies under a clock of seconds is refused with both readings and what to do", () => {
    const error = Result.getOrThrow(Result.flip(fits("pods-jiffies", CtTime.ktime, 5479)))
    assert.strictEqual(error.now, 5479)
    assert.isAbove(error.latest, 16_000_000)
    assert.include(error.message, "map cilium_ct4_global do not fit the ktime clock: now is 5479")
    assert.include(error.message, "nothing was touched")
    assert.include(error.message, "choose it with the setting clock")
    assert.include(error.sentenceFor("request"), "have the agent started with the other one, its setting clock")
    assert.include(error.sentenceFor("command"), "choose it with --clock, or override the time with --now")
  })

  it("a table of seconds under a clock of jiffies, where everything alive looks expired, is refused", () => {
    const error = Result.getOrThrow(Result.flip(fits("pods-ktime", CtTime.jiffies(250), 16_782_264)))
    assert.include(error.message, "s ago where at most")
    assert.include(error.message, "nothing was touched")
  })

  it("an idle table, an empty one, and the end of the scale are plausible", () => {
    assert.isTrue(Result.isSuccess(fits("pods-ktime", CtTime.ktime, 5461 + 6 * 86_400)))
    assert.isTrue(Result.isSuccess(KernelClock.checkPlausible({ source: CtTime.ktime, now: 1 }, empty, "m")))
    const values = new Uint8Array(56).fill(0xff, 32, 36)
    const never = new CtColumns.CtColumns({ family: "ipv4", release: "1.17" }).bind(
      Rows.separate(new Uint8Array(14), values, { keySize: 14, valueSize: 56, count: 1 })
    )
    assert.isTrue(Result.isSuccess(KernelClock.checkPlausible({ source: CtTime.ktime, now: 1 }, never, "m")))
  })

  it("the likelier of two clocks comes first, by the middle of the table", () => {
    const clocks = [
      { source: CtTime.ktime, now: 5479 },
      { source: CtTime.jiffies(250), now: 16_782_264 }
    ]
    const mode = (set: Recorded.SetName) => KernelClock.likeliest(clocks, table(set))[0]?.source.mode
    assert.deepStrictEqual([mode("pods-ktime"), mode("pods-jiffies")], ["ktime", "jiffies"])
    assert.strictEqual(KernelClock.likeliest(clocks, empty), clocks)
  })
})

describe("reading the clock", () => {
  const now = Effect.flatMap(KernelClock.KernelClock, (clock) => clock.now)

  it.effect("jiffies come from schedstat, shifted", () =>
    Effect.gen(function* () {
      const read = yield* now.pipe(Effect.provide(KernelClock.layerJiffies(250)))
      assert.strictEqual(read, 16_782_268)
    }).pipe(Effect.provideService(KernelClock.ReadSchedstat, Effect.succeed("version 15\ntimestamp 4296260608\n")))
  )

  it.effect("a kernel without scheduler statistics is an error that says so, never time zero (G17)", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(now.pipe(Effect.provide(KernelClock.layerJiffies(250))))
      assert.include(error.message, "without scheduler statistics")
    }).pipe(Effect.provideService(KernelClock.ReadSchedstat, Effect.succeed("version 15\n")))
  )

  it.effect("a fixed clock stands still", () =>
    Effect.gen(function* () {
      assert.strictEqual(yield* now, 5462)
    }).pipe(Effect.provide(KernelClock.layerFixed(CtTime.ktime, 5462)))
  )

  it.effect("the tick rate is measured from two readings", () => {
    let reads = 0
    return Effect.gen(function* () {
      const fiber = yield* Effect.forkChild(Effect.result(KernelClock.measureHertz))
      yield* TestClock.adjust("200 millis")
      const result = yield* Fiber.join(fiber)
      assert.strictEqual(reads, 2)
      // The twin's clock stands still unless it is moved: no time passed, so there is no rate.
      assert.isTrue(Result.isFailure(result) && result.failure.message.includes("went backwards"))
    }).pipe(
      Effect.provideService(
        KernelClock.ReadSchedstat,
        Effect.sync(() => `timestamp ${1000 + 50 * reads++}\n`)
      ),
      Effect.provide(BpfMemory.layer)
    )
  })
})

describe("a clock that is detected", () => {
  it.effect("is what Cilium's runtime configuration names, once that is written, and stays so when it goes", () =>
    Effect.gen(function* () {
      let text: string | undefined
      const kernel = BpfMemory.layerTest({ time: 5_000_000_000_000n })
      const around = Layer.mergeAll(
        kernel,
        Layer.succeed(
          KernelClock.ReadRuntimeConfig,
          Effect.sync(() => text)
        ),
        Layer.succeed(KernelClock.ReadSchedstat, Effect.succeed("version 17\ntimestamp 4294937296\n"))
      )
      yield* Effect.gen(function* () {
        const clock = yield* KernelClock.KernelClock
        assert.strictEqual(yield* clock.now, 5000)
        assert.deepStrictEqual(clock.source, CtTime.ktime)
        text = "not written to the end"
        assert.strictEqual(yield* clock.now, 5000)
        text = '{ "ClockSource": 1, "KernelHz": 250 }'
        assert.strictEqual(yield* clock.now, Math.floor(4_294_937_296 / 256))
        assert.deepStrictEqual(clock.source, CtTime.jiffies(250))
        text = undefined
        assert.strictEqual(yield* clock.now, Math.floor(4_294_937_296 / 256))
        assert.deepStrictEqual(clock.source, CtTime.jiffies(250))
      }).pipe(Effect.provide(Layer.provideMerge(KernelClock.layerDetected, around)))
    })
  )
})
