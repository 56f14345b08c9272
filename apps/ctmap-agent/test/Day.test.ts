/** A day of the agent on the kernel in memory: when it collects, and what it does between. */
import { assert, describe, it } from "@effect/vitest"
import type { Health } from "ctmap-cell"
import { GcRunner } from "ctmap-gc"
import * as Effect from "effect/Effect"
import * as Metric from "effect/Metric"
import * as Datapath from "./datapath.ts"
import { agent, limits, makeKernel, pass, type Twin, unwell } from "./stage.ts"

/** An agent that has made its first pass, over the tables of a host, looking for others less often than by default. */
const day = <A, E>(
  name: string,
  test: (twin: Twin) => Effect.Effect<A, E, GcRunner.GcRunner | Health.Health>,
  flags: ReadonlyArray<string> = []
) =>
  it.effect(name, () =>
    Effect.suspend(() => {
      const twin = makeKernel()
      Datapath.pinAll(twin)
      return Effect.gen(function* () {
        yield* (yield* GcRunner.GcRunner).initialScanDone
        yield* test(twin)
        assert.deepStrictEqual(yield* unwell, [])
      }).pipe(Effect.provide(agent(twin, () => flags)), Effect.provideService(Metric.MetricRegistry, new Map()))
    })
  )

const rarely = ["--presence-interval", "5m", "--pressure-interval", "5m", "--no-instance-lock"]

/** Passes over IPv4 that ended. */
const passes = Effect.map(
  Effect.flatMap(GcRunner.GcRunner, ({ history }) => history),
  (all) => all.filter(({ family }) => family === "ipv4")
)

/** Seconds from the beginning of one to that of the next. */
const intervals = Effect.map(passes, (all) =>
  all.slice(1).map(({ startedAtMillis }, i) => Math.round((startedAtMillis - all[i]!.startedAtMillis) / 1000))
)

/** Of a series, whatever its kind. */
const valueOf = (name: string, labels: Readonly<Record<string, string>>) =>
  Effect.map(Metric.snapshot, (all) => {
    const found = all.find(
      ({ attributes, id }) => id === name && Object.entries(labels).every(([key, text]) => attributes?.[key] === text)
    )
    return found?.type === "Counter"
      ? Number(found.state.count)
      : found?.type === "Gauge"
        ? Number(found.state.value)
        : Number.NaN
  })

/** Waits until a pass that has begun is over, while no time passes. */
const settled = Effect.gen(function* () {
  const { status } = yield* GcRunner.GcRunner
  while ((yield* status).running !== undefined)
    yield* Effect.promise(() => new Promise((resume) => setImmediate(resume)))
})

/** As many connections as make up a share of the table. */
const connectShare = (twin: Twin, share: number, life: number) => {
  for (let i = 0; i < Math.ceil(limits.ctTcp * share); i++) Datapath.connect(twin, i, { life })
}

describe("a day", () => {
  day(
    "without traffic: passes come ever more rarely, by half of the time each, as Cilium's table says",
    (twin) =>
      Effect.gen(function* () {
        yield* pass(twin, "24 hours", "1 hour")
        assert.deepStrictEqual(yield* intervals, [450, 675, 1013, 1520, 2280, 3420, 5130, 7695, 11_543, 17_315, 25_973])
      }),
    rarely
  )

  day(
    "without traffic, for those who set a longest interval: never more rarely than that",
    (twin) =>
      Effect.gen(function* () {
        yield* pass(twin, "6 hours", "1 hour")
        assert.deepStrictEqual(yield* intervals, [450, 675, 1013, 1520, ...Array.from({ length: 9 }, () => 1800)])
      }),
    [...rarely, "--conntrack-gc-max-interval", "30m"]
  )

  day(
    "with a rush: the more a pass deletes the sooner comes the next, and once it is over ever later ones",
    (twin) =>
      Effect.gen(function* () {
        /** Lets time pass up to the end of the next pass. */
        const untilPass = Effect.gen(function* () {
          const before = (yield* passes).length
          while ((yield* passes).length === before) {
            yield* pass(twin, "1 second")
            yield* settled
          }
        })
        for (const share of [0.4, 0.4, 0.4, 0.6, 0.9, 0.9, 0.1, 0.1, 0, 0, 0]) {
          connectShare(twin, share, 1)
          yield* untilPass
          assert.strictEqual(Datapath.sizeOf(twin, "cilium_ct4_global"), 0)
          assert.strictEqual(Datapath.sizeOf(twin, Datapath.nat.ipv4), 0)
        }
        // 450 grew from 300 as the first pass found nothing; ten seconds is the least; a tenth leaves it alone.
        assert.deepStrictEqual(yield* intervals, [450, 270, 162, 97, 39, 10, 10, 10, 10, 15, 23])
      }),
    rarely
  )

  day("looks for tables every 5 s, and every 30 s how full they are", (twin) =>
    Effect.gen(function* () {
      const looks = valueOf("cell_job_runs_total", { cell: "presence", job: "look" })
      const before = yield* looks
      yield* pass(twin, "10 minutes", "5 seconds")
      assert.strictEqual((yield* looks) - before, 120)
      const pressure = valueOf("cilium_bpf_map_pressure", { map_name: "ct4_global" })
      assert.isBelow(yield* pressure, 0.01)
      connectShare(twin, 0.5, 7200)
      yield* pass(twin, "31 seconds")
      assert.closeTo(yield* pressure, 0.5, 0.05)
    })
  )

  day(
    "finds NAT entries without a connection every hour, and leaves those of connections alone",
    (twin) =>
      Effect.gen(function* () {
        Datapath.connect(twin, 1, { life: 86_400 })
        for (let hour = 0; hour < 3; hour++) {
          Datapath.connect(twin, 2, { life: 0, orphan: true })
          yield* pass(twin, "59 minutes", "1 minute")
          assert.strictEqual(Datapath.sizeOf(twin, Datapath.nat.ipv4), 4, `hour ${hour}`)
          yield* pass(twin, "1 minute", "10 seconds")
          assert.strictEqual(Datapath.sizeOf(twin, Datapath.nat.ipv4), 2, `hour ${hour}`)
        }
      }),
    rarely
  )
})
