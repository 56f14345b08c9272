import { assert, describe, it } from "@effect/vitest"
import { CtEntry, CtEntryFlags, CtKey, CtText, type Family, NatEntry, NatKey, NatText, Release } from "ctmap-core"
import { Vectors } from "ctmap-testing"
import * as Result from "effect/Result"

const { hex, vectors } = Vectors
const familyOf = (bytes: Uint8Array): Family.Family => (bytes.byteLength === 14 ? "ipv4" : "ipv6")

describe("golden vectors of Cilium's text", () => {
  it.each(vectors.keys)("key: $name", (vector) => {
    const bytes = hex(vector.hex)
    const global = Result.getOrThrow(CtKey.fromBytes(familyOf(bytes), bytes))
    const local = Result.getOrThrow(CtKey.fromBytes(familyOf(bytes), bytes, "local"))
    const nat = Result.getOrThrow(NatKey.fromBytes(familyOf(bytes), bytes))
    assert.deepStrictEqual(
      {
        name: vector.name,
        hex: vector.hex,
        len: bytes.byteLength,
        hostString_global: global.toString(),
        rawString_global_LE: global.toNetwork().toString(),
        hostString_local: local.toString(),
        dump_global_reverse: global.dump({ reverse: true }) ?? null,
        dump_global_forward: global.dump({ reverse: false }) ?? null,
        dump_local_reverse: local.dump({ reverse: true }) ?? null,
        dump_local_forward: local.dump({ reverse: false }) ?? null,
        nat_dump_forward: nat.dump({ reverse: false }) ?? null
      },
      vector
    )
    for (const release of Release.all)
      for (const key of [global, local])
        assert.strictEqual(CtText.line(key.toNetwork(), CtEntry.zero(release)), CtText.line(key, CtEntry.zero(release)))
  })

  it.each(vectors.ctEntries)("CT entry: $name", (vector) => {
    const bytes = hex(vector.hex)
    const v117 = Result.getOrThrow(CtEntry.fromBytes("1.17", bytes))
    assert.strictEqual(v117.toString(), vector.string_117)
    assert.strictEqual(
      v117.toStringWithTimeDiff(() => "remaining: 21603 sec(s)"),
      vector.string_117_remaining_21603
    )
    assert.strictEqual(Result.getOrThrow(CtEntry.fromBytes("1.20", bytes)).toString(), vector.string_120)
  })

  it.each(vectors.flags)("flags $value", ({ value, text }) => {
    assert.strictEqual(CtEntryFlags.format(value), text)
  })

  it.each(vectors.nat)("NAT: $name", (vector) => {
    const keyBytes = hex(vector.keyHex)
    const key = Result.getOrThrow(NatKey.fromBytes(familyOf(keyBytes), keyBytes))
    const entry = Result.getOrThrow(NatEntry.fromBytes(familyOf(keyBytes), hex(vector.valHex)))
    assert.strictEqual(NatText.line(key, entry, { age: () => 42n }), vector.line_42s)
    assert.strictEqual(NatText.line(key, entry), vector.line_raw)
    assert.strictEqual(NatText.line(key.toNetwork(), entry), vector.line_raw, "in either order of ports")
  })
})

describe("text that no vector holds", () => {
  const nat = (bytes: string) => Result.getOrThrow(NatKey.fromBytes(familyOf(hex(bytes)), hex(bytes)))
  const [four, mapped, gre] = [
    nat("010101010a000163005086d80600"),
    nat("00000000000000000000ffff0a000163fd0000000000000000000000000000010035cafe1107"),
    nat("010101010a000163000000002f00")
  ]

  it("of a NAT key in reverse has the addresses the other way round, and the ports not", () => {
    assert.deepStrictEqual(
      [four, mapped].flatMap((key) => [key.dump({ reverse: false }), key.dump({ reverse: true })]),
      [
        "TCP OUT 10.0.1.99:34520 -> 1.1.1.1:80 ",
        "TCP OUT 1.1.1.1:34520 -> 10.0.1.99:80 ",
        "UDP IN [fd00::1]:51966 -> [10.0.1.99]:53 related service ",
        "UDP IN [10.0.1.99]:51966 -> [fd00::1]:53 related service "
      ]
    )
  })

  it("of a NAT entry has its port as a little-endian host loads it", () => {
    const value = new Uint8Array(40)
    value.set([10, 0, 2, 15], NatEntry.v4.address)
    value.set([0x9c, 0x40], NatEntry.v4.port)
    const entry = Result.getOrThrow(NatEntry.fromBytes("ipv4", value))
    assert.deepStrictEqual([entry.port, entry.toString()], [40000, "Addr=10.0.2.15 Port=16540 Created=0 NeedsCT=0\n"])
  })

  it.each([
    ["1.17", "10.0.1.99", "47 OUT "],
    ["1.20", "::ffff:10.0.1.99", "GRE OUT "]
  ] as const)("of %s has the address %s and the protocol %s", (release, address, protocol) => {
    const bytes = NatKey.toBytes(mapped)
    const value = new Uint8Array(56)
    value.set(bytes.subarray(0, 16), NatEntry.v6.address)
    const [global, local, greCt] = [
      Result.getOrThrow(CtKey.fromBytes("ipv6", bytes)),
      Result.getOrThrow(CtKey.fromBytes("ipv6", bytes, "local")),
      Result.getOrThrow(CtKey.fromBytes("ipv4", NatKey.toBytes(gre)))
    ]
    assert.deepStrictEqual(
      [
        CtText.keyString(global, release),
        NatText.keyString(mapped, release),
        CtText.keyString(local, release),
        NatText.entryString(Result.getOrThrow(NatEntry.fromBytes("ipv6", value)), release)
      ],
      [
        `[fd00::1]:51966 --> [${address}]:53, 17, 7`,
        `[fd00::1]:51966 --> [${address}]:53, 17, 7`,
        `[${address}]:51966, 53, 17, 7`,
        `Addr=${address} Port=0 Created=0 NeedsCT=0\n`
      ]
    )
    for (const line of [
      gre.dump({ reverse: false, release }),
      greCt.dump({ reverse: true, release }),
      NatText.line(gre, NatEntry.zero("ipv4"), { release }),
      CtText.line(greCt, CtEntry.zero(release))
    ])
      assert.isTrue(line?.startsWith(protocol), line)
  })
})
