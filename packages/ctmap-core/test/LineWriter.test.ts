import { assert, describe, it, vi } from "@effect/vitest"
import { CtColumns, CtKey, CtText, Family, NatColumns, NatText, Release, Rows, Tuple } from "ctmap-core"
import * as CtLineWriter from "ctmap-core/CtLineWriter"
import * as NatLineWriter from "ctmap-core/NatLineWriter"
import { Recorded, Vectors } from "ctmap-testing"
import * as Arbitrary from "effect/Arbitrary"
import * as Schema from "effect/Schema"

const { hex, vectors } = Vectors
const runs = { arbitrary: { runs: 400 } }
const latin1 = new TextDecoder("latin1")
const familyOf = (key: Uint8Array): Family.Family => (key.byteLength === 14 ? "ipv4" : "ipv6")

/** Both ways to print a batch, so that every test compares them. */
interface Printer {
  readonly count: number
  readonly columns: CtColumns.CtColumns | NatColumns.NatColumns
  readonly simple: (row: number) => string | undefined
  readonly writer: CtLineWriter.CtLineWriter | NatLineWriter.NatLineWriter
}

interface CtOptions {
  readonly release: Release.Release
  readonly scope?: CtKey.Scope
  readonly remaining?: ((lifetime: number) => number) | undefined
}

const ct = (rows: Rows.Rows, family: Family.Family, { release, scope = "global", remaining }: CtOptions): Printer => {
  const columns = new CtColumns.CtColumns({ family, release }).bind(rows)
  const timeDiff = remaining && ((lifetime: number) => `remaining: ${remaining(lifetime)} sec(s)`)
  return {
    count: rows.count,
    columns,
    simple: (row) => CtText.line(columns.key(row, scope), columns.entry(row), timeDiff),
    writer: new CtLineWriter.CtLineWriter(columns, { scope, ...(remaining && { secondsRemaining: remaining }) })
  }
}

const nat = (
  rows: Rows.Rows,
  family: Family.Family,
  release: Release.Release,
  age?: (created: bigint) => bigint
): Printer => {
  const columns = new NatColumns.NatColumns({ family, release }).bind(rows)
  const options = age && { age }
  return {
    count: rows.count,
    columns,
    simple: (row) => NatText.line(columns.key(row), columns.entry(row), { release, ...options }),
    writer: new NatLineWriter.NatLineWriter(columns, options)
  }
}

const simply = ({ count, simple }: Printer): Array<string> =>
  Array.from({ length: count }, (_, row) => simple(row) ?? "").filter((line) => line !== "")

/** The lines of a batch through a buffer of `size` bytes, which is checked to be untouched behind what was written. */
const filled = (
  printer: Printer,
  size: number,
  options: { readonly rows?: Uint32Array; readonly at?: number } = {}
) => {
  const { writer, count } = printer
  const buffer = new Uint8Array(size)
  const total = options.rows?.length ?? count
  let text = ""
  for (let from = 0; from < total;) {
    buffer.fill(0xee)
    from = writer.fill(buffer, { ...options, from })
    text += latin1.decode(buffer.subarray(options.at ?? 0, writer.end))
    assert.isTrue(buffer.subarray(writer.end).every((b) => b === 0xee))
    assert.isTrue(buffer.subarray(0, options.at ?? 0).every((b) => b === 0xee))
  }
  return text === "" ? [] : text.split(/(?<=\n)/)
}

const batch = (table: Recorded.Table): Rows.Rows => Rows.separate(table.keys, table.values, table)

const one = (key: Uint8Array, value: Uint8Array): Rows.Rows =>
  Rows.separate(key, value, { keySize: key.byteLength, valueSize: value.byteLength, count: 1 })

