import { assert, describe, it } from "@effect/vitest"
import { Family, MapName } from "ctmap-core"
import { Recorded } from "ctmap-testing"
import * as Mappings from "../../scripts/start/mappings.ts"

/** What Cilium's collector and purge left behind. */
const left = Recorded.tables("pods-ktime", "after-purge")
const row = (bytes: Uint8Array, size: number, i: number): Uint8Array => bytes.subarray(i * size, (i + 1) * size)

const names = new Set(
  [MapName.TCP4_GLOBAL, MapName.TCP6_GLOBAL].flatMap((map) => {
    const { count, keys, keySize } = left.get(map)!
    return Array.from({ length: count }, (_, i) => Mappings.nameOf(map, row(keys, keySize, i)))
  })
)
const mappings = new Map(
  Family.all.flatMap((family) => {
    const { count, keys, keySize, map, values, valueSize } = left.get(MapName.nat(family))!
    return Array.from({ length: count }, (_, i) => {
      const key = row(keys, keySize, i)
      return [Mappings.nameOf(map, key), { family, key, value: row(values, valueSize, i) }] as const
    })
  })
)
const connections = { valueOf: () => undefined, isThere: (name: string) => names.has(name) }
const living = { ...connections, lives: connections.isThere }

describe("what npm start expects of NAT tables", () => {
  it("is what Cilium's own purge left", () => {
    assert.strictEqual(mappings.size, 240)
    assert.deepStrictEqual(Mappings.problems(mappings, mappings, living), [])
  })

  it("is not met where a mapping of a living connection is gone, either half of it", () => {
    for (const [name, { key }] of mappings) {
      const others = new Map([...mappings].filter((entry) => entry[0] !== name))
      const [problem = "none"] = Mappings.problems(mappings, others, living)
      assert.match(
        problem,
        /^1 NAT entry of a live connection is gone:\n {4}cilium_snat_v[46]_external {2}\w+ (IN|OUT) /
      )
      if (key.at(-1) === 1) assert.include(problem, " IN ")
    }
  })

  it("is not met where a mapping is there whose connection is gone, or that nobody made", () => {
    const gone = { valueOf: () => undefined, isThere: () => false, lives: () => false }
    assert.match(
      Mappings.problems(mappings, mappings, gone)[0]!,
      /^\d+ NAT entries are there without a connection, such as\n/
    )
    const [name, mapping] = [...mappings][0]!
    const before = new Map([...mappings].filter((entry) => entry[0] !== name))
    assert.deepStrictEqual(Mappings.problems(before, new Map([...before, [name, mapping]]), living).length, 1)
  })

  it("leaves a mapping alone whose connection has come to its end meanwhile", () => {
    assert.deepStrictEqual(Mappings.problems(mappings, new Map(), { ...connections, lives: () => false }), [])
  })
})
