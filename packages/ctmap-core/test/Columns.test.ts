import { assert, describe, it } from "@effect/vitest"
import {
  AddressCache,
  AddressSet,
  CodecError,
  CtColumns,
  CtEntry,
  CtKey,
  Family,
  NatColumns,
  NatEntry,
  NatKey,
  Release,
  Rows,
  Tuple
} from "ctmap-core"
import { Recorded, Vectors } from "ctmap-testing"
import * as Arbitrary from "effect/Arbitrary"
import * as NetAddress from "effect/net/NetAddress"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"

const { toHex } = Vectors
const byte = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 255 }))
const bytesOf = (size: number) =>
  Arbitrary.schema(Schema.Array(byte).check(Schema.isMinLength(size), Schema.isMaxLength(size)))

/** The same rows as records with the value behind the key, with gaps: what an in-kernel copy makes. */
const asRecords = (
  keys: Uint8Array,
  values: Uint8Array,
  sizes: { keySize: number; valueSize: number; count: number }
): Rows.Rows => {
  const valueAt = Math.ceil(sizes.keySize / 8) * 8 + 8
  const stride = valueAt + sizes.valueSize + 8
  const records = new Uint8Array(stride * sizes.count + 3)
  for (let i = 0; i < sizes.count; i++) {
    records.set(keys.subarray(i * sizes.keySize, (i + 1) * sizes.keySize), 3 + i * stride)
    records.set(values.subarray(i * sizes.valueSize, (i + 1) * sizes.valueSize), 3 + i * stride + valueAt)
  }
  return Rows.interleaved(records, { stride, keyAt: 3, valueAt: 3 + valueAt, count: sizes.count })
}

describe("CT columns", () => {
  it.prop(
    "read of every row what the decoded objects hold, in both arrangements of memory",
    [bytesOf(38 * 3), bytesOf(56 * 3), Arbitrary.schema(Family.Family), Arbitrary.schema(Release.Release)],
    ([k, v, family, release]) => {
      const sizes = { keySize: Tuple.shape(family).size, valueSize: 56, count: 3 }
      const keys = Uint8Array.from(k.slice(0, sizes.keySize * 3))
      const values = Uint8Array.from(v)
      for (const rows of [Rows.separate(keys, values, sizes), asRecords(keys, values, sizes)]) {
        const columns = new CtColumns.CtColumns({ family, release }).bind(rows)
        for (let i = 0; i < 3; i++) {
          const key = Result.getOrThrow(
            CtKey.fromBytes(family, keys.subarray(i * sizes.keySize, (i + 1) * sizes.keySize))
          )
          const entry = Result.getOrThrow(CtEntry.fromBytes(release, values.subarray(i * 56, (i + 1) * 56)))
          const { source, destination } = CtKey.ends(key)
          assert.deepStrictEqual(
            {
              nexthdr: columns.nexthdr(i),
              tupleFlags: columns.tupleFlags(i),
              dport: columns.dport(i),
              sport: columns.sport(i),
              source: columns.sourceText(i),
              sourcePort: columns.sourcePort(i),
              destination: columns.destinationText(i),
              destinationPort: columns.destinationPort(i),
              lifetime: columns.lifetime(i),
              flags: columns.flags(i),
              revNat: columns.revNat(i),
              sixteen: release === "1.17" ? columns.ifindex(i) : columns.natPort(i),
              tx: columns.txFlagsSeen(i),
              rx: columns.rxFlagsSeen(i),
              identity: columns.sourceSecurityId(i),
              lastTx: columns.lastTxReport(i),
              lastRx: columns.lastRxReport(i),
              counters: [columns.packetsExact(i), columns.bytesExact(i), columns.backendIdExact(i)],
              rounded: [columns.packets(i), columns.bytes(i), columns.backendId(i)]
            },
            {
              nexthdr: key.nexthdr,
              tupleFlags: key.flags,
              dport: key.dport,
              sport: key.sport,
              source: NetAddress.formatIp(source.address),
              sourcePort: source.port,
              destination: NetAddress.formatIp(destination.address),
              destinationPort: destination.port,
              lifetime: entry.lifetime,
              flags: entry.flags,
              revNat: entry.revNat,
              sixteen: entry.release === "1.17" ? entry.ifindex : entry.natPort,
              tx: entry.txFlagsSeen,
              rx: entry.rxFlagsSeen,
              identity: entry.sourceSecurityId,
              lastTx: entry.lastTxReport,
              lastRx: entry.lastRxReport,
              counters: [entry.packets, entry.bytes, entry.backendId],
              rounded: [Number(entry.packets), Number(entry.bytes), Number(entry.backendId)]
            }
          )
          assert.strictEqual(toHex(CtKey.toBytes(columns.key(i))), toHex(CtKey.toBytes(key)))
          assert.strictEqual(toHex(CtEntry.toBytes(columns.entry(i))), toHex(CtEntry.toBytes(entry)))
        }
      }
    }
  )

  it("refuse a batch whose last row is cut short, and one with overlapping rows", () => {
    const columns = new CtColumns.CtColumns({ family: "ipv4", release: "1.17" })
    const bind = (rows: Rows.Rows) => () => columns.bind(rows)
    assert.throws(
      bind(Rows.separate(new Uint8Array(27), new Uint8Array(112), { keySize: 14, valueSize: 56, count: 2 })),
      CodecError.CodecError
    )
    assert.throws(
      bind(Rows.separate(new Uint8Array(28), new Uint8Array(111), { keySize: 14, valueSize: 56, count: 2 })),
      CodecError.CodecError
    )
    assert.throws(
      bind(Rows.separate(new Uint8Array(280), new Uint8Array(1120), { keySize: 14, valueSize: 40, count: 2 })),
      CodecError.CodecError
    )
    assert.throws(
      bind(Rows.interleaved(new Uint8Array(100), { stride: 72, keyAt: -1, valueAt: 16, count: 1 })),
      CodecError.CodecError
    )
    for (const count of [-1, Number.NaN, 2])
      assert.throws(
        bind(Rows.separate(new Uint8Array(14), new Uint8Array(56), { keySize: 14, valueSize: 56, count })),
        CodecError.CodecError,
        "ipv4 CT key is 14 bytes"
      )
    assert.doesNotThrow(
      bind(Rows.separate(new Uint8Array(0), new Uint8Array(0), { keySize: 14, valueSize: 56, count: 0 }))
    )
  })

  it.each([
    { count: Number.POSITIVE_INFINITY },
    { count: 2 ** 53 },
    { count: 1.5 },
    { keyAt: 1e300 },
    { keyAt: 0.5 },
    { keyAt: Number.NaN },
    { stride: 72.5 },
    { valueAt: -Infinity }
  ])("refuse rows that stand nowhere with CodecError: %o", (change) => {
    const columns = new CtColumns.CtColumns({ family: "ipv4", release: "1.17" })
    const rows = Rows.interleaved(new Uint8Array(200), { stride: 72, keyAt: 0, valueAt: 16, count: 2, ...change })
    assert.throws(() => columns.bind(rows), CodecError.CodecError)
  })

  it("copies outlive the batch", () => {
    const keys = Vectors.hex("0a00016301010101005086d80600")
    const columns = new CtColumns.CtColumns({ family: "ipv4", release: "1.17" }).bind(
      Rows.separate(keys, new Uint8Array(56), { keySize: 14, valueSize: 56, count: 1 })
    )
    const key = columns.key(0, "local")
    keys.fill(0)
    assert.strictEqual(key.toString(), "10.0.1.99:34520, 80, 6, 0")
    assert.strictEqual(columns.sourceText(0), "0.0.0.0")
  })
})

