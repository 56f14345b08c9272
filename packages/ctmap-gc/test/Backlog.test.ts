/** The expired share of families, as a schedule with a threshold asks for it. */
import { assert, describe, it } from "@effect/vitest"
import { CtTime, type Family } from "ctmap-core"
import { Backlog, CtMapSources } from "ctmap-gc"
import { Bpf, BpfError, BpfMemory, KernelClock, Owner } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { withWarnings } from "./scheduleRig.ts"
import * as Stage from "./stage.ts"

/** So many entries, of which the first `expired` have expired at 1000. */
const entries = (family: Family.Family, count: number, expired: number) =>
  Array.from({ length: count }, (_, i) => Stage.ct({ family, lifetime: i < expired ? 999 : 1000, sport: i + 1 }))

/** Estimates over pairs with so many entries and expired entries in each map. */
const estimate = (
  filled: ReadonlyArray<{
    readonly family?: Family.Family
    readonly tcp?: readonly [count: number, expired: number]
    readonly any?: readonly [count: number, expired: number]
    readonly broken?: true
  }>,
  {
    now = Effect.succeed(1000),
    refuses = false
  }: {
    readonly now?: KernelClock.KernelClock["Service"]["now"]
    readonly refuses?: boolean
  } = {}
) => {
  const { calls } = BpfMemory.make({ objects: Stage.objects! })
  const kernel = Layer.mergeAll(
    Layer.succeed(Bpf.Bpf, calls),
    Layer.succeed(KernelClock.KernelClock, { source: { mode: "ktime" }, now }),
    CtMapSources.layer
  )
  return Effect.gen(function* () {
    const { register } = yield* CtMapSources.CtMapSources
    const sources: Array<CtMapSources.PairSource> = []
    for (const [i, { family = "ipv4", tcp = [0, 0], any = [0, 0], broken }] of filled.entries()) {
      const content = {
        family,
        tcp: entries(family, tcp[0], tcp[1]),
        any: entries(family, any[0], any[1]),
        name: `_${i}`
      }
      const pair = yield* Stage.pair(content)
      const open = broken ? Effect.fail(refusal) : Effect.succeed(pair)
      sources.push({ family, owner: Owner.cluster(i + 1), open })
    }
    yield* register(Effect.succeed(sources))
    if (refuses) yield* register(Effect.fail(refusal))
    const made = yield* Backlog.make
    return yield* made
  }).pipe(Effect.scoped, Effect.provide(kernel))
}

const refusal = BpfError.fromErrno({ operation: "open pin", errno: 5, path: "/p" })

describe("Backlog", () => {
  it.effect("is the share of a table's entries whose lifetime is before now", () =>
    Effect.gen(function* () {
      const shares = yield* estimate([{ tcp: [1600, 400] }])
      assert.deepStrictEqual(shares, [{ family: "ipv4", expiredRatio: 0.25 }])
    })
  )

  it.effect("of a family is that of the fullest backlog among its tables, wherever that is", () =>
    Effect.gen(function* () {
      const inTcp = { tcp: [1000, 500], any: [1000, 100] } as const
      const inAny = { tcp: [1000, 100], any: [1000, 600] } as const
      const share = (...filled: Parameters<typeof estimate>[0]) =>
        Effect.map(estimate(filled), ([first]) => first?.expiredRatio)
      assert.strictEqual(yield* share(inTcp), 0.5)
      assert.strictEqual(yield* share(inAny), 0.6)
      assert.strictEqual(yield* share(inTcp, inAny), 0.6)
      assert.strictEqual(yield* share(inAny, inTcp), 0.6)
    })
  )

  it.effect("is told of each family", () =>
    Effect.gen(function* () {
      const shares = yield* estimate([{ tcp: [1000, 1000] }, { family: "ipv6", any: [1000, 300] }])
      assert.deepStrictEqual(shares, [
        { family: "ipv4", expiredRatio: 1 },
        { family: "ipv6", expiredRatio: 0.3 }
      ])
    })
  )

  it.effect("of fewer than 1,000 entries is none", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* estimate([{ tcp: [999, 999] }]), [{ family: "ipv4", expiredRatio: 0 }])
      assert.deepStrictEqual(yield* estimate([{ tcp: [1000, 1000] }]), [{ family: "ipv4", expiredRatio: 1 }])
    })
  )

  it.effect("is not known of a table that cannot be opened, and is of the others", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* estimate([{ broken: true }, { family: "ipv6", tcp: [1000, 500] }]), [
        { family: "ipv6", expiredRatio: 0.5 }
      ])
    })
  )

  it.effect("is told of those pairs that can be listed, without a word: a pass will say what is wrong", () =>
    Effect.gen(function* () {
      const { value, warnings } = yield* withWarnings(estimate([{ tcp: [1000, 500] }], { refuses: true }))
      assert.deepStrictEqual([value, warnings], [[{ family: "ipv4", expiredRatio: 0.5 }], []])
    })
  )

  it.effect("cannot be told without a clock", () =>
    Effect.gen(function* () {
      const error = new CtTime.ClockError({ reason: "schedstat", value: "" })
      assert.strictEqual(yield* Effect.flip(estimate([{ tcp: [1000, 500] }], { now: Effect.fail(error) })), error)
    })
  )
})
