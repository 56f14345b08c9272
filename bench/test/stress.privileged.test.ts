import { availableParallelism } from "node:os"
import { assert, describe, it } from "@effect/vitest"
import * as LibBpf from "ctmap-kernel/LibBpf"
import { Privileged } from "ctmap-testing"
import * as Effect from "effect/Effect"
import { cases, problems, run } from "../src/common/churn.ts"
import { name, race, type Result } from "../src/common/race.ts"
import * as Returns from "../src/common/returns.ts"
import * as Soak from "../src/common/soak.ts"

Privileged.suite(describe, "a short stress", () => {
  const chosen = cases.filter(({ family, mode }) => (family === "ipv4") === (mode === "roomy"))
  for (const one of chosen) {
    const { engine, by, family, mode } = one
    it.effect(
      `${engine} by ${by}, ${family}, ${mode}: leaves nothing behind that was there throughout, and accounts for every entry`,
      () =>
        Effect.gen(function* () {
          const result = yield* run(one, 0.2)
          assert.deepStrictEqual(problems(result), [])
          assert.isAbove(result.deleted, 0)
          assert.isAbove(result.inserted, 0)
        }).pipe(Effect.provide(LibBpf.layer))
    )
  }

  it.effect.skipIf(availableParallelism() < 2)(
    "engines put back what was refreshed while they deleted, where the loops of others lose it",
    () =>
      Effect.gen(function* () {
        const find = (results: ReadonlyArray<Result>, which: string) => results.find((result) => result.name === which)!
        // So much lost by the next key shows that deletions and refreshes met.
        const enough = (results: ReadonlyArray<Result>) =>
          find(results, name.nextKey).lost >= 60 && results.every(({ refreshes }) => refreshes >= 200)
        const results = yield* race(2, { pins: false, enough })
        for (const { lost, refreshes, wrong, deleted } of results) {
          assert.isAtMost(lost, refreshes)
          assert.strictEqual(wrong, 0)
          assert.isAbove(deleted, 0)
        }
        const nextKey = find(results, name.nextKey).lost
        // Where others take the CPUs, the two hardly ever run at a time, and what was lost says nothing.
        if (nextKey < 60) return
        for (const which of [name.hybrid, name.list, name.kernel, name.kernelPlain]) {
          const { lost, restored } = find(results, which)
          assert.isAbove(restored, 0, which)
          assert.isBelow(lost * 5, nextKey, which)
        }
        for (const which of [name.each, name.batch]) {
          const { lost, refreshes } = find(results, which)
          assert.isAbove(lost * 2, refreshes, which)
        }
      }).pipe(Effect.scoped, Effect.provide(LibBpf.layer))
  )

  for (const engine of ["program", "portable"] as const) {
    it.live(`${engine}: a connection that comes back during an orphan purge keeps the mapping that it has found`, () =>
      Effect.gen(function* () {
        const result = yield* Returns.run(engine, 1)
        assert.deepStrictEqual(Returns.problems(result), [])
        assert.isAbove(result.found, 0)
        assert.isAbove(result.restored, 0)
        assert.isAbove(result.deleted, 0)
      }).pipe(Effect.provide(LibBpf.layer))
    )
  }

  it.live(
    "the agent as a process leaves nothing behind, loses nothing, complains of nothing, and stops when it is told to",
    () =>
      Effect.gen(function* () {
        const plan = { entries: 32_768, seconds: 8, gcInterval: 1, orphanInterval: 2, program: "source" } as const
        const result = yield* Soak.run({ ...plan, tell: () => undefined })
        assert.deepStrictEqual(Soak.problems(result), [])
        assert.isAbove(result.deleted, 0)
        assert.isAbove(result.natDeleted, 0)
        assert.isAbove(result.datapath.raced, 0)
        assert.isAbove(result.datapath.signals, 0)
      }).pipe(Effect.provide(LibBpf.layer))
  )
})
