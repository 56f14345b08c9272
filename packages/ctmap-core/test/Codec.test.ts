import { assert, describe, it } from "@effect/vitest"
import { CodecError, CtEntry, CtKey, Family, NatEntry, NatKey, PerClusterMap, Release, Signal, Tuple } from "ctmap-core"
import { Vectors } from "ctmap-testing"
import * as Arbitrary from "effect/Arbitrary"
import * as NetAddress from "effect/net/NetAddress"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"

const { hex, toHex } = Vectors

const byte = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 255 }))
const bytesOf = (size: number) => Schema.Array(byte).check(Schema.isMinLength(size), Schema.isMaxLength(size))
const view = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)

/** One structure in both forms, as the tests below need it. */
interface Structure {
  readonly name: string
  readonly size: number
  /** Schema form: bytes to object to bytes. */
  readonly throughSchema: (bytes: Uint8Array) => Uint8Array
  /** Fast form at an offset: read into fields, write the fields elsewhere. */
  readonly throughFields: (bytes: DataView, at: number, into: DataView, intoAt: number) => void
  /** Schema bytes codec and typed-result decoder, for errors. */
  readonly codec: Schema.Codec<never, Uint8Array>
  readonly fromBytes: (bytes: Uint8Array) => Result.Result<unknown, unknown>
}

const roundTrip =
  <T>(codec: Schema.Codec<T, Uint8Array>) =>
  (bytes: Uint8Array): Uint8Array =>
    Schema.encodeSync(codec)(Schema.decodeUnknownSync(codec)(bytes))

const structures: ReadonlyArray<Structure> = [
  ...Family.all.flatMap((family): ReadonlyArray<Structure> => {
    const tuple = Tuple.shape(family)
    const nat = NatEntry.shape(family)
    const tupleFields = Tuple.makeFields(family)
    const natFields = NatEntry.makeFields(family)
    const throughTuple: Structure["throughFields"] = (from, at, into, intoAt) => {
      Tuple.read(tupleFields, tuple, from, at)
      Tuple.write(tupleFields, tuple, into, intoAt)
    }
    const ctCodec = family === "ipv4" ? CtKey.Bytes4 : CtKey.Bytes6
    const natKeyCodec = family === "ipv4" ? NatKey.Bytes4 : NatKey.Bytes6
    const natCodec = family === "ipv4" ? NatEntry.Bytes4 : NatEntry.Bytes6
    return [
      {
        name: `CT key ${family}`,
        size: tuple.size,
        throughSchema: roundTrip(ctCodec as Schema.Codec<CtKey.CtKey, Uint8Array>),
        throughFields: throughTuple,
        codec: ctCodec as unknown as Structure["codec"],
        fromBytes: (bytes) => CtKey.fromBytes(family, bytes)
      },
      {
        name: `NAT key ${family}`,
        size: tuple.size,
        throughSchema: roundTrip(natKeyCodec as Schema.Codec<NatKey.NatKey, Uint8Array>),
        throughFields: throughTuple,
        codec: natKeyCodec as unknown as Structure["codec"],
        fromBytes: (bytes) => NatKey.fromBytes(family, bytes)
      },
      {
        name: `NAT entry ${family}`,
        size: nat.size,
        throughSchema: roundTrip(natCodec as Schema.Codec<NatEntry.NatEntry, Uint8Array>),
        throughFields: (from, at, into, intoAt) => {
          NatEntry.read(natFields, nat, from, at)
          NatEntry.write(natFields, nat, into, intoAt)
        },
        codec: natCodec as unknown as Structure["codec"],
        fromBytes: (bytes) => NatEntry.fromBytes(family, bytes)
      }
    ]
  }),
  ...Release.all.map((release): Structure => {
    const fields = CtEntry.makeFields()
    const codec = release === "1.17" ? CtEntry.Bytes117 : CtEntry.Bytes120
    return {
      name: `CT entry ${release}`,
      size: CtEntry.SIZE,
      throughSchema: roundTrip(codec as Schema.Codec<CtEntry.CtEntry, Uint8Array>),
      throughFields: (from, at, into, intoAt) => {
        CtEntry.read(fields, release, from, at)
        CtEntry.write(fields, release, into, intoAt)
      },
      codec: codec as unknown as Structure["codec"],
      fromBytes: (bytes) => CtEntry.fromBytes(release, bytes)
    }
  }),
  ...[
    { name: "per-cluster key", codec: PerClusterMap.KeyBytes, fromBytes: PerClusterMap.keyFromBytes },
    { name: "per-cluster value", codec: PerClusterMap.ValueBytes, fromBytes: PerClusterMap.valueFromBytes }
  ].map(({ name, codec, fromBytes }): Structure => ({
    name,
    size: PerClusterMap.SIZE,
    throughSchema: roundTrip(codec as Schema.Codec<unknown, Uint8Array>),
    throughFields: (from, at, into, intoAt) => PerClusterMap.write(PerClusterMap.read(from, at), into, intoAt),
    codec: codec as unknown as Structure["codec"],
    fromBytes
  }))
]

