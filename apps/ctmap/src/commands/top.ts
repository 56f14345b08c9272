/**
 * `ctmap top`: who has the most entries, packets or bytes.
 *
 * @since 0.1.0
 */
import type { CtColumns } from "ctmap-core"
import * as Protocol from "ctmap-core/Protocol"
import * as Effect from "effect/Effect"
import * as Clock from "../Clock.ts"
import * as Entries from "../Entries.ts"
import * as Kernel from "../Kernel.ts"
import type { ClockOptions, Selection as SelectionOptions } from "../Options.ts"
import * as Output from "../Output.ts"
import * as Report from "../render/Report.ts"
import * as Selection from "../Selection.ts"
import { TopK } from "../TopK.ts"

/** @since 0.1.0 */
export interface TopOptions extends SelectionOptions, ClockOptions {
  readonly where: string | undefined
  readonly output: Report.Format
  readonly by: By
  readonly of: "entries" | "packets" | "bytes"
  readonly limit: number
  readonly counters: number
}

/** @since 0.1.0 */
export type By = "source" | "destination" | "service" | "identity"

type Columns = CtColumns.CtColumns

/** The name an entry counts for; `undefined` where it counts for nobody. */
const names: Readonly<Record<By, (columns: Columns, row: number) => string | undefined>> = {
  source: (columns, row) => columns.sourceText(row),
  destination: (columns, row) => columns.destinationText(row),
  // The entry that a service keeps per client: its destination is the virtual address.
  service: (columns, row) => {
    if (!columns.isService(row)) return undefined
    const address = columns.destinationText(row)
    const host = columns.family === "ipv4" ? address : `[${address}]`
    return `${host}:${columns.destinationPort(row)}/${Protocol.name(columns.nexthdr(row), columns.release)}`
  },
  identity: (columns, row) => String(columns.sourceSecurityId(row))
}

const weights: Readonly<Record<TopOptions["of"], (columns: Columns, row: number) => number>> = {
  entries: () => 1,
  packets: (columns, row) => columns.packets(row),
  bytes: (columns, row) => columns.bytes(row)
}

/** @since 0.1.0 */
export const top = (root: string, options: TopOptions) =>
  Kernel.provide(
    root,
    Effect.gen(function* () {
      yield* Clock.check(options)
      yield* Entries.parse(options.where)
      const clock = options.where === undefined ? undefined : yield* Clock.read(options)
      const sources = yield* Entries.ctSources(yield* Selection.ctMaps(options), options.where, clock)
      const summary = new TopK(Math.max(options.counters, options.limit))
      const name = names[options.by]
      const weight = weights[options.of]
      let entries = 0
      yield* Entries.forEachRow(sources, ({ columns }, { rows, count }) => {
        for (let i = 0; i < count; i++) {
          const row = rows[i]!
          const counted = name(columns, row)
          if (counted === undefined) continue
          entries++
          const weighs = weight(columns, row)
          if (weighs > 0) summary.add(counted, weighs)
        }
      })
      if (entries > 0 && summary.total === 0) {
        yield* Output.note(
          `ctmap: none of the ${entries} entries has counted any ${options.of}: ` +
            "the datapath counts only with bpf-conntrack-accounting"
        )
      }
      yield* Report.print(options.output, fields(options, summary.exact), rowsOf(summary, options))
    })
  )

const fields = ({ by, of }: TopOptions, exact: boolean): ReadonlyArray<Report.Field> => [
  { key: by, title: by.toUpperCase() },
  { key: of, title: of.toUpperCase(), align: "right", show: of === "bytes" ? Report.bytes : Report.grouped },
  ...(exact ? [] : [{ key: "error", title: "AT MOST TOO HIGH BY", align: "right", show: Report.grouped } as const]),
  { key: "share", title: "SHARE", align: "right", show: Report.percent }
]

const rowsOf = (summary: TopK, { by, of, limit }: TopOptions): ReadonlyArray<Report.Row> =>
  summary.top(limit).map(({ name, count, error }) => ({ [by]: name, [of]: count, error, share: count / summary.total }))
