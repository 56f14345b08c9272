/** What a check finds and a repair mends, on any kernel. */
import { assert, describe } from "@effect/vitest"
import { MapKind, MapName, MapSpec } from "ctmap-core"
import { ClusterCheck } from "ctmap-cluster"
import { Bpf, BpfMap, OuterMap, Pins, Scan } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { type Kernel, testsOf } from "./onKernel.ts"
import * as Rig from "./rig.ts"

const [tcp4] = MapKind.globals
const inner = MapName.clusterInner(tcp4, 7)
const outer = MapName.clusterOuter(tcp4)
const nat6 = MapName.clusterNatInner("ipv6", 7)

const open = (name: string) => Effect.flatMap(Pins.pathOf(name), (path) => BpfMap.open(path))
const unpin = (name: string) => Effect.flatMap(Pins.pathOf(name), (path) => BpfMap.unpin(path))

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
        title: "a pin that the outer map has no slot for is removed",
        spoil: Effect.gen(function* () {
          const path = yield* Pins.pathOf(MapName.clusterInner(tcp4, 300))
          yield* BpfMap.createPinned({ ...MapSpec.ct(tcp4), maxEntries: 64 }, path)
        }),
        found: [`BeyondRange ${MapName.clusterInner(tcp4, 300)} 300`],
        repaired: ["BeyondRange repaired"]
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
  })
}
