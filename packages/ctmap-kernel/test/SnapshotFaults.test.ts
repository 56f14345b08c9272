import { assert, describe, it } from "@effect/vitest"
import { MapSpec } from "ctmap-core"
import { BpfMap, BpfMemory } from "ctmap-kernel"
import * as Snapshot from "ctmap-kernel/Snapshot"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Stream from "effect/Stream"
import { limits, linesOf, openAll, piecesOf, textOf } from "./snapshotCases.ts"
import { CT4, path, run, restore, line, lines, pinned, everything } from "./snapshotMemory.ts"

describe("when calls fail", () => {
  it.effect("one after the other: a typed error, nothing open, no map that was not there", () =>
    Effect.gen(function* () {
      const text = lines(1500) + line(1, "cilium_ct_any4_global")
      const roundTrip = Effect.scoped(Effect.andThen(restore(text), everything))
      const whole = linesOf(text)
      /** What became of it, and whether a call has failed at all. */
      const attempt = (skip: number) =>
        run(
          Effect.gen(function* () {
            const control = yield* BpfMemory.Control
            yield* Effect.scoped(pinned(4096))
            const before = control.count()
            control.failNext("any", 5, { skip })
            const exit = yield* Effect.exit(roundTrip)
            const wasHit = control.count() - before > skip
            control.clearFaults()
            assert.deepStrictEqual(control.openFds(), [])
            return { exit, wasHit, pins: control.pins() }
          })
        )
      let failures = 0
      // Every entry of a merge takes two calls: all of the first and some of the others will do.
      for (let skip = 0, more = true; more; skip += skip < 25 ? 1 : 297) {
        const { exit, wasHit, pins } = yield* attempt(skip)
        if (Exit.isSuccess(exit)) assert.deepStrictEqual(linesOf(exit.value), whole)
        else {
          failures++
          const [reason] = exit.cause.reasons
          assert.isTrue(reason?._tag === "Fail", String(exit.cause))
          if (reason?._tag === "Fail") assert.match(reason.error._tag, /^(BpfError|RestoreStopped)$/)
          // Either the restore failed and took back what it made, or it was done and the saving failed.
          assert.isTrue(pins.includes(path(CT4)))
        }
        more = wasHit
      }
      assert.isAbove(failures, 8)
    })
  )

  it.effect("what was read before the error comes before the error", () =>
    run(
      Effect.gen(function* () {
        yield* restore(lines(3000))
        const control = yield* BpfMemory.Control
        control.failNext("lookupBatch", 5, { skip: 2 })
        const [map] = yield* openAll
        let text = ""
        const error = yield* Effect.flip(
          Stream.runForEach(Snapshot.save(map!), (bytes) => Effect.sync(() => (text += Buffer.from(bytes).toString())))
        )
        assert.strictEqual(error._tag, "BpfError")
        assert.isAbove(linesOf(text).length, 0)
        assert.isTrue(linesOf(text).every((each) => each.length === line(0).length))
      })
    )
  )

  it.effect("a map that is no hash is refused", () =>
    run(
      Effect.gen(function* () {
        const array = { type: MapSpec.mapType.percpuArray, keySize: 4, valueSize: 4, maxEntries: 33, flags: 0 }
        const map = yield* BpfMap.create(array, "retries")
        assert.strictEqual(
          (yield* Effect.flip(textOf(Snapshot.save(map)))).message,
          "the snapshot cannot hold map retries of type 6: name CT and NAT maps only"
        )
      })
    )
  )

  it.effect("an interruption unpins what was made", () =>
    run(
      Effect.gen(function* () {
        const control = yield* BpfMemory.Control
        let runs = 0
        const text = Stream.suspend(() =>
          runs++ === 0 ? piecesOf(lines(2000)) : Stream.concat(piecesOf(lines(2000)), Stream.never)
        )
        const fiber = yield* Effect.forkChild(Snapshot.restore(text, limits))
        while ((control.map(path(CT4))?.size() ?? 0) < 1024) yield* Effect.yieldNow
        yield* Fiber.interrupt(fiber)
        assert.deepStrictEqual([control.pins(), control.openFds()], [[], []])
      })
    )
  )
})
