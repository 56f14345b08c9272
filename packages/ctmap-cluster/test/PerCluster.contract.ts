/** What the per-cluster maps promise, on any kernel. */
import { assert, describe } from "@effect/vitest"
import { MapKind, MapName, MapSpec } from "ctmap-core"
import { ClusterSource, PerClusterCtMaps, PerClusterNatMaps } from "ctmap-cluster"
import { Bpf, BpfMap, Pins, Scan } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import { type Kernel, testsOf } from "./onKernel.ts"
import * as Rig from "./rig.ts"

const kinds = ["tcp4", "any4", "tcp6", "any6"] as const
const families = ["v4", "v6"] as const

/** Every pin of these clusters under the prefix of tests, sorted. */
const namesOf = (outers: ReadonlyArray<string>, ids: ReadonlyArray<number>, prefix = "test_"): ReadonlyArray<string> =>
  outers.flatMap((outer) => [`${prefix}${outer}`, ...ids.map((id) => `${prefix}${outer}_${id}`)]).toSorted()

const ctOuters = (which: ReadonlyArray<string> = kinds) => which.map((kind) => `cilium_per_cluster_ct_${kind}`)
const natOuters = (which: ReadonlyArray<string> = families) =>
  which.map((family) => `cilium_per_cluster_snat_${family}_external`)

