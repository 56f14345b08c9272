/** How the maps of clusters are collected, on any kernel. */
import { assert, describe } from "@effect/vitest"
import { ClusterSource } from "ctmap-cluster"
import { CtMapSources, GcRequest, GcRunner, Guard, MapPressure } from "ctmap-gc"
import { BpfMap, CtPair, KernelClock, Owner, Pins } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Host from "./collectorRig.ts"
import { type Kernel, testsOf } from "./onKernel.ts"
import * as Rig from "./rig.ts"

const sizes = { ctTcp: 4096, ctAny: 4096, nat: 4096 }
const ct = (kind: string, id: number) => `cilium_per_cluster_ct_${kind}_${id}`
const nat = (id: number) => `cilium_per_cluster_snat_v4_external_${id}`
const NAT = "cilium_snat_v4_external"

/** Clusters 1 and 2 have the same recorded NAT tables; 1 has the connections, 2 has none. */
const twoClusters = Rig.life(
  Effect.gen(function* () {
    yield* Rig.openBoth
    for (const id of [1, 2]) yield* Rig.createBoth(id)
    yield* Host.fill(ct("tcp4", 1), "cilium_ct4_global")
    yield* Host.fill(ct("any4", 1), "cilium_ct_any4_global")
    for (const id of [1, 2]) yield* Host.fill(nat(id), NAT)
  }),
  {},
  sizes
)

export const contract = (name: string, kernel: Kernel): void => {
  const live = testsOf("source", kernel)

  describe(`${name}: collecting the maps of clusters`, () => {
    live(
      "a pass leaves what Cilium's own collector left, and takes from no other cluster's NAT map",
      Effect.andThen(
        twoClusters,
        Effect.gen(function* () {
          const runner = yield* GcRunner.GcRunner
          const { pairs, deleted } = yield* runner.run(GcRequest.expired)
          assert.deepStrictEqual(
            pairs.map(({ pair, exit }) => [pair, Exit.isSuccess(exit)]),
            [
              ["ipv4 cluster 1", true],
              ["ipv6 cluster 1", true],
              ["ipv4 cluster 2", true],
              ["ipv6 cluster 2", true]
            ]
          )
          assert.isAbove(deleted, 0)
          assert.deepStrictEqual(yield* Host.keysOf(ct("tcp4", 1)), Host.recordedKeys("cilium_ct4_global", "after-gc"))
          assert.deepStrictEqual(
            yield* Host.keysOf(ct("any4", 1)),
            Host.recordedKeys("cilium_ct_any4_global", "after-gc")
          )
          assert.deepStrictEqual(yield* Host.keysOf(nat(1)), Host.recordedKeys(NAT, "after-gc"))
          assert.deepStrictEqual(yield* Host.keysOf(nat(2)), Host.recordedKeys(NAT, "before"))
        }).pipe(Effect.provide(Host.collector()))
      )
    )

    live(
      "the orphan purge asks a cluster's own connections (G1)",
      Effect.andThen(
        twoClusters,
        Effect.gen(function* () {
          const runner = yield* GcRunner.GcRunner
          const before = yield* Host.keysOf(nat(1))
          const { deleted } = yield* runner.purgeOrphans({
            limits: Guard.unlimited,
            choose: ({ owner }) => Owner.same(owner, Owner.cluster(2))
          })
          assert.isAbove(deleted, 0)
          assert.deepStrictEqual(yield* Host.keysOf(nat(1)), before)
          assert.isBelow((yield* Host.keysOf(nat(2))).length, before.length)
          yield* runner.purgeOrphans({ limits: Guard.unlimited })
          assert.isNotEmpty(yield* Host.keysOf(nat(1)), "mappings of live connections stay")
        }).pipe(Effect.provide(Host.collector()))
      )
    )

    live(
      "pairs follow the pins: made, deleted, of one family, and one of which a map is missing says so",
      Effect.gen(function* () {
        const { pairs } = yield* CtMapSources.CtMapSources
        const names = Effect.map(pairs, (found) => found.map(CtMapSources.nameOf))
        assert.deepStrictEqual(yield* names, [])
        yield* Rig.life(Effect.andThen(Rig.openBoth, Effect.andThen(Rig.createBoth(20), Rig.createBoth(3))), {
          families: ["ipv6"]
        })
        assert.deepStrictEqual(yield* names, ["ipv6 cluster 3", "ipv6 cluster 20"])
        yield* BpfMap.unpin(yield* Pins.pathOf(ct("any6", 3)))
        const [first] = yield* pairs
        const error = yield* Effect.flip(Effect.scoped(first!.open))
        assert.include(error.message, ct("any6", 3))
        yield* Rig.life(Effect.andThen(Rig.openBoth, Rig.deleteBoth(3)), { families: ["ipv6"] })
        assert.deepStrictEqual(yield* names, ["ipv6 cluster 20"])
      }).pipe(Effect.provide(Host.collector()))
    )

    live(
      "the gauges see the tables of clusters",
      Effect.andThen(
        twoClusters,
        Effect.gen(function* () {
          const { look } = yield* MapPressure.MapPressure
          const found = yield* look
          assert.strictEqual(found.length, 12)
          const own = found.find((pressure) => pressure.name === nat(2))
          const entries = Host.recordedKeys(NAT, "before").length
          assert.deepStrictEqual([own?.kind, own?.capacity, own?.estimate.entries], ["nat", 4096, entries])
          const tcp = found.find((pressure) => pressure.name === ct("tcp4", 1))
          assert.isAbove(tcp?.estimate.entries ?? 0, 0)
        }).pipe(
          Effect.provide(
            MapPressure.layer({ tables: ClusterSource.tables }).pipe(
              Layer.provide(
                Layer.succeed(KernelClock.KernelClock, { source: { mode: "ktime" }, now: Effect.succeed(Host.NOW) })
              )
            )
          )
        )
      )
    )

    live(
      "a pair of one cluster's CT maps and another's NAT map does not come about",
      Effect.andThen(
        twoClusters,
        Effect.gen(function* () {
          const [tcp, any] = yield* Effect.flatMap(Rig.ct, ({ get }) => get(1))
          const [own, other] = yield* Effect.flatMap(Rig.nat, ({ get }) => Effect.all([get(1, "ipv4"), get(2, "ipv4")]))
          const maps = [yield* tcp!.open, yield* any!.open] as const
          const typed = maps as unknown as readonly [
            CtPair.CtMap<"ipv4", "tcp", Owner.Cluster>,
            CtPair.CtMap<"ipv4", "any", Owner.Cluster>
          ]
          yield* CtPair.makeUnsafe(...typed, (yield* own.open) as CtPair.NatMap<"ipv4", Owner.Cluster>)
          const mixed = yield* Effect.flip(
            CtPair.makeUnsafe(...typed, (yield* other.open) as CtPair.NatMap<"ipv4", Owner.Cluster>)
          )
          assert.match(mixed.message, /cluster 2.*cluster 1.*nothing was touched/)
          const everybodys = { ...(yield* own.open), owner: Owner.global } as CtPair.NatMap<"ipv4", Owner.Global>
          // @ts-expect-error the NAT map of the node does not go with the CT maps of a cluster
          const refused = () => CtPair.makeUnsafe(...typed, everybodys)
          assert.isFunction(refused)
        }).pipe((program) => Rig.life(program, {}, sizes))
      )
    )
  })
}
