/**
 * What ctmap-core costs per entry: decoding, filtering, formatting. Run by `node --conditions=ctmap-source src/core.ts`.
 *
 * The first line of each table is the yardstick: a loop that reads every byte of every key and value once, and adds
 * them up. No work on entries can be done with less reading, though few fields may need fewer bytes.
 */
import {
  CtColumns,
  CtEntry,
  CtText,
  type Family,
  FilterParser,
  FilterPredicate,
  NatColumns,
  Rows,
  Tuple
} from "ctmap-core"
import * as CtLineWriter from "ctmap-core/CtLineWriter"
import * as NatLineWriter from "ctmap-core/NatLineWriter"
import { Recorded } from "ctmap-testing"
import * as Result from "effect/Result"
import { machine, measure, type Subject, table } from "./common/measure.ts"
import { ctTable, now as syntheticNow } from "./common/tables.ts"

const ENTRIES = 262_144
/** Rows of a table that subjects which make objects are tried on. */
const SLOW = 8_192
/** What a listing writes at a time. */
const buffer = new Uint8Array(1 << 20)

interface Batch {
  readonly family: Family.Family
  readonly rows: Rows.Rows
  readonly now: number
}

/** Repeats a subject until it handles about as many entries as the big tables have. */
const repeated = (count: number, name: string, run: () => number, entries = ENTRIES): Subject => {
  const times = Math.max(1, Math.round(entries / count))
  return {
    name,
    entries: count * times,
    run: () => {
      let checksum = 0
      for (let i = 0; i < times; i++) checksum += run()
      return checksum
    }
  }
}

const plainLoop = ({ keys, values, count }: Rows.Rows): Subject => {
  const keyBytes = new Uint8Array(keys.buffer, keys.byteOffset, keys.byteLength)
  const valueBytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
  return repeated(count, "plain loop over all bytes", () => sum(keyBytes) + sum(valueBytes))
}

const sum = (bytes: Uint8Array): number => {
  let total = 0
  for (let from = 0; from < bytes.length; from += 4096) total = (total + sumOf(bytes, from)) | 0
  return total
}

/** A call for each four kilobytes: V8 compiles a function that is called often better than one that runs long. */
const sumOf = (bytes: Uint8Array, from: number): number => {
  const end = Math.min(from + 4096, bytes.length)
  let total = 0
  for (let i = from; i < end; i++) total = (total + (bytes[i] ?? 0)) | 0
  return total
}

const decoding = ({ family, rows }: Batch): ReadonlyArray<Subject> => {
  const columns = new CtColumns.CtColumns({ family, release: "1.17" }).bind(rows)
  const { count } = rows
  const few = Math.min(count, SLOW)
  const tuple = Tuple.shape(family)
  const key = Tuple.makeFields(family)
  const entry = CtEntry.makeFields()
  return [
    repeated(count, "sum of columns.lifetime", () => {
      let total = 0
      for (let row = 0; row < count; row++) total += columns.lifetime(row)
      return total
    }),
    repeated(count, "Tuple.read, every field", () => {
      let total = 0
      for (let row = 0; row < count; row++) {
        Tuple.read(key, tuple, rows.keys, columns.keyAt(row))
        total += key.dport + (key.daddr[3] ?? 0)
      }
      return total
    }),
    repeated(count, "CtEntry.read, every field", () => {
      let total = 0
      for (let row = 0; row < count; row++) {
        CtEntry.read(entry, "1.17", rows.values, columns.valueAt(row))
        total += entry.lifetime + entry.packetsLo
      }
      return total
    }),
    repeated(
      few,
      "columns.key and columns.entry, objects",
      () => {
        let total = 0
        for (let row = 0; row < few; row++) total += columns.key(row).dport + columns.entry(row).flags
        return total
      },
      few
    )
  ]
}

