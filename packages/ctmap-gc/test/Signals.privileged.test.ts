import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import { MapName, MapSpec, Signal } from "ctmap-core"
import { SignalQueue, Signals } from "ctmap-gc"
import { Bpf, BpfMap, LibBpf, Pins } from "ctmap-kernel"
import { Privileged, SignalSender, TempBpfFs } from "ctmap-testing"
import * as Effect from "effect/Effect"
import * as Metric from "effect/Metric"
import * as Queue from "effect/Queue"

const { NAT_FILL_UP: NAT, CT_FILL_UP: CT, AUTH_REQUIRED: AUTH } = Signal

const count = (labels: Readonly<Record<string, string>>) =>
  Effect.map(Metric.snapshot, (snapshots) => {
    let sum = 0
    for (const { attributes, state } of snapshots) {
      const found: Readonly<Record<string, unknown>> = { ...attributes }
      if (!Object.entries(labels).every(([name, value]) => found[name] === value)) continue
      if (state !== null && typeof state === "object" && "count" in state) sum += Number(state.count)
    }
    return sum
  })

Privileged.suite(describe, "signals of a datapath", () => {
  const fs = TempBpfFs.make()
  beforeAll(fs.start)
  afterAll(fs.stop)

  /** A pinned `cilium_signals`, a datapath that sends into it, and signals that are read. */
  const started = Effect.gen(function* () {
    const bpf = yield* Bpf.Bpf
    const path = MapName.pinPath(yield* Pins.BpfFsRoot, MapName.SIGNALS)
    const { map } = yield* BpfMap.openOrCreate(MapSpec.signals(bpf.possibleCpus()), path)
    const { send } = yield* Effect.acquireRelease(
      Effect.sync(() => SignalSender.make(bpf, map.fd)),
      ({ close }) => Effect.sync(close)
    )
    // Whichever CPUs are online: others take no run.
    const cpus = Array.from({ length: bpf.possibleCpus() }, (_, cpu) => cpu).filter((cpu) => {
      try {
        return send({ cpu }).cpu === cpu
      } catch {
        return false
      }
    })
    return { send, cpus }
  })

  const run = <A, E, R>(body: Effect.Effect<A, E, R>) =>
    body.pipe(
      Effect.scoped,
      Effect.provideService(Pins.BpfFsRoot, fs.path),
      Effect.provideService(Metric.MetricRegistry, new Map())
    )

  /** Waits until a count is what it must become. */
  const until = (labels: Readonly<Record<string, string>>, expected: number) =>
    Effect.gen(function* () {
      while ((yield* count(labels)) < expected) yield* Effect.sleep("2 millis")
      assert.strictEqual(yield* count(labels), expected)
    })

  it.live("arrive of both kinds and families, from every CPU that is online", () =>
    run(
      Effect.gen(function* () {
        const { send, cpus } = yield* started
        yield* Effect.gen(function* () {
          const { start } = yield* Signals.Signals
          const { queue } = yield* SignalQueue.subscribe()
          yield* start
          const sequence = [
            [NAT, 0],
            [CT, 1],
            [NAT, 1],
            [CT, 0]
          ] as const
          for (const cpu of cpus) {
            for (const words of sequence) assert.strictEqual(send({ cpu, words }).error, 0)
            yield* Effect.yieldNow
          }
          // Of another size, as a datapath that says more might send.
          assert.strictEqual(send({ cpu: cpus[0]!, words: [CT, 1], size: 40 }).error, 0)
          assert.strictEqual(send({ cpu: cpus[0]!, words: [AUTH, 0x1234], size: 16 }).error, 0)
          yield* until({ status: "received" }, 4 * cpus.length + 1)
          yield* until({ signal: "auth_required", status: "unregistered" }, 1)
          const heard = (yield* Queue.takeAll(queue)).map(({ signal, family }) => `${signal} ${family}`)
          assert.deepStrictEqual(heard.slice(0, 4).toSorted(), [
            "ct_fill_up ipv4",
            "ct_fill_up ipv6",
            "nat_fill_up ipv4",
            "nat_fill_up ipv6"
          ])
          assert.strictEqual(heard.length, 4 * cpus.length + 1)
          assert.strictEqual(yield* count({ signal: "ct_fill_up", data: "ipv6" }), cpus.length + 1)
        }).pipe(Effect.scoped, Effect.provide(Signals.layer))
        // Nobody reads any more, and nothing is queued for nobody.
        for (const cpu of cpus) assert.strictEqual(send({ cpu }).error, -2)
      })
    ).pipe(Effect.provide(LibBpf.layer))
  )

  it.live("are refused where they are sent while they are muted, and arrive again afterwards", () =>
    run(
      Effect.gen(function* () {
        const { send, cpus } = yield* started
        yield* Effect.gen(function* () {
          const { start } = yield* Signals.Signals
          const { mute, unmute } = yield* SignalQueue.subscribe()
          yield* start
          for (let round = 1; round <= 3; round++) {
            for (const cpu of cpus) assert.strictEqual(send({ cpu }).sent, 1)
            yield* until({ status: "received" }, round * cpus.length)
            yield* mute
            for (const cpu of cpus) assert.strictEqual(send({ cpu }).error, -2)
            yield* unmute
          }
          assert.strictEqual(yield* count({ status: "muted" }), 0)
        }).pipe(Effect.scoped, Effect.provide(Signals.layer))
      })
    ).pipe(Effect.provide(LibBpf.layer))
  )

  it.live("come through a flood of 100000: each is received, or counted as overflow or lost", () =>
    run(
      Effect.gen(function* () {
        const { send, cpus } = yield* started
        yield* Effect.gen(function* () {
          const { start } = yield* Signals.Signals
          const { queue, dropped } = yield* SignalQueue.subscribe()
          yield* start
          let sent = 0
          let failed = 0
          for (let turn = 0; turn * SignalSender.MOST < 100_000; turn++) {
            const outcome = send({ cpu: cpus[turn % cpus.length]!, count: SignalSender.MOST })
            sent += outcome.sent
            failed += outcome.failed
            if (turn % 4 === 0) yield* Effect.sleep("1 millis")
          }
          assert.isAbove(failed, 0)
          const handled = Effect.map(
            Effect.all([count({ status: "received" }), count({ status: "channel overflow" })]),
            ([received, overflow]) => received + overflow
          )
          while ((yield* handled) < sent) yield* Effect.sleep("2 millis")
          // What a CPU has lost is told with its next signal.
          for (const cpu of cpus) sent += send({ cpu }).sent
          while ((yield* handled) < sent) yield* Effect.sleep("2 millis")
          assert.deepStrictEqual([yield* handled, yield* count({ status: "lost" })], [sent, failed])
          assert.strictEqual(dropped(), yield* count({ status: "channel overflow" }))
          assert.strictEqual(yield* Queue.size(queue), Math.min(sent, SignalQueue.CAPACITY))
        }).pipe(Effect.scoped, Effect.provide(Signals.layer))
      })
    ).pipe(Effect.provide(LibBpf.layer))
  )
})