describe.each(structures)("$name", (structure) => {
  const { size } = structure
  const anyBytes = Arbitrary.schema(bytesOf(size))

  it.prop("every bit survives the schema form", [anyBytes], ([bytes]) => {
    const input = Uint8Array.from(bytes)
    assert.strictEqual(toHex(structure.throughSchema(input)), toHex(input))
  })

  it.prop(
    "every bit survives the fast form at any offset, and nothing around it is touched",
    [anyBytes, byte],
    ([bytes, at]) => {
      const input = Uint8Array.from([...Array.from({ length: at }, () => 0xaa), ...bytes, 0xbb])
      const output = new Uint8Array(size + 2 * at + 1).fill(0xcc)
      structure.throughFields(view(input), at, view(output), 2 * at)
      assert.strictEqual(toHex(output.subarray(2 * at, 2 * at + size)), toHex(Uint8Array.from(bytes)))
      assert.isTrue(output.subarray(0, 2 * at).every((b) => b === 0xcc) && output[2 * at + size] === 0xcc)
    }
  )

  it("every other length is a CodecError that says both sizes, and a SchemaError in a schema", () => {
    for (const length of [...Array(size).keys(), size + 1, size * 2]) {
      const failed = structure.fromBytes(new Uint8Array(length))
      assert.isTrue(Result.isFailure(failed), `${length} bytes must not decode`)
      const error = Result.isFailure(failed) ? failed.failure : undefined
      assert.instanceOf(error, CodecError.CodecError)
      assert.include(error.message, `is ${size} bytes, but ${length} are`)
      const decoded = Schema.decodeUnknownResult(structure.codec)(new Uint8Array(length))
      assert.include(Result.isFailure(decoded) ? decoded.failure.message : "", `is ${size} bytes, but ${length} are`)
    }
  })

  it.prop(
    "the fast form throws CodecError and nothing else, whatever the buffer and offset",
    [byte, Schema.Int],
    ([length, at]) => {
      const room = new Uint8Array(size)
      const fits = at >= 0 && at + size <= length
      try {
        structure.throughFields(new DataView(new ArrayBuffer(length)), at, view(room), 0)
        assert.isTrue(fits)
      } catch (error) {
        assert.isFalse(fits)
        assert.instanceOf(error, CodecError.CodecError)
      }
    }
  )

  it("nothing is written when there is no room", () => {
    const target = new Uint8Array(size - 1)
    assert.throws(
      () => structure.throughFields(new DataView(new ArrayBuffer(size)), 0, view(target.fill(0x77)), 0),
      /bytes, but/
    )
    assert.isTrue(target.every((b) => b === 0x77))
  })
})