const filtering = ({ family, rows, now }: Batch): ReadonlyArray<Subject> => {
  const columns = new CtColumns.CtColumns({ family, release: "1.17" }).bind(rows)
  const selected = new Uint32Array(rows.count)
  const network = family === "ipv4" ? "10.0.0.0/8" : "fd00:10::/32"
  return ["tcp and dport 443", `dst ${network} and expired`, `src ${network} and not service and packets > 400`].map(
    (text) => {
      const filter = Result.getOrThrow(FilterParser.parse(text))
      const predicate = Result.getOrThrow(FilterPredicate.compileCt(filter, { family, release: "1.17", now }))
      return repeated(rows.count, `select: ${text}`, () => FilterPredicate.select(predicate, columns, selected))
    }
  )
}

/** A whole listing through the buffer; the number of bytes. */
const list = (writer: CtLineWriter.CtLineWriter | NatLineWriter.NatLineWriter): number => {
  let bytes = 0
  for (let row = 0; row < writer.columns.count; bytes += writer.end) row = writer.fill(buffer, { from: row })
  return bytes
}

const formatting = ({ family, rows, now }: Batch): ReadonlyArray<Subject> => {
  const columns = new CtColumns.CtColumns({ family, release: "1.17" }).bind(rows)
  const v120 = new CtColumns.CtColumns({ family, release: "1.20" }).bind(rows)
  const plain = new CtLineWriter.CtLineWriter(columns)
  const timed = new CtLineWriter.CtLineWriter(columns, { secondsRemaining: (lifetime) => lifetime - now })
  const newer = new CtLineWriter.CtLineWriter(v120)
  const few = Math.min(rows.count, SLOW)
  return [
    repeated(rows.count, "CtLineWriter", () => list(plain)),
    repeated(rows.count, "CtLineWriter, with time remaining", () => list(timed)),
    repeated(rows.count, "CtLineWriter, release 1.20", () => list(newer)),
    repeated(
      few,
      "CtText.line, one string an entry",
      () => {
        let bytes = 0
        for (let row = 0; row < few; row++) bytes += CtText.line(columns.key(row), columns.entry(row))?.length ?? 0
        return bytes
      },
      few
    )
  ]
}

const natFormatting = (family: Family.Family, rows: Rows.Rows): ReadonlyArray<Subject> => {
  const columns = new NatColumns.NatColumns({ family, release: "1.17" }).bind(rows)
  const raw = new NatLineWriter.NatLineWriter(columns)
  const aged = new NatLineWriter.NatLineWriter(columns, { age: (created) => 5461n - created })
  return [
    repeated(rows.count, "NatLineWriter", () => list(raw)),
    repeated(rows.count, "NatLineWriter, with age", () => list(aged))
  ]
}

const recorded = (map: string): Rows.Rows => {
  const found = Recorded.tables("pods-ktime", "before").get(map)
  if (found === undefined) throw new Error(`the recorded set has no table ${map}`)
  return Rows.separate(found.keys, found.values, found)
}

const report = (title: string, rows: Rows.Rows, subjects: ReadonlyArray<Subject>): void =>
  console.log(`\n${table(title, measure([plainLoop(rows), ...subjects]))}`)

console.log(machine())
for (const family of ["ipv4", "ipv6"] as const) {
  const batch: Batch = { family, rows: ctTable(family, ENTRIES), now: syntheticNow }
  report(`CT ${family}, ${ENTRIES} entries`, batch.rows, [
    ...decoding(batch),
    ...filtering(batch),
    ...formatting(batch)
  ])
}
for (const [family, digit] of [
  ["ipv4", 4],
  ["ipv6", 6]
] as const) {
  const ct = recorded(`cilium_ct${digit}_global`)
  const snat = recorded(`cilium_snat_v${digit}_external`)
  report(`CT ${family}, recorded, ${ct.count} entries`, ct, formatting({ family, rows: ct, now: 5461 }))
  report(`NAT ${family}, recorded, ${snat.count} entries`, snat, natFormatting(family, snat))
}
