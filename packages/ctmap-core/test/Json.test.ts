import { assert, describe, it } from "@effect/vitest"
import { CiliumJson, CtColumns, CtJson, CtTime, Family, NatColumns, NatEntry, Release, Rows, Tuple } from "ctmap-core"
import { Recorded, Vectors } from "ctmap-testing"
import { Ajv2020 } from "ajv/dist/2020.js"
import * as Arbitrary from "effect/Arbitrary"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { readFileSync } from "node:fs"

const { hex, toHex, vectors } = Vectors

const ct = (release: Release.Release, key: Uint8Array, value: Uint8Array): CtColumns.CtColumns =>
  new CtColumns.CtColumns({ family: key.byteLength === 14 ? "ipv4" : "ipv6", release }).bind(
    Rows.separate(key, value, { keySize: key.byteLength, valueSize: 56, count: 1 })
  )
const nat = (key: Uint8Array, value: Uint8Array): NatColumns.NatColumns =>
  new NatColumns.NatColumns({ family: key.byteLength === 14 ? "ipv4" : "ipv6", release: "1.17" }).bind(
    Rows.separate(key, value, { keySize: key.byteLength, valueSize: value.byteLength, count: 1 })
  )
const entry = (name: string) => hex(vectors.ctEntries.find((vector) => vector.name === name)!.hex)
const cliKey4 = hex("0a0a0a010a0a0a020050350b067b")
const cliKey6 = hex("0102030405060708090a0b0c0d0e0f1001020305080d1522375990e97962db3d01bb1ec6111f")

const bytesOf = (size: number) =>
  Arbitrary.schema(
    Schema.Array(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 255 }))).check(
      Schema.isMinLength(size),
      Schema.isMaxLength(size)
    )
  )

const validate = new Ajv2020({ strict: true, allErrors: true }).compile(
  JSON.parse(readFileSync(new URL("../schema/ctmap-record.schema.json", import.meta.url), "utf8"))
)