describe("golden vectors", () => {
  it.each(vectors.keys)("CT key: $name", (vector) => {
    const key = hex(vector.hex)
    for (const entry of vectors.ctEntries) {
      const rows = one(key, hex(entry.hex))
      const text = (options: CtOptions) => filled(ct(rows, familyOf(key), options), 1024).join("")
      const line = (head: string | null, value: string) => (head === null ? "" : head + value)
      assert.strictEqual(text({ release: "1.17" }), line(vector.dump_global_reverse, entry.string_117))
      assert.strictEqual(text({ release: "1.17", scope: "local" }), line(vector.dump_local_reverse, entry.string_117))
      assert.strictEqual(
        text({ release: "1.17", remaining: () => 21603 }),
        line(vector.dump_global_reverse, entry.string_117_remaining_21603)
      )
      // The vectors have no 1.20 heads; `either renderer` below compares those.
      const v120 = text({ release: "1.20" })
      assert.strictEqual(v120.slice(v120.indexOf("expires=")), line(vector.dump_global_reverse && "", entry.string_120))
    }
  })

  it.each(vectors.flags)("flags $value", ({ value, text }) => {
    const entry = new Uint8Array(56)
    new DataView(entry.buffer).setUint16(36, value, true)
    const rows = one(hex("0a00016301010101005086d80600"), entry)
    assert.include(filled(ct(rows, "ipv4", { release: "1.17" }), 1024).join(""), ` ${text} RevNAT=`)
  })

  it.each(vectors.nat)("NAT: $name", (vector) => {
    const key = hex(vector.keyHex)
    const rows = one(key, hex(vector.valHex))
    assert.strictEqual(
      filled(
        nat(rows, familyOf(key), "1.17", () => 42n),
        1024
      ).join(""),
      vector.line_42s
    )
    assert.strictEqual(filled(nat(rows, familyOf(key), "1.17"), 1024).join(""), vector.line_raw)
  })
})

describe.each(Recorded.setNames)("recorded set %s", (set) => {
  it("lists as Cilium's own command did, through either renderer and any buffer", () => {
    const tables = Recorded.tables(set, "before")
    const listed = [...Recorded.listings(set).values()].flat()
    let seen = 0
    // The command printed these tables in this order, each with all of its entries.
    for (const map of ["cilium_ct4_global", "cilium_ct_any4_global", "cilium_ct6_global", "cilium_ct_any6_global"]) {
      const table = tables.get(map)
      if (table === undefined) throw new Error(`the set has no ${map}`)
      const printer = ct(batch(table), map.includes("4") ? "ipv4" : "ipv6", { release: "1.17" })
      const expected = listed.slice(seen, (seen += table.count)).toSorted()
      assert.strictEqual(expected.length, table.count)
      assert.deepStrictEqual(simply(printer).toSorted(), expected)
      for (const size of [700, 20_000, 1 << 20]) assert.deepStrictEqual(filled(printer, size).toSorted(), expected)
    }
    assert.strictEqual(seen, listed.length)
  })

  it("NAT tables and both releases print the same through either renderer", () => {
    for (const [map, table] of Recorded.tables(set, "before")) {
      const family = /4/.test(map) ? "ipv4" : "ipv6"
      for (const release of Release.all) {
        const printers = map.includes("snat")
          ? [nat(batch(table), family, release), nat(batch(table), family, release, (created) => 5461n - created)]
          : [ct(batch(table), family, { release, remaining: (lifetime) => lifetime - 5461 })]
        for (const printer of printers) assert.deepStrictEqual(filled(printer, 1 << 16), simply(printer))
      }
    }
  })
})

const octet = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 255 }))
const bytesOf = (length: number) => Schema.Array(octet).check(Schema.isMinLength(length), Schema.isMaxLength(length))
const extremes = [0n, 1n, 9_999n, 10_000n, 99_999_999n, 100_000_000n, 2n ** 32n - 1n, 2n ** 32n, 10n ** 16n].concat([
  2n ** 53n - 1n,
  2n ** 53n,
  2n ** 53n + 1n,
  10n ** 19n,
  2n ** 64n - 1n
])
const group = Schema.Literals([0, 0, 0, 0, 1, 0xf, 0x10, 0xff, 0x100, 0xfff, 0x1000, 0xffff])
const orNone = <S extends Schema.Top>(schema: S) => Schema.Union([Schema.Undefined, schema])

