/**
 * `ctmap nat retries list|flush`: how many tries it took to find a free port.
 *
 * @since 0.1.0
 */
import type { Family } from "ctmap-core"
import * as NatRetries from "ctmap-gc/NatRetries"
import * as Effect from "effect/Effect"
import { NotFound } from "../Failure.ts"
import * as Kernel from "../Kernel.ts"
import type { Selection } from "../Options.ts"
import * as Output from "../Output.ts"
import * as Report from "../render/Report.ts"
import { checkRoot } from "../Selection.ts"

/** @since 0.1.0 */
export interface RetriesOptions extends Pick<Selection, "family"> {
  readonly output: Report.Format
}

/** @since 0.1.0 */
export const list = (root: string, { family, output }: RetriesOptions) =>
  Kernel.provide(
    root,
    Effect.gen(function* () {
      const found = yield* each(family, NatRetries.read)
      const rows = found.flatMap(({ family: of, result }) =>
        result.map((count, retries) => ({ family: of, retries, count }))
      )
      // People want to see where the counts are; a script gets all of them.
      const shown = output === "json" || output === "ndjson" ? rows : rows.filter(({ count }) => count > 0)
      if (shown.length === 0) return yield* Output.note("ctmap: no port has been allocated since the counters began")
      yield* Report.print(output, fields, shown)
    })
  )

const fields: ReadonlyArray<Report.Field> = [
  { key: "family", title: "FAMILY" },
  { key: "retries", title: "RETRIES", align: "right" },
  { key: "count", title: "ALLOCATIONS", align: "right", show: Report.grouped }
]

/** @since 0.1.0 */
export const flush = (root: string, { family }: Pick<Selection, "family">) =>
  Kernel.provide(
    root,
    Effect.gen(function* () {
      for (const { family: of } of yield* each(family, NatRetries.reset)) {
        yield* Output.note(`ctmap: the counters of ${of} are zero now`)
      }
    })
  )

/** Of the families that have a histogram: at least one. */
const each = <A, E extends { readonly _tag: string }, R>(
  asked: Selection["family"],
  use: (family: Family.Family) => Effect.Effect<A, E, R>
) =>
  Effect.gen(function* () {
    yield* checkRoot
    const found: Array<{ readonly family: Family.Family; readonly result: A }> = []
    for (const family of ["ipv4", "ipv6"] as const) {
      if (asked !== "all" && asked !== family) continue
      const result = yield* use(family).pipe(
        Effect.map((value) => ({ family, result: value })),
        Effect.catchIf(isMissing, () => Effect.undefined)
      )
      if (result !== undefined) found.push(result)
    }
    if (found.length > 0) return found
    return yield* new NotFound({
      what: "the datapath keeps no count of port retries here: Cilium does since 1.20, where it masquerades"
    })
  })

const isMissing = (error: unknown): boolean =>
  typeof error === "object" &&
  error !== null &&
  "reason" in error &&
  (error.reason as { readonly _tag?: string })._tag === "PinNotFound"
