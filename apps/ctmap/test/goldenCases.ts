/** What every command must say about the recorded tables: held against the kernel and against its twin in memory. */
import { fileURLToPath } from "node:url"
import { assert, it } from "@effect/vitest"
import type * as Bpf from "ctmap-kernel/Bpf"
import { CtColumns, CtJson, FilterParser, FilterPredicate, MapName, Rows } from "ctmap-core"
import { Recorded } from "ctmap-testing"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { type Ran, run } from "./harness.ts"

/** Where the maps are. The directory is made when the suite starts. */
export interface Place {
  readonly root: string
  readonly bpf: Bpf.Calls | undefined
}

const now: Readonly<Record<Recorded.SetName, number>> = {
  "pods-ktime": 5461,
  "nat-orphans-ktime": 5494,
  "pods-jiffies": 21_000
}

const filters = [
  "tcp and not expired",
  "dir in or related",
  "src 198.18.0.0/16",
  "lifetime < 20s and not udp",
  "flag SeenNonSyn"
]

const decodeRecord = Schema.decodeUnknownSync(CtJson.Record)

/** The commands read small tables in one batch each: sizes as Cilium's own maps would need much memory. */
const sizes = ["--bpf-ct-global-tcp-max", "8192", "--bpf-ct-global-any-max", "8192", "--bpf-nat-global-max", "8192"]

export const cases = (place: Place): void => {
  for (const set of Recorded.setNames) {
    const ctmap = (...args: ReadonlyArray<string>): Effect.Effect<Ran> =>
      run(["--bpffs-root", `${place.root}/${set}`, ...args], { bpf: place.bpf })
    const done = (...args: ReadonlyArray<string>): Effect.Effect<string> =>
      Effect.map(ctmap(...args), ({ code, stdout, stderr }) => {
        assert.strictEqual(code, 0, stderr)
        return stdout
      })
    const at = ["--now", String(now[set])]
    const tables = Recorded.tables(set, "before")
    const isNat = (map: string): boolean => map.startsWith("cilium_snat")

    it.effect(`${set}: restores what was recorded`, () =>
      Effect.gen(function* () {
        const file = fileURLToPath(Recorded.path(set, "before.tsv.gz"))
        const { code, stderr } = yield* ctmap("snapshot", "restore", file, ...sizes)
        assert.strictEqual(code, 0, stderr)
        for (const { map, count } of tables.values()) {
          assert.include(stderr, `ctmap: ${map}: ${count} entries restored into a new map, ${count} now\n`)
        }
      })
    )

    it.effect(`${set}: lists exactly Cilium's lines, an empty line behind each table`, () =>
      Effect.gen(function* () {
        const text = yield* done("list")
        const listed = text.split("\n\n").slice(0, -1)
        const expected = [...Recorded.listings(set).values()]
        assert.strictEqual(listed.length, expected.length)
        listed.forEach((section, i) =>
          assert.deepStrictEqual(
            `${section}\n`.split("\n").toSorted(),
            (expected[i] ?? []).join("").split("\n").toSorted()
          )
        )
      })
    )

    it.effect(`${set}: counts, lists and filters the same entries in every format`, () =>
      Effect.gen(function* () {
        const { maps } = JSON.parse(yield* done("count", "-o", "json")) as {
          maps: Array<{ map: string; entries: number }>
        }
        assert.deepStrictEqual(
          new Map(maps.map(({ map, entries }) => [map, entries])),
          new Map([...tables.values()].filter(({ map }) => !isNat(map)).map(({ map, count }) => [map, count]))
        )
        for (const where of filters) {
          const expected = matching(set, where)
          const counted = JSON.parse(yield* done("count", "--where", where, ...at, "-o", "json")) as { total: number }
          assert.strictEqual(counted.total, expected, where)
          const ndjson = yield* done("list", "--where", where, ...at, "-o", "ndjson")
          assert.strictEqual(ndjson.split("\n").length - 1, expected, where)
        }
      })
    )

    it.effect(`${set}: writes JSON that its schema describes`, () =>
      Effect.gen(function* () {
        const lines = (yield* done("list", "-o", "ndjson", ...at)).trimEnd().split("\n")
        for (const line of lines) decodeRecord(JSON.parse(line), { onExcessProperty: "error" })
        const array = JSON.parse(yield* done("list", "-o", "json", ...at)) as ReadonlyArray<unknown>
        assert.deepStrictEqual(
          array,
          lines.map((line) => JSON.parse(line) as unknown)
        )
        const cilium = JSON.parse(yield* done("list", "-o", "cilium-json")) as ReadonlyArray<{
          Key: unknown
          Value: unknown
        }>
        assert.strictEqual(cilium.length, lines.length)
      })
    )

    it.effect(`${set}: sorts, limits and shows a table`, () =>
      Effect.gen(function* () {
        const sorted = (yield* done("list", "--sort", "bytes:desc", "--limit", "7", "-o", "ndjson", ...at))
          .trimEnd()
          .split("\n")
        const bytes = sorted.map((line) => (JSON.parse(line) as { bytes: number }).bytes)
        assert.deepStrictEqual(bytes, allBytes(set).slice(0, 7))
        assert.strictEqual((yield* done("list", "--limit", "5")).split("\n").filter((line) => line !== "").length, 5)
        const table = (yield* done("list", "-o", "table", "--limit", "3", ...at)).split("\n")
        assert.match(table[0] ?? "", /^PROTO +DIR +SOURCE +DESTINATION +EXPIRES/)
        assert.strictEqual(table.length, 5)
      })
    )

    it.effect(`${set}: finds one entry by its ends and by its key`, () =>
      Effect.gen(function* () {
        const table = tables.get("cilium_ct4_global")!
        const columns = columnsOf(table)
        const row = Array.from({ length: table.count }, (_, i) => i).find((i) => columns.tupleFlags(i) === 0)!
        const src = `${columns.sourceText(row)}:${columns.sourcePort(row)}`
        const dst = `${columns.destinationText(row)}:${columns.destinationPort(row)}`
        const line = yield* done("get", "--src", src, "--dst", dst)
        assert.include([...Recorded.listings(set).values()].flat(), line)
        const key = Buffer.from(columns.keyBytes(row)).toString("hex")
        assert.strictEqual(yield* done("get", "--key", key), line)
        const absent = yield* ctmap("get", "--src", "203.0.113.1:1", "--dst", dst)
        assert.strictEqual(absent.code, 1)
        assert.match(absent.stderr, /no entry of this flow/)
      })
    )

    it.effect(`${set}: breaks down, ranks and describes`, () =>
      Effect.gen(function* () {
        const total = [...tables.values()].filter(({ map }) => !isNat(map)).reduce((sum, { count }) => sum + count, 0)
        const stats = JSON.parse(yield* done("stats", "-o", "json", ...at)) as {
          entries: number
          groups: ReadonlyArray<{ entries: number }>
          remaining: ReadonlyArray<{ entries: number }>
        }
        assert.strictEqual(stats.entries, total)
        assert.strictEqual(sum(stats.groups), total)
        assert.strictEqual(sum(stats.remaining), total)
        const top = JSON.parse(
          yield* done("top", "--by", "identity", "--limit", "1000", "-o", "json")
        ) as ReadonlyArray<{
          entries: number
        }>
        assert.strictEqual(sum(top), total)
        const maps = JSON.parse(yield* done("maps", "-o", "json", ...at)) as ReadonlyArray<Record<string, unknown>>
        assert.deepStrictEqual(
          new Map(maps.map(({ map, entries }) => [map, entries])),
          new Map([...tables.values()].map(({ map, count }) => [map, count]))
        )
      })
    )

    it.effect(`${set}: lists NAT entries, and saves what it restored`, () =>
      Effect.gen(function* () {
        const nat = [...tables.values()].filter(({ map }) => isNat(map))
        const lines = (yield* done("nat", "list", "-o", "ndjson", ...at)).split("\n").filter((line) => line !== "")
        assert.strictEqual(
          lines.length,
          nat.reduce((count, table) => count + table.count, 0)
        )
        for (const line of lines) decodeRecord(JSON.parse(line), { onExcessProperty: "error" })
        if (lines.length > 0)
          assert.match(yield* done("nat", "list", "--limit", "1", ...at), /XLATE_(SRC|DST) .* Created=-?\d+sec ago/)
        const saved = (yield* done("snapshot", "save", "-")).trimEnd().split("\n")
        const recorded = [...tables.values()].flatMap((table) => hexLines(table))
        assert.deepStrictEqual(saved.toSorted(), recorded.toSorted())
      })
    )
  }
}

