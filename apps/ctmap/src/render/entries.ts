/**
 * CT and NAT entries in every format.
 *
 * @since 0.1.0
 */
import type { CtColumns, NatColumns } from "ctmap-core"
import * as CiliumJson from "ctmap-core/CiliumJson"
import * as CiliumJsonWriter from "ctmap-core/CiliumJsonWriter"
import * as CtEntryFlags from "ctmap-core/CtEntryFlags"
import * as CtJsonWriter from "ctmap-core/CtJsonWriter"
import * as CtLineWriter from "ctmap-core/CtLineWriter"
import * as CtTime from "ctmap-core/CtTime"
import * as NatLineWriter from "ctmap-core/NatLineWriter"
import * as Protocol from "ctmap-core/Protocol"
import * as TupleFlags from "ctmap-core/TupleFlags"
import type { Reading } from "../Clock.ts"
import type { Format } from "../Options.ts"
import * as Renderer from "./Renderer.ts"
import type { Column } from "./TextTable.ts"

type Ct = CtColumns.CtColumns
type Nat = NatColumns.NatColumns

/** What an entry is printed with. @since 0.1.0 */
export interface Style {
  readonly output: Format
  /** Lines say how long an entry has left (CT), how old it is (NAT). */
  readonly timeDiff: boolean
  readonly clock: Reading | undefined
}

/** @since 0.1.0 */
export const ct = ({ output, timeDiff, clock }: Style): Renderer.Renderer<Ct> => {
  switch (output) {
    case "text":
      return Renderer.lines(
        ({ columns, local }) =>
          new CtLineWriter.CtLineWriter(columns, {
            scope: local ? "local" : "global",
            ...(timeDiff && clock !== undefined
              ? { secondsRemaining: (lifetime: number) => CtTime.remaining(clock.source, lifetime, clock.now) }
              : {})
          })
      )
    case "table":
      return Renderer.cells(ctColumns, (table, row) => ctCells(table, row, clock))
    case "cilium-json":
      return ciliumJson()
    default:
      return json(output, clock)
  }
}

/** @since 0.1.0 */
export const nat = ({ output, timeDiff, clock }: Style): Renderer.Renderer<Nat> => {
  switch (output) {
    case "text":
      return Renderer.lines(({ columns }) => {
        if (!timeDiff || clock === undefined) return new NatLineWriter.NatLineWriter(columns)
        const now = BigInt(clock.now)
        return new NatLineWriter.NatLineWriter(columns, { age: (created) => CtTime.age(clock.source, created, now) })
      })
    case "table":
      return Renderer.cells(natColumns, (table, row) => natCells(table, row, clock))
    case "cilium-json":
      return ciliumJson()
    default:
      return json(output, clock)
  }
}

const ciliumJson = <C extends Renderer.Columns>(): Renderer.Renderer<C> =>
  Renderer.writtenRecords(
    CiliumJson.document,
    ({ columns }) => new CiliumJsonWriter.CiliumJsonWriter(columns, CiliumJson.document.between)
  )

const json = <C extends Renderer.Columns>(output: Format, clock: Reading | undefined): Renderer.Renderer<C> => {
  const document = output === "ndjson" ? Renderer.ndjsonDocument : Renderer.jsonDocument
  return Renderer.writtenRecords(document, ({ columns, map: { name: map } }) => {
    const context = clock === undefined ? { map } : { map, clock }
    return new CtJsonWriter.CtJsonWriter(columns, context, document.between)
  })
}

const ctColumns: ReadonlyArray<Column> = [
  { title: "PROTO" },
  { title: "DIR" },
  { title: "SOURCE" },
  { title: "DESTINATION" },
  { title: "EXPIRES", align: "right" },
  { title: "PACKETS", align: "right" },
  { title: "BYTES", align: "right" },
  { title: "IDENTITY", align: "right" },
  { title: "REVNAT", align: "right" },
  { title: "FLAGS" }
]

const natColumns: ReadonlyArray<Column> = [
  { title: "PROTO" },
  { title: "DIR" },
  { title: "SOURCE" },
  { title: "DESTINATION" },
  { title: "TRANSLATED" },
  { title: "TO" },
  { title: "AGE", align: "right" },
  { title: "NEEDS-CT" }
]

const ctCells = ({ columns }: Renderer.Table<Ct>, row: number, clock: Reading | undefined): ReadonlyArray<string> => {
  const tupleFlags = columns.tupleFlags(row)
  const lifetime = columns.lifetime(row)
  return [
    Protocol.name(columns.nexthdr(row), columns.release),
    TupleFlags.direction(tupleFlags) + (TupleFlags.isRelated(tupleFlags) ? "+related" : ""),
    end(columns, columns.sourceText(row), columns.sourcePort(row)),
    end(columns, columns.destinationText(row), columns.destinationPort(row)),
    clock === undefined ? String(lifetime) : span(CtTime.remaining(clock.source, lifetime, clock.now)),
    String(columns.packetsExact(row)),
    String(columns.bytesExact(row)),
    String(columns.sourceSecurityId(row)),
    String(columns.revNat(row)),
    CtEntryFlags.names(columns.flags(row)).join(",") || "-"
  ]
}

const natCells = ({ columns }: Renderer.Table<Nat>, row: number, clock: Reading | undefined): ReadonlyArray<string> => {
  const isReverse = columns.isReverse(row)
  const created = columns.createdExact(row)
  return [
    Protocol.name(columns.nexthdr(row), columns.release),
    isReverse ? "in" : "out",
    end(columns, columns.sourceText(row), columns.sourcePort(row)),
    end(columns, columns.destinationText(row), columns.destinationPort(row)),
    isReverse ? "destination" : "source",
    end(columns, columns.translatedText(row), columns.translatedPort(row)),
    clock === undefined ? String(created) : span(Number(CtTime.age(clock.source, created, BigInt(clock.now)))),
    columns.needsCt(row) ? "yes" : "no"
  ]
}

/** Brackets around IPv6, which Cilium's CT lines do without (G24). */
const end = ({ family }: Renderer.Columns, address: string, port: number): string =>
  family === "ipv4" ? `${address}:${port}` : `[${address}]:${port}`

/** A span of seconds in its two largest units: `2h13m`, `42s`, `-5m3s`. @since 0.1.0 */
export const span = (seconds: number): string => {
  const sign = seconds < 0 ? "-" : ""
  const all = Math.abs(Math.trunc(seconds))
  const units = [
    [Math.floor(all / 86_400), "d"],
    [Math.floor(all / 3600) % 24, "h"],
    [Math.floor(all / 60) % 60, "m"],
    [all % 60, "s"]
  ] as const
  const first = units.findIndex(([n]) => n > 0)
  if (first < 0) return "0s"
  return (
    sign +
    units
      .slice(first, first + 2)
      .map(([n, unit]) => (n > 0 ? `${n}${unit}` : ""))
      .join("")
  )
}