/** Key and value bytes: random, with the fields that have special cases pulled towards them. */
const anyRow = Arbitrary.all({
  key: Arbitrary.schema(bytesOf(38)),
  value: Arbitrary.schema(bytesOf(56)),
  protocol: Arbitrary.schema(orNone(Schema.Literals([0, 1, 6, 17, 47, 58, 132, 255]))),
  addresses: Arbitrary.schema(Schema.Literals(["random", "zeros", "mapped", "mapped-almost"])),
  groups: Arbitrary.array(Arbitrary.schema(group), { minLength: 24, maxLength: 24 }),
  counters: Arbitrary.array(Arbitrary.schema(orNone(Schema.Literals(extremes))), { minLength: 4, maxLength: 4 }),
  flags: Arbitrary.schema(orNone(Schema.Literals([0, 0x10, 0x13, 0x5ff, 0x7ff, 0xffff]))),
  small: Arbitrary.schema(Schema.Boolean)
}).pipe(
  Arbitrary.map((raw) => {
    const key = Uint8Array.from(raw.key)
    const value = Uint8Array.from(raw.value)
    const keyView = new DataView(key.buffer)
    const address = (view: DataView, at: number, from: number) => {
      if (raw.addresses === "random") return
      for (let i = 0; i < 8; i++) view.setUint16(at + 2 * i, raw.groups[from + i] ?? 0)
      if (raw.addresses === "zeros") return
      for (let i = 0; i < 5; i++) view.setUint16(at + 2 * i, 0)
      view.setUint16(at + 10, raw.addresses === "mapped" ? 0xffff : 0xfffe)
    }
    address(keyView, 0, 0)
    address(keyView, 16, 8)
    if (raw.protocol !== undefined) key[36] = raw.protocol
    return {
      key,
      /** The counters of a CT value and of a NAT value do not stand at the same offsets, nor does an address. */
      ctValue: () => {
        const bytes = value.slice()
        const view = new DataView(bytes.buffer)
        raw.counters.slice(0, 3).forEach((n, i) => n === undefined || view.setBigUint64(8 + 8 * i, n, true))
        if (raw.flags !== undefined) view.setUint16(36, raw.flags, true)
        if (raw.small) [32, 44, 48, 52].forEach((at) => view.setUint32(at, view.getUint32(at) % 20_000, true))
        return bytes
      },
      natValue: () => {
        const bytes = value.slice()
        const view = new DataView(bytes.buffer)
        raw.counters.slice(0, 2).forEach((n, i) => n === undefined || view.setBigUint64(8 * i, n, true))
        address(view, 32, 16)
        return bytes
      }
    }
  })
)

const someRows = Arbitrary.array(anyRow, { minLength: 1, maxLength: 6 })
const stride = Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 9 })))
const anyFamily = Arbitrary.schema(Family.Family)
const anyRelease = Arbitrary.schema(Release.Release)

/** Records of one buffer, each with its key and value somewhere inside: what an iterator or an array map hands out. */
const interleave = (keys: ReadonlyArray<Uint8Array>, values: ReadonlyArray<Uint8Array>, gap: number): Rows.Rows => {
  const keySize = keys[0]?.byteLength ?? 0
  const valueSize = values[0]?.byteLength ?? 0
  const step = keySize + valueSize + 2 * gap
  const records = new Uint8Array(step * keys.length + gap).fill(0xaa)
  keys.forEach((key, i) => records.set(key, i * step + gap))
  values.forEach((value, i) => records.set(value, i * step + 2 * gap + keySize))
  return Rows.interleaved(records.subarray(0), {
    stride: step,
    keyAt: gap,
    valueAt: 2 * gap + keySize,
    count: keys.length
  })
}

/** An IPv4 key has the last bytes of an IPv6 one: ports, protocol and flags. */
const keyOf = (family: Family.Family, key: Uint8Array): Uint8Array =>
  family === "ipv6" ? key : Uint8Array.from([...key.subarray(12, 16), ...key.subarray(28, 38)])