describe("NAT columns", () => {
  it("need CT by any of 64 bits", () => {
    const values = new Uint8Array(40)
    const columns = new NatColumns.NatColumns({ family: "ipv4", release: "1.17" }).bind(
      Rows.separate(new Uint8Array(14), values, { keySize: 14, valueSize: 40, count: 1 })
    )
    assert.isFalse(columns.needsCt(0))
    for (let bit = 0; bit < 64; bit++) {
      new DataView(values.buffer).setBigUint64(NatEntry.v4.needsCt, 1n << BigInt(bit), true)
      assert.isTrue(columns.needsCt(0), `bit ${bit}`)
    }
  })

  it.prop(
    "read of every row what the decoded objects hold",
    [bytesOf(38 * 2), bytesOf(56 * 2), Arbitrary.schema(Family.Family)],
    ([k, v, family]) => {
      const sizes = { keySize: Tuple.shape(family).size, valueSize: NatEntry.shape(family).size, count: 2 }
      const keys = Uint8Array.from(k.slice(0, sizes.keySize * 2))
      const values = Uint8Array.from(v.slice(0, sizes.valueSize * 2))
      for (const rows of [Rows.separate(keys, values, sizes), asRecords(keys, values, sizes)]) {
        const columns = new NatColumns.NatColumns({ family, release: "1.17" }).bind(rows)
        for (let i = 0; i < 2; i++) {
          const key = Result.getOrThrow(
            NatKey.fromBytes(family, keys.subarray(i * sizes.keySize, (i + 1) * sizes.keySize))
          )
          const entry = Result.getOrThrow(
            NatEntry.fromBytes(family, values.subarray(i * sizes.valueSize, (i + 1) * sizes.valueSize))
          )
          assert.deepStrictEqual(
            [
              columns.nexthdr(i),
              columns.tupleFlags(i),
              columns.isReverse(i),
              columns.sourceText(i),
              columns.sourcePort(i),
              columns.destinationText(i),
              columns.destinationPort(i)
            ],
            [
              key.nexthdr,
              key.flags,
              (key.flags & 1) === 1,
              NetAddress.formatIp(key.saddr),
              key.sport,
              NetAddress.formatIp(key.daddr),
              key.dport
            ]
          )
          assert.deepStrictEqual(
            [
              columns.translatedText(i),
              columns.translatedPort(i),
              columns.createdExact(i),
              columns.created(i),
              columns.needsCt(i)
            ],
            [NetAddress.formatIp(entry.address), entry.port, entry.created, Number(entry.created), entry.needsCt !== 0n]
          )
          assert.strictEqual(toHex(NatKey.toBytes(columns.key(i))), toHex(NatKey.toBytes(key)))
          assert.strictEqual(toHex(NatEntry.toBytes(columns.entry(i))), toHex(NatEntry.toBytes(entry)))
        }
      }
    }
  )

  it("refuse a batch of another family's values", () => {
    const columns = new NatColumns.NatColumns({ family: "ipv6", release: "1.17" })
    assert.throws(
      () =>
        columns.bind(Rows.separate(new Uint8Array(76), new Uint8Array(80), { keySize: 38, valueSize: 40, count: 2 })),
      /ipv6 NAT value is 56 bytes/
    )
  })
})

