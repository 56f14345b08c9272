/**
 * How much to ask of the kernel at a time, so that no call holds its CPU for long and none is made for little.
 *
 * Batches go by it: half as much after a call that took longer than is wanted, twice as much after one that took less
 * than nine twentieths. Half of too long is more than that, so it comes to rest where calls take between nine twentieths
 * of the target and all of it; and one call that was late for another reason is forgotten by the next.
 */
import * as Duration from "effect/Duration"

/** What is asked for now, and its limits; times in nanoseconds. */
export interface ChunkSize {
  count: number
  /** What the largest bucket so far needs, and as little as is worth a call. */
  least: number
  most: number
  readonly target: number
  /** The longest call so far. */
  longest: number
}

/** What a call in a map of so many entries may take by default. The promise is twice as much. */
export const targetOf = (maxEntries: number): Duration.Duration => Duration.millis(maxEntries < LARGE ? 1 : 2)

/** What a run of an iterator may take: it is on another thread, and every run has to be waited for there. */
export const iteratorTargetOf = (maxEntries: number): Duration.Duration => Duration.times(targetOf(maxEntries), 1.6)

/** Where each entry costs twice as much: nothing of the map is in a cache any more. */
const LARGE = 4_000_000

/** The most that is asked for unless the caller says another size. */
export const MOST = 4096

/** Begins with `count`, or as much of it as the limits allow. */
export const make = (count: number, least: number, most: number, target: Duration.Input): ChunkSize => ({
  count: Math.min(Math.max(count, least), most),
  least: Math.min(least, most),
  most,
  target: Duration.toMillis(target) * 1e6,
  longest: 0
})

/** Of the target. */
const GROWS_BELOW = 0.45

/** How much to ask for after a call that took so many nanoseconds. */
export const nextCount = ({ count, least, most, target }: Omit<ChunkSize, "longest">, took: number): number =>
  took > target
    ? Math.max(least, Math.floor(count / 2))
    : took < target * GROWS_BELOW
      ? Math.min(most, count * 2)
      : count

/** Takes note of a call that did what was asked. */
export const called = (size: ChunkSize, took: number): void => {
  size.longest = Math.max(size.longest, took)
  size.count = nextCount(size, took)
}
