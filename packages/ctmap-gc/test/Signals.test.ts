import { assert, describe, it } from "@effect/vitest"
import { MapName, MapSpec, Signal } from "ctmap-core"
import { SignalQueue, Signals, SignalSource } from "ctmap-gc"
import { BpfMap, BpfMemory, PerfRing } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Metric from "effect/Metric"
import * as Queue from "effect/Queue"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as TestClock from "effect/testing/TestClock"

const { NAT_FILL_UP: NAT, CT_FILL_UP: CT, AUTH_REQUIRED: AUTH } = Signal

/** A message as the ring hands it over, by default with the kernel's padding. */
const message = (signal: number, protocol: number, bytes = 12): Uint8Array => {
  const sample = new Uint8Array(Math.max(bytes, 8)).fill(0xaa)
  Signal.write(signal, protocol, new DataView(sample.buffer), 0)
  return sample.subarray(0, bytes)
}

/** Lets the reader's fiber run. */
const settle = Effect.forEach(Array.from({ length: 20 }), () => Effect.yieldNow, { discard: true })

/** What was counted, as `signal data status` with zeros left out. */
const counted = Effect.map(Metric.snapshot, (snapshots) =>
  Object.fromEntries(
    snapshots.flatMap(({ id, attributes, state }) =>
      id === "cilium_datapath_signals_handled_total" && state !== null && typeof state === "object" && "count" in state
        ? [[["signal", "data", "status"].map((name) => Object(attributes)[name] || "-").join(" "), Number(state.count)]]
        : []
    )
  )
)

/** With metrics of its own. */
const run = <A, E>(body: Effect.Effect<A, E, Signals.Signals | SignalSource.Control | Scope.Scope>) =>
  body.pipe(Effect.provide(Signals.layerTest), Effect.provideService(Metric.MetricRegistry, new Map()))

const silent: Signals.Handler = { handle: () => ({ status: "received", data: "" }), close: () => {} }

describe("Signals, registration", () => {
  it.effect("refuses a number that no signal has, and changes nothing", () =>
    run(
      Effect.gen(function* () {
        const { register, active } = yield* Signals.Signals
        for (const number of [3, 16, -1, 1.5, Number.NaN]) {
          const error = yield* Effect.flip(register(silent, NAT, number))
          assert.match(error.message, /^signal number not supported: /)
        }
        assert.deepStrictEqual(active(), [])
        yield* register(silent, NAT)
      })
    )
  )

  it.effect("refuses a signal that is taken, and changes nothing", () =>
    run(
      Effect.gen(function* () {
        const { register, active } = yield* Signals.Signals
        yield* register(silent, CT)
        const error = yield* Effect.flip(register(silent, NAT, CT))
        assert.strictEqual(
          error.message,
          "channel for signal number already registered: 1 (ct_fill_up); a signal has one handler"
        )
        assert.deepStrictEqual(active(), [CT])
        yield* register(silent, NAT)
        assert.deepStrictEqual(active(), [NAT, CT])
      })
    )
  )

  it.effect("is over when signals are read", () =>
    run(
      Effect.gen(function* () {
        const { register, start, active } = yield* Signals.Signals
        yield* register(silent, CT)
        yield* start
        const error = yield* Effect.flip(register(silent, NAT))
        assert.match(error.message, /^runtime registration not supported/)
        assert.deepStrictEqual(active(), [CT])
      })
    )
  )

  it.effect("is needed before signals can be read, and one of them must not be muted", () =>
    run(
      Effect.gen(function* () {
        const { register, mute, unmute, start } = yield* Signals.Signals
        assert.match((yield* Effect.flip(start)).message, /^no registered signal handlers/)
        yield* register(silent, CT)
        yield* mute(CT)
        assert.strictEqual((yield* Effect.flip(start))._tag, "NoHandlers")
        const { calls } = yield* SignalSource.Control
        assert.deepStrictEqual(calls, [])
        yield* unmute(CT)
        yield* start
        yield* start
        assert.deepStrictEqual(calls, ["resume"])
      })
    )
  )
})

