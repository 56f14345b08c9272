import { assert, describe, it } from "@effect/vitest"
import * as Schema from "effect/Schema"
import { Best } from "../src/Best.ts"
import { codeOf, Refused, UsageError } from "../src/Failure.ts"
import * as Histogram from "../src/Histogram.ts"
import * as MapMemory from "../src/MapMemory.ts"
import { span } from "../src/render/entries.ts"
import * as Report from "../src/render/Report.ts"
import * as Renderer from "../src/render/Renderer.ts"
import { TextTable } from "../src/render/TextTable.ts"

describe("TextTable", () => {
  it("aligns columns and ends no line with blanks", () => {
    const table = new TextTable([{ title: "NAME" }, { title: "N", align: "right" }, { title: "NOTE" }])
    const rows = [
      ["a", "1", "x"],
      ["longer", "1000", ""]
    ]
    assert.strictEqual(table.print(rows), "NAME       N  NOTE\na          1  x\nlonger  1000\n")
  })

  it("prints titles once, and never narrows a column", () => {
    const table = new TextTable([{ title: "A" }, { title: "B" }])
    table.print([["wide cell", "1"]])
    assert.strictEqual(table.print([["x", "2"]]), "x          2\n")
  })
})

describe("Report", () => {
  const fields: ReadonlyArray<Report.Field> = [
    { key: "map", title: "MAP" },
    { key: "fill", title: "FILL", show: Report.percent }
  ]
  const rows = [{ map: "m", fill: 0.5, hidden: true }]

  it("shows columns in a table, and everything in JSON", () => {
    assert.strictEqual(Report.format("table", fields, rows), "MAP  FILL\nm    50.0 %\n")
    assert.deepStrictEqual(JSON.parse(Report.format("json", fields, rows)), rows)
    assert.deepStrictEqual(JSON.parse(Report.format("ndjson", fields, rows)), rows[0])
  })

  it("is a document even when there is nothing", () => {
    assert.strictEqual(Report.format("json", fields, []), "[]\n")
    assert.strictEqual(Report.format("ndjson", fields, []), "")
    assert.strictEqual(Report.format("table", fields, []), "MAP  FILL\n")
  })

  it("says bytes in the unit that suits them, and - for what is not known", () => {
    assert.deepStrictEqual([0, 1023, 1536, 71_303_168, null].map(Report.bytes), [
      "0 B",
      "1023 B",
      "1.5 KiB",
      "68.0 MiB",
      "-"
    ])
  })
})

describe("Best", () => {
  const Numbers = Schema.Array(Schema.Int)

  it.prop("keeps what sorting everything would put first", [Numbers], ([numbers]) => {
    const best = new Best<number>(4)
    for (const n of numbers) best.offer(n, () => n)
    assert.deepStrictEqual([...best.sorted()], numbers.toSorted((a, b) => b - a).slice(0, 4))
    assert.strictEqual(best.offered, numbers.length)
  })

  it("copies only what it keeps", () => {
    const best = new Best<number>(1)
    let made = 0
    for (const n of [5, 1, 2, 3]) best.offer(n, () => (made++, n))
    assert.strictEqual(made, 1)
  })
})

describe("Histogram", () => {
  it("puts each bound into the step above it", () => {
    const histogram = new Histogram.Histogram()
    for (const seconds of [-5, -1, 0, 9, 10, 59, 60, 8000, 8001, 1e6]) histogram.add(seconds)
    assert.deepStrictEqual(
      histogram.buckets().map(({ count }) => count),
      [2, 2, 2, 1, 0, 1, 1, 1]
    )
  })

  it("shows something for every share above nothing", () => {
    assert.strictEqual(Histogram.bar(0), "")
    assert.strictEqual(Histogram.bar(0.0001), "#")
    assert.strictEqual(Histogram.bar(1, 10), "##########")
  })
})

describe("span", () => {
  it("says two units at most", () => {
    const said = [0, 42, 60, 3599, 8000, 90_061, -303].map(span)
    assert.deepStrictEqual(said, ["0s", "42s", "1m", "59m59s", "2h13m", "1d1h", "-5m3s"])
  })
})

describe("MapMemory", () => {
  const ct4 = { type: 9, keySize: 14, valueSize: 56, maxEntries: 524_288, flags: 0 }

  it("counts elements and buckets of a preallocated hash", () => {
    assert.strictEqual(MapMemory.estimate(ct4), 524_288 * 120 + 524_288 * 16)
  })

  it("says nothing about maps of other kinds", () => {
    assert.isUndefined(MapMemory.estimate({ ...ct4, type: 2 }))
    assert.isUndefined(MapMemory.estimate({ ...ct4, type: 1, flags: 1 }))
  })
})

