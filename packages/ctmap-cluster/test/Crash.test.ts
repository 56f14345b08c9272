import { assert, describe, it } from "@effect/vitest"
import { PerClusterCtMaps, PerClusterNatMaps, ClusterCheck, ClusterSource } from "ctmap-cluster"
import { Bpf, BpfMemory } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Logger from "effect/Logger"
import * as Cases from "./crashCases.ts"
import { verify } from "./crashVerify.ts"
import * as Rig from "./rig.ts"

const EIO = 5

describe("a process that dies at any call", () => {
  for (const work of ["create", "delete"] as const) {
    it.live(`while it is to ${work} a cluster: the next start leaves everything whole`, () =>
      Effect.gen(function* () {
        const outcomes = new Set<string>()
        for (let at = 1; ; at++) {
          const isOver = yield* Effect.gen(function* () {
            const control = yield* BpfMemory.Control
            yield* Cases.before(work)
            let left = at
            // A dead process makes no more calls; what it had open is closed for it.
            const forget = control.onCall((call) => {
              if (call !== "close" && --left <= 0) throw new Error("killed")
            })
            const exit = yield* Effect.exit(Cases.during(work))
            forget()
            const bpf = yield* Bpf.Bpf
            for (const { fd } of control.openFds()) bpf.close(fd)
            const next = Effect.andThen(Rig.openBoth, Effect.scoped(verify))
            const { ct, nat } = yield* Rig.life(next)
            outcomes.add(`${ct} ${nat}`)
            yield* Cases.during(work)
            const done = yield* Rig.life(Effect.scoped(verify))
            assert.deepStrictEqual(done, work === "create" ? { ct: 4, nat: 2 } : { ct: 0, nat: 0 }, `call ${at}`)
            return Exit.isSuccess(exit)
          }).pipe(Effect.provide(BpfMemory.layerTest()))
          if (isOver) break
          assert.isBelow(at, 2000)
        }
        assert.sameMembers([...outcomes], ["0 0", "4 2", work === "create" ? "4 0" : "0 2"])
      })
    )
  }
})

describe("when any one call fails", () => {
  const actions = {
    create: Rig.createBoth(Cases.CLUSTER),
    delete: Rig.deleteBoth(Cases.BYSTANDER),
    "open or create": Rig.openBoth
  }
  for (const [name, action] of Object.entries(actions)) {
    it.live(`${name} says which map it was about, leaves no fd open, and the next operation mends what is left`, () =>
      Effect.gen(function* () {
        let failures = 0
        for (let skip = 0; ; skip++) {
          const isOver = yield* Effect.gen(function* () {
            const control = yield* BpfMemory.Control
            yield* Cases.before("create")
            const counted = yield* Rig.life(
              Effect.gen(function* () {
                yield* Rig.openBoth
                const open = control.openFds().length
                const calls = control.count()
                control.failNext("any", EIO, { skip })
                const result = yield* Effect.result(action)
                const made = control.count() - calls
                control.clearFaults()
                assert.strictEqual(control.openFds().length, open, `call ${skip + 1}`)
                if (result._tag === "Failure") {
                  failures++
                  assert.match(
                    result.failure.message,
                    /^(tcp4|any4|tcp6|any6|ipv4|ipv6): .*errno 5/,
                    `call ${skip + 1}`
                  )
                }
                yield* Rig.createBoth(100)
                const found = (yield* Rig.findings()).filter((finding) => !finding.startsWith("MapMissing"))
                assert.deepStrictEqual(found, [], `call ${skip + 1}: ${result._tag}`)
                if (result._tag === "Failure" && name === "create") {
                  const left = (yield* Rig.pins).filter(
                    (pin) => pin.includes("_ct_") && pin.endsWith(`_${Cases.CLUSTER}`)
                  )
                  assert.include([0, 4], left.length, `call ${skip + 1}`)
                }
                yield* action
                assert.deepStrictEqual(yield* Rig.findings(), [], `call ${skip + 1}`)
                return made
              })
            )
            assert.deepStrictEqual(control.openFds(), [])
            return counted <= skip
          }).pipe(Effect.provide([BpfMemory.layerTest(), Logger.layer([])]))
          if (isOver) break
          assert.isBelow(skip, 2000)
        }
        assert.isAbove(failures, 0)
      })
    )
  }

  const once: Readonly<Record<string, Effect.Effect<void, { readonly message: string }, Rig.Maps>>> = {
    "cleanup of CT maps": PerClusterCtMaps.cleanup(),
    "cleanup of NAT maps": PerClusterNatMaps.cleanup(),
    "a check": Effect.asVoid(ClusterCheck.check()),
    discovery: Effect.asVoid(ClusterSource.discover)
  }
  for (const [name, action] of Object.entries(once)) {
    it.live(`${name} says so or does without, leaves no fd open, and can be repeated`, () =>
      Effect.gen(function* () {
        // A check looks at 1,536 slots, one like the other.
        for (let skip = 0; ; skip += name === "a check" ? 13 : 1) {
          const isOver = yield* Effect.gen(function* () {
            const control = yield* BpfMemory.Control
            yield* Cases.before("create")
            const calls = control.count()
            control.failNext("any", EIO, { skip })
            const result = yield* Effect.result(Effect.provide(action, Rig.mapsLayer()))
            const made = control.count() - calls
            control.clearFaults()
            if (result._tag === "Failure") assert.match(result.failure.message, /errno 5/)
            assert.deepStrictEqual(control.openFds(), [], `call ${skip + 1}`)
            yield* Effect.provide(action, Rig.mapsLayer())
            if (name === "cleanup of CT maps") {
              assert.deepStrictEqual(
                (yield* Rig.pins).filter((pin) => pin.includes("_ct_")),
                [],
                `call ${skip + 1}`
              )
            }
            return made <= skip
          }).pipe(Effect.provide(BpfMemory.layerTest()))
          if (isOver) break
          assert.isBelow(skip, 2000)
        }
      })
    )
  }

  it.live("a repair mends the rest, and what failed when it is run again", () =>
    Effect.gen(function* () {
      let failures = 0
      for (let skip = 0; ; skip++) {
        const isOver = yield* Effect.gen(function* () {
          const control = yield* BpfMemory.Control
          yield* Cases.before("create")

          for (const pin of control.pins().filter((path) => /(any4|v6_external)$/.test(path))) {
            yield* Effect.map(Bpf.Bpf, (calls) => calls.unpin(pin))
          }
          const mend = Effect.gen(function* () {
            const found = yield* ClusterCheck.check()
            const calls = control.count()
            control.failNext("any", EIO, { skip })
            const done = yield* ClusterCheck.repair(found)
            const made = control.count() - calls
            control.clearFaults()
            for (const { outcome, error } of done) {
              if (outcome === "failed") failures++
              assert.strictEqual(outcome === "failed", error !== undefined)
            }
            yield* ClusterCheck.repair(yield* ClusterCheck.check())
            assert.deepStrictEqual(yield* Rig.findings(), [], `call ${skip + 1}`)
            return made
          })
          const made = yield* Effect.provide(mend, Rig.mapsLayer())
          assert.deepStrictEqual(control.openFds(), [])
          return made <= skip
        }).pipe(Effect.provide(BpfMemory.layerTest()))
        if (isOver) break
        assert.isBelow(skip, 2000)
      }
      assert.isAbove(failures, 0)
    })
  )
})