const sum = (rows: ReadonlyArray<{ readonly entries: number }>): number =>
  rows.reduce((all, { entries }) => all + entries, 0)

const rowsOf = ({ keys, values, keySize, valueSize, count }: Recorded.Table): Rows.Rows =>
  Rows.separate(keys, values, { keySize, valueSize, count })

const columnsOf = (table: Recorded.Table): CtColumns.CtColumns => {
  const denoted = MapName.parse(table.map)
  const family = denoted?._tag === "Global" ? denoted.kind.family : "ipv4"
  return new CtColumns.CtColumns({ family, release: "1.17" }).bind(rowsOf(table))
}

const ctTables = (set: Recorded.SetName): ReadonlyArray<CtColumns.CtColumns> =>
  [...Recorded.tables(set, "before").values()].filter(({ map }) => MapName.isGlobal(map)).map(columnsOf)

const matching = (set: Recorded.SetName, where: string): number => {
  const filter = Result.getOrThrow(FilterParser.parse(where))
  return ctTables(set).reduce((count, columns) => {
    const context = { family: columns.family, release: "1.17", now: now[set], secondsPerUnit: 1 } as const
    return count + FilterPredicate.count(Result.getOrThrow(FilterPredicate.compileCt(filter, context)), columns)
  }, 0)
}

const allBytes = (set: Recorded.SetName): ReadonlyArray<number> =>
  ctTables(set)
    .flatMap((columns) => Array.from({ length: columns.count }, (_, row) => columns.bytes(row)))
    .toSorted((a, b) => b - a)

const hexLines = ({ map, keys, values, keySize, valueSize, count }: Recorded.Table): ReadonlyArray<string> =>
  Array.from({ length: count }, (_, i) => {
    const hex = (bytes: Uint8Array, size: number) =>
      Buffer.from(bytes.subarray(i * size, (i + 1) * size)).toString("hex")
    return `${map}\t${hex(keys, keySize)}\t${hex(values, valueSize)}`
  })
