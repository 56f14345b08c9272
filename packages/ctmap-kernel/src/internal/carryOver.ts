/**
 * The loops of a migration over the bytes of two maps: look the old one over, copy it, bring the copy up to date, take
 * away what is no longer there, and carry over what is still written.
 *
 * One Effect per batch. Until the pins are swapped nobody else knows the new map, so every entry that went in and is
 * not there has been evicted.
 */
import { CtEntry, CtTime } from "ctmap-core"
import * as Effect from "effect/Effect"
import * as Bpf from "../Bpf.ts"
import type { BpfError } from "../BpfError.ts"
import * as BpfMap from "../BpfMap.ts"
import * as Scan from "../Scan.ts"

/** Two maps, and what is to be done with an entry on its way from one to the other. */
export interface Passage {
  readonly bpf: Bpf.Calls
  readonly old: BpfMap.BpfMap
  readonly fresh: BpfMap.BpfMap
  readonly keep: (value: Uint8Array, key: Uint8Array) => boolean
  /** In place, over a buffer that holds the larger of both values. */
  readonly convert: (value: Uint8Array, key: Uint8Array) => void
  /** Values are those of a CT map: the later lifetime is the newer entry. */
  readonly isCt: boolean
}

type Failing<A> = Effect.Effect<A, BpfError | Scan.Incomplete, Bpf.Bpf>

const ENOENT = -2
const EEXIST = -17
const transient: ReadonlySet<number> = new Set([-4, -11, -16])
const RETRIES = 16

const { lifetime } = CtEntry.offset

const lifetimeOf = (value: Uint8Array): number =>
  (value[lifetime]! | (value[lifetime + 1]! << 8) | (value[lifetime + 2]! << 16) | (value[lifetime + 3]! << 24)) >>> 0

/** Whether a CT value's time is over; nothing is without a time. */
const isExpired = (value: Uint8Array, now: number | undefined): boolean => now !== undefined && lifetimeOf(value) < now

/** What is in a map. */
export interface Survey {
  readonly entries: number
  /** Entries that `keep` would leave behind. */
  readonly left: number
  /** Of the others, those whose time is over. */
  readonly expired: number
  /** The latest expiry but the end of the scale, 0 where there is none. */
  readonly latest: number
}

/** Reads a whole map without changing anything. `now` counts what is expired, in a CT map only. */
export const survey = (old: BpfMap.BpfMap, keep: Passage["keep"], now: number | undefined): Failing<Survey> => {
  let left = 0
  let expired = 0
  let latest = 0
  const each = (value: Uint8Array, key: Uint8Array): void => {
    if (!keep(value, key)) left++
    else if (isExpired(value, now)) expired++
    if (now === undefined) return
    const time = lifetimeOf(value)
    if (time > latest && time !== CtTime.MAX_TIME) latest = time
  }
  return Effect.map(forEachEntry(old, each), (entries) => ({ entries, left, expired, latest }))
}

/** What a round did. */
export interface Round {
  /** Entries that the new map did not have. */
  readonly inserted: number
  /** Entries that the new map had otherwise. */
  readonly replaced: number
  readonly left: number
  readonly expired: number
}

/**
 * One round from the old map to the new: everything into an empty map (`all`), what is not the same there
 * (`different`), or only what the new map lacks or has older (`newer`), for when others write to it too.
 */