describe("Signals, muting", () => {
  it.effect("pauses the ring with the last active signal and resumes it with the first, at no other time", () =>
    run(
      Effect.gen(function* () {
        const { register, mute, unmute, start, active } = yield* Signals.Signals
        const { calls, isPaused } = yield* SignalSource.Control
        yield* register(silent, NAT, CT)
        yield* mute(NAT, CT)
        yield* unmute(NAT)
        yield* start
        assert.deepStrictEqual([active(), isPaused()], [[NAT], false])
        const steps: ReadonlyArray<
          readonly ["mute" | "unmute", ReadonlyArray<number>, ReadonlyArray<number>, boolean, number]
        > = [
          ["mute", [NAT], [], true, 2],
          ["unmute", [NAT, CT], [NAT, CT], false, 3],
          ["mute", [NAT], [CT], false, 3],
          ["mute", [NAT], [CT], false, 3],
          ["unmute", [AUTH], [CT, AUTH], false, 3],
          ["mute", [CT, AUTH], [], true, 4],
          ["mute", [CT], [], true, 4],
          ["unmute", [CT], [CT], false, 5],
          ["unmute", [CT], [CT], false, 5]
        ]
        for (const [call, signals, expected, paused, transitions] of steps) {
          yield* (call === "mute" ? mute : unmute)(...signals)
          assert.deepStrictEqual([active(), isPaused(), calls.length], [expected, paused, transitions])
        }
        for (const call of [mute, unmute]) {
          assert.strictEqual((yield* Effect.flip(call(CT, 16)))._tag, "SignalNotSupported")
        }
        assert.deepStrictEqual([active(), calls.length], [[CT], 5])
      })
    )
  )

  it.effect("goes on when the ring cannot be paused: what comes is dropped", () => {
    const failing = Layer.effect(
      SignalSource.SignalSource,
      Effect.map(SignalSource.SignalSource, ({ source }) =>
        SignalSource.SignalSource.of({ source: { ...source!, pause: Effect.fail(damage as never) } })
      )
    ).pipe(Layer.provideMerge(SignalSource.layerTest))
    return Effect.gen(function* () {
      const { start } = yield* Signals.Signals
      const { signals: _, mute, queue } = yield* SignalQueue.subscribe()
      yield* start
      yield* mute
      const { send } = yield* SignalSource.Control
      assert.isTrue(send(message(CT, 0)))
      yield* settle
      assert.strictEqual(yield* Queue.size(queue), 0)
      assert.deepStrictEqual(yield* counted, { "ct_fill_up - muted": 1 })
    }).pipe(
      Effect.provide(Layer.provideMerge(Layer.effect(Signals.Signals, Signals.make), failing)),
      Effect.provideService(Metric.MetricRegistry, new Map())
    )
  })
})

const damage = new PerfRing.PerfRingDamaged({ map: "cilium_signals", cpu: 1, at: 24, size: 0 })