describe("either renderer prints the same bytes, whatever the row", () => {
  const anyScope = Arbitrary.schema(CtKey.Scope)
  const anyNow = Arbitrary.schema(orNone(Schema.Literals([0, 5461, 2 ** 32 - 1, 2 ** 40])))

  it.prop(
    "CT",
    { someRows, stride, family: anyFamily, release: anyRelease, scope: anyScope, now: anyNow },
    (given) => {
      const { family, release, scope, now } = given
      const rows = interleave(
        given.someRows.map(({ key }) => keyOf(family, key)),
        given.someRows.map(({ ctValue }) => ctValue()),
        given.stride
      )
      const remaining = now === undefined ? undefined : (lifetime: number) => lifetime - now
      const printer = ct(rows, family, { release, scope, remaining })
      assert.deepStrictEqual(filled(printer, 4096), simply(printer))
    },
    runs
  )

  it.prop(
    "NAT",
    { someRows, stride, family: anyFamily, release: anyRelease, now: anyNow },
    (given) => {
      const { family, release, now } = given
      const rows = interleave(
        given.someRows.map(({ key }) => keyOf(family, key)),
        given.someRows.map(({ natValue }) => natValue().subarray(0, family === "ipv4" ? 40 : 56)),
        given.stride
      )
      const printer = nat(rows, family, release, now === undefined ? undefined : (created) => BigInt(now) - created)
      assert.deepStrictEqual(filled(printer, 4096), simply(printer))
    },
    runs
  )

  it.each(extremes)("a counter of %s", (n) => {
    for (const at of [8, 16, 24]) {
      const value = new Uint8Array(56)
      new DataView(value.buffer).setBigUint64(at, n, true)
      const printer = ct(one(hex("0a00016301010101005086d80600"), value), "ipv4", { release: "1.17" })
      assert.deepStrictEqual(filled(printer, 1024), simply(printer))
    }
  })

  it("every pattern of zero groups in an IPv6 address", () => {
    const printed = Array.from({ length: 256 }, (_, zeros) => {
      const key = new Uint8Array(38)
      key[36] = 6
      for (let i = 0; i < 8; i++) key[2 * i + (i & 1)] = (zeros & (0x80 >> i)) === 0 ? 0x5a + i : 0
      const printer = ct(one(key, new Uint8Array(56)), "ipv6", { release: "1.20" })
      assert.deepStrictEqual(filled(printer, 1024), simply(printer))
      return simply(printer)[0]
    })
    assert.strictEqual(new Set(printed).size, 256)
  })

  it("IPv6 addresses, however often and in whatever order they come", () => {
    const count = 12_000
    const keys = new Uint8Array(38 * count)
    const view = new DataView(keys.buffer)
    for (let i = 0; i < count; i++) {
      // Row 0 keeps `::`, row 1 `0:1::`; then more addresses than are kept, and every third row one of a few.
      view.setUint32(38 * i, i === 1 ? 1 : i % 3 === 0 ? 0 : 0xfd00_0000 + i)
      view.setUint32(38 * i + 28, i % 3 === 0 ? i % 7 : Math.imul(i, 0x9e37_79b1) >>> 0)
      view.setUint8(38 * i + 36, 6)
    }
    const rows = Rows.separate(keys, new Uint8Array(56 * count), { keySize: 38, valueSize: 56, count })
    const printer = ct(rows, "ipv6", { release: "1.17" })
    const expected = simply(printer)
    for (let time = 0; time < 2; time++) assert.deepStrictEqual(filled(printer, 1 << 16), expected)
  })

  it.each(["ct", "nat"] as const)("`::` before any other address: %s", async (what) => {
    vi.resetModules()
    const fresh = { ...(await import("ctmap-core/CtLineWriter")), ...(await import("ctmap-core/NatLineWriter")) }
    assert.notStrictEqual(fresh.CtLineWriter, CtLineWriter.CtLineWriter, "no address was printed by this module")
    const key = new Uint8Array(38)
    key[36] = 6
    const rows = one(key, new Uint8Array(56))
    const printer = what === "ct" ? ct(rows, "ipv6", { release: "1.17" }) : nat(rows, "ipv6", "1.17")
    const { columns } = printer
    const writer =
      columns instanceof NatColumns.NatColumns ? new fresh.NatLineWriter(columns) : new fresh.CtLineWriter(columns)
    assert.deepStrictEqual(filled({ ...printer, writer }, 1024), simply(printer))
  })

  it("time that is not a whole number prints as JavaScript prints it", () => {
    const rows = one(hex("0a00016301010101005086d80600"), new Uint8Array(56))
    for (const seconds of [-0, 0.5, -1e21, Number.NaN, Number.MIN_SAFE_INTEGER, -(2 ** 32), 2 ** 53]) {
      const printer = ct(rows, "ipv4", { release: "1.17", remaining: () => seconds })
      assert.deepStrictEqual(filled(printer, 1024), simply(printer))
    }
  })
})

