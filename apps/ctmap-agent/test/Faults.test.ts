/** Whichever call to the kernel fails, and whenever the agent is stopped. */
import { assert, describe, it } from "@effect/vitest"
import { Lifecycle } from "ctmap-cell"
import { GcRunner } from "ctmap-gc"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Fiber from "effect/Fiber"
import * as Logger from "effect/Logger"
import * as Datapath from "./datapath.ts"
import { agent, makeKernel, pass, type Twin, unwell } from "./stage.ts"

/** Whatever the agent does at times it does once in ten seconds. */
const often = [
  "--signals",
  ...["conntrack-gc", "orphan-purge", "pressure", "presence"].flatMap((what) => [`--${what}-interval`, "10s"])
]

/** Makes a connection of each family that expires at once, one that stays, and an orphan. */
const connectAll = (twin: Twin): void => {
  for (const family of ["ipv4", "ipv6"] as const) {
    Datapath.connect(twin, 1, { family, life: 1 })
    Datapath.connect(twin, 2, { family, life: 86_400 })
    Datapath.connect(twin, 3, { family, life: 0, orphan: true })
  }
}
const tidy = { cilium_ct4_global: 1, cilium_ct6_global: 1, [Datapath.nat.ipv4]: 2, [Datapath.nat.ipv6]: 2 }
const sizes = (twin: Twin) => Object.fromEntries(Object.keys(tidy).map((name) => [name, Datapath.sizeOf(twin, name)]))

const quiet = Logger.layer([])

/** An agent on the tables of a host, which must not end while something is done with it. */
const living = <A, E, R>(twin: Twin, use: (goesOn: () => boolean) => Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    const { failure } = yield* Lifecycle.Lifecycle
    const end = yield* Effect.forkChild(Effect.exit(failure), { startImmediately: true })
    yield* use(() => end.pollUnsafe() === undefined)
    yield* Fiber.interrupt(end)
  }).pipe(
    Effect.provide(
      Layer.provideMerge(
        agent(twin, () => often),
        quiet
      )
    )
  )

describe("when any one call to the kernel fails", () => {
  // Another errno can be another reason, so some calls fail in other ways, too.
  for (const { errno, name, stride } of [
    { errno: 5, name: "EIO", stride: 1 },
    { errno: 24, name: "EMFILE", stride: 11 },
    { errno: 12, name: "ENOMEM", stride: 13 }
  ]) {
    it.effect(
      `while the agent runs, with ${name}, it goes on, loses nothing, leaves nothing open, and is well again`,
      () => {
        const twin = makeKernel()
        const { control } = twin
        Datapath.pinAll(twin)
        return living(twin, (goesOn) =>
          Effect.gen(function* () {
            yield* (yield* GcRunner.GcRunner).initialScanDone
            connectAll(twin)
            yield* pass(twin, "40 seconds", "10 seconds")
            const fds = control.openFds().length
            let unwells = 0
            for (let skip = 0; ; skip += stride) {
              connectAll(twin)
              const before = control.count()
              control.failNext("any", errno, { skip })
              yield* pass(twin, "10 seconds", "10 seconds")
              const isOver = control.count() - before <= skip
              control.clearFaults()
              if ((yield* unwell).length > 0) unwells++
              yield* pass(twin, "30 seconds", "10 seconds")
              assert.isTrue(goesOn(), `call ${skip}`)
              assert.deepStrictEqual(sizes(twin), tidy, `call ${skip}`)
              assert.deepStrictEqual(yield* unwell, [], `call ${skip}`)
              assert.isAtMost(control.openFds().length, fds, `call ${skip}: an fd stayed open`)
              if (isOver) break
            }
            assert.isAbove(unwells, 0, "what kept tables from being collected shows in the health")
          })
        )
      }
    )
  }

  it.effect("while the agent starts, it starts all the same, and collects", () =>
    Effect.gen(function* () {
      for (let skip = 0; ; skip++) {
        const twin = makeKernel()
        const { control } = twin
        Datapath.pinAll(twin)
        connectAll(twin)
        control.time += 5_000_000_000n
        const before = control.count()
        control.failNext("any", 5, { skip })
        let isOver = false
        yield* living(twin, (goesOn) =>
          Effect.gen(function* () {
            yield* (yield* GcRunner.GcRunner).initialScanDone
            isOver = control.count() - before <= skip
            control.clearFaults()
            yield* pass(twin, "40 seconds", "10 seconds")
            assert.isTrue(goesOn(), `call ${skip}`)
            assert.deepStrictEqual(sizes(twin), tidy, `call ${skip}`)
            assert.deepStrictEqual(yield* unwell, [], `call ${skip}`)
          })
        )
        assert.deepStrictEqual(control.openFds(), [], `call ${skip}: an fd stayed open`)
        if (isOver) break
      }
    })
  )
})

describe("when the agent is stopped", () => {
  it.effect("at any call to the kernel, from the first one of its start on, no fd, program or lock stays", () =>
    Effect.gen(function* () {
      for (let at = 1, isOver = false; !isOver; at += 7) {
        const twin = makeKernel()
        const { control } = twin
        Datapath.pinAll(twin)
        connectAll(twin)
        control.time += 5_000_000_000n
        const kept = control.living()
        const before = control.count()
        const life = living(twin, () => pass(twin, "30 seconds", "5 seconds"))
        const fiber = yield* Effect.forkChild(life)
        while (control.count() - before < at && fiber.pollUnsafe() === undefined) {
          yield* Effect.promise(() => new Promise((resume) => setImmediate(resume)))
        }
        isOver = fiber.pollUnsafe() !== undefined
        yield* Fiber.interrupt(fiber)
        assert.deepStrictEqual(control.openFds(), [], `call ${at}`)
        assert.deepStrictEqual(control.living(), kept, `call ${at}`)
      }
    })
  )
})
