/**
 * What does not compile: maps of two families, owners or clusters as a pair. Each line that must not is marked so; the
 * compiler is the test, and what is asserted is only that the mistakes stand there. None of them is run.
 */
import { assert, describe, it } from "@effect/vitest"
import type { Family, MapKind } from "ctmap-core"
import { CtPair, NatMaps, Owner } from "ctmap-kernel"
import * as Effect from "effect/Effect"

let id = 0
const info = { type: 9, keySize: 14, valueSize: 56, maxEntries: 8, flags: 0, name: "m" }
const map = () => ({ name: "m", path: undefined, fd: 3, info: { ...info, id: ++id } })

const ct = <F extends Family.Family, T extends MapKind.Transport, O extends Owner.Owner>(
  family: F,
  transport: T,
  owner: O
): CtPair.CtMap<F, T, O> => {
  const layout = { _tag: "Assumed", release: "1.17" } as const
  return { _tag: "CtMap", family, transport, owner, layout, map: map() }
}

const nat = <F extends Family.Family, O extends Owner.Owner>(family: F, owner: O): CtPair.NatMap<F, O> => ({
  _tag: "NatMap",
  family,
  owner,
  mismatch: undefined,
  map: map()
})

const [one, two] = [Owner.cluster(1), Owner.cluster(2)]
const someCluster: Owner.Cluster = one
const someFamily = "ipv4" as Family.Family

describe("a pair of maps", () => {
  it.effect("of one family, and of everybody or of one cluster, compiles and is made", () =>
    Effect.gen(function* () {
      const { global } = Owner
      yield* CtPair.make(ct("ipv4", "tcp", global), ct("ipv4", "any", global), nat("ipv4", global))
      const pair = yield* CtPair.make(ct("ipv6", "tcp", one), ct("ipv6", "any", one), nat("ipv6", one))
      const typed: CtPair.CtPair<"ipv6", Owner.Cluster<1>> = pair
      assert.strictEqual(typed.owner.clusterId, 1)
      // A pair is where any pair will do.
      const any: CtPair.CtPair = pair
      assert.strictEqual(any.family, "ipv6")
    })
  )

  it("of two families does not compile", () => {
    assert.isNotEmpty([
      // @ts-expect-error the Any map is of the other family
      () => CtPair.make(ct("ipv4", "tcp", one), ct("ipv6", "any", one), undefined),
      // @ts-expect-error the NAT map is of the other family
      () => CtPair.make(ct("ipv4", "tcp", one), ct("ipv4", "any", one), nat("ipv6", one)),
      // @ts-expect-error nobody knows which family it is
      () => CtPair.make(ct(someFamily, "tcp", one), ct(someFamily, "any", one), undefined)
    ])
  })

  it("of two owners does not compile", () => {
    const { global } = Owner
    assert.isNotEmpty([
      // @ts-expect-error the Any map is a cluster's
      () => CtPair.make(ct("ipv4", "tcp", global), ct("ipv4", "any", one), undefined),
      // @ts-expect-error the NAT map is a cluster's
      () => CtPair.make(ct("ipv4", "tcp", global), ct("ipv4", "any", global), nat("ipv4", one)),
      // @ts-expect-error an endpoint's maps with the NAT map of the node
      () => CtPair.make(ct("ipv4", "tcp", Owner.endpoint(1)), ct("ipv4", "any", Owner.endpoint(1)), nat("ipv4", global))
    ])
  })

  it("of two clusters does not compile", () => {
    assert.isNotEmpty([
      // @ts-expect-error the Any map is cluster 2's
      () => CtPair.make(ct("ipv4", "tcp", one), ct("ipv4", "any", two), undefined),
      // @ts-expect-error the NAT map is cluster 2's
      () => CtPair.make(ct("ipv4", "tcp", one), ct("ipv4", "any", one), nat("ipv4", two))
    ])
  })

  it("of which the types do not say whose they are does not compile: they may be two clusters'", () => {
    const owners = [one, two] as const
    assert.isNotEmpty([
      // @ts-expect-error both are of some cluster
      () => CtPair.make(ct("ipv4", "tcp", someCluster), ct("ipv4", "any", someCluster), undefined),
      // @ts-expect-error both are of one of two clusters
      () => CtPair.make(ct("ipv4", "tcp", owners[0 as 0 | 1]), ct("ipv4", "any", owners[0 as 0 | 1]), undefined),
      // @ts-expect-error the NAT map is of some cluster
      () => CtPair.make(ct("ipv4", "tcp", one), ct("ipv4", "any", one), nat("ipv4", someCluster)),
      // @ts-expect-error both are of some endpoint
      () => CtPair.make(ct("ipv4", "tcp", Owner.endpoint(1)), ct("ipv4", "any", Owner.endpoint(1)), undefined)
    ])
  })

  it("with its transports exchanged does not compile", () => {
    assert.isNotEmpty([
      // @ts-expect-error the Any map is in the place of the TCP map
      () => CtPair.make(ct("ipv4", "any", one), ct("ipv4", "tcp", one), undefined)
    ])
  })

  it.effect("is no pair any more with another map in it: it has to be made again, and is checked again", () =>
    Effect.gen(function* () {
      const pair = yield* CtPair.make(ct("ipv4", "tcp", one), ct("ipv4", "any", one), nat("ipv4", one))
      assert.isNotEmpty([
        (): CtPair.CtPair =>
          // @ts-expect-error a copy is not a pair
          ({ ...pair, nat: nat("ipv4", two) })
      ])
      const error = yield* Effect.flip(CtPair.makeUnsafe<"ipv4", Owner.Cluster>(pair.tcp, pair.any, nat("ipv4", two)))
      assert.include(error.message, "of cluster 2 and")
    })
  )

  it.effect("of unknown owners is checked where it is called unsafe", () =>
    Effect.gen(function* () {
      const owner = someCluster
      const made = yield* CtPair.makeUnsafe(ct(someFamily, "tcp", owner), ct(someFamily, "any", owner), undefined)
      assert.strictEqual(made.family, "ipv4")
      const mixed = CtPair.makeUnsafe<Family.Family, Owner.Cluster>(
        ct("ipv4", "tcp", one),
        ct("ipv6", "any", one),
        undefined
      )
      assert.include((yield* Effect.flip(mixed)).message, "two address families")
    })
  )

  it("is opened for a family and an owner that are said once", () => {
    const opened = NatMaps.openPair("ipv4", two)
    assert.isNotEmpty([
      () => {
        const typed: Effect.Effect<CtPair.CtPair<"ipv4", Owner.Cluster<2>>, unknown, unknown> = opened
        // @ts-expect-error it is cluster 2's
        const other: Effect.Effect<CtPair.CtPair<"ipv4", Owner.Cluster<1>>, unknown, unknown> = opened
        return [typed, other]
      }
    ])
    assert.isTrue(Effect.isEffect(opened))
  })
})
