/**
 * Whether the cursor of batch look-ups is a bucket number on this kernel: tried on a map of our own with known content.
 */
import { MapSpec } from "ctmap-core"
import { Bpf, BpfMap } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import { BucketReader, bucketsFor } from "./bucketReader.ts"
import { densityOf, type Sample } from "./density.ts"

/** No power of two: the buckets must turn out to be the next one. */
const SLOTS = 3000
const ENTRIES = 1500
/** Every fifth entry has expired. */
const EXPIRED_EVERY = 5
const KEY = 8
const ROOM = 32
const READS = 16

/** So many standard errors off is no accident. */
const SIGMAS = 6

/** What is wrong with sampling here, `undefined` if nothing; and whether the answer will be the same later. */
export interface Outcome {
  readonly why: string | undefined
  readonly isFinal: boolean
}

/** Makes the map, tries, and drops it. */
export const run: Effect.Effect<Outcome, never, Bpf.Bpf> = Effect.scoped(
  Effect.gen(function* () {
    const bpf = yield* Bpf.Bpf
    const spec = { type: MapSpec.mapType.lruHash, keySize: KEY, valueSize: 4, maxEntries: SLOTS, flags: 0 }
    const map = yield* BpfMap.create(spec, "ctmap_estimate")
    const rc = fill(bpf, map)
    if (rc < 0) return yield* BpfMap.failure(map, "update", rc)
    const why = wrong(new BucketReader(bpf, map, ROOM))
    return { why, isFinal: true }
  })
).pipe(
  Effect.catchTag("BpfError", (error) =>
    Effect.succeed({
      why: `the map to try it on could not be used: ${error.message}`,
      isFinal: error.reason._tag === "NotPermitted" || error.reason._tag === "FeatureUnsupported"
    })
  )
)

const fill = (bpf: Bpf.Calls, map: BpfMap.BpfMap): number => {
  const key = new Uint8Array(KEY)
  const value = new Uint8Array(4)
  for (let i = 0; i < ENTRIES; i++) {
    new DataView(key.buffer).setUint32(0, i, true)
    new DataView(value.buffer).setUint32(0, i % EXPIRED_EVERY === 0 ? 1 : 2, true)
    const rc = bpf.update(map.fd, key, value, Bpf.ANY)
    if (rc < 0) return rc
  }
  return 0
}

/** The numbers of the entries from a bucket to the end, in the order of the walk. */
const walk = (reader: BucketReader, start: number): ReadonlyArray<number> | string => {
  const seen: Array<number> = []
  const keys = new DataView(reader.keys.buffer)
  for (let bucket = start; ;) {
    const read = reader.read(bucket)
    if (read === "unusable") return `the cursor after bucket ${bucket} is no bucket number`
    if ("_tag" in read) return read.message
    for (let i = 0; i < read.count; i++) seen.push(keys.getUint32(i * KEY, true))
    if (read.isEnd) return seen
    bucket = read.next
  }
}

const wrong = (reader: BucketReader): string | undefined => {
  const { buckets } = reader
  if (buckets !== bucketsFor(SLOTS)) return "the buckets are miscounted"
  const all = walk(reader, 0)
  if (typeof all === "string") return all
  if (all.length !== ENTRIES || new Set(all).size !== ENTRIES) {
    return `a walk along the cursors saw ${all.length} entries where there are ${ENTRIES}`
  }
  for (const quarter of [1, 2, 3]) {
    const rest = walk(reader, (buckets * quarter) / 4)
    if (typeof rest === "string") return rest
    if (rest.some((number, i) => number !== all[ENTRIES - rest.length + i])) {
      return "a walk from the middle is no part of the walk from the start"
    }
    const share = 1 - quarter / 4
    const spread = Math.sqrt(ENTRIES * share * (1 - share))
    if (Math.abs(rest.length - ENTRIES * share) > SIGMAS * spread) {
      return `a walk from bucket ${(buckets * quarter) / 4} of ${buckets} saw ${rest.length} of ${ENTRIES} entries`
    }
  }
  return wrongEstimate(reader)
}

/** The whole estimate, on places that are the same every time. */
const wrongEstimate = (reader: BucketReader): string | undefined => {
  const { buckets } = reader
  const samples: Array<Sample> = []
  const values = new DataView(reader.values.buffer)
  for (let i = 0; i < READS; i++) {
    const start = Math.floor(((i + 0.5) * buckets) / READS)
    const read = reader.read(start)
    if (read === "unusable") return `the cursor after bucket ${start} is no bucket number`
    if ("_tag" in read) return read.message
    let expired = 0
    for (let row = 0; row < read.count; row++) expired += Number(values.getUint32(row * 4, true) === 1)
    samples.push({ entries: read.count, buckets: read.next - start, expired, isCut: !read.isEnd })
  }
  const { perBucket, error, entries, expired } = densityOf(samples, Number.POSITIVE_INFINITY)
  const share = 1 / EXPIRED_EVERY
  const isNear =
    Math.abs(perBucket * buckets - ENTRIES) <= SIGMAS * error * buckets &&
    Math.abs(expired / entries - share) <= SIGMAS * Math.sqrt((share * (1 - share)) / entries)
  return isNear ? undefined : `it estimates ${Math.round(perBucket * buckets)} entries where there are ${ENTRIES}`
}
