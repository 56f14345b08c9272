import { assert, describe, it } from "@effect/vitest"
import { CtEntry, CtEntryFlags, CtKey, type Family, NatEntry, NatKey, NatText } from "ctmap-core"
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
  })
})
