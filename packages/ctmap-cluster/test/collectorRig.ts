/** A host whose collector knows the per-cluster maps, and its tables filled with recorded entries. */
import { ClusterSource } from "ctmap-cluster"
import { Collector, CtMapSources, GcConfig, GcEngine, GcEvents, GcRunner } from "ctmap-gc"
import { Bpf, BpfMap, CompareAndDelete, KernelClock, KernelSweep, Pins, Scan } from "ctmap-kernel"
import { Recorded } from "ctmap-testing"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Rig from "./rig.ts"

/** Programs that passes load, for a kernel in memory. */
export const objects = {
  [CompareAndDelete.object]: CompareAndDelete.twin,
  [KernelSweep.object]: KernelSweep.twin
}

/** When the set `pods-ktime` was collected. */
export const NOW = 5462

const clock = Layer.succeed(KernelClock.KernelClock, { source: { mode: "ktime" }, now: Effect.succeed(NOW) })

/** The runner over the maps of clusters, and of nobody else. */
export const collector = (settings: Partial<GcConfig.Settings> = {}) =>
  GcRunner.layer().pipe(
    Layer.provideMerge(ClusterSource.layer()),
    Layer.provideMerge(CtMapSources.layer),
    Layer.provideMerge(Collector.layer.pipe(Layer.provide(GcEngine.layer()), Layer.provideMerge(GcEvents.layer))),
    Layer.provideMerge(Layer.mergeAll(GcConfig.layer(settings), clock)),
    Layer.provideMerge(Layer.fresh(Rig.mapsLayer({ ctTcp: 4096, ctAny: 4096, nat: 4096 })))
  )

/** Puts the recorded entries of a map into the map that is pinned under a name. */
export const fill = (name: string, recorded: string, moment: Recorded.Moment = "before") =>
  Effect.scoped(
    Effect.gen(function* () {
      const bpf = yield* Bpf.Bpf
      const map = yield* BpfMap.open(yield* Pins.pathOf(name))
      const table = Recorded.tables("pods-ktime", moment).get(recorded)!
      for (let i = 0; i < table.count; i++) {
        const key = table.keys.subarray(i * table.keySize, (i + 1) * table.keySize)
        const rc = bpf.update(map.fd, key, table.values.subarray(i * table.valueSize, (i + 1) * table.valueSize), 0)
        if (rc < 0) throw new Error(`filling ${name}: ${rc}`)
      }
    })
  )

/** Keys of a pinned map as hex, sorted. */
export const keysOf = (name: string) =>
  Effect.scoped(
    Effect.gen(function* () {
      const map = yield* BpfMap.open(yield* Pins.pathOf(name))
      const keys: Array<string> = []
      yield* Scan.forEachSync(map, ({ keys: bytes, count }) => {
        for (let i = 0; i < count; i++) {
          keys.push(Buffer.from(bytes.subarray(i * map.info.keySize, (i + 1) * map.info.keySize)).toString("hex"))
        }
      })
      return keys.toSorted()
    })
  )

/** Keys of a recorded map, likewise. */
export const recordedKeys = (map: string, moment: Recorded.Moment): ReadonlyArray<string> => {
  const table = Recorded.tables("pods-ktime", moment).get(map)
  if (table === undefined) return []
  return Array.from({ length: table.count }, (_, i) =>
    Buffer.from(table.keys.subarray(i * table.keySize, (i + 1) * table.keySize)).toString("hex")
  ).toSorted()
}