describe("the address cache", () => {
  it("holds at most its capacity and stays right when it starts over", () => {
    const cache = new AddressCache.AddressCache("ipv4", 10)
    const view = new DataView(new ArrayBuffer(4))
    for (let i = 0; i < 1000; i++) {
      view.setUint32(0, i % 37)
      assert.strictEqual(cache.text(view, 0), `0.0.0.${i % 37}`)
      assert.isAtMost(cache.size, 10)
    }
  })

  it("makes an address's text once", () => {
    const cache = new AddressCache.AddressCache("ipv6")
    for (const [, table] of Recorded.tables("pods-ktime", "before")) {
      if (table.keySize !== 38) continue
      const view = new DataView(table.keys.buffer)
      for (let i = 0; i < table.count; i++) cache.text(view, i * 38)
    }
    assert.isBelow(cache.size, 100)
  })

  it.prop(
    "tells IPv6 addresses apart by every bit",
    [bytesOf(16), Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 127 }))],
    ([bytes, bit]) => {
      const other = Uint8Array.from(bytes)
      other[bit >> 3]! ^= 1 << (bit & 7)
      const cache = new AddressCache.AddressCache("ipv6")
      const text = (raw: Uint8Array) => cache.text(new DataView(raw.buffer), 0)
      assert.notStrictEqual(text(Uint8Array.from(bytes)), text(other))
      assert.strictEqual(text(other), NetAddress.formatIp(NetAddress.ipv6FromBytesUnsafe(other)))
    }
  )
})

describe("an address set", () => {
  it.prop("tells addresses apart by every bit", [bytesOf(16), Arbitrary.schema(Family.Family)], ([octets, family]) => {
    const size = Family.addressSize(family)
    const own = Uint8Array.from(octets.slice(0, size))
    const others = Array.from({ length: 8 * size }, (_, bit) =>
      own.map((b, i) => (i === bit >> 3 ? b ^ (1 << (bit & 7)) : b))
    )
    const ipOf = (raw: Uint8Array) =>
      family === "ipv4" ? NetAddress.ipv4FromBytesUnsafe(raw) : NetAddress.ipv6FromBytesUnsafe(raw)
    const has = (set: AddressSet.AddressSet, raw: Uint8Array) => set.has(new DataView(raw.buffer), 0)
    const one = AddressSet.make(family, [ipOf(own)])
    const all = AddressSet.make(family, [own, ...others].map(ipOf))
    assert.isTrue(has(one, own))
    assert.isFalse(others.some((other) => has(one, other)))
    assert.isTrue([own, ...others].every((raw) => has(all, raw)))
    assert.strictEqual(all.size, 1 + others.length)
  })

  it.prop(
    "holds exactly its addresses",
    [
      Arbitrary.schema(Schema.Array(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 20 })))),
      Arbitrary.schema(Family.Family)
    ],
    ([numbers, family]) => {
      const size = Family.addressSize(family)
      const bytes = (n: number) => {
        const raw = new Uint8Array(size)
        raw[size - 1] = n % 3
        raw[0] = n >> 2
        return raw
      }
      const ipOf = (raw: Uint8Array) =>
        family === "ipv4" ? NetAddress.ipv4FromBytesUnsafe(raw) : NetAddress.ipv6FromBytesUnsafe(raw)
      const set = AddressSet.make(family, [
        ...numbers.map((n) => ipOf(bytes(n))),
        NetAddress.ipFromStringUnsafe(family === "ipv4" ? "::1" : "127.0.0.1")
      ])
      const texts = new Set(numbers.map((n) => toHex(bytes(n))))
      assert.strictEqual(set.size, texts.size)
      for (let n = 0; n <= 20; n++)
        assert.strictEqual(set.has(new DataView(bytes(n).buffer), 0), texts.has(toHex(bytes(n))))
    }
  )
})
