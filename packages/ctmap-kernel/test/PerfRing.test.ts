import { assert, describe, it } from "@effect/vitest"
import { MapSpec } from "ctmap-core"
import { Bpf, BpfMap, BpfMemory, PerfRing } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as References from "effect/References"
import * as TestClock from "effect/testing/TestClock"
import { contract, Heard } from "./contract/PerfRing.contract.ts"
import { objects, sender } from "./signalTwin.ts"

const memory = BpfMemory.make({ possibleCpus: 4, objects })

contract("PerfRing in memory", Layer.succeed(Bpf.Bpf, memory.calls))

const open = Effect.gen(function* () {
  const bpf = yield* Bpf.Bpf
  const map = yield* BpfMap.create(MapSpec.signals(bpf.possibleCpus()), "signals")
  const ring = yield* PerfRing.open(map)
  const send = yield* sender(map.fd)
  yield* ring.resume
  return { map, ring, send }
})

/** Everything a kernel was asked, and the memory of each ring. */
const watched = (calls: Bpf.Calls) => {
  const rings: Array<Uint8Array> = []
  const ready: Array<() => void> = []
  let stopped = 0
  const layer = Layer.succeed(Bpf.Bpf, {
    ...calls,
    mapMemory: (fd: number, bytes: number) => {
      const ring = calls.mapMemory(fd, bytes)
      if (typeof ring !== "number") rings.push(ring)
      return ring
    },
    // Nobody is ever told by the kernel.
    watch: (_fd: number, tell: () => void) => {
      ready.push(tell)
      return () => void stopped++
    }
  })
  return { layer, rings, ready, stopped: () => stopped }
}

/** A record of a type, with zeros in it, at the head of a ring. */
const append = (ring: Uint8Array, type: number, size: number): void => {
  const view = new DataView(ring.buffer, ring.byteOffset)
  const head = Number(view.getBigUint64(1024, true))
  view.setUint32(4096 + (head % 4096), type, true)
  view.setUint16(4096 + (head % 4096) + 6, size, true)
  view.setBigUint64(1024, BigInt(head + Math.max(8, size)), true)
}

