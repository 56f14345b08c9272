import { assert, describe, it } from "@effect/vitest"
import { CtColumns, CtEntry, CtJson, CtTime, Family, NatColumns, NatEntry, Release, Rows, Tuple } from "ctmap-core"
import { CtJsonWriter, maxRecordBytes } from "ctmap-core/CtJsonWriter"
import { Recorded } from "ctmap-testing"
import * as Schema from "effect/Schema"

const utf8 = new TextDecoder()
const between = ",\n  "

type Columns = CtColumns.CtColumns | NatColumns.NatColumns

const simply = (columns: Columns, context: CtJson.Context): string =>
  Array.from({ length: columns.count }, (_, row) =>
    JSON.stringify(
      columns instanceof CtColumns.CtColumns
        ? CtJson.ctRecord(columns, row, context)
        : CtJson.natRecord(columns, row, context)
    )
  ).join(between)

/** The records of a batch through a buffer that holds a few of them. */
const filled = (columns: Columns, context: CtJson.Context): string => {
  const writer = new CtJsonWriter(columns, context, between)
  const buffer = new Uint8Array(2 * maxRecordBytes)
  let text = ""
  for (let from = 0; from < columns.count;) {
    buffer.fill(0xee)
    from = writer.fill(buffer, { from })
    text += utf8.decode(buffer.subarray(0, writer.end))
    assert.isTrue(buffer.subarray(writer.end).every((byte) => byte === 0xee))
  }
  return text.slice(between.length)
}

const Count = 5
/** Bytes with runs of zeros and of ones: numbers of few and of many digits, known and unknown flags. */
const Bytes = (length: number) =>
  Schema.Array(Schema.Literals([0, 0, 0, 0, 1, 2, 4, 6, 9, 17, 31, 32, 47, 99, 127, 128, 255, 255])).check(
    Schema.isMinLength(length),
    Schema.isMaxLength(length)
  )

const rowsOf = (keys: ReadonlyArray<number>, values: ReadonlyArray<number>, keySize: number, valueSize: number) =>
  Rows.separate(Uint8Array.from(keys).slice(0, Count * keySize), Uint8Array.from(values).slice(0, Count * valueSize), {
    keySize,
    valueSize,
    count: Count
  })

const Contexts = Schema.Literals(["none", "map", "ktime", "jiffies", "fraction", "far"])
const contexts: Readonly<Record<typeof Contexts.Type, CtJson.Context>> = {
  none: {},
  map: { map: "cilium_ct4_global" },
  ktime: { map: "cilium_ct4_global", clock: { source: CtTime.ktime, now: 0x0101_0101 } },
  jiffies: { clock: { source: CtTime.jiffies(300), now: 77_777 } },
  fraction: { map: 'of "another" host\n', clock: { source: CtTime.jiffies(1000), now: 37_400.75 } },
  far: { map: "größer ✓", clock: { source: CtTime.ktime, now: 2 ** 53 - 1 } }
}

