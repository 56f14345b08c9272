/** Programs are kept from one pass to the next, and never longer than they are right. */
import { assert, describe, it } from "@effect/vitest"
import { GcEngine, type GcEvents, type GcPass, GcRequest } from "ctmap-gc"
import { Bpf, BpfMemory, type CtPair, KernelClock } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import * as Logger from "effect/Logger"
import * as Result from "effect/Result"
import type * as Scope from "effect/Scope"
import { TestClock } from "effect/testing"
import { optionsOf, type Tested } from "./engineCases.ts"
import * as Stage from "./stage.ts"

const expired = (n: number) => Stage.ct({ lifetime: 1, sport: n })

const stage = <A, E>(
  engine: NonNullable<Tested> | GcEngine.Options,
  use: (bench: {
    readonly control: BpfMemory.Controls
    readonly collect: (
      pair: CtPair.CtPair,
      publish?: (event: GcEvents.Deleted) => void
    ) => Effect.Effect<GcPass.GcPass, GcEngine.SweepError>
  }) => Effect.Effect<A, E, Bpf.Bpf | Scope.Scope>,
  options: BpfMemory.Options = {}
) => {
  const { calls, control } = BpfMemory.make({ objects: Stage.objects!, ...options })
  const test = Effect.gen(function* () {
    const made = yield* GcEngine.make(typeof engine === "string" ? optionsOf(engine) : engine).pipe(
      Effect.provideService(KernelClock.KernelClock, Stage.ktime(1000))
    )
    let serial = 0
    return yield* use({
      control,
      collect: (pair, publish) => made.sweep(pair, { serial: ++serial, requests: [GcRequest.expired], publish })
    })
  })
  return Effect.provideService(Effect.scoped(test), Bpf.Bpf, calls).pipe(
    Effect.tap(() => Effect.sync(() => assert.deepStrictEqual(control.openFds(), [])))
  )
}

const E2BIG = 7

describe("programs that the kernel refuses", () => {
  /** Passes with new entries each: how many loads each asked for, and the warnings of all. */
  const passes = (
    engine: GcEngine.Options,
    errno: number,
    use: (more: Passes) => Effect.Effect<void, GcEngine.SweepError>
  ) => {
    const warnings: Array<string> = []
    const logger = Logger.make<unknown, void>(({ logLevel, message }) => {
      if (logLevel === "Warn") warnings.push(String(message))
    })
    return stage(engine, ({ control, collect }) =>
      Effect.gen(function* () {
        const bpf = yield* Bpf.Bpf
        const pair = yield* Stage.pair({ tcp: [], nat: [] })
        control.failEvery(1, "loadObjectAsync", errno)
        let n = 0
        const next = Effect.gen(function* () {
          const before = control.count("loadObjectAsync")
          const { key, value } = expired(++n)
          bpf.update(pair.tcp.map.fd, key, value, Bpf.ANY)
          const { maps } = yield* collect(pair)
          assert.isAtLeast(maps[0]!.deleted, 1)
          return [maps[0]!.engine, control.count("loadObjectAsync") - before] as const
        })
        yield* use({ next, control, warnings })
      })
    ).pipe(Effect.provide(Logger.layer([logger])))
  }
  interface Passes {
    readonly next: Effect.Effect<readonly [engine: GcPass.Engine, loads: number], GcEngine.SweepError>
    readonly control: BpfMemory.Controls
    readonly warnings: ReadonlyArray<string>
  }
  const walking = { engine: "auto", walkMinEntries: 0 } as const

  it.effect("are asked for once, told of once, and asked for again after a quarter of an hour", () =>
    passes(walking, E2BIG, ({ next, control, warnings }) =>
      Effect.gen(function* () {
        // The walks of both maps, the program that deletes and puts back, the one that cleans up.
        assert.deepStrictEqual(yield* next, ["portable", 4])
        const sentence = "the program that walks cilium_ct4_global cannot be loaded: "
        assert.lengthOf(
          warnings.filter((line) => line.startsWith(sentence) && line.includes("errno 7")),
          1
        )
        assert.lengthOf(warnings, 4)
        assert.deepStrictEqual(
          [yield* next, yield* next],
          [
            ["portable", 0],
            ["portable", 0]
          ]
        )
        yield* TestClock.adjust("16 minutes")
        assert.deepStrictEqual(yield* next, ["portable", 4])
        assert.lengthOf(warnings, 4)
        control.clearFaults()
        yield* TestClock.adjust("16 minutes")
        assert.strictEqual((yield* next)[0], "hybrid")
      })
    )
  )

  for (const [title, errno] of [
    ["has none of the kind", 22],
    ["does not permit them", 1]
  ] as const)
    it.effect(`are never asked for again of a kernel that ${title}, and nobody is warned`, () =>
      passes(walking, errno, ({ next, warnings }) =>
        Effect.gen(function* () {
          assert.deepStrictEqual(yield* next, ["portable", 4])
          yield* TestClock.adjust("1 day")
          assert.deepStrictEqual(yield* next, ["portable", 0])
          assert.deepStrictEqual(warnings, [])
        })
      )
    )

  it.effect("are asked for by every pass that demands them", () =>
    passes({ engine: "hybrid" }, E2BIG, ({ next, control }) =>
      Effect.gen(function* () {
        const refused = yield* Effect.result(next)
        assert.strictEqual(Result.isFailure(refused) ? refused.failure._tag : "", "BpfError")
        control.clearFaults()
        assert.strictEqual((yield* Effect.result(next))._tag, "Success")
      })
    )
  )
})

