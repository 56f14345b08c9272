import { assert, describe, it } from "@effect/vitest"
import { EntryRows } from "ctmap-api"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"

const table: EntryRows.Table = {
  map: "cilium_ct4_global",
  kind: "ct",
  family: "ipv4",
  release: "1.17",
  keySize: 14,
  valueSize: 56
}
const failed = { type: "error", detail: "the map is gone", entries: 3 } as const

/** Rows whose bytes all differ from their neighbours. */
const rows = (count: number): Uint8Array => {
  const { bytes, keys, values } = EntryRows.rowsFrame(table, count)
  for (const part of [keys, values]) for (let i = 0; i < part.length; i++) part[i] = (i * 31 + count) & 0xff
  return bytes
}
const joined = (...parts: ReadonlyArray<Uint8Array>): Uint8Array => Uint8Array.from(Buffer.concat(parts))

const pieces = (bytes: Uint8Array, size: number): Stream.Stream<Uint8Array> =>
  Stream.fromIterable(
    Array.from({ length: Math.ceil(bytes.length / size) }, (_, i) => bytes.slice(i * size, (i + 1) * size))
  ).pipe(Stream.rechunk(1))

/** What is read, and how it ends. */
const read = (bytes: Uint8Array, size = 7) =>
  Effect.gen(function* () {
    const found: Array<readonly [map: string, keys: Uint8Array, values: Uint8Array]> = []
    const reading = Stream.runForEach(EntryRows.decode(pieces(bytes, size)), (batch) =>
      Effect.sync(() => void found.push([batch.table.map, batch.keys.slice(), batch.values.slice()]))
    )
    const end = yield* Effect.result(reading)
    return { found, error: end._tag === "Failure" ? end.failure : undefined }
  })

describe("rows of entries", () => {
  const Sizes = Schema.Array(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 9 })))
  const Piece = Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 600 }))

  it.effect.prop("are what was sent, in whatever pieces they come", [Sizes, Piece], ([counts, size]) =>
    Effect.gen(function* () {
      const { error, found } = yield* read(joined(EntryRows.tableFrame(table), ...counts.map(rows)), size)
      assert.isUndefined(error)
      assert.deepStrictEqual(
        found.map(([, keys, values]) => joined(keys, values)),
        counts.map((count) => rows(count).slice(8))
      )
    })
  )

  it.effect("are of the table that was told last", () =>
    Effect.gen(function* () {
      const other = { ...table, map: "cilium_ct_any4_global" }
      const bytes = joined(EntryRows.tableFrame(table), rows(1), EntryRows.tableFrame(other), rows(2))
      const { found } = yield* read(bytes, 1)
      assert.deepStrictEqual(
        found.map(([map, keys]) => [map, keys.length]),
        [
          [table.map, 14],
          [other.map, 28]
        ]
      )
    })
  )

  for (const size of [5, 10_000]) {
    it.effect(`that end early say so after what came, in pieces of ${size}`, () =>
      Effect.gen(function* () {
        const bytes = joined(EntryRows.tableFrame(table), rows(3), EntryRows.failedFrame(failed))
        const { error, found } = yield* read(bytes, size)
        assert.deepStrictEqual(error, failed)
        assert.strictEqual(found.length, 1)
      })
    )
  }

  const head = EntryRows.tableFrame(table)
  const cases: ReadonlyArray<readonly [what: string, bytes: Uint8Array, says: RegExp]> = [
    ["that end within a frame", joined(head, rows(2).slice(0, 50)), /ends within a frame/],
    ["of no table", rows(1), /rows of no table/],
    ["that are not whole", joined(head, Uint8Array.of(2, 0, 0, 0, 3, 0, 0, 0, 1, 2, 3)), /3 bytes are no rows of 14/],
    ["in a frame that is too large", new TextEncoder().encode('{"type":"error"}'), /a frame of \d+ bytes/],
    ["of a kind that is not known", joined(head, Uint8Array.of(9, 0, 0, 0, 0, 0, 0, 0)), /kind 9/]
  ]
  for (const [what, bytes, says] of cases) {
    it.effect(`${what} are none`, () =>
      Effect.gen(function* () {
        const { error } = yield* read(bytes)
        assert.instanceOf(error, EntryRows.NotRows)
        assert.match(error instanceof EntryRows.NotRows ? error.message : "", says)
      })
    )
  }
})
