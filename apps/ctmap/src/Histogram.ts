/**
 * How long entries have left: counts by remaining lifetime, in steps that match the datapath's timeouts.
 *
 * @since 0.1.0
 */

/** Upper bounds in seconds, not included: FIN 10 s, UDP and SYN 60 s, TCP 8000 s. @since 0.1.0 */
const bounds: ReadonlyArray<number> = [0, 10, 60, 600, 3600, 8001, 86_400]

const titles = ["expired", "< 10 s", "10 - 60 s", "1 - 10 min", "10 - 60 min", "1 - 2.2 h", "2.2 - 24 h", "> 24 h"]

/** One step. @since 0.1.0 */
export interface Bucket {
  readonly title: string
  readonly count: number
  /** Of all, 0 to 1. */
  readonly share: number
}

/** @since 0.1.0 */
export class Histogram {
  readonly #counts = new Float64Array(bounds.length + 1)

  /** An entry that has this many seconds left; negative once expired. */
  add(seconds: number): void {
    let i = 0
    while (i < bounds.length && seconds >= bounds[i]!) i++
    this.#counts[i]!++
  }

  /** Every step, empty ones too. */
  buckets(): ReadonlyArray<Bucket> {
    const total = this.#counts.reduce((sum, count) => sum + count, 0)
    return titles.map((title, i) => ({
      title,
      count: this.#counts[i]!,
      share: total === 0 ? 0 : this.#counts[i]! / total
    }))
  }
}

/** A bar of up to `width` characters for a share of one. @since 0.1.0 */
export const bar = (share: number, width = 30): string =>
  "#".repeat(share > 0 ? Math.max(1, Math.round(share * width)) : 0)