describe("Cilium's JSON", () => {
  it("has the fields and raw numbers of 1.17", () => {
    assert.strictEqual(
      CiliumJson.ctRecord(ct("1.17", cliKey4, entry("cli test value")), 0),
      `{"Key":{"DestAddr":[10,10,10,1],"SourceAddr":[10,10,10,2],"DestPort":20480,"SourcePort":2869,"NextHeader":6,"Flags":123},` +
        `"Value":{"Reserved0":0,"BackendID":0,"Packets":5,"Bytes":2560,"Lifetime":12345,"Flags":3,"RevNAT":6912,"IfIndex":0,"TxFlagsSeen":88,` +
        `"RxFlagsSeen":99,"SourceSecurityID":6789,"LastTxReport":0,"LastRxReport":7777}}`
    )
  })

  it("has the union and the NAT port in 1.20", () => {
    const text = CiliumJson.ctRecord(ct("1.20", cliKey4, entry("v120 v4 nat addr 10.0.0.2 port 40000 in union")), 0)
    assert.include(
      text,
      `"Value":{"Union0":[0,144115231025528832],"Packets":0,"Bytes":0,"Lifetime":12345,"Flags":32,"RevNAT":6912,"NatPort":16540,"TxFlagsSeen":0,`
    )
    assert.notInclude(text, "IfIndex")
    assert.notInclude(text, "BackendID")
  })

  it("writes NAT values", () => {
    const key = hex("010101010a000163005086d80600")
    const value = hex("3930000000000000851a000000000000000000000000000000000000000000000a0a0a0300350000")
    assert.include(
      CiliumJson.natRecord(nat(key, value), 0),
      `"Value":{"Created":12345,"NeedsCT":6789,"Pad1":0,"Pad2":0,"Addr":[10,10,10,3],"Port":13568}}`
    )
  })

  it("is a document of two-space indentation with an empty line at the end", () => {
    const { open, between, close, empty } = CiliumJson.document
    for (const record of [
      CiliumJson.ctRecordIndented(ct("1.17", cliKey6, entry("zero")), 0),
      CiliumJson.natRecordIndented(nat(cliKey6, entry("zero")), 0)
    ]) {
      const text = open + record + between + record + close
      assert.strictEqual(text, `${JSON.stringify([JSON.parse(record), JSON.parse(record)], null, 2)}\n\n`)
    }
    assert.strictEqual(empty, "[]\n\n")
  })

  it("of three records parses back to the original bytes", () => {
    for (const [key, value] of [
      [cliKey4, entry("cli test value")],
      [cliKey4, entry("benchmark value")],
      [cliKey6, entry("svc value")]
    ] as const) {
      const back = Result.getOrThrow(CiliumJson.ctBytes(JSON.parse(CiliumJson.ctRecord(ct("1.17", key, value), 0))))
      assert.deepStrictEqual([back.release, toHex(back.key), toHex(back.value)], ["1.17", toHex(key), toHex(value)])
    }
  })

  it.prop(
    "round trips every entry through its own parser, and refuses counters that another parser has rounded",
    [bytesOf(38), bytesOf(56), Arbitrary.schema(Release.Release), Arbitrary.schema(Family.Family)],
    ([k, v, release, family]) => {
      const key = Uint8Array.from(k.slice(0, Tuple.shape(family).size))
      const value = Uint8Array.from(v)
      const text = CiliumJson.ctRecord(ct(release, key, value), 0)
      const back = Result.getOrThrow(CiliumJson.ctBytes(CiliumJson.parse(text)))
      assert.deepStrictEqual(
        [back.release, back.family, toHex(back.key), toHex(back.value)],
        [release, family, toHex(key), toHex(value)]
      )
      const wide = [0, 8, 16, 24].some(
        (at) => new DataView(value.buffer).getBigUint64(at, true) > BigInt(Number.MAX_SAFE_INTEGER)
      )
      assert.strictEqual(Result.isFailure(CiliumJson.ctBytes(JSON.parse(text))), wide)
    }
  )

  it("of a NodePort flow of 1.20, whose NAT address is a large number, reads back", () => {
    const value = entry("v120 v4 nat addr 10.0.0.2 port 40000 in union")
    value.set([10, 0, 2, 15], 12)
    const text = `[${CiliumJson.ctRecordIndented(ct("1.20", cliKey4, value), 0)}]`
    const [record] = CiliumJson.parse(text) as ReadonlyArray<unknown>
    assert.strictEqual(toHex(Result.getOrThrow(CiliumJson.ctBytes(record)).value), toHex(value))
  })

  it.prop("round trips NAT entries", [bytesOf(38), bytesOf(56), Arbitrary.schema(Family.Family)], ([k, v, family]) => {
    const shape = NatEntry.shape(family)
    const key = Uint8Array.from(k.slice(0, Tuple.shape(family).size))
    const value = Uint8Array.from(v.slice(0, shape.size)).fill(0, shape.tail)
    const back = Result.getOrThrow(CiliumJson.natBytes(CiliumJson.parse(CiliumJson.natRecord(nat(key, value), 0))))
    assert.deepStrictEqual([back.family, toHex(back.key), toHex(back.value)], [family, toHex(key), toHex(value)])
  })

  it("what is wrong with a record is said of the release it is of, and 65 bits are too many", () => {
    const good = CiliumJson.parse(CiliumJson.ctRecord(ct("1.20", cliKey4, entry("zero")), 0)) as {
      Key: object
      Value: object
    }
    const why = (change: object) =>
      Result.getOrThrow(Result.flip(CiliumJson.ctBytes({ ...good, Value: { ...good.Value, ...change } }))).message
    assert.notInclude(why({ NatPort: -1 }), "Reserved0")
    assert.include(why({ Packets: "18446744073709551616" }), "64 bits")
  })

  it("of another shape is a SchemaError", () => {
    const good = JSON.parse(CiliumJson.ctRecord(ct("1.17", cliKey4, entry("zero")), 0))
    for (const bad of [
      null,
      [],
      {},
      { ...good, Value: {} },
      { ...good, Key: { ...good.Key, DestPort: 65536 } },
      { ...good, Key: { ...good.Key, DestAddr: [1, 2, 3] } },
      { ...good, Key: { ...good.Key, DestAddr: Array(16).fill(1) } }
    ]) {
      const result = CiliumJson.ctBytes(bad)
      assert.isTrue(Result.isFailure(result) && result.failure._tag === "SchemaError", JSON.stringify(bad))
    }
  })
})

