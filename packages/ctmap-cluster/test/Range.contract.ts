/** What becomes of clusters above the range, on any kernel. */
import { assert, describe } from "@effect/vitest"
import { ClusterRange } from "ctmap-cluster"
import { MapKind, MapName, MapSpec } from "ctmap-core"
import { Bpf, BpfMap, Pins } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import { type Kernel, testsOf } from "./onKernel.ts"
import * as Rig from "./rig.ts"

const tcp4 = MapName.clusterOuter(MapKind.globals[0])

const insert = (name: string, entries: number) =>
  Effect.scoped(
    Effect.gen(function* () {
      const bpf = yield* Bpf.Bpf
      const map = yield* BpfMap.open(yield* Pins.pathOf(name))
      const { keySize, valueSize } = map.info
      for (let i = 1; i <= entries; i++) {
        assert.strictEqual(bpf.update(map.fd, new Uint8Array(keySize).fill(i), new Uint8Array(valueSize), Bpf.ANY), 0)
      }
    })
  )

const pinsOf = (clusterId: number) =>
  Effect.map(Rig.pins, (pins) => pins.filter((pin) => pin.endsWith(`_${clusterId}`)).length)

const made = (ids: ReadonlyArray<number>) => Effect.andThen(Rig.openBoth, Effect.forEach(ids, Rig.createBoth))

export const contract = (name: string, kernel: Kernel): void => {
  const live = testsOf("range", kernel)

  describe(`${name}: clusters above the range`, () => {
    live(
      "are found with their maps and what those hold, wherever anything is pinned",
      Rig.life(
        Effect.gen(function* () {
          assert.deepStrictEqual(yield* ClusterRange.above(255), [])
          yield* made([255, 300, 301])
          yield* insert("cilium_per_cluster_snat_v6_external_301", 2)
          yield* insert(`${tcp4}_301`, 1)
          const found = yield* ClusterRange.above(255)
          assert.deepStrictEqual(
            found.map(({ clusterId, maps, entries }) => [clusterId, maps.length, entries]),
            [
              [300, 6, 0],
              [301, 6, 3]
            ]
          )
          assert.include(found[1]!.maps, "cilium_per_cluster_snat_v6_external_301")
        }),
        { max: 511 }
      )
    )

    live(
      "go with their slots where they are empty, and stay whole where one of their maps is not",
      Rig.life(
        Effect.gen(function* () {
          yield* made([255, 300, 301])
          yield* insert("cilium_per_cluster_snat_v6_external_301", 2)
          const removed = yield* ClusterRange.remove([300, 301])
          assert.deepStrictEqual(removed.map(ClusterRange.describe), [
            "the maps of cluster 300 were deleted",
            "the maps of cluster 301 stay: they hold 2 entries"
          ])
          assert.deepStrictEqual([yield* pinsOf(255), yield* pinsOf(300), yield* pinsOf(301)], [6, 0, 6])
          assert.isUndefined(yield* Rig.slot(tcp4, 300))
          assert.deepStrictEqual(yield* Rig.findings(), [])
        }),
        { max: 511 }
      )
    )

    live(
      "go with their entries where that is asked for, which is said; NAT maps and families that are not meant stay",
      Rig.life(
        Effect.gen(function* () {
          yield* made([301])
          yield* insert(`${tcp4}_301`, 2)
          yield* insert("cilium_per_cluster_snat_v4_external_301", 1)
          const half = yield* ClusterRange.remove([301], { families: ["ipv4"], nat: false, discardEntries: true })
          assert.deepStrictEqual(half, [{ clusterId: 301, outcome: "deleted", entries: 2 }])
          assert.strictEqual(yield* pinsOf(301), 4)
          const rest = yield* ClusterRange.remove([301], { discardEntries: true })
          assert.deepStrictEqual(rest, [{ clusterId: 301, outcome: "deleted", entries: 1 }])
          assert.strictEqual(yield* pinsOf(301), 0)
        }),
        { max: 511 }
      )
    )

    live(
      "have only pins where outer maps are shorter, or gone",
      Effect.gen(function* () {
        yield* Rig.life(made([300, 301]), { max: 511 })
        yield* Rig.life(Rig.openBoth, { max: 255, aboveRange: "keep" })
        const removed = yield* Effect.provide(ClusterRange.remove([300]), Rig.mapsLayer())
        assert.deepStrictEqual(removed, [{ clusterId: 300, outcome: "deleted", entries: 0 }])
        yield* BpfMap.unpin(yield* Pins.pathOf(tcp4))
        yield* Effect.provide(ClusterRange.remove([301]), Rig.mapsLayer())
        assert.deepStrictEqual([yield* pinsOf(300), yield* pinsOf(301)], [0, 0])
      })
    )

    live(
      "stay, and are told with what is wrong, where their entries cannot be counted",
      Rig.life(
        Effect.gen(function* () {
          yield* Rig.openBoth
          const path = yield* Pins.pathOf(`${tcp4}_300`)
          const other = { ...MapSpec.clusterOuter(MapKind.globals[0], 255), inner: MapSpec.ct(MapKind.globals[0]) }
          yield* Effect.scoped(BpfMap.createPinned(other, path))
          const [removed] = yield* ClusterRange.remove([300], { discardEntries: true })
          assert.strictEqual(removed!.outcome, "failed")
          assert.match(ClusterRange.describe(removed!), /cluster 300 cannot be deleted: tcp4: count entries: .*type 12/)
          assert.strictEqual(yield* pinsOf(300), 1)
        })
      )
    )

    live(
      "that get an entry until their slots are empty are entered again",
      Rig.life(
        Effect.gen(function* () {
          yield* made([300])
          const bpf = yield* Bpf.Bpf
          const inner = yield* BpfMap.open(yield* Pins.pathOf(`${tcp4}_300`))
          // The datapath, right before the first slot is emptied.
          let connected = 0
          const between: Bpf.Calls = {
            ...bpf,
            deleteAsync: (fd, key, done) => {
              if (connected++ === 0) bpf.update(inner.fd, new Uint8Array(14).fill(5), new Uint8Array(56), Bpf.ANY)
              bpf.deleteAsync(fd, key, done)
            }
          }
          const removed = yield* Effect.provideService(ClusterRange.remove([300]), Bpf.Bpf, between)
          assert.deepStrictEqual(removed, [{ clusterId: 300, outcome: "left", entries: 1 }])
          assert.deepStrictEqual([yield* Rig.slot(tcp4, 300), connected], [inner.info.id, 6])
          assert.deepStrictEqual(yield* Rig.findings(), [])
        }),
        { max: 511 }
      )
    )
  })
}
