/** A host in memory, with everything that an agent composes over it. */
import { assert } from "@effect/vitest"
import type { MapLimits } from "ctmap-core"
import { Collector, CtMapSources, GcConfig, GcEngine, GcEvents, GcMetrics, GcRunner } from "ctmap-gc"
import { Bpf, BpfMemory, CtMaps, KernelClock, NatMaps, Owner } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Stage from "./stage.ts"

const limits = { ctTcp: 4096, ctAny: 4096, nat: 4096 } satisfies MapLimits.MapLimits

/** A host in memory: pinned maps of the families, and everything that an agent composes over them. */
export const host = (options: {
  readonly families?: ReadonlyArray<"ipv4" | "ipv6">
  readonly settings?: Partial<GcConfig.Settings>
  readonly runner?: GcRunner.Options
  readonly clock?: KernelClock.KernelClock["Service"]
}) => {
  const { calls, control } = BpfMemory.make({ objects: Stage.objects! })
  const { families = ["ipv4", "ipv6"] } = options
  const kernel = Layer.mergeAll(
    Layer.succeed(Bpf.Bpf, calls),
    Layer.succeed(KernelClock.KernelClock, options.clock ?? Stage.ktime(1000))
  )
  const maps = Layer.mergeAll(CtMaps.layer({ limits }), NatMaps.layer({ limits })).pipe(Layer.provideMerge(kernel))
  const make = Effect.gen(function* () {
    const ct = yield* CtMaps.CtMaps
    const nat = yield* NatMaps.NatMaps
    for (const family of families) {
      yield* Effect.scoped(ct.openOrCreate({ family, transport: "tcp", owner: Owner.global }))
      yield* Effect.scoped(ct.openOrCreate({ family, transport: "any", owner: Owner.global }))
      yield* Effect.scoped(nat.openOrCreate(family, Owner.global))
    }
  })
  const sources = CtMapSources.layerNode().pipe(Layer.provideMerge(CtMapSources.layer))
  const collector = Collector.layer.pipe(
    Layer.provide(GcEngine.layer({ engine: options.settings?.engine ?? "auto" })),
    Layer.provideMerge(GcEvents.layer)
  )
  const layer = GcRunner.layer(options.runner).pipe(
    Layer.provideMerge(Layer.mergeAll(sources, collector, GcConfig.layer(options.settings ?? {}))),
    Layer.provideMerge(Layer.effectDiscard(make)),
    Layer.provideMerge(maps)
  )
  const fill = (map: string, ...entries: ReadonlyArray<Stage.Entry>): void => {
    const view = control.map(`/sys/fs/bpf/tc/globals/${map}`)
    for (const { key, value } of entries) assert.strictEqual(view?.update(key, value), 0)
  }
  const size = (map: string): number => control.map(`/sys/fs/bpf/tc/globals/${map}`)?.size() ?? -1
  return { layer, control, fill, size }
}

export const expired = (sport: number, family: "ipv4" | "ipv6" = "ipv4") => Stage.ct({ family, lifetime: 1, sport })
export const alive = (sport: number) => Stage.ct({ lifetime: 5000, sport })

/** The value of a counter so far: all tests of a file share a registry. */
export const count = (name: string, labels: Readonly<Record<string, string>> = {}) =>
  Effect.map(GcMetrics.snapshot, (series) => {
    const found = series.find(
      (each) => each.name === name && Object.entries(labels).every(([label, value]) => each.labels[label] === value)
    )
    return Number(found?.value ?? 0)
  })
