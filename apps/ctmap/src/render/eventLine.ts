/** An entry that went, or is due, as a line for people. @since 0.1.0 */
import type { CtColumns } from "ctmap-core"
import * as CtText from "ctmap-core/CtText"

/** `cilium_ct4_global: expired: TCP OUT …`, for a row of columns. @since 0.1.0 */
export const eventLine = (columns: CtColumns.CtColumns, row: number, map: string, reason: string): string => {
  const { key, entry } = columns.record(row)
  return `${map}: ${reason}: ${CtText.line(key, entry)?.trimEnd() ?? CtText.keyString(key)}\n`
}
