/** What the tests of this package do, on either kernel. Processes that tests start import it too, so nothing of vitest here. */
import { MapName } from "ctmap-core"
import { ClusterCheck, PerClusterCtMaps, PerClusterNatMaps } from "ctmap-cluster"
import { Bpf, BpfMap, CtMaps, NatMaps, OuterMap, Pins } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"

export type Maps = Bpf.Bpf | CtMaps.CtMaps | NatMaps.NatMaps

export type Services = PerClusterCtMaps.PerClusterCtMaps | PerClusterNatMaps.PerClusterNatMaps

/** Small, and of three sizes that can be told apart. */
export const limits = { ctTcp: 64, ctAny: 48, nat: 32 }

export const mapsLayer = (sizes = limits): Layer.Layer<CtMaps.CtMaps | NatMaps.NatMaps, never, Bpf.Bpf> =>
  Layer.mergeAll(CtMaps.layer({ limits: sizes }), NatMaps.layer({ limits: sizes }))

/** An agent's life: the services with these options, and everything they had open is closed afterwards. */
export const life = <A, E>(
  program: Effect.Effect<A, E, Services | Maps | Scope.Scope>,
  options: PerClusterCtMaps.Options = {},
  sizes = limits
): Effect.Effect<A, E, Bpf.Bpf> => {
  const services = Layer.mergeAll(PerClusterCtMaps.layer(options), PerClusterNatMaps.layer(options))
  return Effect.scoped(program).pipe(
    Effect.provide(Layer.fresh(services).pipe(Layer.provideMerge(Layer.fresh(mapsLayer(sizes)))))
  )
}

export const ct = PerClusterCtMaps.PerClusterCtMaps
export const nat = PerClusterNatMaps.PerClusterNatMaps

/** Both services at once. */
export const openBoth = Effect.gen(function* () {
  yield* (yield* ct).openOrCreate
  yield* (yield* nat).openOrCreate
})

export const createBoth = (clusterId: number) =>
  Effect.gen(function* () {
    yield* (yield* ct).create(clusterId)
    yield* (yield* nat).create(clusterId)
  })

export const deleteBoth = (clusterId: number) =>
  Effect.gen(function* () {
    yield* (yield* ct).delete(clusterId)
    yield* (yield* nat).delete(clusterId)
  })

/** Names of everything that is pinned, sorted. */
export const pins: Effect.Effect<ReadonlyArray<string>, never, Bpf.Bpf> = Effect.gen(function* () {
  const bpf = yield* Bpf.Bpf
  const names = bpf.listDirectory(MapName.pinPath(yield* Pins.BpfFsRoot, "").replace(/\/$/, ""))
  return typeof names === "number" ? [] : names.toSorted()
})

/** The id in a slot of a pinned outer map. */
export const slot = (outer: string, clusterId: number) =>
  Effect.scoped(
    Effect.gen(function* () {
      const map = yield* BpfMap.open(yield* Pins.pathOf(outer))
      return yield* OuterMap.idAt(map, clusterId)
    })
  )

/** What is not as it should be, in short. */
export const findings = (options?: ClusterCheck.Options) =>
  Effect.map(ClusterCheck.check(options), (found) =>
    found.map((finding) => `${finding._tag} ${finding.map}${"clusterId" in finding ? ` ${finding.clusterId}` : ""}`)
  )