describe("either form prints the same bytes, whatever the row", () => {
  const given = [Bytes(Count * 38), Bytes(Count * 56), Family.Family, Release.Release, Contexts] as const

  it.prop("CT", [...given], ([keys, values, family, release, context]) => {
    const rows = rowsOf(keys, values, Tuple.shape(family).size, CtEntry.SIZE)
    const columns = new CtColumns.CtColumns({ family, release }).bind(rows)
    assert.strictEqual(filled(columns, contexts[context]), simply(columns, contexts[context]))
  })

  it.prop("NAT", [...given], ([keys, values, family, release, context]) => {
    const rows = rowsOf(keys, values, Tuple.shape(family).size, NatEntry.shape(family).size)
    const columns = new NatColumns.NatColumns({ family, release }).bind(rows)
    assert.strictEqual(filled(columns, contexts[context]), simply(columns, contexts[context]))
  })

  it("CT, with every byte of flags, of TCP flags and of a protocol, and every known word of entry flags", () => {
    for (const family of Family.all) {
      for (const release of Release.all) {
        const { size, nexthdr } = Tuple.shape(family)
        const count = 2 ** 12
        const keys = new Uint8Array(count * size)
        const values = new Uint8Array(count * CtEntry.SIZE)
        const view = new DataView(values.buffer)
        for (let i = 0; i < count; i++) {
          keys[i * size + nexthdr] = i
          keys[i * size + nexthdr + 1] = i >> 2
          view.setUint16(i * CtEntry.SIZE + CtEntry.offset.flags, i, true)
          values[i * CtEntry.SIZE + CtEntry.offset.rxFlagsSeen] = i
          values[i * CtEntry.SIZE + CtEntry.offset.txFlagsSeen] = ~i
        }
        const rows = Rows.separate(keys, values, { keySize: size, valueSize: CtEntry.SIZE, count })
        const columns = new CtColumns.CtColumns({ family, release }).bind(rows)
        assert.strictEqual(filled(columns, contexts.ktime), simply(columns, contexts.ktime))
      }
    }
  })

  it("NAT, of every age that is a number, and of those that are none", () => {
    const { size } = Tuple.v4
    const times = [
      0n,
      1n,
      5461n,
      2n ** 32n - 1n,
      2n ** 32n,
      2n ** 44n - 1n,
      2n ** 44n,
      2n ** 53n,
      2n ** 56n,
      2n ** 64n - 1n
    ]
    const values = new Uint8Array(times.length * NatEntry.v4.size)
    times.forEach((time, i) => new DataView(values.buffer).setBigUint64(i * NatEntry.v4.size, time, true))
    const rows = Rows.separate(new Uint8Array(times.length * size), values, {
      keySize: size,
      valueSize: NatEntry.v4.size,
      count: times.length
    })
    const columns = new NatColumns.NatColumns({ family: "ipv4", release: "1.17" }).bind(rows)
    for (const source of [CtTime.ktime, ...CtTime.knownHertz.map(CtTime.jiffies)]) {
      for (const now of [0, 5462, 2 ** 32, 2 ** 40 + 0.5]) {
        const context = { clock: { source, now } }
        assert.strictEqual(filled(columns, context), simply(columns, context))
      }
    }
  })
})

describe("recorded tables", () => {
  for (const set of Recorded.setNames) {
    it(`${set}: records of either release`, () => {
      for (const [map, table] of Recorded.tables(set, "before")) {
        const family = table.keySize === 14 ? "ipv4" : "ipv6"
        for (const release of Release.all) {
          const columns = map.includes("snat")
            ? new NatColumns.NatColumns({ family, release })
            : new CtColumns.CtColumns({ family, release })
          columns.bind(Rows.separate(table.keys, table.values, table))
          const context = { map, clock: { source: CtTime.ktime, now: 5462 } }
          assert.strictEqual(filled(columns, context), simply(columns, context))
        }
      }
    })
  }
})

describe("a record", () => {
  /** All ones: the longest numbers, addresses and lists of flags. */
  const longest = (family: Family.Family, release: Release.Release): ReadonlyArray<Columns> => {
    const { size } = Tuple.shape(family)
    const rows = (valueSize: number, flags: number) => {
      const keys = new Uint8Array(size).fill(255)
      keys[size - 1] = flags
      return Rows.separate(keys, new Uint8Array(valueSize).fill(255), { keySize: size, valueSize, count: 1 })
    }
    return [251, 255].flatMap((flags) => [
      new CtColumns.CtColumns({ family, release }).bind(rows(CtEntry.SIZE, flags)),
      new NatColumns.NatColumns({ family, release }).bind(rows(NatEntry.shape(family).size, flags))
    ])
  }

  it("of the longest of everything fits where any record is said to", () => {
    const clock = { source: CtTime.ktime, now: -(2 ** 53) }
    for (const family of Family.all) {
      for (const release of Release.all) {
        for (const columns of longest(family, release)) {
          assert.isAtMost(new CtJsonWriter(columns, { clock }).write(0, new Uint8Array(4096)), maxRecordBytes)
        }
      }
    }
  })

  it("may not be led by more than a kilobyte", () => {
    const columns = new CtColumns.CtColumns({ family: "ipv4", release: "1.17" })
    assert.throws(() => new CtJsonWriter(columns, { map: "m".repeat(1024) }), RangeError)
    assert.throws(() => new CtJsonWriter(columns, { map: "ß".repeat(512) }), RangeError)
  })
})