describe("buffers", () => {
  const table = Recorded.tables("pods-ktime", "before").get("cilium_ct6_global")
  if (table === undefined) throw new Error("the set has no such table")
  const printer = ct(batch(table), "ipv6", { release: "1.17" })
  const lines = simply(printer)

  it("are filled with whole lines to the last byte that fits", () => {
    const ends = lines.map((_, i) => lines.slice(0, i + 1).join("").length)
    for (const [i, end] of ends.slice(0, 5).entries()) {
      for (const [size, expected] of [
        [end, i + 1],
        [end + 1, i + 1],
        [end - 1, i]
      ] as const) {
        const buffer = new Uint8Array(size)
        if (expected === 0) {
          assert.throws(() => printer.writer.fill(buffer), RangeError, /no room in the/)
          continue
        }
        assert.strictEqual(printer.writer.fill(buffer), expected)
        assert.strictEqual(latin1.decode(buffer.subarray(0, printer.writer.end)), lines.slice(0, expected).join(""))
      }
    }
    assert.deepStrictEqual(filled(printer, 333), lines)
    assert.deepStrictEqual(filled(printer, 100_000, { at: 77 }), lines)
  })

  it("that begin full are left alone", () => {
    const buffer = new Uint8Array(1000)
    assert.strictEqual(printer.writer.fill(buffer, { from: 3, at: 990 }), 3)
    assert.strictEqual(printer.writer.end, 990)
    assert.isTrue(buffer.every((b) => b === 0))
  })

  it("take one line through write, or none where it has no room", () => {
    const buffer = new Uint8Array(1000)
    const end = printer.writer.write(7, buffer, 10)
    assert.strictEqual(latin1.decode(buffer.subarray(10, end)), lines[7])
    assert.strictEqual(printer.writer.write(7, new Uint8Array(end), 10), end)
    buffer.fill(0)
    for (const at of [-1, 999, Number.NaN]) assert.throws(() => printer.writer.write(7, buffer, at), RangeError)
    assert.isTrue(buffer.every((b) => b === 0))
  })

  it("take chosen rows in their order", () => {
    const rows = Uint32Array.from([5, 0, 992, 5])
    const chosen = Array.from(rows, (row) => lines[row] ?? "")
    assert.deepStrictEqual(filled(printer, 600, { rows }), chosen)
    const buffer = new Uint8Array(4096)
    assert.strictEqual(printer.writer.fill(buffer, { rows, count: 2 }), 2)
    assert.strictEqual(latin1.decode(buffer.subarray(0, printer.writer.end)), chosen.slice(0, 2).join(""))
    assert.throws(() => printer.writer.fill(buffer, { rows, count: 5 }), RangeError, /4 rows/)
    assert.throws(() => printer.writer.fill(buffer, { count: table.count + 1 }), RangeError, /993 rows/)
  })

  it("of maxLineBytes hold the longest line there can be", () => {
    const key = new Uint8Array(38).fill(0xff)
    key[36] = 58
    const value = new Uint8Array(56).fill(0xff)
    const longest = [
      ...Release.all.map((release) =>
        ct(one(key, value), "ipv6", { release, remaining: () => -1.234567890123456e-300 })
      ),
      ...Release.all.map((release) => nat(one(key, value), "ipv6", release, () => -(2n ** 64n)))
    ]
    for (const { writer } of longest) {
      const most = writer instanceof CtLineWriter.CtLineWriter ? CtLineWriter.maxLineBytes : NatLineWriter.maxLineBytes
      assert.isAtMost(writer.write(0, new Uint8Array(most)), most)
    }
  })

  it("of two writers do not mix, though writers share their memory", () => {
    const other = ct(batch(table), "ipv6", { release: "1.20", scope: "local" })
    const [a, b] = [new Uint8Array(5000), new Uint8Array(5000)]
    printer.writer.fill(a)
    other.writer.fill(b)
    assert.isTrue(lines.join("").startsWith(latin1.decode(a.subarray(0, printer.writer.end))))
    assert.isTrue(
      simply(other)
        .join("")
        .startsWith(latin1.decode(b.subarray(0, other.writer.end)))
    )
  })

  it("see the batch that the columns are bound to now", () => {
    const columns = new CtColumns.CtColumns({ family: "ipv6", release: "1.17" })
    const writer = new CtLineWriter.CtLineWriter(columns)
    const buffer = new Uint8Array(1000)
    assert.strictEqual(writer.fill(buffer), 0)
    assert.strictEqual(writer.end, 0)
    const tuple = Tuple.v6
    columns.bind(Rows.separate(table.keys.subarray(tuple.size), table.values.subarray(56), { ...table, count: 1 }))
    assert.strictEqual(writer.fill(buffer), 1)
    assert.strictEqual(latin1.decode(buffer.subarray(0, writer.end)), lines[1])
  })
})
