/**
 * What a pass over the maps of many clusters costs, beside collecting them one by one as programs do that know one map. Run
 * as root by `node --conditions=ctmap-source src/clusters.ts [--rounds 7]`.
 *
 * 255 clusters of both families: 1,020 CT maps and 510 NAT maps, small and nearly empty, so that what is measured is what
 * each map costs. Every way finds nothing to delete but in the first round.
 */
import { ClusterSource, PerClusterCtMaps, PerClusterNatMaps } from "ctmap-cluster"
import { Collector, CtMapSources, GcConfig, GcEngine, GcEvents, GcRequest, GcRunner } from "ctmap-gc"
import * as Bpf from "ctmap-kernel/Bpf"
import * as CtMaps from "ctmap-kernel/CtMaps"
import * as KernelClock from "ctmap-kernel/KernelClock"
import * as LibBpf from "ctmap-kernel/LibBpf"
import * as NatMaps from "ctmap-kernel/NatMaps"
import * as Pins from "ctmap-kernel/Pins"
import { TempBpfFs } from "ctmap-testing"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { machine, markdown, median } from "./common/measure.ts"
import { guard, options } from "./common/options.ts"
import * as Rounds from "./common/rounds.ts"

const CLUSTERS = 255
const limits = { ctTcp: 1024, ctAny: 1024, nat: 1024 }

const fds = { open: 0, most: 0 }

/** The kernel, with fds counted. */
const counting = Layer.effect(
  Bpf.Bpf,
  Effect.map(Bpf.Bpf, (bpf): Bpf.Calls => {
    const opened = (fd: number): number => {
      if (fd >= 0) fds.most = Math.max(fds.most, ++fds.open)
      return fd
    }
    return {
      ...bpf,
      mapCreate: (...args) => opened(bpf.mapCreate(...args)),
      openPin: (...args) => opened(bpf.openPin(...args)),
      close: (fd) => {
        fds.open--
        return bpf.close(fd)
      }
    }
  })
).pipe(Layer.provide(LibBpf.layer))

const services = Layer.mergeAll(PerClusterCtMaps.layer(), PerClusterNatMaps.layer(), GcRunner.layer()).pipe(
  Layer.provideMerge(ClusterSource.layer()),
  Layer.provideMerge(Collector.layer.pipe(Layer.provideMerge(GcEngine.layer()), Layer.provideMerge(GcEvents.layer))),
  Layer.provideMerge(
    Layer.mergeAll(CtMapSources.layer, GcConfig.layer(), CtMaps.layer({ limits }), NatMaps.layer({ limits }))
  ),
  Layer.provideMerge(KernelClock.layerKtime),
  Layer.provideMerge(counting)
)

/** All pairs by the runner: what an agent does. */
const onePass = Effect.flatMap(GcRunner.GcRunner, (runner) => Effect.asVoid(runner.run(GcRequest.expired)))

/** Opening and closing the pairs, and nothing else: what no way can be faster than. */
const onlyOpen = Effect.gen(function* () {
  const { pairs } = yield* CtMapSources.CtMapSources
  for (const { open } of yield* pairs) yield* Effect.scoped(open)
})

/** Each pair by itself, with programs of its own: a program that is run for every cluster, without the start of a process. */
const oneByOne = Effect.gen(function* () {
  const { pairs } = yield* CtMapSources.CtMapSources
  for (const { open } of yield* pairs) {
    yield* Effect.scoped(
      Effect.gen(function* () {
        const engine = yield* GcEngine.make({})
        yield* engine.sweep(yield* open, { serial: 1, requests: [GcRequest.expired] })
      })
    )
  }
})

const timed = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    fds.most = fds.open
    const from = performance.now()
    yield* effect
    return { millis: performance.now() - from, most: fds.most, rss: process.memoryUsage().rss }
  })

const bench = Effect.gen(function* () {
  const { rounds } = options()
  console.log(`# Maps of clusters\n\n${machine()}; ${CLUSTERS} clusters, both families, maps of ${limits.ctTcp}\n`)
  const [ct, nat] = [yield* PerClusterCtMaps.PerClusterCtMaps, yield* PerClusterNatMaps.PerClusterNatMaps]
  const made = yield* timed(
    Effect.gen(function* () {
      yield* ct.openOrCreate
      yield* nat.openOrCreate
      for (let id = 1; id <= CLUSTERS; id++) {
        yield* ct.create(id)
        yield* nat.create(id)
      }
    })
  )
  const start = yield* timed(Effect.andThen(ct.openOrCreate, nat.openOrCreate))
  yield* ct.close
  yield* nat.close
  type Way = Effect.Effect<void, { readonly message: string }, Layer.Success<typeof services>>
  const ways: Readonly<Record<string, Way>> = {
    "one pass of the runner": onePass,
    "one by one": oneByOne,
    "only opening": onlyOpen
  }
  const rows: Array<ReadonlyArray<string>> = [row("making them all", [made]), row("a start that finds them", [start])]
  const found = new Map<string, Array<Timed>>()
  for (let round = -1; round < rounds; round++) {
    for (const [name, way] of Object.entries(ways)) {
      const done = yield* timed(way)
      if (round >= 0) found.set(name, [...(found.get(name) ?? []), done])
    }
  }
  for (const [name, times] of found) rows.push(row(name, times))
  console.log(`${markdown(["", "ms", "ms a cluster", "most fds", "RSS, MiB"], rows)}\n\n${Rounds.load()}`)
})

type Timed = Effect.Success<ReturnType<typeof timed>>

const row = (name: string, times: ReadonlyArray<Timed>): ReadonlyArray<string> => {
  const millis = median(times.map((time) => time.millis).toSorted((a, b) => a - b))
  const most = Math.max(...times.map((time) => time.most))
  const rss = Math.max(...times.map((time) => time.rss))
  return [name, millis.toFixed(0), (millis / CLUSTERS).toFixed(2), `${most}`, (rss / 2 ** 20).toFixed(0)]
}

guard()
const bpffs = TempBpfFs.make()
bpffs.start()
await Effect.runPromise(
  bench.pipe(
    Effect.provide(services),
    Effect.provideService(Pins.BpfFsRoot, bpffs.path),
    Effect.ensuring(Effect.sync(() => bpffs.stop()))
  )
)