describe("Signals, reading", () => {
  it.effect("wakes for IPv4 only, when IPv4 has filled up NAT and CT", () =>
    run(
      Effect.gen(function* () {
        const { start } = yield* Signals.Signals
        const { send } = yield* SignalSource.Control
        const { queue } = yield* SignalQueue.subscribe()
        yield* start
        send(message(NAT, 0, 8))
        send(message(CT, 0, 8))
        yield* settle
        const heard = yield* Queue.takeAll(queue)
        assert.deepStrictEqual(
          heard.map(({ signal, family }) => [signal, family]),
          [
            ["nat_fill_up", "ipv4"],
            ["ct_fill_up", "ipv4"]
          ]
        )
      })
    )
  )

  it.effect("counts what became of every record", () =>
    run(
      Effect.gen(function* () {
        const { start, mute, unmute } = yield* Signals.Signals
        const { send, lose } = yield* SignalSource.Control
        const { queue } = yield* SignalQueue.subscribe()
        yield* start
        for (const protocol of [0, 1, 1]) send(message(NAT, protocol))
        send(message(CT, 0, 60))
        lose(855)
        send(message(CT, 0, 3))
        send(message(CT, 0, 0))
        send(message(3, 0))
        send(message(0xffff_ffff, 0))
        send(message(AUTH, 7, 16))
        send(message(CT, 0, 7))
        yield* settle
        yield* mute(NAT)
        yield* unmute(AUTH)
        send(message(NAT, 0))
        // Nobody has it, so that it is not muted: it is nobody's.
        send(message(AUTH, 7, 16))
        yield* settle
        assert.deepStrictEqual(yield* counted, {
          "nat_fill_up ipv4 received": 1,
          "nat_fill_up ipv6 received": 2,
          "ct_fill_up ipv4 received": 1,
          "- - lost": 855,
          "- - too short": 2,
          "- - unknown signal": 2,
          "auth_required - unregistered": 2,
          "ct_fill_up - parse error": 1,
          "nat_fill_up - muted": 1
        })
        assert.strictEqual(yield* Queue.size(queue), 4)
      })
    )
  )

  it.effect("counts auth_required as muted where somebody has it and does not want it now", () =>
    run(
      Effect.gen(function* () {
        const { register, mute, start } = yield* Signals.Signals
        const { send } = yield* SignalSource.Control
        yield* register(silent, AUTH, CT)
        yield* mute(AUTH)
        yield* start
        send(message(AUTH, 7, 16))
        yield* settle
        assert.deepStrictEqual(yield* counted, { "auth_required - muted": 1 })
      })
    )
  )

  it.effect("refuses a protocol that does not exist, and queues nothing for it (G19)", () =>
    run(
      Effect.gen(function* () {
        const { start } = yield* Signals.Signals
        const { send } = yield* SignalSource.Control
        const { queue } = yield* SignalQueue.subscribe()
        yield* start
        for (const protocol of [2, 3, 0xffff_ffff]) send(message(CT, protocol))
        send(message(CT, 1))
        yield* settle
        assert.deepStrictEqual(
          (yield* Queue.takeAll(queue)).map(({ family }) => family),
          ["ipv6"]
        )
        assert.strictEqual((yield* counted)["ct_fill_up - parse error"], 3)
      })
    )
  )

  it.effect("drops what does not fit the queue, and counts it", () =>
    run(
      Effect.gen(function* () {
        const { start } = yield* Signals.Signals
        const { send } = yield* SignalSource.Control
        const { queue, dropped } = yield* SignalQueue.subscribe()
        yield* start
        for (let i = 0; i < SignalQueue.CAPACITY + 7; i++) send(message(CT, i % 2))
        while ((yield* counted)["ct_fill_up - channel overflow"] !== 7) yield* settle
        assert.deepStrictEqual([dropped(), yield* Queue.size(queue)], [7, 1024])
        // There is room again.
        yield* Queue.takeAll(queue)
        send(message(CT, 0))
        yield* settle
        assert.deepStrictEqual([dropped(), yield* Queue.size(queue)], [7, 1])
      })
    )
  )

  it.effect("comes through a handler that throws", () =>
    run(
      Effect.gen(function* () {
        const { register, start } = yield* Signals.Signals
        const { send } = yield* SignalSource.Control
        let calls = 0
        const handle = (): never => {
          calls += 1
          throw new Error("not now")
        }
        yield* register({ handle, close: () => {} }, CT)
        yield* start
        send(message(CT, 0))
        send(message(CT, 0))
        yield* settle
        assert.strictEqual(calls, 2)
        assert.deepStrictEqual(yield* counted, { "ct_fill_up - parse error": 2 })
      })
    )
  )

  it.effect("waits longer each time a read fails, and hears what comes after (G19)", () =>
    run(
      Effect.gen(function* () {
        const { start } = yield* Signals.Signals
        const { send, fail } = yield* SignalSource.Control
        const { queue } = yield* SignalQueue.subscribe()
        yield* start
        fail(damage, 12)
        send(message(CT, 0))
        const errors = Effect.map(counted, (all) => all["- - error"])
        const waits = [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000, 30_000]
        for (const [i, wait] of waits.entries()) {
          yield* settle
          assert.strictEqual(yield* errors, i + 1)
          yield* TestClock.adjust(wait - 1)
          assert.strictEqual(yield* errors, i + 1)
          yield* TestClock.adjust(1)
        }
        yield* settle
        assert.strictEqual(yield* Queue.size(queue), 1)
        // A read that succeeds forgets the failures before it.
        fail(damage)
        send(message(CT, 0))
        yield* settle
        yield* TestClock.adjust(100)
        yield* settle
        assert.strictEqual(yield* Queue.size(queue), 2)
      })
    )
  )

  it.effect("ends with its scope: refuses signals at their source, ends the streams, and starts no more", () =>
    run(
      Effect.gen(function* () {
        const { start } = yield* Signals.Signals
        const { send, isPaused } = yield* SignalSource.Control
        const { signals } = yield* SignalQueue.subscribe()
        const scope = yield* Scope.make()
        yield* Scope.provide(start, scope)
        send(message(CT, 1))
        yield* settle
        yield* Scope.close(scope, Exit.void)
        assert.isTrue(isPaused())
        assert.strictEqual((yield* Stream.runCollect(signals)).length, 1)
        yield* start
        assert.isTrue(isPaused())
      })
    )
  )

  it.effect("tells a handler of several signals once that it is over", () =>
    run(
      Effect.gen(function* () {
        const { register, start } = yield* Signals.Signals
        let closed = 0
        yield* register({ ...silent, close: () => void closed++ }, NAT, CT)
        const scope = yield* Scope.make()
        yield* Scope.provide(start, scope)
        assert.strictEqual(closed, 0)
        yield* Scope.close(scope, Exit.void)
        assert.strictEqual(closed, 1)
      })
    )
  )
})

