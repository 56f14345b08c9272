/** What a scheduled round makes of pairs that are not whole, and of sources that cannot tell. */
import { assert, describe, it } from "@effect/vitest"
import { CtTime } from "ctmap-core"
import { CtMapSources, GcRunner } from "ctmap-gc"
import { Bpf, BpfError, CtMaps, Owner } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import { TestClock } from "effect/testing"
import { alive, count, expired, host } from "./runnerHost.ts"
import { withWarnings } from "./scheduleRig.ts"

const any4 = "/sys/fs/bpf/tc/globals/cilium_ct_any4_global"
const tcp4 = "/sys/fs/bpf/tc/globals/cilium_ct4_global"
const halfOf = (missing: string, pinned: string): string =>
  `ipv4 global: ${missing}: nothing is pinned there, though ${pinned} is, and they are used together: ` +
  "nothing was touched; the datapath pins both when it starts, so find out who removed the one, or remove the other too"
const half = halfOf(any4, tcp4)

/** Lets a round end that goes through a kernel in memory. */
const settle = Effect.yieldNow.pipe(Effect.repeat({ times: 200 }))

const refusal = BpfError.fromErrno({ operation: "list pins", errno: 13, path: "/sys/fs/bpf" })

describe("a round", () => {
  it.effect("over a pair of which one map is gone is no success; it is complained of once, until it changes", () => {
    const { layer, size, fill } = host({})
    return Effect.gen(function* () {
      const runner = yield* GcRunner.GcRunner
      const calls = yield* Bpf.Bpf
      fill("cilium_ct6_global", expired(1, "ipv6"))
      assert.strictEqual(calls.unpin(any4), 0)
      const { warnings } = yield* withWarnings(
        Effect.gen(function* () {
          yield* runner.enable
          yield* runner.initialScanDone
          yield* settle
          const { last, next } = yield* runner.status
          assert.deepInclude(last, { success: false, problems: [half] })
          assert.strictEqual(next?.reason, "retry")
          assert.strictEqual(size("cilium_ct6_global"), 0)
          for (const seconds of [11, 21, 41]) {
            yield* TestClock.adjust(`${seconds} seconds`)
            yield* settle
          }
          assert.isAtLeast((yield* runner.status).rounds, 3)
          // Now the other one is gone too: there is no pair, and nothing to complain of.
          assert.strictEqual(calls.unpin(tcp4), 0)
          yield* TestClock.adjust("5 minutes")
          yield* settle
          assert.deepInclude((yield* runner.status).last, { success: true, problems: [] })
          const { openOrCreate } = yield* CtMaps.CtMaps
          for (const transport of ["any", "tcp"] as const) {
            yield* Effect.scoped(openOrCreate({ family: "ipv4", transport, owner: Owner.global }))
            for (let round = 0; round < 2; round++) {
              yield* runner.request()
              yield* settle
            }
          }
          assert.isTrue((yield* runner.status).last?.success)
          assert.strictEqual(calls.unpin(any4), 0)
          yield* runner.request()
          yield* settle
        })
      )
      assert.deepStrictEqual(warnings, [half, halfOf(tcp4, any4), half])
    }).pipe(Effect.provide(layer))
  })

  it.effect(
    "over a pair that cannot be collected is complained of at first, when it is something else, and counted",
    () => {
      let now = 1000
      const { control, fill, layer, size } = host({
        families: ["ipv4"],
        clock: { source: CtTime.ktime, now: Effect.sync(() => now) }
      })
      return Effect.gen(function* () {
        const runner = yield* GcRunner.GcRunner
        const again = Effect.gen(function* () {
          now++
          yield* runner.request()
          yield* settle
          yield* TestClock.adjust("11 seconds")
          yield* settle
        })
        const { warnings } = yield* withWarnings(
          Effect.gen(function* () {
            yield* runner.enable
            yield* runner.initialScanDone
            const before = yield* count("ctmap_gc_pair_failures_total", { family: "ipv4" })
            fill("cilium_ct4_global", alive(1))
            // Months ahead: the sentence has another time in it each time.
            now += 90 * 86_400
            for (let round = 0; round < 4; round++) yield* again
            now -= 90 * 86_400
            control.failNext("openPin", 13, { times: 1000 })
            for (let round = 0; round < 4; round++) yield* again
            control.clearFaults()
            yield* again
            assert.isAtLeast((yield* count("ctmap_gc_pair_failures_total", { family: "ipv4" })) - before, 8)
            assert.isTrue((yield* runner.status).last?.success)
            now += 90 * 86_400
            yield* again
          })
        )
        assert.deepStrictEqual(
          warnings.map((text) => /^ipv. global: (the times|open pin)/.exec(text)?.[0]),
          ["ipv4 global: the times", "ipv4 global: open pin", "ipv6 global: open pin", "ipv4 global: the times"]
        )
        assert.strictEqual(size("cilium_ct4_global"), 1)
      }).pipe(Effect.provide(layer))
    }
  )

  it.effect("some of whose pairs cannot be listed collects the others, and is tried again soon", () => {
    const { layer, fill, size } = host({})
    let refuses = true
    return Effect.gen(function* () {
      const runner = yield* GcRunner.GcRunner
      const { register } = yield* CtMapSources.CtMapSources
      yield* register(Effect.suspend(() => (refuses ? Effect.fail(refusal) : Effect.succeed([]))))
      fill("cilium_ct4_global", expired(1))
      const { warnings } = yield* withWarnings(
        Effect.gen(function* () {
          yield* runner.enable
          yield* runner.initialScanDone
          yield* settle
        })
      )
      assert.deepStrictEqual(warnings, [`some tables cannot be listed: ${refusal.message}`])
      const later = yield* withWarnings(Effect.andThen(TestClock.adjust("11 seconds"), settle))
      assert.deepStrictEqual(later.warnings, [])
      assert.strictEqual(size("cilium_ct4_global"), 0)
      const { last, next } = yield* runner.status
      assert.deepInclude(last, { success: false, problems: [refusal.message] })
      assert.strictEqual(next?.reason, "retry")
      refuses = false
      yield* TestClock.adjust("21 seconds")
      yield* settle
      assert.deepInclude((yield* runner.status).last, { trigger: "interval", success: true, problems: [] })
    }).pipe(Effect.scoped, Effect.provide(layer))
  })

  it.effect("none of whose pairs can be listed fails, and says why", () => {
    const { layer } = host({ families: [] })
    return Effect.gen(function* () {
      const runner = yield* GcRunner.GcRunner
      const { register } = yield* CtMapSources.CtMapSources
      yield* register(Effect.die(new Error("no list")))
      yield* withWarnings(Effect.andThen(runner.enable, runner.initialScanDone))
      yield* settle
      assert.deepInclude((yield* runner.status).last, { success: false, problems: ["no list"] })
    }).pipe(Effect.scoped, Effect.provide(layer))
  })

  it.effect("with very many problems tells the first sixteen and how many more there are", () => {
    const { layer } = host({ families: [] })
    return Effect.gen(function* () {
      const runner = yield* GcRunner.GcRunner
      const { register } = yield* CtMapSources.CtMapSources
      const broken = Array.from({ length: 20 }, (_, i): CtMapSources.PairSource => {
        const owner = Owner.cluster(i + 1)
        return { family: "ipv4", owner, open: Effect.fail(refusal) }
      })
      yield* register(Effect.succeed(broken))
      const { warnings } = yield* withWarnings(Effect.andThen(runner.enable, runner.initialScanDone))
      yield* settle
      assert.strictEqual(warnings.length, 20)
      const { last } = yield* runner.status
      assert.strictEqual(last?.problems.length, 17)
      assert.deepStrictEqual(last?.problems.at(-1), "and 4 more")
      assert.strictEqual(last?.problems[0], `ipv4 cluster 1: ${refusal.message}`)
    }).pipe(Effect.scoped, Effect.provide(layer))
  })
})
