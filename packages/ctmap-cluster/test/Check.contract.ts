/** What a check finds and a repair mends, on any kernel. */
import { assert, describe } from "@effect/vitest"
import { MapKind, MapName, MapSpec } from "ctmap-core"
import { ClusterCheck } from "ctmap-cluster"
import { Bpf, BpfMap, OuterMap, Pins, Scan } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { type Kernel, testsOf } from "./onKernel.ts"
import * as Rig from "./rig.ts"

const [tcp4, any4] = [MapKind.globals[0], MapKind.globals.find((kind) => MapKind.shortName(kind) === "any4")!]
const inner = MapName.clusterInner(tcp4, 7)
const outer = MapName.clusterOuter(tcp4)
const above = MapName.clusterInner(tcp4, 300)
const nat6 = MapName.clusterNatInner("ipv6", 7)

const open = (name: string) => Effect.flatMap(Pins.pathOf(name), (path) => BpfMap.open(path))
const unpin = (name: string) => Effect.flatMap(Pins.pathOf(name), (path) => BpfMap.unpin(path))

const insert = (map: BpfMap.BpfMap, entries: number) =>
  Effect.map(Bpf.Bpf, (bpf) => {
    for (let i = 1; i <= entries; i++) {
      assert.strictEqual(bpf.update(map.fd, new Uint8Array(14).fill(i), new Uint8Array(56), Bpf.ANY), 0)
    }
  })

/** A map of cluster 300, which outer maps of 256 slots have no slot for, with so many entries. */
const pinAbove = (kind: MapKind.MapKind, entries: number) =>
  Effect.gen(function* () {
    const path = yield* Pins.pathOf(MapName.clusterInner(kind, 300))
    yield* insert(yield* BpfMap.createPinned({ ...MapSpec.ct(kind), maxEntries: 64 }, path), entries)
  })

