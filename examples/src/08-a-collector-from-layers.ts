// A collector composed from Layers, on recorded tables in the kernel's twin. Put LibBpf.layer in the twin's place, and a
// clock that moves, and it collects this host's tables.
import { Collector, CtMapSources, GcConfig, GcEngine, GcEvents, GcRequest, GcRunner } from "ctmap-gc"
import { Bpf, BpfMemory, CompareAndDelete, CtMaps, KernelClock, KernelSweep, NatMaps, Owner } from "ctmap-kernel"
import { Recorded } from "ctmap-testing"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"

const program = Effect.gen(function* () {
  const collector = yield* GcRunner.GcRunner
  const watcher = yield* Effect.forkChild(Stream.runHead(collector.observe4), { startImmediately: true })
  const { pairs, deleted } = yield* collector.run(GcRequest.expired)
  const first = Option.getOrThrow(yield* Fiber.join(watcher))
  if (first._tag === "Deleted") console.log(`told of entries of ${first.map}`)
  console.log(`${deleted} entries have expired and are gone`)
  for (const { pair, exit } of pairs) {
    if (exit._tag === "Failure") continue
    for (const { map, seen, kept, nat } of exit.value.pass.maps) {
      console.log(`${pair}: ${map}: ${kept} of ${seen} kept, ${nat.egress + nat.ingress} NAT entries went along`)
    }
  }
})

/** Makes the maps of the node and fills them with what Cilium's datapath once wrote. */
const tables = Layer.effectDiscard(
  Effect.gen(function* () {
    const bpf = yield* Bpf.Bpf
    const ct = yield* CtMaps.CtMaps
    const nat = yield* NatMaps.NatMaps
    for (const family of ["ipv4", "ipv6"] as const) {
      const { map: tcp } = yield* ct.openOrCreate({ family, transport: "tcp", owner: Owner.global })
      const { map: any } = yield* ct.openOrCreate({ family, transport: "any", owner: Owner.global })
      const { map: mappings } = yield* nat.openOrCreate(family, Owner.global)
      for (const map of [tcp, any, mappings]) {
        const { keys, values, count } = Recorded.tables("pods-ktime", "before").get(map.name)!
        bpf.updateBatch(map.fd, keys, values, Uint32Array.of(count))
      }
    }
  })
)

const objects = { [CompareAndDelete.object]: CompareAndDelete.twin, [KernelSweep.object]: KernelSweep.twin }
const kernel = Layer.merge(BpfMemory.layerTest({ objects }), KernelClock.layerFixed({ mode: "ktime" }, 5462))
const maps = Layer.provideMerge(Layer.merge(CtMaps.layer(), NatMaps.layer()), kernel)
const sources = Layer.provideMerge(CtMapSources.layerNode(), CtMapSources.layer)
const passes = Collector.layer.pipe(Layer.provide(GcEngine.layer()), Layer.provideMerge(GcEvents.layer))
const host = GcRunner.layer().pipe(
  Layer.provideMerge(Layer.mergeAll(sources, passes, GcConfig.layer())),
  Layer.provideMerge(tables),
  Layer.provideMerge(maps)
)
await Effect.runPromise(Effect.provide(program, host))