describe("exit codes", () => {
  it("tell wrong usage, refusal and failure apart", () => {
    assert.strictEqual(codeOf(new UsageError({ problem: "" })), 2)
    assert.strictEqual(codeOf(new Refused({ why: "" })), 3)
    assert.strictEqual(codeOf(new Error("anything")), 1)
  })
})

describe("room", () => {
  const lru = { type: 9, keySize: 14, valueSize: 56, maxEntries: 1024, flags: 0 }
  it("is less than the size of a common LRU, by what each CPU keeps free", () => {
    assert.strictEqual(MapMemory.room(lru, 2), 1024 - 256)
    assert.strictEqual(MapMemory.room({ ...lru, maxEntries: 524_288 }, 2), 524_288 - 256)
    assert.strictEqual(MapMemory.room(lru, 64), 1024 - 8 * 64)
  })
  it("is all of a plain hash, and of an LRU with lists per CPU", () => {
    assert.strictEqual(MapMemory.room({ ...lru, type: 1 }, 2), 1024)
    assert.strictEqual(MapMemory.room({ ...lru, flags: 2 }, 2), 1024)
  })
})

describe("renderers", () => {
  const table = {} as Renderer.Table<Renderer.Columns>
  const rowsOf = (count: number) => Uint32Array.from({ length: count }, (_, i) => i)

  /** A writer of short lines that fills a part of a buffer, as those of ctmap-core do. */
  const writer = (line: (row: number) => string): Renderer.LineWriter & { end: number } => ({
    end: 0,
    fill(into, { count, from }) {
      this.end = 0
      let row = from
      for (; row < count && this.end < 100_000; row++) this.end += Buffer.from(into.buffer).write(line(row), this.end)
      return row
    }
  })

  const render = (renderer: Renderer.Renderer<Renderer.Columns>, counts: ReadonlyArray<number>) => {
    const buffers = new Set<ArrayBufferLike>()
    const parts: Array<string> = []
    for (const count of counts) {
      renderer.bind(table, rowsOf(count), count)
      for (let bytes = renderer.next(); bytes !== undefined; bytes = renderer.next()) {
        buffers.add(bytes.buffer)
        parts.push(Buffer.from(bytes).toString())
      }
    }
    return { text: renderer.open + parts.join("") + renderer.close, parts, buffers }
  }

  it("make one document of records across batches, out of two buffers however many there are", () => {
    const note = "ü".repeat(300)
    const record = (row: number): string => `,\n  ${JSON.stringify({ row, note })}`
    const renderer = Renderer.writtenRecords<Renderer.Columns>(Renderer.jsonDocument, () => writer(record))
    const { buffers, parts, text } = render(renderer, [3000, 1, 33])
    const rows = [3000, 1, 33].flatMap((count) => Array.from(rowsOf(count)))
    assert.deepStrictEqual(
      JSON.parse(text),
      rows.map((row) => ({ row, note }))
    )
    assert.isAbove(parts.length, 3)
    assert.strictEqual(buffers.size, 2)
  })

  const wide = (width: number) =>
    Renderer.cells<Renderer.Columns>([{ title: "ROW" }, { title: "NOTE" }], (_, row) => [`${row}`, "x".repeat(width)])

  it.each([
    ["cells", wide(300)],
    ["lines", Renderer.lines<Renderer.Columns>(() => writer((row) => `${row}\n`))]
  ])("%s stay as they are while what follows is made, in this batch and the next", (_, renderer) => {
    let last: { readonly bytes: Uint8Array; readonly text: string } | undefined
    for (const count of [3000, 1, 40_000, 2, 1]) {
      renderer.bind(table, rowsOf(count), count)
      for (let bytes = renderer.next(); bytes !== undefined; bytes = renderer.next()) {
        if (last !== undefined) assert.isTrue(Buffer.from(last.bytes).toString() === last.text)
        last = { bytes, text: Buffer.from(bytes).toString() }
      }
      assert.isTrue(Buffer.from(last!.bytes).toString() === last!.text)
    }
  })

  it("lose no rows that are larger together than a buffer", () => {
    const { text } = render(wide(2000), [600, 3])
    const lines = text.trimEnd().split("\n").slice(1)
    const rows = [600, 3].flatMap((count) => Array.from(rowsOf(count)))
    assert.deepStrictEqual(
      lines.map((line) => line.split(/ +/)),
      rows.map((row) => [`${row}`, "x".repeat(2000)])
    )
  })
})
