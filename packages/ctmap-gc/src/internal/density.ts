/** What reads from several places of a map say of all of it: pure arithmetic. */

/** One read: whole buckets, as many as there was room for. */
export interface Sample {
  readonly entries: number
  readonly buckets: number
  readonly expired: number
  /** It ended because the next bucket did not fit, not because the map did. */
  readonly isCut: boolean
}

/** Entries per bucket, with its standard error; how many of the entries that were seen had expired. */
export interface Density {
  readonly perBucket: number
  readonly error: number
  readonly entries: number
  readonly expired: number
}

/**
 * Entries per bucket.
 *
 * A read stops before the bucket that does not fit, and full buckets are likelier to be that one: what was read holds,
 * on average, one entry less than its buckets should (Wald's identity with the size-biased next bucket, for the Poisson
 * law that hashing gives). So one is added for every read that was cut. The error is that of a ratio estimator, from how
 * much the reads differ; a single read has that of its Poisson count.
 */
export const densityOf = (samples: ReadonlyArray<Sample>, allBuckets: number): Density => {
  let entries = 0
  let buckets = 0
  let expired = 0
  let corrected = 0
  for (const sample of samples) {
    entries += sample.entries
    buckets += sample.buckets
    expired += sample.expired
    corrected += sample.entries + Number(sample.isCut)
  }
  const perBucket = corrected / buckets
  const unread = Math.max(0, 1 - buckets / allBuckets)
  if (samples.length < 2) {
    return { perBucket, error: (Math.sqrt(corrected + 1) / buckets) * Math.sqrt(unread), entries, expired }
  }
  let squares = 0
  for (const sample of samples) {
    squares += (sample.entries + Number(sample.isCut) - perBucket * sample.buckets) ** 2
  }
  const n = samples.length
  return { perBucket, error: (Math.sqrt((squares * n) / (n - 1)) / buckets) * Math.sqrt(unread), entries, expired }
}

/** The standard error of a share that was seen as `part` of `all`: never 0, as rare ones go unseen. */
export const shareError = (part: number, all: number): number => {
  const share = (part + 1) / (all + 2)
  return Math.sqrt((share * (1 - share)) / (all + 2))
}
