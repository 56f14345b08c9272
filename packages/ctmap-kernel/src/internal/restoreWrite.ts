/** Writes a snapshot that has been read and checked to the maps it names. */
import { MapSpec } from "ctmap-core"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Scope from "effect/Scope"
import type * as Stream from "effect/Stream"
import * as Bpf from "../Bpf.ts"
import type { BpfError } from "../BpfError.ts"
import * as BpfMap from "../BpfMap.ts"
import * as Scan from "../Scan.ts"
import type { PlanOptions, Site } from "./restorePlan.ts"
import { Target } from "./restoreTarget.ts"
import { shiftTimes } from "./shiftTimes.ts"
import { RestoreStopped, SnapshotError } from "./snapshotError.ts"
import { readBatches } from "./snapshotMaps.ts"
import type { Entries } from "./snapshotText.ts"

export interface WriteOptions extends PlanOptions {
  readonly overwrite?: boolean
  readonly shift?: number
}

export type Targets = Map<string, Target>

/** Opens what is there and makes what is not; where a map was made, a scope that ends in failure unpins it. */
export const openTargets: (
  sites: ReadonlyMap<string, Site>,
  options: WriteOptions,
  targets: Targets
) => Effect.Effect<void, BpfError, Bpf.Bpf | Scope.Scope> = Effect.fnUntraced(function* (
  sites: ReadonlyMap<string, Site>,
  { replace = false, overwrite = false }: WriteOptions,
  targets: Targets
) {
  const bpf = yield* Bpf.Bpf
  for (const [name, { path, map, known, there }] of sites) {
    const manner = replace || map === undefined ? "all" : overwrite ? "overwrite" : "keep"
    const target = map ?? (yield* make(path, known.spec))
    targets.set(name, new Target(bpf, target, { created: map === undefined, manner, there }))
  }
})

const make = (path: string, spec: MapSpec.MapSpec): Effect.Effect<BpfMap.BpfMap, BpfError, Bpf.Bpf | Scope.Scope> =>
  Effect.acquireRelease(BpfMap.createPinned(spec, path), (_, exit) =>
    Exit.isSuccess(exit) ? Effect.void : Effect.ignore(BpfMap.unpin(path))
  )

/**
 * Deletes what is in the maps and not in the text. The keys of the text are held in maps of their own, of one byte a
 * value and pinned nowhere, so that what is in both is never missing from the table.
 */
export const clearOthers: <E, R>(
  text: Stream.Stream<Uint8Array, E, R>,
  sites: ReadonlyMap<string, Site>,
  targets: Targets
) => Effect.Effect<void, E | BpfError | SnapshotError | Scan.Incomplete, R | Bpf.Bpf> = Effect.fnUntraced(function* <
  E,
  R
>(text: Stream.Stream<Uint8Array, E, R>, sites: ReadonlyMap<string, Site>, targets: Targets) {
  const filled = Array.from(sites.values()).filter(({ there }) => there > 0)
  if (filled.length === 0) return
  const bpf = yield* Bpf.Bpf
  const keys = new Map<string, Target>()
  for (const { name, known, entries } of filled) {
    const map = yield* BpfMap.create(keysOf(known.spec, entries), "snapshot_keys")
    keys.set(name, new Target(bpf, map, { created: true, manner: "all", there: 0 }))
  }
  yield* readPlanned(text, sites, (name, batch) => {
    const set = keys.get(name)
    return set === undefined ? Effect.void : done(set.write({ keys: batch.keys, values: marks, count: batch.count }))
  })
  if (filled.some(({ name, entries }) => keys.get(name)!.taken !== entries)) return yield* changed
  for (const { name } of filled) {
    const target = targets.get(name)!
    const staying = keys.get(name)!.map
    const report = yield* Scan.forEach(target.map, (batch) => done(target.clear(batch, staying)))
    const why = Scan.whyIncomplete(target.map, report)
    if (why !== undefined) return yield* why
  }
}, Effect.scoped)

const keysOf = ({ keySize }: MapSpec.MapSpec, entries: number): MapSpec.MapSpec => ({
  type: MapSpec.mapType.hash,
  keySize,
  valueSize: 1,
  maxEntries: entries,
  flags: MapSpec.NO_PREALLOC
})

/** A value for every key of a batch. */
const marks = new Uint8Array(4096)

/** Writes all entries of the text. */
export const writeEntries = <E, R>(
  text: Stream.Stream<Uint8Array, E, R>,
  sites: ReadonlyMap<string, Site>,
  targets: Targets,
  shift: number
): Effect.Effect<void, E | BpfError | Scan.Incomplete | SnapshotError, R | Bpf.Bpf> =>
  readPlanned(text, sites, (name, entries) => {
    const target = targets.get(name)!
    if (shift !== 0) target.cut += shiftTimes(sites.get(name)!.known, entries, shift)
    return write(target, entries)
  }).pipe(
    Effect.andThen(
      Effect.suspend(() =>
        Array.from(sites.values()).every(({ name, entries }) => targets.get(name)!.taken === entries)
          ? Effect.void
          : Effect.fail(changed)
      )
    )
  )

/** Writes a batch, and counts the map before where it may become full. */
const write = (target: Target, entries: Entries): Effect.Effect<void, BpfError | Scan.Incomplete, Bpf.Bpf> =>
  target.needsCount(entries.count)
    ? Effect.flatMap(Scan.count(target.map), (count) => {
        target.counted(count, entries.count)
        return done(target.write(entries))
      })
    : done(target.write(entries))

/** Reads a text again, and fails where it names maps that it did not name before. */
const readPlanned = <E, R, E2, R2>(
  text: Stream.Stream<Uint8Array, E, R>,
  sites: ReadonlyMap<string, Site>,
  take: (name: string, entries: Entries) => Effect.Effect<void, E2, R2>
): Effect.Effect<void, E | E2 | SnapshotError, R | R2> =>
  readBatches(text, {
    open: (name) => {
      const site = sites.get(name)
      return site === undefined ? Effect.fail(changed) : Effect.succeed(site.known.spec)
    },
    take
  })

/** The text was another when it was read again. */
export const changed = new SnapshotError({
  why: "changed while it was read",
  hint: "see that nobody writes to the file, and restore it again"
})

/** How far a restore came. */
export const stoppedAt = (cause: unknown, sites: ReadonlyMap<string, Site>, targets: Targets): RestoreStopped =>
  new RestoreStopped({
    cause,
    maps: Array.from(sites.values(), ({ name, path, entries }) => {
      const target = targets.get(name)
      return {
        map: name,
        path,
        created: target?.created ?? false,
        entries,
        written: target?.written ?? 0,
        kept: target?.kept ?? 0,
        cleared: target?.cleared ?? 0
      }
    })
  })

const done = (error: BpfError | undefined): Effect.Effect<void, BpfError> =>
  error === undefined ? Effect.void : Effect.fail(error)