export const round = (
  { bpf, old, fresh, keep, convert, isCt }: Passage,
  which: "all" | "different" | "newer",
  now: number | undefined
): Failing<Round> => {
  const there = new Uint8Array(fresh.info.valueSize)
  const value = new Uint8Array(Math.max(old.info.valueSize, fresh.info.valueSize))
  const target = value.subarray(0, fresh.info.valueSize)
  const isWanted = which === "newer" && isCt ? isNewer : differs
  const counts = { inserted: 0, replaced: 0, left: 0, expired: 0 }
  const update = (key: Uint8Array, flags: number): number => {
    for (let retries = 0; ; retries++) {
      const rc = bpf.update(fresh.fd, key, target, flags)
      if (!transient.has(rc) || retries === RETRIES) return rc
    }
  }
  const each = (from: Uint8Array, key: Uint8Array): BpfError | undefined => {
    if (!keep(from, key)) return void counts.left++
    if (isExpired(from, now)) return void counts.expired++
    value.fill(0).set(from)
    convert(value, key)
    if (which !== "all") {
      const rc = bpf.lookup(fresh.fd, key, there)
      if (rc < 0 && rc !== ENOENT) return BpfMap.failure(fresh, "lookup", rc)
      if (rc === 0 && !isWanted(target, there)) return undefined
      if (rc === 0) {
        counts.replaced++
        return failed(fresh, "update", update(key, Bpf.ANY))
      }
    }
    const rc = update(key, Bpf.NOEXIST)
    if (rc >= 0) counts.inserted++
    if (rc !== EEXIST) return failed(fresh, "update", rc)
    // A walk by next key came by twice; or, after the swap, a program has just made the entry, and its is the newer.
    return which === "newer" ? undefined : failed(fresh, "update", update(key, Bpf.ANY))
  }
  return Effect.as(forEachEntry(old, each), counts)
}

/** What the new map held, and how many entries of it the old one no longer has: those are deleted from the new one. */
export const takeAway = ({ bpf, old, fresh }: Passage): Failing<{ readonly present: number; readonly gone: number }> =>
  Effect.gen(function* () {
    const scratch = new Uint8Array(old.info.valueSize)
    const { keySize } = fresh.info
    // Deleted once the map has been read: a walk by next key would lose its footing.
    let keys = new Uint8Array(64 * keySize)
    let gone = 0
    const present = yield* forEachEntry(fresh, (_value, key) => {
      const rc = bpf.lookup(old.fd, key, scratch)
      if (rc !== ENOENT) return failed(old, "lookup", rc)
      if ((gone + 1) * keySize > keys.byteLength) {
        const larger = new Uint8Array(2 * keys.byteLength)
        larger.set(keys)
        keys = larger
      }
      keys.set(key, gone++ * keySize)
      return undefined
    })
    for (let from = 0; from < gone; from += CHUNK) {
      yield* Effect.yieldNow
      const error = deleteKeys(bpf, fresh, keys.subarray(from * keySize, Math.min(gone, from + CHUNK) * keySize))
      if (error !== undefined) return yield* error
    }
    return { present, gone }
  })

/** Keys that are deleted between two yields. */
const CHUNK = 1024

const deleteKeys = (bpf: Bpf.Calls, map: BpfMap.BpfMap, keys: Uint8Array): BpfError | undefined => {
  const { keySize } = map.info
  for (let at = 0; at < keys.byteLength; at += keySize) {
    const rc = bpf.delete(map.fd, keys.subarray(at, at + keySize))
    if (rc !== ENOENT && rc < 0) return BpfMap.failure(map, "delete", rc)
  }
  return undefined
}

/** Calls `each` with every entry until it answers an error; how many there were. A walk that gave up is an error. */
const forEachEntry = (
  map: BpfMap.BpfMap,
  each: (value: Uint8Array, key: Uint8Array) => BpfError | undefined | void
): Failing<number> => {
  const { keySize, valueSize } = map.info
  const scan = Scan.forEach(map, ({ keys, values, count }) =>
    Effect.suspend(() => {
      for (let i = 0; i < count; i++) {
        const value = values.subarray(i * valueSize, (i + 1) * valueSize)
        const error = each(value, keys.subarray(i * keySize, (i + 1) * keySize))
        if (error !== undefined) return Effect.fail(error)
      }
      return Effect.void
    })
  )
  return Effect.flatMap(scan, (report) => {
    const why = Scan.whyIncomplete(map, report)
    return why === undefined ? Effect.succeed(report.entries) : Effect.fail(why)
  })
}

const failed = (map: BpfMap.BpfMap, operation: "update" | "lookup", rc: number): BpfError | undefined =>
  rc < 0 ? BpfMap.failure(map, operation, rc) : undefined

const differs = (value: Uint8Array, there: Uint8Array): boolean => {
  for (let i = 0; i < value.byteLength; i++) if (value[i] !== there[i]) return true
  return false
}

const isNewer = (value: Uint8Array, there: Uint8Array): boolean => lifetimeOf(value) > lifetimeOf(there)