describe("our JSON", () => {
  it("names things and gives true ends", () => {
    const clock = { source: CtTime.ktime, now: 37_400 }
    assert.deepStrictEqual(
      CtJson.ctRecord(ct("1.17", hex("0a00016301010101005086d80600"), entry("benchmark value")), 0, {
        map: "cilium_ct4_global",
        clock
      }),
      {
        type: "ct",
        map: "cilium_ct4_global",
        family: "ipv4",
        protocol: "TCP",
        protocolNumber: 6,
        source: { address: "10.0.1.99", port: 34520 },
        destination: { address: "1.1.1.1", port: 80 },
        related: false,
        tupleFlagBits: 0,
        release: "1.17",
        direction: "out",
        expires: 37459,
        remainingSeconds: 59,
        packets: 8,
        bytes: 432,
        flags: ["RxClosing", "SeenNonSyn"],
        flagBits: 17,
        rx: { tcpFlags: ["RST", "ACK"], tcpFlagBits: 20, lastReport: 15856 },
        tx: { tcpFlags: ["SYN"], tcpFlagBits: 2, lastReport: 15856 },
        revNat: 0,
        sourceSecurityId: 40653,
        backendId: 0,
        ifindex: 0
      }
    )
  })

  it("has the NAT address of 1.20 instead of a backend where there is one", () => {
    const record = CtJson.ctRecord(ct("1.20", cliKey4, entry("v120 v4 nat addr 10.0.0.2 port 40000 in union")), 0)
    assert.deepStrictEqual(record.nat, { address: "10.0.0.2", port: 40000 })
    assert.isFalse("backendId" in record || "ifindex" in record)
    assert.strictEqual(CtJson.ctRecord(ct("1.20", cliKey4, entry("svc value")), 0).backendId, 42)
  })

  it("writes counters above 2^53 - 1 as strings", () => {
    const value = new Uint8Array(56)
    const view = new DataView(value.buffer)
    view.setBigUint64(16, 2n ** 64n - 1n, true)
    view.setBigUint64(24, 2n ** 53n - 1n, true)
    const record = CtJson.ctRecord(ct("1.17", cliKey4, value), 0)
    assert.deepStrictEqual([record.packets, record.bytes], ["18446744073709551615", 9007199254740991])
  })

  it("prints an IPv4-mapped IPv6 address as what it is, in every release", () => {
    const key = hex(vectors.keys.find(({ name }) => name.startsWith("v6 v4-mapped"))!.hex)
    for (const release of Release.all)
      assert.strictEqual(CtJson.ctRecord(ct(release, key, entry("zero")), 0).source.address, "::ffff:10.0.0.1")
  })

  it.each([
    ["1.17", "47"],
    ["1.20", "GRE"]
  ] as const)("of %s names protocol 47 %s", (release, name) => {
    const key = hex("010101010a000163000000002f00")
    const rows = Rows.separate(key, new Uint8Array(40), { keySize: 14, valueSize: 40, count: 1 })
    for (const record of [
      CtJson.ctRecord(ct(release, key, entry("zero")), 0),
      CtJson.natRecord(new NatColumns.NatColumns({ family: "ipv4", release }).bind(rows), 0)
    ])
      assert.deepStrictEqual([record.protocol, record.protocolNumber], [name, 47])
  })

  it("says which end a mapping rewrites, and how old it is", () => {
    const [out, reverse] = [vectors.nat[0]!, vectors.nat[3]!].map((vector) =>
      CtJson.natRecord(nat(hex(vector.keyHex), hex(vector.valHex)), 0, { clock: { source: CtTime.ktime, now: 37_442 } })
    )
    assert.deepStrictEqual(
      [out!.direction, out!.translates, out!.translated, out!.ageSeconds, out!.needsCt],
      ["out", "source", { address: "10.0.2.15", port: 34520 }, 42, false]
    )
    assert.deepStrictEqual(
      [reverse!.direction, reverse!.translates, reverse!.translated, reverse!.needsCt],
      ["in", "destination", { address: "fd00::1", port: 40000 }, true]
    )
  })

  it.prop(
    "of random bytes is a record of the published schema",
    [bytesOf(38), bytesOf(56), Arbitrary.schema(Release.Release), Arbitrary.schema(Family.Family)],
    ([k, v, release, family]) => {
      const key = Uint8Array.from(k.slice(0, Tuple.shape(family).size))
      const decode = Schema.decodeUnknownSync(CtJson.Record, { onExcessProperty: "error" })
      const clock = { source: CtTime.jiffies(250), now: 5 }
      const columns = ct(release, key, Uint8Array.from(v))
      const record = CtJson.ctRecord(columns, 0, { clock })
      assert.deepStrictEqual(decode(JSON.parse(JSON.stringify(record))), record)
      const mapping = CtJson.natRecord(nat(key, Uint8Array.from(v.slice(0, NatEntry.shape(family).size))), 0)
      assert.deepStrictEqual(decode(JSON.parse(JSON.stringify(mapping))), mapping)
      const flags = key.at(-1) ?? 0
      assert.deepStrictEqual(
        [record.related, mapping.related, mapping.service, mapping.direction],
        [(flags & 2) !== 0, (flags & 2) !== 0, (flags & 4) !== 0, (flags & 1) === 0 ? "out" : "in"]
      )
      assert.deepStrictEqual(
        [record.tx.tcpFlagBits, record.rx.tcpFlagBits, record.tx.lastReport, record.rx.lastReport],
        [columns.txFlagsSeen(0), columns.rxFlagsSeen(0), columns.lastTxReport(0), columns.lastRxReport(0)]
      )
    }
  )

  it.prop(
    "tells all of itself: a record of its bytes is the record again",
    [bytesOf(38), bytesOf(56), Arbitrary.schema(Release.Release), Arbitrary.schema(Family.Family)],
    ([k, v, release, family]) => {
      const key = Uint8Array.from(k.slice(0, Tuple.shape(family).size))
      const record = CtJson.ctRecord(ct(release, key, Uint8Array.from(v)), 0)
      const bytes = Result.getOrThrow(CtJson.ctBytes(JSON.parse(JSON.stringify(record)) as CtJson.CtRecord))
      assert.deepStrictEqual(bytes.key, key)
      assert.deepStrictEqual(CtJson.ctRecord(ct(release, bytes.key, bytes.value), 0), record)
      const mapping = CtJson.natRecord(nat(key, Uint8Array.from(v.slice(0, NatEntry.shape(family).size))), 0)
      const entryBytes = Result.getOrThrow(CtJson.natBytes(JSON.parse(JSON.stringify(mapping)) as CtJson.NatRecord))
      assert.deepStrictEqual(entryBytes.key, key)
      assert.deepStrictEqual(CtJson.natRecord(nat(entryBytes.key, entryBytes.value), 0), mapping)
    }
  )

  it("with an address that is none, or of the other family, is no entry", () => {
    const record = CtJson.ctRecord(ct("1.17", cliKey4, entry("zero")), 0)
    for (const address of ["10.0.0", "fd00::1", "10.0.0.256", ""]) {
      assert.isTrue(Result.isFailure(CtJson.ctBytes({ ...record, source: { address, port: 1 } })), address)
    }
  })

  it("has a published JSON Schema that is not stale", () => {
    const published = readFileSync(new URL("../schema/ctmap-record.schema.json", import.meta.url), "utf8")
    assert.deepStrictEqual(JSON.parse(published), JSON.parse(JSON.stringify(CtJson.jsonSchema())))
  })

  it.prop(
    "of random bytes validates against the published file, with and without a clock",
    [bytesOf(38), bytesOf(56), Arbitrary.schema(Release.Release), Arbitrary.schema(Family.Family), Schema.Boolean],
    ([k, v, release, family, hasClock]) => {
      const key = Uint8Array.from(k.slice(0, Tuple.shape(family).size))
      const context = hasClock ? { clock: { source: CtTime.ktime, now: 37_400.5 } } : {}
      for (const record of [
        CtJson.ctRecord(ct(release, key, Uint8Array.from(v)), 0, context),
        CtJson.natRecord(nat(key, Uint8Array.from(v.slice(0, NatEntry.shape(family).size))), 0, context)
      ]) {
        assert.isTrue(validate(JSON.parse(JSON.stringify(record))), JSON.stringify(validate.errors))
      }
    }
  )

  it("a service entry of 1.20 has its backend, whatever stands where others keep a port", () => {
    const value = entry("svc value")
    value.set([0x9c, 0x40], 40)
    const record = CtJson.ctRecord(ct("1.20", hex("0a6000010a000163c35001bb0604"), value), 0)
    assert.deepStrictEqual([record.backendId, record.nat], [42, undefined])
  })

  it("an age that no number holds is left out, any other is there", () => {
    const key = hex(vectors.nat[0]!.keyHex)
    const value = hex(vectors.nat[0]!.valHex)
    const clock = { source: CtTime.ktime, now: 37_442 }
    assert.strictEqual(CtJson.natRecord(nat(key, value), 0, { clock }).ageSeconds, 42)
    assert.isFalse("ageSeconds" in CtJson.natRecord(nat(key, value.fill(0xff, 0, 8)), 0, { clock }))
  })

  it("of every recorded entry is a record of the schema", () => {
    const decode = Schema.decodeUnknownSync(CtJson.Record)
    let records = 0
    for (const [map, table] of Recorded.tables("pods-ktime", "before")) {
      const family = table.keySize === 14 ? "ipv4" : "ipv6"
      const rows = Rows.separate(table.keys, table.values, table)
      const columns = map.startsWith("cilium_snat")
        ? new NatColumns.NatColumns({ family, release: "1.17" }).bind(rows)
        : new CtColumns.CtColumns({ family, release: "1.17" }).bind(rows)
      for (let i = 0; i < table.count; i++, records++)
        decode(
          columns instanceof NatColumns.NatColumns
            ? CtJson.natRecord(columns, i, { map })
            : CtJson.ctRecord(columns, i, { map })
        )
    }
    assert.strictEqual(records, 6899)
  })

  for (const set of Recorded.setNames) {
    it(`${set}: of what a datapath wrote, loses nothing`, () => {
      for (const [map, table] of Recorded.tables(set, "before")) {
        const family = table.keySize === 14 ? "ipv4" : "ipv6"
        const rows = Rows.separate(table.keys, table.values, table)
        const columns = map.startsWith("cilium_snat")
          ? new NatColumns.NatColumns({ family, release: "1.17" }).bind(rows)
          : new CtColumns.CtColumns({ family, release: "1.17" }).bind(rows)
        for (let i = 0; i < table.count; i++) {
          const { key, value } = Result.getOrThrow(
            columns instanceof NatColumns.NatColumns
              ? CtJson.natBytes(CtJson.natRecord(columns, i))
              : CtJson.ctBytes(CtJson.ctRecord(columns, i))
          )
          assert.strictEqual(toHex(key), toHex(columns.keyBytes(i)))
          assert.strictEqual(toHex(value), toHex(columns.valueBytes(i)))
        }
      }
    })
  }
})
