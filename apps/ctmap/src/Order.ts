/**
 * What entries can be sorted by.
 *
 * @since 0.1.0
 */
import type { CtColumns, NatColumns } from "ctmap-core"
import * as Effect from "effect/Effect"
import { UsageError } from "./Failure.ts"
import type { Columns } from "./render/Renderer.ts"

/** Where an entry stands: the highest comes first. @since 0.1.0 */
export type Order<C extends Columns> = (columns: C, row: number) => number

/** @since 0.1.0 */
export const ct: Readonly<Record<string, Order<CtColumns.CtColumns>>> = {
  expires: (columns, row) => columns.lifetime(row),
  packets: (columns, row) => columns.packets(row),
  bytes: (columns, row) => columns.bytes(row),
  reported: (columns, row) => Math.max(columns.lastTxReport(row), columns.lastRxReport(row)),
  sport: (columns, row) => columns.sourcePort(row),
  dport: (columns, row) => columns.destinationPort(row),
  identity: (columns, row) => columns.sourceSecurityId(row),
  revnat: (columns, row) => columns.revNat(row),
  protocol: (columns, row) => columns.nexthdr(row)
}

/** @since 0.1.0 */
export const nat: Readonly<Record<string, Order<NatColumns.NatColumns>>> = {
  created: (columns, row) => columns.created(row),
  sport: (columns, row) => columns.sourcePort(row),
  dport: (columns, row) => columns.destinationPort(row),
  xport: (columns, row) => columns.translatedPort(row),
  protocol: (columns, row) => columns.nexthdr(row)
}

/** From `FIELD`, `FIELD:asc` or `FIELD:desc`. Errors: `UsageError` with what is allowed. @since 0.1.0 */
export const parse = <C extends Columns>(
  fields: Readonly<Record<string, Order<C>>>,
  text: string | undefined
): Effect.Effect<Order<C> | undefined, UsageError> =>
  Effect.suspend(() => {
    if (text === undefined) return Effect.succeed(undefined)
    const [name = "", direction = "asc", ...rest] = text.split(":")
    const field = Object.hasOwn(fields, name) ? fields[name] : undefined
    if (field === undefined || rest.length > 0 || (direction !== "asc" && direction !== "desc")) {
      const known = Object.keys(fields).join(", ")
      return Effect.fail(
        new UsageError({ problem: `--sort "${text}": give FIELD, FIELD:asc or FIELD:desc with a field of ${known}` })
      )
    }
    return Effect.succeed(direction === "desc" ? field : (columns: C, row: number) => -field(columns, row))
  })