describe("the two forms read the same", () => {
  it.prop("CT and NAT keys", [Arbitrary.schema(bytesOf(38)), Arbitrary.schema(Family.Family)], ([bytes, family]) => {
    const tuple = Tuple.shape(family)
    const input = Uint8Array.from(bytes.slice(0, tuple.size))
    const fields = Tuple.makeFields(family)
    Tuple.read(fields, tuple, view(input), 0)
    const ip = (raw: Uint8Array) =>
      NetAddress.formatIp(family === "ipv4" ? NetAddress.ipv4FromBytesUnsafe(raw) : NetAddress.ipv6FromBytesUnsafe(raw))
    for (const key of [CtKey.fromBytes(family, input), NatKey.fromBytes(family, input)].map((r) =>
      Result.getOrThrow<CtKey.CtKey | NatKey.NatKey, never>(r as never)
    )) {
      assert.deepStrictEqual(
        [NetAddress.formatIp(key.daddr), NetAddress.formatIp(key.saddr), key.dport, key.sport, key.nexthdr, key.flags],
        [ip(fields.daddr), ip(fields.saddr), fields.dport, fields.sport, fields.nexthdr, fields.flags]
      )
    }
  })

  it.prop("CT entries", [Arbitrary.schema(bytesOf(56)), Arbitrary.schema(Release.Release)], ([bytes, release]) => {
    const input = Uint8Array.from(bytes)
    const f = CtEntry.makeFields()
    CtEntry.read(f, release, view(input), 0)
    const entry = Result.getOrThrow(CtEntry.fromBytes(release, input))
    const wide = (lo: number, hi: number) => BigInt(hi) * 0x1_0000_0000n + BigInt(lo)
    const [first, second, sixteen] =
      entry.release === "1.17"
        ? [entry.reserved0, entry.backendId, entry.ifindex]
        : [entry.union0, entry.union1, entry.natPort]
    assert.deepStrictEqual(
      [first, second, sixteen, entry.packets, entry.bytes],
      [
        wide(f.reserved0Lo, f.reserved0Hi),
        wide(f.backendIdLo, f.backendIdHi),
        f.ifindexOrNatPort,
        wide(f.packetsLo, f.packetsHi),
        wide(f.bytesLo, f.bytesHi)
      ]
    )
    for (const name of [
      "lifetime",
      "flags",
      "revNat",
      "txFlagsSeen",
      "rxFlagsSeen",
      "sourceSecurityId",
      "lastTxReport",
      "lastRxReport"
    ] as const) {
      assert.strictEqual(entry[name], f[name], name)
    }
  })

  it.prop("NAT entries", [Arbitrary.schema(bytesOf(56)), Arbitrary.schema(Family.Family)], ([bytes, family]) => {
    const nat = NatEntry.shape(family)
    const input = Uint8Array.from(bytes.slice(0, nat.size))
    const f = NatEntry.makeFields(family)
    NatEntry.read(f, nat, view(input), 0)
    const entry = Result.getOrThrow(NatEntry.fromBytes(family, input))
    const wide = (lo: number, hi: number) => BigInt(hi) * 0x1_0000_0000n + BigInt(lo)
    assert.deepStrictEqual(
      [entry.created, entry.needsCt, entry.pad1, entry.pad2, entry.port, toHex(entry.tail)],
      [
        wide(f.createdLo, f.createdHi),
        wide(f.needsCtLo, f.needsCtHi),
        wide(f.pad1Lo, f.pad1Hi),
        wide(f.pad2Lo, f.pad2Hi),
        f.port,
        toHex(f.tail)
      ]
    )
  })
})

