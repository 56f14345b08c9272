/** What a snapshot would do to the maps it names: found out by reading all of it, before any of them is touched. */
import { MapSpec } from "ctmap-core"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type * as Stream from "effect/Stream"
import * as Bpf from "../Bpf.ts"
import type { BpfError } from "../BpfError.ts"
import * as BpfMap from "../BpfMap.ts"
import * as Pins from "../Pins.ts"
import * as Scan from "../Scan.ts"
import { cpusOf, safeEntries, sizeFor } from "./restoreTarget.ts"
import type { Known } from "./shiftTimes.ts"
import { NoRoom, type SnapshotError } from "./snapshotError.ts"
import { checkLayout, knownMap, readBatches } from "./snapshotMaps.ts"
import type { Entries } from "./snapshotText.ts"

export interface PlanOptions extends MapSpec.Options {
  readonly replace?: boolean
  readonly failOnEviction?: boolean
}

/** A map that a snapshot names. */
export interface Site {
  readonly name: string
  readonly path: string
  readonly known: Known
  /** What is pinned there. */
  readonly map: BpfMap.BpfMap | undefined
  /** Entries in it. */
  readonly there: number
  /** Entries that the snapshot has of it. */
  entries: number
  /** Those whose key is not in the map, counted twice where the snapshot has them twice. */
  coming: number
}

export type SurveyError = BpfError | SnapshotError | Scan.Incomplete

/** Reads and checks all of a text, and looks at the maps it names, in the order of their first lines. */
export const survey: <E, R>(
  text: Stream.Stream<Uint8Array, E, R>,
  options: PlanOptions
) => Effect.Effect<ReadonlyMap<string, Site>, E | SurveyError, R | Bpf.Bpf | Scope.Scope> = Effect.fnUntraced(
  function* <E, R>(text: Stream.Stream<Uint8Array, E, R>, options: PlanOptions) {
    const bpf = yield* Bpf.Bpf
    const sites = new Map<string, Site>()
    yield* readBatches(text, {
      open: (name, line) =>
        Effect.gen(function* () {
          const site = sites.get(name) ?? (yield* lookAt(name, line, options))
          sites.set(name, site)
          return site.known.spec
        }),
      take: (name, entries) =>
        Effect.suspend(() => {
          const site = sites.get(name)!
          site.entries += entries.count
          const missing = options.replace === true ? entries.count : missingOf(bpf, site, entries)
          if (typeof missing !== "number") return Effect.fail(missing)
          site.coming += missing
          return Effect.void
        })
    })
    return sites
  }
)

const lookAt = (
  name: string,
  line: number,
  options: PlanOptions
): Effect.Effect<Site, SurveyError, Bpf.Bpf | Scope.Scope> =>
  Effect.gen(function* () {
    const known = yield* knownMap(name, line, options)
    const path = yield* Pins.pathOf(name)
    const map = yield* BpfMap.open(path).pipe(
      Effect.catchReason("BpfError", "PinNotFound", () => Effect.succeed(undefined))
    )
    if (map !== undefined) yield* checkLayout(map, line, known)
    const there = map === undefined ? 0 : yield* countOf(map)
    return { name, path, known, map, there, entries: 0, coming: 0 }
  })

/** How many entries a map holds, to be relied on. */
const countOf = (map: BpfMap.BpfMap): Effect.Effect<number, BpfError | Scan.Incomplete, Bpf.Bpf> =>
  Effect.flatMap(
    Scan.forEach(map, () => Effect.void),
    (report) => {
      const why = Scan.whyIncomplete(map, report)
      return why === undefined ? Effect.succeed(report.entries) : Effect.fail(why)
    }
  )

/** How many keys of a batch are not in the map. */
const missingOf = (bpf: Bpf.Calls, { map, there }: Site, { keys, count }: Entries): number | BpfError => {
  if (map === undefined || there === 0) return count
  const { keySize, valueSize } = map.info
  const value = new Uint8Array(valueSize)
  let missing = 0
  for (let i = 0; i < count; i++) {
    const rc = bpf.lookup(map.fd, keys.subarray(i * keySize, (i + 1) * keySize), value)
    if (rc === ENOENT) missing++
    else if (rc < 0) return BpfMap.failure(map, "lookup", rc)
  }
  return missing
}

const ENOENT = -2

/**
 * How many entries a map takes besides those that stay. One that is not there yet may be filled to its end: whether that
 * works is tried, for it is nobody's, and is unpinned again where it evicts.
 */
export const roomOf = (bpf: Bpf.Calls, { map, known, there }: Site, { replace = false }: PlanOptions): number =>
  map === undefined ? known.spec.maxEntries : Math.max(0, safeEntries(map.info, cpusOf(bpf)) - (replace ? 0 : there))

/** Fails where maps have less room than their entries of the snapshot need. */
export const checkRoom = (bpf: Bpf.Calls, sites: Iterable<Site>, options: PlanOptions): Effect.Effect<void, NoRoom> => {
  const short = Array.from(sites).flatMap((site) => {
    const { name, path, map, known, there, coming } = site
    const properties = map?.info ?? known.spec
    const isLru = properties.type === MapSpec.mapType.lruHash
    const room = roomOf(bpf, site, options)
    if (coming <= room || (isLru && options.failOnEviction === false)) return []
    const stays = options.replace === true ? 0 : there
    const needed = sizeFor(stays + coming, properties, cpusOf(bpf))
    const { maxEntries } = properties
    return [{ map: name, path, isPinned: map !== undefined, isLru, maxEntries, there: stays, coming, room, needed }]
  })
  return short.length === 0 ? Effect.void : Effect.fail(new NoRoom({ maps: short }))
}