export const contract = (name: string, kernel: Kernel): void => {
  const live = testsOf("check", kernel)
  const whole = Effect.andThen(Rig.openBoth, Effect.andThen(Rig.createBoth(7), Rig.createBoth(8)))
  const repaired = Effect.gen(function* () {
    const done = yield* ClusterCheck.repair(yield* ClusterCheck.check())
    return done.map(({ finding, outcome }) => `${finding._tag} ${outcome}`)
  })

  describe(`${name}: a check`, () => {
    live(
      "finds nothing where nothing is, or only directories",
      Rig.life(Effect.map(Rig.findings(), (found) => assert.deepStrictEqual(found, [])))
    )
    live(
      "finds nothing wrong with whole clusters, and a repair of nothing does nothing",
      Rig.life(
        Effect.gen(function* () {
          yield* whole
          assert.deepStrictEqual(yield* Rig.findings(), [])
          assert.deepStrictEqual(yield* repaired, [])
        })
      )
    )

    const cases: ReadonlyArray<{
      readonly title: string
      readonly spoil: Effect.Effect<unknown, { readonly message: string }, Rig.Services | Rig.Maps | Scope.Scope>
      readonly found: ReadonlyArray<string>
      readonly repaired: ReadonlyArray<string>
      readonly left?: ReadonlyArray<string>
    }> = [
      {
        title: "a pin whose slot is empty is entered",
        spoil: Effect.flatMap(open(outer), (map) => OuterMap.remove(map, 7)),
        found: [`OrphanedPin ${inner} 7`],
        repaired: ["OrphanedPin repaired"]
      },
      {
        title: "a pin whose slot names another map takes its place",
        spoil: Effect.gen(function* () {
          yield* OuterMap.put(yield* open(outer), 7, yield* open(MapName.clusterInner(tcp4, 8)))
        }),
        found: [`OrphanedPin ${inner} 7`],
        repaired: ["OrphanedPin repaired"]
      },
      {
        title: "a slot whose map is not pinned is emptied, and the map made anew",
        spoil: unpin(inner),
        found: [`OrphanedSlot ${outer} 7`],
        repaired: ["OrphanedSlot repaired"],
        left: [`MapMissing ${inner} 7`]
      },
      {
        title: "a CT map without its NAT map is found, and the NAT map is made",
        spoil: Effect.flatMap(Rig.nat, (maps) =>
          Effect.andThen(
            Effect.flatMap(open(MapName.clusterNatOuter("ipv6")), (map) => OuterMap.remove(map, 7)),
            Effect.as(unpin(nat6), maps)
          )
        ),
        found: [`MapMissing ${nat6} 7`],
        repaired: ["MapMissing repaired"]
      },
      {
        title: "an outer map that is gone is made, and every cluster entered again",
        spoil: unpin(outer),
        found: [`OuterMissing ${outer}`, `OrphanedPin ${inner} 7`, `OrphanedPin ${MapName.clusterInner(tcp4, 8)} 8`],
        repaired: ["OuterMissing repaired", "OrphanedPin repaired", "OrphanedPin repaired"]
      },
      {
        title: "an empty map that the outer map has no slot for is unpinned",
        spoil: pinAbove(tcp4, 0),
        found: [`BeyondRange ${above} 300`],
        repaired: ["BeyondRange repaired"]
      },
      {
        title: "a map with entries that the outer map has no slot for stays pinned",
        spoil: pinAbove(tcp4, 3),
        found: [`BeyondRange ${above} 300`],
        repaired: ["BeyondRange left"],
        left: [`BeyondRange ${above} 300`]
      },
      {
        title: "an empty map stays, too, while another one of its cluster holds entries",
        spoil: Effect.andThen(pinAbove(any4, 0), pinAbove(tcp4, 1)),
        found: [`BeyondRange ${above} 300`, `BeyondRange ${MapName.clusterInner(any4, 300)} 300`],
        repaired: ["BeyondRange left", "BeyondRange left"],
        left: [`BeyondRange ${above} 300`, `BeyondRange ${MapName.clusterInner(any4, 300)} 300`]
      },
      {
        title: "a map above the range whose entries cannot be counted is told, and stays pinned",
        spoil: Effect.gen(function* () {
          const path = yield* Pins.pathOf(above)
          yield* BpfMap.createPinned({ ...MapSpec.clusterOuter(tcp4, 255), inner: MapSpec.ct(tcp4) }, path)
        }),
        found: [`Unreadable ${above}`],
        repaired: ["Unreadable left"],
        left: [`Unreadable ${above}`]
      },
      {
        title: "a map of another size is found, and left with its entries",
        spoil: Effect.gen(function* () {
          const path = yield* Pins.pathOf(inner)
          const { map } = yield* BpfMap.openOrCreate({ ...MapSpec.ct(tcp4), maxEntries: 80 }, path)
          yield* OuterMap.put(yield* open(outer), 7, map)
        }),
        found: [`WrongSize ${inner} 7`],
        repaired: ["WrongSize left"],
        left: [`WrongSize ${inner} 7`]
      },
      {
        title: "an outer map that is none is told by what it is, and left",
        spoil: Effect.gen(function* () {
          const path = yield* Pins.pathOf(outer)
          yield* unpin(outer)
          yield* BpfMap.createPinned({ ...MapSpec.ct(tcp4), maxEntries: 80 }, path)
        }),
        found: [`Unreadable ${outer}`],
        repaired: ["Unreadable left"],
        left: [`Unreadable ${outer}`]
      }
    ]
    for (const { title, spoil, found, repaired: mended, left = [] } of cases) {
      live(
        title,
        Rig.life(
          Effect.gen(function* () {
            yield* whole
            yield* Effect.scoped(spoil)
            assert.deepStrictEqual(yield* Rig.findings(), found)
            for (const finding of yield* ClusterCheck.check()) {
              assert.match(ClusterCheck.describe(finding), /\w{3}/)
              assert.strictEqual(
                ClusterCheck.remedy(finding) === undefined,
                mended.some((text) => text.endsWith("left"))
              )
            }
            assert.deepStrictEqual(yield* repaired, mended)
            assert.deepStrictEqual(yield* Rig.findings(), left)
          })
        )
      )
    }

    live(
      "maps that a restore made are entered with their entries",
      Rig.life(
        Effect.gen(function* () {
          yield* Rig.openBoth
          const bpf = yield* Bpf.Bpf
          const map = yield* BpfMap.createPinned({ ...MapSpec.ct(tcp4), maxEntries: 64 }, yield* Pins.pathOf(inner))
          bpf.update(map.fd, new Uint8Array(14).fill(3), new Uint8Array(56), Bpf.ANY)
          assert.strictEqual((yield* Rig.findings())[0], `OrphanedPin ${inner} 7`)
          yield* repaired
          assert.deepStrictEqual(yield* Rig.findings(), [])
          assert.strictEqual(yield* Rig.slot(outer, 7), map.info.id)
          assert.strictEqual(yield* Scan.count(map), 1)
        })
      )
    )

    live(
      "a finding that has gone meanwhile is not acted upon",
      Rig.life(
        Effect.gen(function* () {
          yield* whole
          yield* unpin(inner)
          const stale = yield* ClusterCheck.check()
          yield* (yield* Rig.ct).create(7)
          const done = yield* ClusterCheck.repair(stale)
          assert.deepStrictEqual(
            done.map(({ outcome }) => outcome),
            ["left"]
          )
          assert.deepStrictEqual(yield* Rig.findings(), [])
        })
      )
    )

    live(
      "a pin with entries above the range goes only when that is asked for, and the entries are told before and after",
      Rig.life(
        Effect.gen(function* () {
          yield* whole
          yield* Effect.scoped(Effect.andThen(pinAbove(tcp4, 3), pinAbove(any4, 0)))
          const findings = yield* ClusterCheck.check()
          assert.deepStrictEqual(
            findings.map((finding) => [
              ClusterCheck.describe(finding),
              ClusterCheck.remedy(finding),
              ClusterCheck.remedy(finding, { discardEntries: true })
            ]),
            [
              [
                "the outer map has no slot 300, its last is 255; the pinned one holds 3 entries",
                undefined,
                "remove the pin, and lose 3 entries"
              ],
              [
                "the outer map has no slot 300, its last is 255; other maps of cluster 300 hold 3 entries",
                undefined,
                "remove the pin"
              ]
            ]
          )
          const done = yield* ClusterCheck.repair(findings, { discardEntries: true })
          assert.deepStrictEqual(
            done.map(({ outcome, lost }) => [outcome, lost]),
            [
              ["repaired", 3],
              ["repaired", 0]
            ]
          )
          assert.deepStrictEqual(yield* Rig.findings(), [])
        })
      )
    )

    live(
      "entries of clusters above the range outlive outer maps that are gone",
      Rig.life(
        Effect.gen(function* () {
          yield* Effect.scoped(pinAbove(tcp4, 1))
          assert.deepInclude(yield* Rig.findings(), `BeyondRange ${above} 300`)
          assert.include(yield* repaired, "BeyondRange left")
          assert.strictEqual(yield* Scan.count(yield* open(above)), 1)
        })
      )
    )

    const meanwhile: ReadonlyArray<{
      readonly title: string
      readonly happens: Effect.Effect<unknown, { readonly message: string }, Rig.Services | Rig.Maps | Scope.Scope>
      readonly done: Omit<ClusterCheck.Repaired, "finding">
    }> = [
      {
        title: "holds an entry by now",
        happens: Effect.flatMap(open(above), (map) => insert(map, 1)),
        done: { outcome: "left", held: 1 }
      },
      {
        title: "has a slot by now",
        happens: Effect.gen(function* () {
          yield* unpin(outer)
          const spec = { ...MapSpec.clusterOuter(tcp4, 511), inner: { ...MapSpec.ct(tcp4), maxEntries: 64 } }
          yield* BpfMap.createPinned(spec, yield* Pins.pathOf(outer))
        }),
        done: { outcome: "left" }
      },
      { title: "is gone by now", happens: unpin(above), done: { outcome: "left" } }
    ]
    for (const { title, happens, done } of meanwhile) {
      live(
        `a map above the range that was empty and ${title} is left`,
        Rig.life(
          Effect.gen(function* () {
            yield* whole
            yield* Effect.scoped(pinAbove(tcp4, 0))
            const stale = yield* ClusterCheck.check()
            yield* Effect.scoped(happens)
            const [{ finding, ...became } = {}] = yield* ClusterCheck.repair(stale)
            assert.deepStrictEqual([finding, became], [stale[0], done])
            assert.strictEqual((yield* Rig.pins).includes(above), !title.startsWith("is gone"))
          })
        )
      )
    }
  })
}
