import { assert, describe, it } from "@effect/vitest"
import { CtColumns, CtEntry, CtEntryFlags, GcFilter, NatDerivation, Rows, Tuple, TupleFlags } from "ctmap-core"
import { Recorded, Vectors } from "ctmap-testing"
import * as NetAddress from "effect/net/NetAddress"
import * as Result from "effect/Result"

const { hex, toHex, vectors } = Vectors

const ip = (text: string) => Result.getOrThrow(NetAddress.ipFromString(text))

/** Columns over entries given as key bytes and a lifetime. */
const columnsOf = (
  entries: ReadonlyArray<{ readonly key: string; readonly lifetime: number }>
): CtColumns.CtColumns => {
  const keys = hex(entries.map(({ key }) => key).join(""))
  const keySize = keys.byteLength / entries.length
  const values = new Uint8Array(entries.length * CtEntry.SIZE)
  entries.forEach(({ lifetime }, i) =>
    new DataView(values.buffer).setUint32(i * CtEntry.SIZE + CtEntry.offset.lifetime, lifetime, true)
  )
  return new CtColumns.CtColumns({ family: keySize === 14 ? "ipv4" : "ipv6", release: "1.17" }).bind(
    Rows.separate(keys, values, { keySize, valueSize: CtEntry.SIZE, count: entries.length })
  )
}

const flow4 = "0a00016301010101005086d80600"
const flow6 = "fd00000000000000000000000000000120010db800000000000000000000000500359c401101"
const mapped6 = "00000000000000000000ffff0a000163fd000000000000000000000000000001005004d20600"