describe("the classes at the edges", () => {
  it.prop(
    "a key made of values encodes to JSON and back",
    [Arbitrary.schema(CtKey.CtKey4), Arbitrary.schema(CtKey.CtKey6)],
    ([four, six]) => {
      const back4 = Schema.decodeUnknownSync(CtKey.CtKey4)(
        JSON.parse(JSON.stringify(Schema.encodeSync(CtKey.CtKey4)(four)))
      )
      const back6 = Schema.decodeUnknownSync(CtKey.CtKey6)(
        JSON.parse(JSON.stringify(Schema.encodeSync(CtKey.CtKey6)(six)))
      )
      assert.strictEqual(toHex(CtKey.toBytes(back4)), toHex(CtKey.toBytes(four)))
      assert.strictEqual(toHex(CtKey.toBytes(back6)), toHex(CtKey.toBytes(six)))
    }
  )

  it("converting a key to an order it is already in changes nothing", () => {
    const key = Result.getOrThrow(CtKey.fromBytes("ipv4", hex("0a00016301010101005086d80600")))
    assert.strictEqual(key.toHost(), key)
    assert.strictEqual(key.toNetwork().toNetwork().dport, 20480)
    assert.strictEqual(key.toNetwork().toHost().dport, 80)
    assert.strictEqual(toHex(CtKey.toBytes(key.toNetwork())), "0a00016301010101005086d80600")
    assert.strictEqual(key.toNetwork().daddr, key.daddr)
  })

  it("a local key keeps its scope through a change of port order", () => {
    const key = Result.getOrThrow(CtKey.fromBytes("ipv4", hex("0a00016301010101005086d80600"), "local"))
    assert.strictEqual(key.toNetwork().toHost().toString(), "10.0.1.99:34520, 80, 6, 0")
  })

  it("the true ends of a flow are its originator and responder, of a service its client and virtual address", () => {
    const text = (bytes: string) => {
      const { source, destination } = CtKey.ends(Result.getOrThrow(CtKey.fromBytes("ipv4", hex(bytes))))
      return `${NetAddress.formatIp(source.address)}:${source.port} ${NetAddress.formatIp(destination.address)}:${destination.port}`
    }
    assert.strictEqual(text("0a00016301010101005086d80600"), "10.0.1.99:34520 1.1.1.1:80")
    assert.strictEqual(text("0a00016301010101005086d80601"), "10.0.1.99:34520 1.1.1.1:80")
    assert.strictEqual(text("0a6000010a000163c35001bb0604"), "10.0.1.99:50000 10.96.0.1:443")
  })

  it("a 1.20 entry has a NAT address only where its port says so", () => {
    const vector = Vectors.vectors.ctEntries.find(({ name }) => name.startsWith("v120"))!
    const entry = Result.getOrThrow(CtEntry.fromBytes("1.20", hex(vector.hex)))
    assert.strictEqual(NetAddress.formatIp(Option.getOrThrow(entry.natAddress("ipv4"))), "10.0.0.2")
    assert.strictEqual(NetAddress.formatIp(Option.getOrThrow(entry.natAddress("ipv6"))), "::a00:2")
    assert.isTrue(Option.isNone(CtEntry.zero("1.20").natAddress("ipv4")))
  })

  it("zero keys and values are all zero bytes", () => {
    assert.strictEqual(toHex(CtKey.toBytes(CtKey.zero("ipv6", "local"))), "00".repeat(38))
    assert.strictEqual(toHex(CtEntry.toBytes(CtEntry.zero("1.20"))), "00".repeat(56))
    assert.strictEqual(toHex(NatEntry.toBytes(NatEntry.zero("ipv6"))), "00".repeat(56))
  })
})

describe("layout", () => {
  it("offsets and sizes are those of the C structs", () => {
    assert.deepStrictEqual(
      [Tuple.v4.size, Tuple.v6.size, CtEntry.SIZE, NatEntry.v4.size, NatEntry.v6.size, PerClusterMap.SIZE],
      [14, 38, 56, 40, 56, 4]
    )
    assert.deepStrictEqual(Object.values(CtEntry.offset), [0, 8, 16, 24, 32, 36, 38, 40, 40, 42, 43, 44, 48, 52])
    assert.deepStrictEqual(
      [Tuple.v4.saddr, Tuple.v4.dport, Tuple.v4.sport, Tuple.v4.nexthdr, Tuple.v4.flags],
      [4, 8, 10, 12, 13]
    )
    assert.deepStrictEqual(
      [Tuple.v6.saddr, Tuple.v6.dport, Tuple.v6.sport, Tuple.v6.nexthdr, Tuple.v6.flags],
      [16, 32, 34, 36, 37]
    )
    assert.deepStrictEqual([NatEntry.v4.port, NatEntry.v4.tail, NatEntry.v6.port, NatEntry.v6.tail], [36, 38, 48, 50])
  })

  it("network-order fields are big endian, host-order fields little endian", () => {
    const bytes = new Uint8Array(56)
    const { offset } = CtEntry
    bytes.set([0x1b, 0x00], offset.flags)
    bytes.set([0x00, 0x1b], offset.revNat)
    bytes.set([0x9c, 0x40], offset.natPort)
    const old = Result.getOrThrow(CtEntry.fromBytes("1.17", bytes))
    const current = Result.getOrThrow(CtEntry.fromBytes("1.20", bytes))
    assert.deepStrictEqual([old.flags, old.revNat, old.ifindex, current.natPort], [0x1b, 27, 0x409c, 40000])
  })
})