describe("PerfRing", () => {
  it("leaves nothing behind", () => {
    const { control } = memory
    assert.deepStrictEqual([control.openFds(), control.living()], [[], []])
  })

  it.effect("uses the number of a CPU, whichever CPUs before it are offline (G19)", () =>
    Effect.gen(function* () {
      const { ring, send } = yield* open
      assert.deepStrictEqual(ring.cpus, [1, 4])
      const heard = new Heard()
      for (const cpu of [1, 4]) {
        assert.strictEqual(send({ cpu, words: [1, cpu] }).sent, 1)
        yield* ring.read(heard)
      }
      assert.deepStrictEqual([heard.words(1), heard.words(4)], [[[1, 1]], [[1, 4]]])
      assert.strictEqual(send({ cpu: 2 }).error, -2)
    }).pipe(Effect.provide(BpfMemory.layerTest({ possibleCpus: 6, onlineCpus: [1, 4], objects })))
  )

  it.effect("opens what CPUs there are for a map with more slots, and for one with fewer", () =>
    Effect.gen(function* () {
      const large = yield* PerfRing.open(yield* BpfMap.create(MapSpec.signals(128), "large"))
      const small = yield* PerfRing.open(yield* BpfMap.create(MapSpec.signals(1), "small"))
      yield* large.resume
      yield* small.resume
      assert.deepStrictEqual([large.cpus, small.cpus], [[0, 1, 2], [0]])
    }).pipe(Effect.provide(BpfMemory.layerTest({ possibleCpus: 3 })))
  )

  it.effect("names the capability that is missing", () =>
    Effect.gen(function* () {
      const control = yield* BpfMemory.Control
      const map = yield* BpfMap.create(MapSpec.signals(2), "signals")
      control.asUser(1000, ["CAP_BPF"])
      const error = yield* Effect.flip(PerfRing.open(map))
      assert.strictEqual(
        error.message,
        "open perf event of map signals: not permitted (errno 13): run as root, or give the process CAP_PERFMON (before Linux 5.8 CAP_SYS_ADMIN); only the datapath's signals need it"
      )
      control.asUser(1000, ["CAP_BPF", "CAP_PERFMON"])
      yield* PerfRing.open(map)
    }).pipe(Effect.provide(BpfMemory.layerTest()))
  )

  it.effect("names the limit that locked memory has", () =>
    Effect.gen(function* () {
      const control = yield* BpfMemory.Control
      const map = yield* BpfMap.create(MapSpec.signals(2), "signals")
      control.failNext("mapMemory", 1)
      const { message } = yield* Effect.flip(PerfRing.open(map))
      assert.include(message, "map perf ring of map signals: not permitted (errno 1): locked memory is limited")
    }).pipe(Effect.provide(BpfMemory.layerTest()))
  )

  for (const call of ["perfEvent", "mapMemory", "watch"] as const) {
    it.effect(`closes what it has opened when ${call} fails, on whichever CPU`, () =>
      Effect.gen(function* () {
        const control = yield* BpfMemory.Control
        const map = yield* BpfMap.create(MapSpec.signals(3), "signals")
        for (const skip of [0, 1, 2]) {
          control.failNext(call, 12, { skip })
          const error = yield* Effect.flip(Effect.scoped(PerfRing.open(map)))
          assert.strictEqual(error.reason._tag, "OutOfMemory")
          assert.deepStrictEqual(
            control.living().map(({ name }) => name),
            ["signals"]
          )
        }
        yield* Effect.scoped(PerfRing.open(map))
        assert.strictEqual(control.openFds().length, 1)
      }).pipe(Effect.provide(BpfMemory.layerTest({ possibleCpus: 3 })))
    )
  }

  it.effect("fills and empties the other slots where one fails, and says so", () =>
    Effect.gen(function* () {
      const control = yield* BpfMemory.Control
      const { ring, send } = yield* open
      control.failNext("delete", 1)
      assert.strictEqual((yield* Effect.flip(ring.pause)).reason._tag, "NotPermitted")
      assert.deepStrictEqual([send({ cpu: 0 }).error, send({ cpu: 1 }).error], [0, -2])
      yield* ring.pause
      control.failNext("update", 1)
      assert.strictEqual((yield* Effect.flip(ring.resume)).reason._tag, "NotPermitted")
      assert.deepStrictEqual([send({ cpu: 0 }).error, send({ cpu: 1 }).error], [-2, 0])
    }).pipe(Effect.provide(BpfMemory.layerTest({ objects })))
  )

  it.effect("finds what it was not told of within a second", () => {
    const { layer } = watched(BpfMemory.make({ objects }).calls)
    return Effect.gen(function* () {
      const { ring, send } = yield* open
      const reading = yield* Effect.forkChild(ring.read(new Heard()), { startImmediately: true })
      send({ cpu: 1 })
      yield* TestClock.adjust("999 millis")
      assert.isUndefined(reading.pollUnsafe())
      yield* TestClock.adjust("1 millis")
      assert.strictEqual(yield* Fiber.join(reading), 1)
    }).pipe(Effect.provide(layer))
  })

  it.effect("misses no wake-up between looking and waiting, wherever the fiber is made to yield", () =>
    Effect.gen(function* () {
      const { ring, send } = yield* open
      for (let turns = 0; turns < 12; turns++) {
        const reading = yield* Effect.forkChild(
          ring.read(new Heard()).pipe(Effect.provideService(References.MaxOpsBeforeYield, 3)),
          { startImmediately: true }
        )
        for (let turn = 0; turn < turns; turn++) yield* Effect.yieldNow
        send({ cpu: 0 })
        for (let turn = 0; turn < 50; turn++) yield* Effect.yieldNow
        // No time has passed: it was not found by looking again.
        assert.isDefined(reading.pollUnsafe(), `after ${turns} turns`)
      }
    }).pipe(Effect.provide(BpfMemory.layerTest({ objects })))
  )

  it.effect("skips records of other kinds", () => {
    const { layer, rings } = watched(BpfMemory.make({ objects }).calls)
    return Effect.gen(function* () {
      const { ring, send } = yield* open
      const heard = new Heard()
      append(rings[0]!, 5, 32)
      send({ cpu: 0, words: [1, 0] })
      append(rings[0]!, 6, 8)
      assert.strictEqual(yield* ring.read(heard), 3)
      assert.deepStrictEqual(heard.words(0), [[1, 0]])
    }).pipe(Effect.provide(layer))
  })

  for (const [type, size] of [
    [9, 0],
    [9, 4],
    [9, 8],
    [2, 16],
    [9, 12],
    [1, 65_528]
  ] as const) {
    it.effect(
      `gives up a ring that holds no record (type ${type}, size ${size}), reads the others, and goes on`,
      () => {
        const { layer, rings } = watched(BpfMemory.make({ objects }).calls)
        return Effect.gen(function* () {
          const { ring, send } = yield* open
          const heard = new Heard()
          send({ cpu: 0, words: [1, 7] })
          append(rings[0]!, type, size > 4096 ? 0 : size)
          if (size > 4096) new DataView(rings[0]!.buffer).setUint16(4096 + 24 + 6, size, true)
          send({ cpu: 0, words: [1, 8] })
          send({ cpu: 1, words: [1, 9] })
          const error = yield* Effect.flip(ring.read(heard))
          assert.deepStrictEqual([error._tag, error.cpu, error.at, error.size], ["PerfRingDamaged", 0, 24, size])
          assert.deepStrictEqual([heard.words(0), heard.words(1)], [[[1, 7]], [[1, 9]]])
          send({ cpu: 0, words: [1, 10] })
          assert.strictEqual(yield* ring.read(heard), 1)
          assert.deepStrictEqual(heard.words(0).at(-1), [1, 10])
        }).pipe(Effect.provide(layer))
      }
    )
  }

  it.effect("stops waiting for a ring that is readable and holds nothing, for good", () => {
    const { layer, ready, stopped } = watched(BpfMemory.make({ objects }).calls)
    return Effect.gen(function* () {
      const { ring, send } = yield* open
      for (let i = 0; i < 64; i++) ready[0]!()
      send({ cpu: 0 })
      ready[0]!()
      yield* ring.read(new Heard())
      // A record in between: it counts from the start.
      for (let i = 0; i < 64; i++) ready[0]!()
      assert.strictEqual(stopped(), 0)
      ready[0]!()
      assert.strictEqual(stopped(), 1)
    }).pipe(Effect.provide(layer))
  })

  it.effect("a sink that throws has had its record, and no other", () =>
    Effect.gen(function* () {
      const { ring, send } = yield* open
      send({ cpu: 0, words: [1, 1] })
      send({ cpu: 0, words: [1, 2] })
      const failing: PerfRing.Sink = {
        sample: () => {
          throw new Error("not this one")
        },
        lost: () => {}
      }
      yield* Effect.exit(ring.read(failing))
      const heard = new Heard()
      yield* ring.read(heard)
      assert.deepStrictEqual(heard.words(0), [[1, 2]])
    }).pipe(Effect.provide(BpfMemory.layerTest({ objects })))
  )
})