describe("GcFilter: which entries a pass deletes", () => {
  const cases: ReadonlyArray<{
    readonly title: string
    readonly filter: GcFilter.GcFilter
    readonly key?: string
    readonly lifetime: number
    readonly verdict: GcFilter.Verdict
  }> = [
    { title: "one unit past its lifetime goes", filter: { expiredBefore: 100 }, lifetime: 99, verdict: "expired" },
    { title: "on its last unit stays", filter: { expiredBefore: 100 }, lifetime: 100, verdict: "keep" },
    {
      title: "times above 2^31 compare unsigned",
      filter: { expiredBefore: 0x8000_0001 },
      lifetime: 0x8000_0000,
      verdict: "expired"
    },
    {
      title: "a lifetime above 2^31 is not below a small now",
      filter: { expiredBefore: 100 },
      lifetime: 0xffff_fff0,
      verdict: "keep"
    },
    { title: "expired stays when expiry is not asked for", filter: {}, lifetime: 0, verdict: "keep" },
    {
      title: "the maximum time deletes all but the maximum lifetime",
      filter: { expiredBefore: 0xffff_ffff },
      lifetime: 0xffff_fffe,
      verdict: "expired"
    },
    {
      title: "a lifetime of 0xffffffff survives even that",
      filter: { expiredBefore: 0xffff_ffff },
      lifetime: 0xffff_ffff,
      verdict: "keep"
    },
    {
      title: "an address at the originator's end matches",
      filter: { matchIps: [ip("10.0.1.99")] },
      lifetime: 0,
      verdict: "matched-address"
    },
    {
      title: "an address at the responder's end matches",
      filter: { matchIps: [ip("1.1.1.1")] },
      lifetime: 0,
      verdict: "matched-address"
    },
    { title: "another address does not", filter: { matchIps: [ip("10.0.1.98")] }, lifetime: 0, verdict: "keep" },
    { title: "an empty set matches nothing", filter: { matchIps: [] }, lifetime: 0, verdict: "keep" },
    {
      title: "expired is the reason of what also matches",
      filter: { expiredBefore: 5, matchIps: [ip("1.1.1.1")], matches: () => true },
      lifetime: 0,
      verdict: "expired"
    },
    {
      title: "an address is the reason before a predicate",
      filter: { matchIps: [ip("1.1.1.1")], matches: () => true },
      lifetime: 0,
      verdict: "matched-address"
    },
    {
      title: "a predicate matches",
      filter: { matches: (c, i) => c.destinationPort(i) === 80 },
      lifetime: 0,
      verdict: "matched-filter"
    },
    { title: "a predicate that does not fit keeps", filter: { matches: () => false }, lifetime: 0, verdict: "keep" },
    {
      title: "an IPv6 address matches",
      key: flow6,
      filter: { matchIps: [ip("2001:db8::5"), ip("2001:db8::5")] },
      lifetime: 0,
      verdict: "matched-address"
    },
    {
      title: "an IPv6 address with the same last word does not",
      key: flow6,
      filter: { matchIps: [ip("2001:db9::5"), ip("fd01::1")] },
      lifetime: 0,
      verdict: "keep"
    },
    {
      title: "an IPv4 address is not its IPv4-mapped form",
      key: mapped6,
      filter: { matchIps: [ip("10.0.1.99")] },
      lifetime: 0,
      verdict: "keep"
    },
    {
      title: "the IPv4-mapped form is matched as such",
      key: mapped6,
      filter: { matchIps: [ip("::ffff:10.0.1.99")] },
      lifetime: 0,
      verdict: "matched-address"
    },
    {
      title: "the zero address is an address like any other",
      filter: { matchIps: [ip("0.0.0.0")] },
      lifetime: 0,
      verdict: "keep"
    },
    { title: "nothing asked, nothing deleted", filter: {}, lifetime: 7, verdict: "keep" }
  ]
  it.each(cases)("$title", ({ filter, key = flow4, lifetime, verdict }) => {
    const columns = columnsOf([{ key: flow6 === key || mapped6 === key ? key : flow4, lifetime }])
    assert.strictEqual(GcFilter.compile(filter, columns.family)(columns, 0), verdict)
  })

  it("a kept entry is handed out with its true ends and host-order ports (G13)", () => {
    const columns = columnsOf([
      { key: flow4, lifetime: 0 },
      { key: "0a6000010a000163c35001bb1104", lifetime: 0 }
    ])
    assert.deepStrictEqual(GcFilter.emitted(columns, 0), {
      sourceAddress: "10.0.1.99",
      sourcePort: 34520,
      destinationAddress: "1.1.1.1",
      destinationPort: 80,
      nexthdr: 6,
      tupleFlags: 0
    })
    assert.deepStrictEqual(GcFilter.emitted(columns, 1), {
      sourceAddress: "10.0.1.99",
      sourcePort: 50000,
      destinationAddress: "10.96.0.1",
      destinationPort: 443,
      nexthdr: 17,
      tupleFlags: 4
    })
  })

  it.each(["pods-ktime", "nat-orphans-ktime"] as const)(
    "%s: what it keeps is what Cilium's own pass left behind",
    (set) => {
      const now = set === "pods-ktime" ? 5462 : 5495
      for (const [map, table] of Recorded.tables(set, "before")) {
        if (map.startsWith("cilium_snat")) continue
        const family = table.keySize === 14 ? "ipv4" : "ipv6"
        const columns = new CtColumns.CtColumns({ family, release: "1.17" }).bind(
          Rows.separate(table.keys, table.values, table)
        )
        const decide = GcFilter.compile({ expiredBefore: now }, family)
        const kept = new Set<string>()
        for (let i = 0; i < table.count; i++) if (decide(columns, i) === "keep") kept.add(toHex(columns.keyBytes(i)))
        const left = Recorded.tables(set, "after-gc").get(map)
        const expected = new Set(
          Array.from({ length: left?.count ?? 0 }, (_, i) =>
            toHex(left!.keys.subarray(i * table.keySize, (i + 1) * table.keySize))
          )
        )
        assert.deepStrictEqual([...kept].toSorted(), [...expected].toSorted(), map)
      }
    }
  )
})