describe("Signals of the pinned map", () => {
  const path = MapName.pinPath("/sys/fs/bpf", MapName.SIGNALS)
  const pinned = Effect.scoped(BpfMap.createPinned(MapSpec.signals(3), path))
  const start = Effect.gen(function* () {
    const { start: begin } = yield* Signals.Signals
    const subscription = yield* SignalQueue.subscribe()
    yield* begin
    return subscription
  })

  it.effect("arrive from every CPU; muted ones are refused where they are sent; nothing is left open", () =>
    Effect.gen(function* () {
      const control = yield* BpfMemory.Control
      yield* pinned
      const output = (cpu: number, sample: Uint8Array) => control.map(path)!.output(cpu, sample)
      yield* Effect.gen(function* () {
        const { queue, mute, unmute } = yield* start
        assert.deepStrictEqual([output(0, message(CT, 0, 8)), output(2, message(NAT, 1, 8))], [0, 0])
        yield* settle
        assert.strictEqual((yield* Queue.takeAll(queue)).length, 2)
        yield* mute
        assert.deepStrictEqual([output(0, message(CT, 0, 8)), output(2, message(CT, 0, 8))], [-2, -2])
        yield* unmute
        assert.strictEqual(output(2, message(CT, 1, 8)), 0)
        yield* settle
        assert.strictEqual((yield* Queue.takeAll(queue)).length, 1)
      }).pipe(Effect.scoped, Effect.provide(Signals.layer))
      assert.strictEqual(output(0, message(CT, 0, 8)), -2)
      assert.deepStrictEqual(control.openFds(), [])
      assert.deepStrictEqual(
        control.living().map(({ kind }) => kind),
        ["map"]
      )
    }).pipe(
      Effect.provide(BpfMemory.layerTest({ possibleCpus: 3 })),
      Effect.provideService(Metric.MetricRegistry, new Map())
    )
  )

  it.effect("must be there, unless they are optional: then they are off, and say why", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(Effect.scoped(Layer.build(Signals.layer)))
      assert.deepStrictEqual([error.reason._tag, error.path], ["PinNotFound", path])
      yield* Effect.gen(function* () {
        const { off } = yield* Signals.Signals
        assert.strictEqual(off, error.message)
        const { signals, mute, unmute } = yield* start
        yield* mute
        yield* unmute
        assert.isTrue(signals !== undefined)
      }).pipe(Effect.scoped, Effect.provide(Signals.layerOptional))
    }).pipe(Effect.provide(BpfMemory.layer))
  )

  it.effect("are off without CAP_PERFMON, which the reason names", () =>
    Effect.gen(function* () {
      const control = yield* BpfMemory.Control
      yield* pinned
      control.asUser(0, ["CAP_BPF", "CAP_DAC_OVERRIDE"])
      const error = yield* Effect.flip(Effect.scoped(Layer.build(Signals.layer)))
      assert.include(error.message, "CAP_PERFMON")
      const off = yield* Effect.map(Signals.Signals, (signals) => signals.off).pipe(
        Effect.provide(Signals.layerOptional)
      )
      assert.include(off, "CAP_PERFMON")
      assert.deepStrictEqual(control.openFds(), [])
    }).pipe(Effect.provide(BpfMemory.layerTest({ possibleCpus: 3 })))
  )

  it.effect("cannot be started where the map may only be read", () =>
    Effect.gen(function* () {
      const control = yield* BpfMemory.Control
      yield* pinned
      control.failNext("openPin", 13)
      const error = yield* Effect.flip(Effect.scoped(Effect.provide(start, Signals.layer)))
      assert.strictEqual("reason" in error ? error.reason._tag : error._tag, "NotPermitted")
    }).pipe(Effect.provide(BpfMemory.layerTest({ possibleCpus: 3 })))
  )

  it.effect("are none without a datapath to ask: handlers are taken, and hear that it is over", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const { signals } = yield* Scope.provide(start, scope)
      yield* Scope.close(scope, Exit.void)
      assert.deepStrictEqual(yield* Stream.runCollect(signals), [])
    }).pipe(Effect.provide(Signals.layerNoop))
  )
})