describe("programs of an engine", () => {
  for (const engine of ["hybrid", "walking", "kernel"] as const) {
    it.effect(`${engine}: are loaded once for a map, and go with the engine`, () =>
      stage(engine, ({ control, collect }) =>
        Effect.gen(function* () {
          const bpf = yield* Bpf.Bpf
          const pair = yield* Stage.pair({ tcp: [expired(1)], nat: [] })
          assert.strictEqual((yield* collect(pair)).maps[0]!.deleted, 1)
          const count = () => control.count("loadObjectAsync")
          const loads = count()
          assert.isAbove(loads, 0)
          for (const n of [2, 3]) {
            bpf.update(pair.tcp.map.fd, expired(n).key, expired(n).value, Bpf.ANY)
            assert.strictEqual((yield* collect(pair)).maps[0]!.deleted, 1)
          }
          assert.deepStrictEqual([count(), control.count("loadObject")], [loads, 0])
        })
      )
    )

    it.effect(`${engine}: let go of a map that was replaced, and work on the new one`, () =>
      stage(engine, ({ control, collect }) =>
        Effect.gen(function* () {
          let old = 0
          yield* Effect.scoped(
            Effect.gen(function* () {
              const pair = yield* Stage.pair({ tcp: [expired(1)] })
              old = pair.tcp.map.info.id
              yield* collect(pair)
            })
          )
          assert.isTrue(control.living().some(({ id, kind }) => kind === "map" && id === old))
          const pair = yield* Stage.pair({ tcp: [expired(1), expired(2)] })
          assert.strictEqual((yield* collect(pair)).maps[0]!.deleted, 2)
          assert.deepStrictEqual(yield* Stage.keysOf(pair.tcp.map), [])
          assert.isFalse(control.living().some(({ id, kind }) => kind === "map" && id === old))
        })
      )
    )

    it.effect(`${engine}: go when nobody has needed them for a quarter of an hour`, () =>
      stage(engine, ({ control, collect }) =>
        Effect.gen(function* () {
          const pair = yield* Stage.pair({ tcp: [expired(1)] })
          yield* collect(pair)
          const programs = () => control.living().filter(({ kind }) => kind === "program").length
          assert.isAbove(programs(), 0)
          yield* TestClock.adjust("16 minutes")
          assert.strictEqual(programs(), 0)
        })
      )
    )
  }

  it.effect("are not kept where they are none: single calls work on the fd of their pass", () =>
    stage(
      "auto",
      ({ collect }) =>
        Effect.gen(function* () {
          yield* Effect.scoped(Effect.flatMap(Stage.pair({ tcp: [expired(1)] }), (pair) => collect(pair)))
          // Takes the fd numbers of the first pair, in another order.
          const other = yield* Stage.pair({ any: [expired(9)] })
          const pair = yield* Stage.pair({ tcp: [expired(1), expired(2)] })
          const pass = yield* collect(pair)
          assert.deepStrictEqual([pass.maps[0]!.engine, pass.maps[0]!.deleted], ["portable", 2])
          assert.deepStrictEqual(yield* Stage.keysOf(pair.tcp.map), [])
          assert.strictEqual((yield* Stage.keysOf(other.any.map)).length, 1)
        }),
      { features: { programs: false } }
    )
  )

  it.effect("are made for one pass where too many are kept already", () =>
    stage("hybrid", ({ collect }) =>
      Effect.gen(function* () {
        for (let n = 1; n <= 20; n++) {
          const pair = yield* Stage.pair({ tcp: [expired(n)], name: `_${n}` })
          assert.strictEqual((yield* collect(pair)).maps[0]!.deleted, 1, `pair ${n}`)
        }
      })
    )
  )

  it.effect("of the kernel engine record nothing when nobody hears of it, and stop for no want of room", () =>
    stage("kernel", ({ collect }) =>
      Effect.gen(function* () {
        const entries = Array.from({ length: 3000 }, (_, i) => expired(i + 1))
        const unheard = yield* collect(yield* Stage.pair({ tcp: entries }))
        assert.deepStrictEqual([unheard.maps[0]!.deleted, unheard.maps[0]!.reads], [3000, 1])
        let heard = 0
        const pass = yield* collect(yield* Stage.pair({ tcp: entries }), ({ count }) => (heard += count))
        assert.deepStrictEqual([pass.maps[0]!.deleted, heard, pass.maps[0]!.reads > 1], [3000, 3000, true])
        assert.strictEqual(unheard.maps[0]!.reasons.expired, 3000)
      })
    )
  )
})
