/** Whether a table fits the clock, by the first of its batches that says anything about time. */
import { type CtColumns, CtTime } from "ctmap-core"
import { KernelClock } from "ctmap-kernel"
import * as Result from "effect/Result"
import type { Plan } from "./plan.ts"

/** The latest expiry of a batch; 0 where no entry has one, as what never expires says nothing of the clock. */
export const latestOf = (columns: CtColumns.CtColumns): number => {
  let latest = 0
  for (let row = 0; row < columns.count; row++) {
    const lifetime = columns.lifetime(row)
    if (lifetime > latest && lifetime !== CtTime.MAX_TIME) latest = lifetime
  }
  return latest
}

/** Says what is wrong with a batch, asked for one after the other; once one has fitted, the table does. */
export const clockCheck = (
  { checksClock, clock, now }: Pick<Plan, "checksClock" | "clock" | "now">,
  map: string
): ((columns: CtColumns.CtColumns) => KernelClock.ImplausibleClock | undefined) => {
  let isChecked = !checksClock
  return (columns) => {
    if (isChecked) return undefined
    const latest = latestOf(columns)
    isChecked = latest !== 0
    const fits = KernelClock.checkLatest({ source: clock.source, now }, latest, map)
    return Result.isFailure(fits) ? fits.failure : undefined
  }
}
