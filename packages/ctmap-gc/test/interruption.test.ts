/** Passes that are interrupted, wherever they are: what was done is on record, and nothing stays open. */
import { assert, describe, it } from "@effect/vitest"
import { GcEngine, type GcEvents, type GcPass, GcRequest, Guard, NatPass, NatPurge } from "ctmap-gc"
import { Bpf, BpfMemory, KernelClock } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import { checkSums, optionsOf } from "./engineCases.ts"
import * as Stage from "./stage.ts"

const SIZE = 60

const plans: ReadonlyArray<readonly [what: string, plan: Partial<GcEngine.Plan>]> = [
  ["of what has expired", {}],
  ["with two looks", { requests: [GcRequest.everything], limits: Guard.unlimited }]
]

/** Runs an effect that is interrupted right before, or after, the nth call into the kernel. Whether it came to that. */
const interruptedAt = Effect.fnUntraced(function* <A, E, R>(
  effect: Effect.Effect<A, E, R>,
  control: BpfMemory.Controls,
  at: number,
  when: "before" | "after"
) {
  let left = at
  let isHit = false
  // It begins when we wait for it.
  const fiber = yield* Effect.forkChild(effect)
  const stop = control.onCall(() => {
    if (left-- !== 0) return
    isHit = true
    fiber.interruptUnsafe()
  }, when)
  const exit = yield* Fiber.await(fiber)
  stop()
  return { isHit, exit }
})

describe("a pass that is interrupted", () => {
  for (const engine of ["hybrid", "walking", "kernel", "portable"] as const) {
    for (const [what, plan] of plans) {
      it.effect(`${engine}, ${what}: at any call, leaves nothing half done`, () =>
        Effect.gen(function* () {
          let isOver = false
          for (let at = 0; !isOver; at++) {
            for (const when of ["before", "after"] as const) {
              const { calls, control } = BpfMemory.make({ objects: Stage.objects!, buckets: 16 })
              const about = `${when} call ${at}`
              const test = Effect.gen(function* () {
                const tcp = Array.from({ length: SIZE }, (_, i) =>
                  Stage.ct({ daddr: [1], saddr: [2], sport: i + 1, lifetime: i % 3 === 0 ? 5000 : 1 })
                )
                const nat = tcp.map((_, i) => Stage.nat({ daddr: [2], saddr: [1], sport: i + 1, to: [[9], 40_000] }))
                const pair = yield* Stage.pair({ tcp, nat })
                const { sweep } = yield* Effect.provideService(
                  GcEngine.make({ ...optionsOf(engine), batchSize: 16 }),
                  KernelClock.KernelClock,
                  Stage.ktime(1000)
                )
                const recorded: Array<GcPass.GcPass> = []
                const told: Array<GcEvents.Deleted> = []
                const { isHit, exit } = yield* interruptedAt(
                  sweep(pair, {
                    serial: 1,
                    requests: [GcRequest.expired],
                    ...plan,
                    publish: (event) => told.push(event),
                    recorded: (pass) => recorded.push(pass)
                  }),
                  control,
                  at,
                  when
                )
                assert.strictEqual(recorded.length, 1, about)
                const pass = recorded[0]!
                checkSums(pass)
                assert.strictEqual(pass.completed, exit._tag === "Success", about)
                const { deleted = 0, nat: counts } = pass.maps[0] ?? {}
                const left = yield* Stage.keysOf(pair.tcp.map)
                assert.strictEqual(left.length, SIZE - deleted, about)
                assert.strictEqual(
                  told.reduce((sum, { count }) => sum + count, 0),
                  deleted,
                  about
                )
                assert.strictEqual(pass.requests[0]!.deleted, deleted, about)
                // Of every entry that went, the mapping went too: there is no moment between the two.
                assert.strictEqual(counts?.egress ?? 0, deleted, about)
                assert.strictEqual((yield* Stage.keysOf(pair.nat!.map)).length, left.length, about)
                if (plan.requests === undefined) {
                  for (const [i, entry] of tcp.entries()) if (i % 3 === 0) assert.include(left, Stage.keyHex(entry))
                }
                return isHit
              })
              const isHit = yield* Effect.provideService(Effect.scoped(test), Bpf.Bpf, calls)
              assert.deepStrictEqual(control.openFds(), [], about)
              if (!isHit) isOver = true
            }
          }
        })
      )
    }
  }
})

describe("a purge that is interrupted", () => {
  for (const engine of ["program", "portable"] as const) {
    it.effect(`${engine}: at any call, has counted what it deleted`, () =>
      Effect.gen(function* () {
        let isOver = false
        for (let at = 0; !isOver; at += 61) {
          const { calls, control } = BpfMemory.make({ objects: Stage.objects! })
          const about = `before call ${at}`
          const test = Effect.gen(function* () {
            const nat = Array.from({ length: 700 }, (_, i) => Stage.nat({ sport: i + 1, to: [[9], 40_000] }))
            const pair = yield* Stage.pair({ nat })
            const recorded: Array<NatPass.NatPass> = []
            const { isHit, exit } = yield* interruptedAt(
              NatPurge.orphans(pair, { serial: 1, engine, recorded: (pass) => recorded.push(pass) }),
              control,
              at,
              "before"
            )
            assert.strictEqual(recorded.length, 1, about)
            const pass = recorded[0]!
            assert.strictEqual(pass.completed, exit._tag === "Success", about)
            const left = (yield* Stage.keysOf(pair.nat!.map)).length
            assert.strictEqual(NatPass.deleted(pass), 700 - left, about)
            assert.strictEqual(pass.seen, pass.egressAlive + pass.egressDeleted, about)
            return isHit
          })
          const isHit = yield* Effect.provideService(Effect.scoped(test), Bpf.Bpf, calls)
          assert.deepStrictEqual(control.openFds(), [], about)
          if (!isHit) isOver = true
        }
      })
    )
  }
})
