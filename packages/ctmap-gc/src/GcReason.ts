/**
 * Why a pass deleted an entry, as text and as the number that stands for it in event batches.
 *
 * @since 0.1.0
 */
import * as Schema from "effect/Schema"

/**
 * Every reason, by number. The order is that of the rules: the first that fits an entry is its reason.
 *
 * **Details**
 *
 * `expired`: its lifetime lies before now. `matched-address`: a purge named one of its addresses. `matched-filter`: a
 * purge's filter accepted it. `flushed`: everything was to go.
 *
 * @since 0.1.0
 */
export const names = ["expired", "matched-address", "matched-filter", "flushed"] as const

/** @since 0.1.0 */
export const GcReason: Schema.Literals<typeof names> = Schema.Literals(names)

/** @since 0.1.0 */
export type GcReason = (typeof names)[number]

/** The number of each reason in {@link names}. @since 0.1.0 */
export const number: Readonly<Record<GcReason, number>> = {
  expired: 0,
  "matched-address": 1,
  "matched-filter": 2,
  flushed: 3
}

/** The number of an entry that stays: no reason at all. @since 0.1.0 */
export const KEEP = 255

/** How many entries went for which reason. @since 0.1.0 */
export const Counts = Schema.Struct({
  expired: Schema.Int,
  "matched-address": Schema.Int,
  "matched-filter": Schema.Int,
  flushed: Schema.Int
})

/** @since 0.1.0 */
export type Counts = typeof Counts.Type