export const contract = (name: string, kernel: Kernel): void => {
  const live = testsOf("per-cluster", kernel)
  const prefixed = Effect.provideService(Pins.ClusterPrefix, "test")

  describe(`${name}: Cilium's TestPerClusterCTMaps`, () => {
    live(
      "outer maps are made; 0 and 256 are refused; create, get, get-all and delete, each of them twice (G25)",
      Rig.life(
        Effect.gen(function* () {
          const maps = yield* Rig.ct
          yield* maps.openOrCreate
          assert.deepStrictEqual(yield* Rig.pins, namesOf(ctOuters(), []))
          for (const use of [maps.create, maps.delete, maps.get]) {
            assert.strictEqual((yield* Effect.flip(use(0))).message, "ClusterID 0 is reserved")
            assert.strictEqual((yield* Effect.flip(use(256))).message, "ClusterID > 255 is not supported")
          }
          for (const id of [1, 255, 1, 255]) yield* maps.create(id)
          assert.deepStrictEqual(yield* Rig.pins, namesOf(ctOuters(), [1, 255]))
          for (const outer of ctOuters()) {
            for (const id of [1, 255]) {
              const inner = yield* Effect.scoped(BpfMap.open(yield* Pins.pathOf(`test_${outer}_${id}`)))
              assert.strictEqual(yield* Rig.slot(`test_${outer}`, id), inner.info.id)
            }
          }
          for (const id of [1, 255]) {
            const opened = yield* Effect.forEach(yield* maps.get(id), ({ open }) => Effect.scoped(open))
            assert.deepStrictEqual(
              opened.map(({ family, transport, owner, map }) => [
                family,
                transport,
                owner.clusterId,
                map.info.maxEntries
              ]),
              [
                ["ipv4", "tcp", id, 64],
                ["ipv4", "any", id, 48],
                ["ipv6", "tcp", id, 64],
                ["ipv6", "any", id, 48]
              ]
            )
          }
          const all = yield* maps.getAll
          assert.deepStrictEqual(
            all.map(({ name: pin }) => pin),
            [1, 255].flatMap((id) => ctOuters().map((outer) => `test_${outer}_${id}`))
          )
          for (const id of [1, 255, 1, 255]) yield* maps.delete(id)
          assert.deepStrictEqual(yield* Rig.pins, namesOf(ctOuters(), []))
          for (const outer of ctOuters()) assert.isUndefined(yield* Rig.slot(`test_${outer}`, 255))
          assert.deepStrictEqual(yield* maps.getAll, [])
          const [gone] = yield* maps.get(1)
          assert.strictEqual((yield* Effect.flip(Effect.scoped(gone!.open))).reason._tag, "PinNotFound")
        })
      ).pipe(prefixed)
    )

    live(
      "with 511 clusters the ids go up to 511, and the outer maps have 512 slots",
      Rig.life(
        Effect.gen(function* () {
          const maps = yield* Rig.ct
          yield* maps.openOrCreate
          yield* maps.create(511)
          assert.strictEqual((yield* Effect.flip(maps.create(512))).message, "ClusterID > 511 is not supported")
          const outer = yield* Effect.scoped(BpfMap.open(yield* Pins.pathOf("cilium_per_cluster_ct_any6")))
          assert.deepStrictEqual([outer.info.type, outer.info.maxEntries], [MapSpec.mapType.arrayOfMaps, 512])
          assert.isDefined(yield* Rig.slot("cilium_per_cluster_ct_any6", 511))
        }),
        { max: 511 }
      )
    )

    for (const family of ["ipv4", "ipv6"] as const) {
      live(
        `of ${family} alone there are two CT maps and one NAT map`,
        Rig.life(
          Effect.gen(function* () {
            yield* Rig.openBoth
            yield* Rig.createBoth(3)
            const digit = family === "ipv4" ? 4 : 6
            assert.deepStrictEqual(
              yield* Rig.pins,
              [
                ...namesOf(ctOuters([`tcp${digit}`, `any${digit}`]), [3], ""),
                ...namesOf(natOuters([`v${digit}`]), [3], "")
              ].toSorted()
            )
            const other = family === "ipv4" ? "ipv6" : "ipv4"
            const refused = yield* Effect.flip((yield* Rig.nat).get(3, other))
            assert.strictEqual(refused.message, `IP family ${other} not enabled`)
            assert.deepStrictEqual(yield* Rig.findings(), [])
          }),
          { families: [family] }
        )
      )
    }
  })

  describe(`${name}: Cilium's TestPerClusterCTMapsCleanup`, () => {
    const three = Rig.life(
      Effect.gen(function* () {
        yield* Rig.openBoth
        for (const id of [1, 128, 255]) yield* Rig.createBoth(id)
      })
    )
    const ids = [1, 128, 255]
    for (const [off, kept] of [
      [["ipv4"], "6"],
      [["ipv6"], "4"],
      [["ipv4", "ipv6"], ""]
    ] as const) {
      live(
        `cleanup of ${off.join(" and ")} leaves ${kept === "" ? "nothing" : `IPv${kept}`}, and may be repeated`,
        Effect.gen(function* () {
          yield* three
          for (let time = 0; time < 2; time++) {
            yield* Effect.provide(PerClusterCtMaps.cleanup(off), Rig.mapsLayer())
            const nat = namesOf(natOuters(), ids, "")
            const left = kept === "" ? [] : namesOf(ctOuters([`tcp${kept}`, `any${kept}`]), ids, "")
            assert.deepStrictEqual(yield* Rig.pins, [...left, ...nat].toSorted())
          }
          yield* Effect.provide(PerClusterNatMaps.cleanup(off), Rig.mapsLayer())
          const left =
            kept === "" ? [] : namesOf([...ctOuters([`tcp${kept}`, `any${kept}`]), ...natOuters([`v${kept}`])], ids, "")
          assert.deepStrictEqual(yield* Rig.pins, left)
        })
      )
    }
    live(
      "cleanup where nothing has ever been pinned is fine",
      Effect.provide(Effect.andThen(PerClusterCtMaps.cleanup(), PerClusterNatMaps.cleanup()), Rig.mapsLayer())
    )
    live(
      "cleanup takes the maps of clusters of any range (G25)",
      Effect.gen(function* () {
        yield* Rig.life(
          Effect.gen(function* () {
            yield* (yield* Rig.ct).openOrCreate
            yield* (yield* Rig.ct).create(500)
          }),
          { max: 511 }
        )
        yield* Effect.provide(PerClusterCtMaps.cleanup(), Rig.mapsLayer())
        assert.deepStrictEqual(yield* Rig.pins, [])
      })
    )
  })

  describe(`${name}: the NAT twin`, () => {
    live(
      "has two outer maps, and the same rules",
      Rig.life(
        Effect.gen(function* () {
          const maps = yield* Rig.nat
          yield* maps.openOrCreate
          assert.deepStrictEqual(yield* Rig.pins, namesOf(natOuters(), []))
          const uses: ReadonlyArray<(id: number) => Effect.Effect<unknown, { readonly message: string }>> = [
            maps.create,
            maps.delete,
            (id) => maps.get(id, "ipv4")
          ]
          for (const use of uses) {
            assert.strictEqual((yield* Effect.flip(use(0))).message, "ClusterID 0 is reserved")
            assert.strictEqual((yield* Effect.flip(use(256))).message, "ClusterID > 255 is not supported")
          }
          for (const id of [1, 255, 1]) yield* maps.create(id)
          assert.deepStrictEqual(yield* Rig.pins, namesOf(natOuters(), [1, 255]))
          const { map } = yield* Effect.scoped((yield* maps.get(255, "ipv6")).open)
          assert.deepStrictEqual([map.info.keySize, map.info.valueSize, map.info.maxEntries], [38, 56, 32])
          assert.strictEqual(yield* Rig.slot("test_cilium_per_cluster_snat_v6_external", 255), map.info.id)
          assert.strictEqual((yield* maps.getAll).length, 4)
          for (const id of [1, 255, 1]) yield* maps.delete(id)
          assert.deepStrictEqual(yield* Rig.pins, namesOf(natOuters(), []))
        })
      ).pipe(prefixed)
    )
  })

  describe(`${name}: a restart`, () => {
    live(
      "clusters are found again by their pins, with their entries (G25)",
      Effect.gen(function* () {
        yield* Rig.life(
          Effect.gen(function* () {
            yield* Rig.openBoth
            for (const id of [7, 3]) yield* Rig.createBoth(id)
            const [tcp4] = yield* (yield* Rig.ct).get(7)
            const bpf = yield* Bpf.Bpf
            bpf.update((yield* tcp4!.open).map.fd, new Uint8Array(14).fill(1), new Uint8Array(56), Bpf.ANY)
          })
        )
        yield* Rig.life(
          Effect.gen(function* () {
            const maps = yield* Rig.ct
            assert.strictEqual((yield* maps.getAll).length, 8)
            yield* Rig.openBoth
            const all = yield* maps.getAll
            assert.deepStrictEqual([...new Set(all.map(({ owner }) => owner.clusterId))], [3, 7])
            assert.strictEqual(yield* Scan.count((yield* all[4]!.open).map), 1)
            assert.deepStrictEqual(yield* Rig.findings(), [])
          })
        )
      })
    )

    live(
      "a smaller range deletes what lies above it (G25), a larger one keeps every cluster",
      Effect.gen(function* () {
        const ids = Effect.map(ClusterSource.discover, (found) => found.map(({ clusterId }) => clusterId))
        const open = (max: 255 | 511) =>
          Rig.life(
            Effect.gen(function* () {
              yield* Rig.openBoth
              const left = yield* Rig.findings()
              return [yield* ids, left]
            }),
            { max }
          )
        yield* Rig.life(Effect.andThen(Rig.openBoth, Effect.forEach([9, 255, 256, 511], Rig.createBoth)), { max: 511 })
        assert.deepStrictEqual(yield* open(511), [[9, 255, 256, 511], []])
        assert.deepStrictEqual(yield* open(255), [[9, 255], []])
        assert.deepStrictEqual(yield* open(511), [[9, 255], []])
      })
    )

    live(
      "a smaller range deletes no entry unless it is told to, nor anything where it is told to keep",
      Effect.gen(function* () {
        const nat = "cilium_per_cluster_snat_v4_external_300"
        const ids = Effect.map(ClusterSource.discover, (found) => found.map(({ clusterId }) => clusterId))
        const shrink = (options: PerClusterCtMaps.Options) =>
          Rig.life(Effect.andThen(Rig.openBoth, ids), { max: 255, ...options })
        yield* Rig.life(
          Effect.gen(function* () {
            yield* Rig.openBoth
            yield* Effect.forEach([9, 300, 400], Rig.createBoth)
            const { map } = yield* (yield* (yield* Rig.nat).get(300, "ipv4")).open
            const bpf = yield* Bpf.Bpf
            bpf.update(map.fd, new Uint8Array(14).fill(1), new Uint8Array(40), Bpf.ANY)
          }),
          { max: 511 }
        )
        assert.deepStrictEqual(yield* shrink({ aboveRange: "keep" }), [9, 300, 400])
        assert.deepStrictEqual(yield* shrink({}), [9, 300])
        assert.strictEqual((yield* Rig.pins).filter((pin) => pin.endsWith("_300")).length, 6)
        const entries = Effect.scoped(
          Effect.flatMap(Effect.flatMap(Pins.pathOf(nat), BpfMap.open), (map) => Scan.count(map))
        )
        assert.strictEqual(yield* entries, 1)
        assert.deepStrictEqual(yield* shrink({ aboveRange: "delete" }), [9])
      })
    )

    live(
      "a smaller range empties the slots of outer maps that are kept, before the pins go",
      Effect.gen(function* () {
        yield* Rig.life(Effect.andThen(Rig.openBoth, Effect.forEach([9, 300], Rig.createBoth)), { max: 511 })
        yield* Rig.life(Rig.openBoth, { max: 255, whenDifferent: "keep" })
        assert.isUndefined(yield* Rig.slot("cilium_per_cluster_ct_tcp4", 300))
        assert.isDefined(yield* Rig.slot("cilium_per_cluster_ct_tcp4", 9))
        assert.deepStrictEqual(yield* Rig.life(Rig.findings()), [])
      })
    )

    live(
      "another size replaces inner maps when the cluster is made again, or keeps them where that is wanted",
      Effect.gen(function* () {
        const make = (whenDifferent: "replace" | "keep") =>
          Rig.life(
            Effect.gen(function* () {
              yield* Rig.openBoth
              yield* Rig.createBoth(5)
              const map = yield* BpfMap.open(yield* Pins.pathOf("cilium_per_cluster_ct_tcp4_5"))
              assert.strictEqual(yield* Rig.slot("cilium_per_cluster_ct_tcp4", 5), map.info.id)
              return map.info.maxEntries
            }),
            { whenDifferent },
            whenDifferent === "keep" ? { ...Rig.limits, ctTcp: 96 } : Rig.limits
          )
        assert.deepStrictEqual([yield* make("replace"), yield* make("keep")], [64, 64])
        const larger = Rig.life(Rig.findings(), {}, { ...Rig.limits, ctTcp: 96 })
        assert.deepStrictEqual(yield* larger, [
          "WrongSize cilium_per_cluster_ct_tcp4_5 5",
          "WrongSize cilium_per_cluster_ct_tcp6_5 5"
        ])
        const again = Rig.life(
          Effect.andThen(Effect.andThen(Rig.openBoth, Rig.createBoth(5)), Rig.findings()),
          {},
          { ...Rig.limits, ctTcp: 96 }
        )
        assert.deepStrictEqual(yield* again, [])
      })
    )
  })

  describe(`${name}: order of use`, () => {
    live(
      "nothing is made or deleted before the outer maps are open, nor after they were closed",
      Rig.life(
        Effect.gen(function* () {
          const maps = yield* Rig.ct
          assert.strictEqual((yield* Effect.flip(maps.create(1)))._tag, "OuterMapsNotOpen")
          yield* maps.openOrCreate
          yield* maps.create(1)
          yield* maps.openOrCreate
          yield* maps.create(2)
          yield* maps.close
          yield* maps.close
          const refused = yield* Effect.flip(maps.delete(1))
          assert.strictEqual(refused.message, "the outer per-cluster CT maps are not open: call openOrCreate first")
          assert.strictEqual((yield* maps.getAll).length, 8)
        })
      )
    )

    live(
      "several callers at once wait for each other",
      Rig.life(
        Effect.gen(function* () {
          yield* Rig.openBoth
          yield* Effect.forEach([1, 2, 3, 1, 2, 3], Rig.createBoth, { concurrency: "unbounded" })
          yield* Effect.all([Rig.deleteBoth(1), Rig.createBoth(4), Rig.deleteBoth(4), Rig.deleteBoth(2)], {
            concurrency: "unbounded"
          })
          assert.deepStrictEqual(yield* Rig.findings(), [])
          assert.include(yield* Rig.pins, "cilium_per_cluster_ct_tcp4_3")
        })
      )
    )

    live(
      "what fails on some maps is told for each, in Cilium's words, and a cluster is not made by half",
      Rig.life(
        Effect.gen(function* () {
          const maps = yield* Rig.ct
          yield* maps.openOrCreate
          // Something of another shape stands where inner maps are to be.
          for (const kind of ["any4", "tcp6"]) {
            const path = yield* Pins.pathOf(`cilium_per_cluster_ct_${kind}_9`)
            yield* Effect.scoped(
              BpfMap.createPinned({ ...MapSpec.ct(MapKind.globals[0]), type: 1, maxEntries: 8 }, path)
            )
          }
          const error = yield* Effect.flip(maps.create(9))
          assert.strictEqual(error._tag, "ClusterFailed")
          assert.deepStrictEqual(
            error.message.split("\n").map((line) => line.split(": ").slice(0, 3).join(": ")),
            [
              `any4: update outer CT map: update ${yield* Pins.pathOf("cilium_per_cluster_ct_any4")}`,
              `tcp6: update outer CT map: update ${yield* Pins.pathOf("cilium_per_cluster_ct_tcp6")}`
            ]
          )
          assert.deepStrictEqual(
            (yield* Rig.pins).filter((pin) => pin.endsWith("_9")),
            ["cilium_per_cluster_ct_any4_9", "cilium_per_cluster_ct_tcp6_9"]
          )
          assert.isUndefined(yield* Rig.slot("cilium_per_cluster_ct_tcp4", 9))
        }),
        { whenDifferent: "keep" }
      )
    )
  })

  describe(`${name}: names`, () => {
    live(
      "are Cilium's",
      Rig.life(
        Effect.gen(function* () {
          const [, , tcp6] = yield* (yield* Rig.ct).get(12)
          const path = MapName.pinPath(yield* Pins.BpfFsRoot, "cilium_per_cluster_ct_tcp6_12")
          assert.deepStrictEqual([tcp6!.label, tcp6!.path], ["tcp6", path])
          const v6 = yield* (yield* Rig.nat).get(12, "ipv6")
          assert.strictEqual(v6.name, "cilium_per_cluster_snat_v6_external_12")
        })
      )
    )
  })
}