describe("an offset that is none", () => {
  it.each([
    { at: -1, left: 8, said: -1 },
    { at: 6, left: 2, said: 6 },
    { at: 6.5, left: 2, said: -1 },
    { at: -0.5, left: 8, said: -1 },
    { at: 100, left: 0, said: 100 },
    { at: 2 ** 53, left: 0, said: -1 },
    { at: -(2 ** 53), left: 8, said: -1 },
    { at: Number.POSITIVE_INFINITY, left: 0, said: -1 },
    { at: Number.NaN, left: 8, said: -1 }
  ])("$at is a CodecError that says $left bytes at $said", ({ at, left, said }) => {
    const where = left < 4 ? "left" : "there"
    for (const access of [
      () => PerClusterMap.read(new DataView(new ArrayBuffer(8)), at),
      () => PerClusterMap.write(1, new DataView(new ArrayBuffer(8)), at)
    ]) {
      const error = Result.getOrThrow(Result.flip(Result.try({ try: access, catch: (cause) => cause })))
      assert.instanceOf(error, CodecError.CodecError)
      assert.deepStrictEqual([error.expected, error.actual, error.at], [4, left, said])
      assert.include(error.message, `is 4 bytes, but ${left} are ${where} at offset ${said}`)
    }
  })
})

describe("signals", () => {
  it("a sample decodes from its leading 8 bytes, whatever the kernel padded", () => {
    assert.deepStrictEqual(
      ["0000000000000000", "0100000001000000", "010000000000000000aabbcc"].map((bytes) => {
        const { signal, family } = Result.getOrThrow(Signal.fromBytes(hex(bytes)))
        return `${signal} ${family}`
      }),
      ["nat_fill_up ipv4", "ct_fill_up ipv6", "ct_fill_up ipv4"]
    )
  })

  it("an unknown number or protocol is refused by name (G19)", () => {
    const why = (bytes: string) => Result.getOrThrow(Result.flip(Signal.fromBytes(hex(bytes)))).message
    assert.include(why("0300000000000000"), "signal number not supported: 3")
    assert.include(why("02000000000000000000000000000000"), "auth_required")
    assert.include(why("0000000002000000"), "names protocol 2")
    assert.include(why("00000000000000"), "is 8 bytes, but 7 are left")
    assert.include(why("0000"), "is 4 bytes, but 2 are left")
  })

  const small = (maximum: number) => Schema.Int.check(Schema.isBetween({ minimum: 0, maximum }))
  it.prop(
    "words and a tail are a message or a typed error, in the schema too",
    [small(3), small(2), Schema.Array(byte)],
    ([signal, protocol, tail]) => {
      const bytes = Uint8Array.from([signal, 0, 0, 0, protocol, 0, 0, 0, ...tail])
      const decoded = Signal.fromBytes(bytes)
      assert.strictEqual(Result.isSuccess(decoded), signal < 2 && protocol < 2)
      if (Result.isSuccess(decoded)) {
        assert.strictEqual(toHex(Signal.toBytes(decoded.success)), toHex(bytes.subarray(0, 8)))
      } else {
        assert.strictEqual(decoded.failure._tag, "UnknownSignal")
      }
      const inSchema = Schema.decodeUnknownResult(Signal.Bytes)(bytes)
      assert.strictEqual(Result.isSuccess(inSchema), Result.isSuccess(decoded) && tail.length === 0)
      if (Result.isFailure(inSchema)) assert.strictEqual(inSchema.failure._tag, "SchemaError")
    }
  )

  it.prop("random bytes are a message or a typed error", [Schema.Array(byte)], ([bytes]) => {
    const decoded = Signal.fromBytes(Uint8Array.from(bytes))
    if (Result.isFailure(decoded)) assert.include(["CodecError", "UnknownSignal"], decoded.failure._tag)
  })

  it("a message encodes to the bytes it decodes from, through the schema too", () => {
    const message = new Signal.FillUp({ signal: "ct_fill_up", family: "ipv6" })
    assert.strictEqual(toHex(Schema.encodeSync(Signal.Bytes)(message)), "0100000001000000")
    assert.deepStrictEqual(Schema.decodeUnknownSync(Signal.Bytes)(hex("0100000001000000")), message)
  })
})
