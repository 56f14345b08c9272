/**
 * `ctmap count`: how many entries each map holds, or how many of them match.
 *
 * @since 0.1.0
 */

import * as Scan from "ctmap-kernel/Scan"
import * as Effect from "effect/Effect"
import type { ClockOptions, Selection as SelectionOptions } from "../Options.ts"
import * as Kernel from "../Kernel.ts"
import { load } from "../Load.ts"
import * as Output from "../Output.ts"
import type * as Report from "../render/Report.ts"
import * as Selection from "../Selection.ts"

/** @since 0.1.0 */
export interface CountOptions extends SelectionOptions, ClockOptions {
  readonly where: string | undefined
  readonly output: Report.Format
  /** NAT maps in place of CT maps. */
  readonly nat: boolean
}

interface Counted {
  readonly map: string
  readonly entries: number
}

/** @since 0.1.0 */
export const count = (root: string, options: CountOptions) =>
  Kernel.provide(
    root,
    Effect.gen(function* () {
      const counts = options.where === undefined ? yield* all(options) : yield* matching(options, options.where)
      yield* Output.write(text(options.output, counts))
    })
  )

/** Without a filter nothing is interpreted: maps of unknown layout can be counted too. */
const all = (options: CountOptions) =>
  Effect.gen(function* () {
    const maps = options.nat ? yield* Selection.natMaps(options) : yield* Selection.ctMaps(options)
    return yield* Effect.forEach(maps, ({ map }) =>
      Effect.map(Scan.count(map), (entries): Counted => ({ map: map.name, entries }))
    )
  })

const matching = (options: CountOptions, where: string) =>
  Effect.gen(function* () {
    // What reads filters and clocks is loaded only where there is a filter: a bare count starts faster.
    const { counts } = yield* load(() => import("../matching.ts"))
    return yield* counts(options, where)
  })

const text = (format: Report.Format, counts: ReadonlyArray<Counted>): string => {
  const total = counts.reduce((sum, { entries }) => sum + entries, 0)
  if (format === "json") return `${JSON.stringify({ total, maps: counts })}\n`
  if (format === "ndjson") return counts.map((line) => `${JSON.stringify(line)}\n`).join("")
  const rows = counts.length === 1 ? counts : [...counts, { map: "total", entries: total }]
  const width = String(total).length
  return rows.map(({ map, entries }) => `${String(entries).padStart(width)} ${map}\n`).join("")
}
