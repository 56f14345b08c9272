import { assert, describe, it } from "@effect/vitest"
import { CtColumns, MapKind, MapSpec, Rows } from "ctmap-core"
import { CtPair, Layout, Owner } from "ctmap-kernel"
import { Recorded } from "ctmap-testing"
import * as Effect from "effect/Effect"

const rowsOf = (values: ReadonlyArray<(view: DataView) => void>): CtColumns.CtColumns => {
  const keys = new Uint8Array(values.length * 14)
  const bytes = new Uint8Array(values.length * 56)
  values.forEach((write, i) => write(new DataView(bytes.buffer, i * 56, 56)))
  return new CtColumns.CtColumns({ family: "ipv4", release: "1.17" }).bind(
    Rows.separate(keys, bytes, { keySize: 14, valueSize: 56, count: values.length })
  )
}

describe("the layout of a table", () => {
  it.each(Recorded.setNames)("%s, written by 1.18, shows only evidence of the older layout", (set) => {
    let found = 0
    for (const [map, table] of Recorded.tables(set, "before")) {
      if (map.startsWith("cilium_snat")) continue
      const family = table.keySize === 14 ? "ipv4" : "ipv6"
      const columns = new CtColumns.CtColumns({ family, release: "1.20" })
      const { v117, v120 } = Layout.evidence(columns.bind(Rows.separate(table.keys, table.values, table)))
      assert.strictEqual(v120, 0, map)
      found += v117
    }
    if (set.startsWith("pods")) assert.isAbove(found, 100)
  })

  it("a NAT address in a flow's value speaks for 1.20, an interface number alone for 1.17, nothing for neither", () => {
    const interfaceNumber = (view: DataView) => view.setUint16(40, 20, true)
    const natAddress = (view: DataView) => {
      view.setUint32(12, 0x0a000002)
      view.setUint16(40, 40_000)
    }
    assert.deepStrictEqual(Layout.evidence(rowsOf([interfaceNumber, () => {}])), { v117: 1, v120: 0 })
    assert.deepStrictEqual(Layout.evidence(rowsOf([natAddress, natAddress])), { v117: 0, v120: 2 })
    assert.deepStrictEqual(Layout.evidence(rowsOf([() => {}])), { v117: 0, v120: 0 })
  })

  it("a service entry says nothing, whatever backend it holds", () => {
    const columns = rowsOf([(view) => view.setUint32(8, 42, true)])
    columns.keys.setUint8(13, 4)
    assert.deepStrictEqual(Layout.evidence(columns), { v117: 0, v120: 0 })
  })

  it("contradicting evidence is no layout, and says how much there is of either", () => {
    const verdict = Layout.judge({ v117: 3, v120: 1 }, "1.17")
    assert.isTrue(
      verdict._tag === "Unknown" && verdict.why.includes("3 entries") && verdict.why.includes("1 only of 1.20")
    )
    assert.isUndefined(Layout.releaseOf(verdict))
  })

  it("sizes and type are checked before any entry is looked at", () => {
    const ct4 = MapSpec.ct(MapKind.globals[0])
    assert.isUndefined(Layout.ctMismatch(ct4, "ipv4"))
    assert.include(Layout.ctMismatch(ct4, "ipv6") ?? "", "keys are 14 bytes")
    assert.include(Layout.ctMismatch({ ...ct4, valueSize: 64 }, "ipv4") ?? "", "values 64")
    assert.include(Layout.ctMismatch({ ...ct4, type: 2 }, "ipv4") ?? "", "type 2")
    assert.isUndefined(Layout.natMismatch(MapSpec.nat("ipv6"), "ipv6"))
    assert.include(Layout.natMismatch(MapSpec.nat("ipv4"), "ipv6") ?? "", "keys are 14 bytes")
  })
})

describe("a pair of maps", () => {
  let id = 0
  const ct = <T extends MapKind.Transport, O extends Owner.Owner>(transport: T, owner: O, name: string) => ({
    _tag: "CtMap" as const,
    family: "ipv4" as const,
    transport,
    owner,
    layout: { _tag: "Assumed", release: "1.17" } as const,
    map: { name, path: undefined, fd: 3, info: { ...MapSpec.ct(MapKind.globals[0]), id: ++id, name } }
  })
  const nat = <O extends Owner.Owner>(owner: O) => ({
    _tag: "NatMap" as const,
    family: "ipv4" as const,
    owner,
    mismatch: undefined,
    map: { name: "nat", path: undefined, fd: 3, info: { ...MapSpec.nat("ipv4"), id: ++id, name: "nat" } }
  })

  it.effect("is made of maps of one owner", () =>
    Effect.gen(function* () {
      const pair = yield* CtPair.make(ct("tcp", Owner.global, "t"), ct("any", Owner.global, "a"), nat(Owner.global))
      assert.strictEqual(CtPair.mapOf(pair, 6).map.name, "t")
      assert.strictEqual(CtPair.mapOf(pair, 17).map.name, "a")
    })
  )

  it.effect("of two clusters is refused by name, and nothing happens (G1)", () =>
    Effect.gen(function* () {
      const mixed = CtPair.makeUnsafe<"ipv4", Owner.Cluster>(
        ct("tcp", Owner.cluster(1), "t"),
        ct("any", Owner.cluster(1), "a"),
        nat(Owner.cluster(2))
      )
      const error = yield* Effect.flip(mixed)
      assert.include(error.message, "nat is of cluster 2 and t of cluster 1")
      assert.include(error.message, "nothing was touched")
    })
  )

  it.effect("of one kernel map twice is refused", () =>
    Effect.gen(function* () {
      const tcp = ct("tcp", Owner.global, "t")
      const error = yield* Effect.flip(CtPair.make(tcp, { ...ct("any", Owner.global, "a"), map: tcp.map }, undefined))
      assert.include(error.message, "the same kernel map")
    })
  )
})
