import { assert, describe, it } from "@effect/vitest"
import { CtTime } from "ctmap-core"
import { Vectors } from "ctmap-testing"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"

const message = <A>(result: Result.Result<A, { readonly message: string }>): string =>
  Result.getOrThrow(Result.flip(result)).message

describe("conversion", () => {
  it("ktime is seconds already, jiffies are shifted in 64 bits and divided", () => {
    const { hz, in_hex, out_hex } = Vectors.vectors.jiffiesConvert
    assert.strictEqual(CtTime.toSeconds(CtTime.jiffies(hz), BigInt(in_hex)), BigInt(out_hex))
    assert.strictEqual(CtTime.toSeconds(CtTime.ktime, 0xff00ff0012345678n), 0xff00ff0012345678n)
    assert.strictEqual(CtTime.toSeconds(CtTime.jiffies(250), 1n << 60n), 0n, "the shift wraps at 2^64")
  })

  it.prop(
    "the number form equals the bigint form for every stored time",
    [
      Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 0xffff_ffff })),
      Schema.Literals([1, 100, 250, 300, 1000, 65_535])
    ],
    ([time, hertz]) => {
      for (const source of [CtTime.ktime, CtTime.jiffies(hertz)]) {
        assert.strictEqual(CtTime.toSeconds32(source, time), Number(CtTime.toSeconds(source, BigInt(time))))
      }
    }
  )

  it("remaining and age are signed", () => {
    assert.strictEqual(CtTime.remaining(CtTime.ktime, 37459, 15856), 21603)
    assert.strictEqual(CtTime.remaining(CtTime.ktime, 10, 25), -15)
    assert.strictEqual(CtTime.age(CtTime.ktime, 37400n, 37442n), 42n)
    assert.strictEqual(CtTime.age(CtTime.ktime, 5n, 3n), -2n)
    assert.strictEqual(CtTime.remainingText(-15), "remaining: -15 sec(s)")
  })

  it("a unit of jiffies is 256 ticks", () => {
    assert.strictEqual(CtTime.secondsPerUnit(CtTime.jiffies(250)), 1.024)
    assert.strictEqual(CtTime.secondsPerUnit(CtTime.ktime), 1)
  })

  it("now is whole seconds, or jiffies shifted, in the low 32 bits", () => {
    assert.strictEqual(CtTime.nowFromMonotonic(5_461_999_999_999n), 5461n)
    assert.strictEqual(CtTime.nowFromJiffies(4296260608n), 16782268n)
    assert.strictEqual(CtTime.toStored(0x1_0000_0005n), 5)
  })
})

describe("sources from outside", () => {
  it("are refused in Cilium's words", () => {
    assert.deepStrictEqual(
      [
        message(CtTime.fromInput(undefined)),
        message(CtTime.fromInput({ mode: "jiffies" })),
        message(CtTime.fromInput({ mode: "jiffies", hertz: -1 })),
        message(CtTime.fromInput({ mode: "jiffies", hertz: 0.5 })),
        message(CtTime.fromInput({ mode: "jiffies", hertz: 65_536 })),
        message(CtTime.fromInput({ mode: "" }))
      ],
      [
        "clockSource is nil",
        "invalid clock Hertz value (0)",
        "invalid clock Hertz value (-1)",
        "invalid clock Hertz value (0.5)",
        "invalid clock Hertz value (65536)",
        "invalid clocksource: "
      ]
    )
    for (const hertz of [1, 250, 65_535])
      assert.deepStrictEqual(Result.getOrThrow(CtTime.fromInput({ mode: "jiffies", hertz })), {
        mode: "jiffies",
        hertz
      })
    assert.deepStrictEqual(Result.getOrThrow(CtTime.fromInput({ mode: "ktime", hertz: 0 })), { mode: "ktime" })
  })

  it("are read from Cilium's runtime configuration", () => {
    const decode = Schema.decodeUnknownSync(CtTime.RuntimeConfig)
    assert.deepStrictEqual(
      Result.getOrThrow(CtTime.fromRuntimeConfig(decode({ ClockSource: 1, KernelHz: 250, more: true }))),
      CtTime.jiffies(250)
    )
    assert.deepStrictEqual(
      Result.getOrThrow(CtTime.fromRuntimeConfig(decode({ ClockSource: 0, KernelHz: 0 }))),
      CtTime.ktime
    )
    assert.throws(() => decode({ ClockSource: 2, KernelHz: 250 }))
  })
})

describe("jiffies", () => {
  it("that cannot be read have a way out by the name that its reader knows", () => {
    const unread = new CtTime.ClockError({ reason: "schedstat", value: "" })
    assert.match(unread.message, /so jiffies cannot be read; use the ktime clock$/)
    assert.match(
      unread.sentenceFor("command"),
      /so jiffies cannot be read; use --clock ktime, or say what time it is and how long a tick is, with --now and --hz$/
    )
    const measured = new CtTime.ClockError({ reason: "backwards", value: "jiffies" })
    assert.strictEqual(measured.sentenceFor("settings"), measured.message)
    assert.strictEqual(measured.sentenceFor("command"), `${measured.message}, or give it with --hz`)
  })

  it("stand in the first timestamp line of schedstat", () => {
    assert.strictEqual(Result.getOrThrow(CtTime.parseSchedstat("version 15\ntimestamp 42\ntimestamp 43\n")), 42n)
    assert.deepStrictEqual(
      [2n ** 64n - 1n, 2n ** 64n, 2n ** 64n + 5n].map((n) =>
        Result.getOrThrow(CtTime.parseSchedstat(`version 15\ntimestamp ${n}\n`))
      ),
      [2n ** 64n - 1n, 0n, 5n],
      "wraps at 2^64"
    )
    assert.include(message(CtTime.parseSchedstat("version 15\nxtimestamp 42\n")), "without scheduler statistics")
    assert.include(message(CtTime.parseSchedstat("")), "use the ktime clock")
  })

  const measure = (elapsedMs: number, ticks: number) =>
    CtTime.measureHertz(
      { nanoseconds: 1_000_000_000n, jiffies: 5000n },
      { nanoseconds: BigInt(1000 + elapsedMs) * 1_000_000n, jiffies: BigInt(5000 + ticks) }
    )

  it("tick at the known rate nearest to what is measured; a tie takes the faster", () => {
    const rate = (elapsedMs: number, ticks: number) => Result.getOrThrow(measure(elapsedMs, ticks))
    assert.deepStrictEqual(
      [
        rate(100, 10),
        rate(100, 25),
        rate(100, 26),
        rate(100, 31),
        rate(1000, 275),
        rate(1000, 650),
        rate(1000, 651),
        rate(2000, 1299),
        rate(10_000, 6494),
        rate(1000, 65_535),
        rate(1000, 0)
      ],
      [100, 250, 250, 300, 300, 1000, 1000, 1000, 300, 1000, 100]
    )
  })

  it("that went backwards or too fast are no measurement", () => {
    assert.include(message(measure(-1, 10)), "wall clock went backwards")
    assert.include(message(measure(0, 10)), "wall clock went backwards")
    assert.include(message(measure(100, -1)), "jiffies counter went backwards")
    assert.include(message(measure(1000, 65_536)), "65536 Hz is not plausible")
    assert.include(message(measure(2000, 131_071)), "65536 Hz is not plausible", "rounded before it is judged")
  })
})
