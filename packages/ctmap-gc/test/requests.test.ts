/** Requests that narrow, that share a pass, or that ask for nothing here: what goes, and by which comparison. */
import { assert, describe, it } from "@effect/vitest"
import { FilterParser } from "ctmap-core"
import { GcRequest, Guard } from "ctmap-gc"
import { Bpf, BpfMemory } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import * as NetAddress from "effect/net/NetAddress"
import * as Result from "effect/Result"
import { checkSums, sweep } from "./engineCases.ts"
import * as Stage from "./stage.ts"

const parse = (text: string) => Result.getOrThrow(FilterParser.parse(text))
const ip = (text: string) => NetAddress.ipFromStringUnsafe(text)

const stage = <A, E>(use: (control: BpfMemory.Controls) => Effect.Effect<A, E, Stage.Needs>): Effect.Effect<A, E> => {
  const { calls, control } = BpfMemory.make({ objects: Stage.objects! })
  return Effect.provideService(Effect.scoped(use(control)), Bpf.Bpf, calls)
}

for (const engine of ["hybrid", "kernel", "portable"] as const) {
  describe(`requests, ${engine}`, () => {
    const nothing: ReadonlyArray<readonly [what: string, requests: ReadonlyArray<GcRequest.GcRequest>]> = [
      ["no address", [GcRequest.addresses([])]],
      ["an address of the other family", [GcRequest.addresses([ip("fd00::1")])]],
      ["nothing at all", [{}]],
      ["nothing, by nobody", []]
    ]
    for (const [what, requests] of nothing) {
      it.effect(`a request for ${what} deletes nothing, expired or not`, () =>
        stage(() =>
          Effect.gen(function* () {
            const pair = yield* Stage.pair({ tcp: [Stage.ct({ lifetime: 1 }), Stage.ct({ lifetime: 5000, sport: 2 })] })
            const pass = yield* sweep(engine, pair, { requests })
            assert.deepStrictEqual([pass.maps[0]!.wanted, pass.maps[0]!.kept], [0, 2])
            assert.strictEqual((yield* Stage.keysOf(pair.tcp.map)).length, 2)
          })
        )
      )
    }

    it.effect("one that asks for nothing gets no count of what another one deletes", () =>
      stage(() =>
        Effect.gen(function* () {
          const pair = yield* Stage.pair({ tcp: [Stage.ct({ lifetime: 1 })] })
          const pass = yield* sweep(engine, pair, { requests: [GcRequest.expired, GcRequest.addresses([])] })
          assert.deepStrictEqual(pass.requests, [
            { wanted: 1, deleted: 1 },
            { wanted: 0, deleted: 0 }
          ])
        })
      )
    )

    it.effect("what is narrowed by a lifetime is deleted only while its lifetime is as it was read (G2)", () =>
      stage((control) =>
        Effect.gen(function* () {
          const pair = yield* Stage.pair({ tcp: [1, 2].map((sport) => Stage.ct({ lifetime: 1010, sport })) })
          const refreshed = Stage.ct({ lifetime: 9000, sport: 1 })
          control.onCall((call) => {
            if (call === (engine === "portable" ? "lookup" : "runProgram"))
              control.map(pair.tcp.map.fd)?.update(refreshed.key, refreshed.value)
          })
          const within = parse("lifetime < 60s")
          const pass = yield* sweep(engine, pair, { requests: [{ everything: true, within }] })
          checkSums(pass)
          assert.deepStrictEqual([pass.maps[0]!.deleted, pass.maps[0]!.refreshed], [1, 1])
          assert.deepStrictEqual(yield* Stage.keysOf(pair.tcp.map), [Stage.keyHex(refreshed)])
        })
      )
    )

    it.effect("what is narrowed by addresses and ports goes whatever became of its lifetime", () =>
      stage((control) =>
        Effect.gen(function* () {
          const pair = yield* Stage.pair({ tcp: [Stage.ct({ lifetime: 1010 })] })
          const refreshed = Stage.ct({ lifetime: 9000 })
          control.onCall((call) => {
            if (call === (engine === "portable" ? "lookup" : "runProgram"))
              control.map(pair.tcp.map.fd)?.update(refreshed.key, refreshed.value)
          })
          const pass = yield* sweep(engine, pair, { requests: [{ everything: true, within: parse("dport 80") }] })
          assert.strictEqual(pass.maps[0]!.deleted, 1)
        })
      )
    )

    const refreshedMeanwhile = (requests: ReadonlyArray<GcRequest.GcRequest>, lifetime: number) =>
      stage((control) =>
        Effect.gen(function* () {
          const pair = yield* Stage.pair({ tcp: [Stage.ct({ lifetime })] })
          const refreshed = Stage.ct({ lifetime: 9000 })
          control.onCall((call) => {
            if (call === (engine === "portable" ? "lookup" : "runProgram"))
              control.map(pair.tcp.map.fd)?.update(refreshed.key, refreshed.value)
          })
          const pass = yield* sweep(engine, pair, { requests })
          checkSums(pass)
          return pass.maps[0]!
        })
      )

    it.effect("what a filter says of a lifetime holds only while that is as it was read (G2)", () =>
      Effect.gen(function* () {
        const map = yield* refreshedMeanwhile([GcRequest.matching(parse("lifetime < 60s"))], 1010)
        assert.deepStrictEqual([map.deleted, map.refreshed, map.reasons["matched-filter"]], [0, 1, 0])
      })
    )

    it.effect("an entry that one wants whatever its lifetime goes, though another only wants it expired", () =>
      Effect.gen(function* () {
        const within = parse("dport 80")
        const both = [
          { everything: true, within },
          { expired: true, within }
        ]
        for (const requests of [both, both.toReversed()]) {
          assert.strictEqual((yield* refreshedMeanwhile(requests, 1)).deleted, 1)
        }
      })
    )

    it.effect("what has expired does not count against the share of what is asked for besides", () =>
      stage(() =>
        Effect.gen(function* () {
          const tcp = Array.from({ length: 40 }, (_, i) => Stage.ct({ lifetime: i < 30 ? 1 : 5000, sport: i + 1 }))
          const pair = yield* Stage.pair({ tcp })
          const limits = { ...Guard.defaults, floor: 10, maxDeleteRatio: 0 }
          const pass = yield* sweep(engine, pair, { requests: [{ expired: true, everything: true }], limits })
          assert.deepStrictEqual([pass.maps[0]!.reasons.expired, pass.maps[0]!.reasons.flushed], [30, 10])
        })
      )
    )

    it.effect("an absolute limit on expiry alone leaves the engine as it is", () =>
      stage(() =>
        Effect.gen(function* () {
          const pair = yield* Stage.pair({ tcp: [Stage.ct({ lifetime: 1 })] })
          const pass = yield* sweep(engine, pair, { limits: { ...Guard.defaults, maxDeletions: 5 } })
          assert.deepStrictEqual([pass.maps[0]!.engine, pass.maps[0]!.reads], [engine, 1])
        })
      )
    )

    it.effect("a clock that does not fit is refused where a request is narrowed by time (G17)", () =>
      stage(() =>
        Effect.gen(function* () {
          const pair = yield* Stage.pair({ tcp: [Stage.ct({ lifetime: 1000 })] })
          const requests = [{ everything: true, within: parse("expired") }]
          const error = yield* Effect.flip(sweep(engine, pair, { requests }, 1000 + 8 * 86_400))
          assert.strictEqual(error._tag, "ImplausibleClock")
          assert.strictEqual((yield* Stage.keysOf(pair.tcp.map)).length, 1)
        })
      )
    )

    it.effect("a filter comes before a flush as the reason, whatever it reads", () =>
      stage(() =>
        Effect.gen(function* () {
          const tcp = [1010, 5000].map((lifetime, i) => Stage.ct({ lifetime, sport: i + 1 }))
          const pair = yield* Stage.pair({ tcp })
          const requests = [GcRequest.everything, GcRequest.matching(parse("lifetime < 60s"))]
          const pass = yield* sweep(engine, pair, { requests, limits: Guard.unlimited })
          const { "matched-filter": filter, flushed } = pass.maps[0]!.reasons
          assert.deepStrictEqual([filter, flushed], [1, 1])
        })
      )
    )
  })
}
