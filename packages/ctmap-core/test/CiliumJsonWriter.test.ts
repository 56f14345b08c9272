import { assert, describe, it } from "@effect/vitest"
import { CiliumJson, CtColumns, CtEntry, Family, NatColumns, NatEntry, Release, Rows, Tuple } from "ctmap-core"
import { CiliumJsonWriter, maxRecordBytes } from "ctmap-core/CiliumJsonWriter"
import { Recorded } from "ctmap-testing"
import * as Schema from "effect/Schema"

const latin1 = new TextDecoder("latin1")
const { open, between, close } = CiliumJson.document

const simply = (columns: CtColumns.CtColumns | NatColumns.NatColumns): string =>
  Array.from({ length: columns.count }, (_, row) =>
    columns instanceof CtColumns.CtColumns
      ? CiliumJson.ctRecordIndented(columns, row)
      : CiliumJson.natRecordIndented(columns, row)
  ).join(between)

/** The records of a batch through a buffer that holds a few of them. */
const filled = (columns: CtColumns.CtColumns | NatColumns.NatColumns, lead: string = between): string => {
  const writer = new CiliumJsonWriter(columns, lead)
  const buffer = new Uint8Array(2 * maxRecordBytes)
  let text = ""
  for (let from = 0; from < columns.count;) {
    buffer.fill(0xee)
    from = writer.fill(buffer, { from })
    text += latin1.decode(buffer.subarray(0, writer.end))
    assert.isTrue(buffer.subarray(writer.end).every((byte) => byte === 0xee))
  }
  return text.slice(lead.length)
}

const Count = 5
/** Bytes with runs of zeros and of ones: numbers of few and of many digits. */
const Bytes = (length: number) =>
  Schema.Array(Schema.Literals([0, 0, 0, 1, 9, 10, 99, 127, 128, 255, 255])).check(
    Schema.isMinLength(length),
    Schema.isMaxLength(length)
  )

const rowsOf = (keys: ReadonlyArray<number>, values: ReadonlyArray<number>, keySize: number, valueSize: number) =>
  Rows.separate(Uint8Array.from(keys).slice(0, Count * keySize), Uint8Array.from(values).slice(0, Count * valueSize), {
    keySize,
    valueSize,
    count: Count
  })

describe("either form prints the same bytes, whatever the row", () => {
  const given = [Bytes(Count * 38), Bytes(Count * 56), Family.Family, Release.Release] as const

  it.prop("CT", [...given], ([keys, values, family, release]) => {
    const rows = rowsOf(keys, values, Tuple.shape(family).size, CtEntry.SIZE)
    const columns = new CtColumns.CtColumns({ family, release }).bind(rows)
    assert.strictEqual(filled(columns), simply(columns))
  })

  it.prop("NAT", [...given], ([keys, values, family, release]) => {
    const rows = rowsOf(keys, values, Tuple.shape(family).size, NatEntry.shape(family).size)
    const columns = new NatColumns.NatColumns({ family, release }).bind(rows)
    assert.strictEqual(filled(columns), simply(columns))
  })
})

describe("recorded tables", () => {
  for (const set of Recorded.setNames) {
    for (const [name, table] of Recorded.tables(set, "before")) {
      it(`${set} ${name}: a document that reads back, of either release`, () => {
        const family = table.keySize === 14 ? "ipv4" : "ipv6"
        for (const release of Release.all) {
          const columns = name.includes("snat")
            ? new NatColumns.NatColumns({ family, release })
            : new CtColumns.CtColumns({ family, release })
          columns.bind(Rows.separate(table.keys, table.values, table))
          const text = filled(columns)
          assert.strictEqual(text, simply(columns))
          if (table.count > 0) assert.lengthOf(CiliumJson.parse(open + text + close) as Array<unknown>, table.count)
        }
      })
    }
  }
})

describe("a record", () => {
  it("of the largest numbers fits where the longest record is said to", () => {
    for (const family of Family.all) {
      for (const release of Release.all) {
        const { size } = Tuple.shape(family)
        const rows = Rows.separate(new Uint8Array(size).fill(255), new Uint8Array(56).fill(255), {
          keySize: size,
          valueSize: 56,
          count: 1
        })
        const columns = new CtColumns.CtColumns({ family, release }).bind(rows)
        assert.isAtMost(new CiliumJsonWriter(columns, between).write(0, new Uint8Array(4096)), maxRecordBytes)
      }
    }
  })

  it("stands alone without a lead", () => {
    const rows = Rows.separate(new Uint8Array(14), new Uint8Array(56), { keySize: 14, valueSize: 56, count: 1 })
    const columns = new CtColumns.CtColumns({ family: "ipv4", release: "1.17" }).bind(rows)
    assert.strictEqual(filled(columns, ""), CiliumJson.ctRecordIndented(columns, 0))
  })
})