describe("NatDerivation: which NAT entries belong to a CT entry", () => {
  it.each(vectors.natDerivations)("$name", (vector) => {
    const bytes = hex(vector.ct ?? vector.natIn!)
    const tuple = bytes.byteLength === 14 ? Tuple.v4 : Tuple.v6
    const derive = (fill: (into: Uint8Array) => void): string => {
      const into = new Uint8Array(tuple.size).fill(0x55)
      fill(into)
      return toHex(into)
    }
    let checked = 0
    const check = (actual: string, expected: string | undefined, what: string) => {
      if (expected === undefined) return
      checked++
      assert.strictEqual(actual, expected, what)
    }
    if (vector.ct !== undefined && vector.natOut !== undefined) {
      const ct = hex(vector.ct)
      const dsr = ((vector.ctFlags ?? 0) & CtEntryFlags.DSRInternal) !== 0 || vector.name.endsWith("dsr")
      check(
        derive((into) => (dsr ? NatDerivation.swappedNatOutOfCt : NatDerivation.natOutOfCt)(tuple, ct, into)),
        vector.natOut,
        "natOut"
      )
    }
    if (vector.natOut !== undefined) {
      const natOut = hex(vector.natOut)
      check(
        derive((into) => NatDerivation.ctOfNatOut(tuple, natOut, into)),
        vector.ctFromNatOut ?? vector.egressCtFromNatOut,
        "ctFromNatOut"
      )
      check(
        derive((into) => NatDerivation.dsrCtOfNatOut(tuple, natOut, into)),
        vector.dsrCtFromNatOut,
        "dsrCtFromNatOut"
      )
      if (vector.natOutVal !== undefined) {
        const half = { key: natOut, value: hex(vector.natOutVal) }
        check(
          derive((into) => NatDerivation.natInOfNatOut(tuple, half, into)),
          vector.natIn,
          "natIn"
        )
      }
    }
    if (vector.natIn !== undefined && vector.natInVal !== undefined) {
      const half = { key: hex(vector.natIn), value: hex(vector.natInVal) }
      check(
        derive((into) => NatDerivation.ctOfNatIn(tuple, half, into)),
        vector.ctFromNatIn,
        "ctFromNatIn"
      )
    }
    assert.isAbove(checked, 0, "the vector holds something to check")
  })

  it.each([
    [0, 0, "mapping"],
    [0, 0x80, "swapped-mapping"],
    [0, 0x7f, "mapping"],
    ...[1, 2, 3, 4, 5, 8, 128].flatMap((tupleFlags) =>
      [0, 0x80, 0xffff].map((flags) => [tupleFlags, flags, "none"] as const)
    )
  ] as ReadonlyArray<readonly [number, number, NatDerivation.CleanUp]>)(
    "tuple flags %i, entry flags %i: %s",
    (tupleFlags, flags, expected) => {
      assert.strictEqual(NatDerivation.cleanUp(tupleFlags, flags), expected)
    }
  )

  it("every recorded mapping leads back to itself through the CT key it derives", () => {
    for (const [map, table] of Recorded.tables("pods-ktime", "before")) {
      if (!map.startsWith("cilium_snat")) continue
      const tuple = table.keySize === 14 ? Tuple.v4 : Tuple.v6
      const [ct, back, natIn] = [new Uint8Array(tuple.size), new Uint8Array(tuple.size), new Uint8Array(tuple.size)]
      const keys = new Map(
        Array.from({ length: table.count }, (_, i) => [
          toHex(table.keys.subarray(i * tuple.size, (i + 1) * tuple.size)),
          table.values.subarray(i * table.valueSize, (i + 1) * table.valueSize)
        ])
      )
      let pairs = 0
      for (const [key, value] of keys) {
        const bytes = hex(key)
        if ((bytes[tuple.flags]! & TupleFlags.IN) !== 0) continue
        NatDerivation.ctOfNatOut(tuple, bytes, ct)
        NatDerivation.natOutOfCt(tuple, ct, back)
        assert.strictEqual(toHex(back), key)
        NatDerivation.natInOfNatOut(tuple, { key: bytes, value }, natIn)
        const reverse = keys.get(toHex(natIn))
        if (reverse === undefined) continue
        pairs++
        NatDerivation.ctOfNatIn(tuple, { key: natIn, value: reverse }, back)
        assert.strictEqual(toHex(back), toHex(ct), "both halves name the same connection")
      }
      assert.isAbove(pairs, 100, `${map} holds whole mappings`)
    }
  })

  it("keys of the wrong width are a CodecError, not a mangled key", () => {
    const good = new Uint8Array(14)
    for (const wrong of [new Uint8Array(13), new Uint8Array(38)]) {
      assert.throws(() => NatDerivation.natOutOfCt(Tuple.v4, wrong, good), /ipv4 tuple is 14 bytes/)
      assert.throws(() => NatDerivation.swappedNatOutOfCt(Tuple.v4, good, wrong), /ipv4 tuple is 14 bytes/)
      assert.throws(
        () => NatDerivation.ctOfNatIn(Tuple.v4, { key: good, value: wrong }, good),
        /ipv4 NAT entry is 40 bytes/
      )
    }
  })
})
