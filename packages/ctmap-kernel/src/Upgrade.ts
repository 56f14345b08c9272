/**
 * What to do when a pinned map is not the one that is wanted: drop it, as Cilium does, or carry its entries over.
 *
 * Owns the two ways and their guarantees. Dropping loses every connection of the map once programs use the new one;
 * migrating copies what is alive into a map of the new size or layout, verifies the copy and swaps the pin in one step.
 *
 * @since 0.1.0
 */
import { CtEntry, type CtTime, MapSpec, type Release, Tuple, TupleFlags } from "ctmap-core"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { constVoid } from "effect/Function"
import type * as Scope from "effect/Scope"
import * as Bpf from "./Bpf.ts"
import type { BpfError } from "./BpfError.ts"
import * as BpfMap from "./BpfMap.ts"
import { CtMaps, type Which } from "./CtMaps.ts"
import { type Passage, round, survey, takeAway } from "./internal/carryOver.ts"
import { ctFamily, timeOf } from "./internal/entryTime.ts"
import type * as KernelClock from "./KernelClock.ts"
import {
  CatchUpFailed,
  MapTooSmall,
  MigrationIncomplete,
  NotMigratable,
  PinReplaced,
  type SwapError
} from "./MigrationError.ts"
import type * as Owner from "./Owner.ts"

/**
 * What became of one pin.
 *
 * @since 0.1.0
 */
export interface Outcome {
  readonly path: string
  readonly outcome: "absent" | "unchanged" | "deleted" | "failed"
  readonly differences: ReadonlyArray<MapSpec.Difference>
  /** Why the map could not be opened or unpinned, where it could not. */
  readonly error: BpfError | undefined
}

const order = [
  { family: "ipv4", transport: "tcp" },
  { family: "ipv4", transport: "any" },
  { family: "ipv6", transport: "tcp" },
  { family: "ipv6", transport: "any" }
] as const

/**
 * Cilium's `DeleteIfUpgradeNeeded`: unpins every CT map of an owner that differs from its blueprint.
 *
 * **Details**
 *
 * Looks at all four maps, both families always, and compares type, key size, value size, entries and flags. A map that
 * is not there is no error, one that cannot be opened or unpinned is reported and the others go on. A program array is
 * left alone whatever it differs in. Nothing is made anew here, and programs that hold the old map keep using it.
 *
 * @since 0.1.0
 */
export const deleteIfUpgradeNeeded = (
  owner: Owner.Owner
): Effect.Effect<ReadonlyArray<Outcome>, never, CtMaps | Bpf.Bpf> =>
  Effect.flatMap(CtMaps, (maps) =>
    Effect.forEach(order, (kind) => {
      const which: Which = { ...kind, owner }
      return checkOne(maps.path(which), maps.spec(which))
    })
  )

const checkOne = (path: string, wanted: MapSpec.MapSpec): Effect.Effect<Outcome, never, Bpf.Bpf> =>
  Effect.scoped(
    Effect.flatMap(BpfMap.open(path), ({ info }) => {
      const differences = MapSpec.differences(wanted, info)
      const kept = differences.length === 0 || info.type === MapSpec.mapType.progArray
      return kept
        ? Effect.succeed<Outcome>({ path, outcome: "unchanged", differences, error: undefined })
        : Effect.as(BpfMap.unpin(path), { path, outcome: "deleted", differences, error: undefined } as const)
    })
  ).pipe(
    Effect.catch((error) =>
      Effect.succeed<Outcome>({
        path,
        outcome: error.reason._tag === "PinNotFound" ? "absent" : "failed",
        differences: [],
        error: error.reason._tag === "PinNotFound" ? undefined : error
      })
    )
  )

/**
 * How far a migration is.
 *
 * @since 0.1.0
 */
export type Phase =
  /** The new map is made, and the old one is being copied to it. */
  | { readonly _tag: "Copying"; readonly path: string }
  /** Everything that is to be in the new map is there. */
  | { readonly _tag: "Verified"; readonly path: string; readonly copied: number }
  /** The pin names the new map: programs that are loaded from now on use it. Reload those that use the old one. */
  | { readonly _tag: "Swapped"; readonly path: string }
  /** A round over the old map is done. */
  | ({ readonly _tag: "CatchingUp"; readonly path: string } & Omit<CaughtUp, "quiet">)
  /** Nobody writes to the old map any more, or the time to wait for that is over. */
  | ({ readonly _tag: "Quiet" | "GaveUp"; readonly path: string } & Omit<CaughtUp, "quiet">)

/**
 * What a swap did.
 *
 * @since 0.1.0
 */
export interface Swapped {
  readonly path: string
  readonly differences: ReadonlyArray<MapSpec.Difference>
  /** Entries that the new map held when it was pinned. */
  readonly copied: number
  /** Entries that were left behind because `keep` said so. */
  readonly left: number
  /** Entries that were left behind because their time was over. */
  readonly expired: number
  /** Entries that were deleted from the old map during the copy, and so from the new one. */
  readonly removed: number
  /** Why the clock could not be trusted, so that expired entries were copied too; `undefined` also without a clock. */
  readonly untimely: KernelClock.ImplausibleClock | CtTime.ClockError | undefined
}

/**
 * What was carried over after the swap.
 *
 * @since 0.1.0
 */
export interface CaughtUp {
  /** Entries that programs wrote to the old map, carried over. */
  readonly caughtUp: number
  /** Rounds over the old map since the swap. */
  readonly rounds: number
  /** Milliseconds since the last round that found something, or since the swap. */
  readonly quietFor: number
  /** Nobody wrote to the old map for the time to settle. If false, some programs still use it. */
  readonly quiet: boolean
}

/**
 * What a migration did.
 *
 * @since 0.1.0
 */
export interface Migrated extends Swapped, CaughtUp {}

/**
 * How to migrate.
 *
 * @since 0.1.0
 */
export interface MigrateOptions {
  /** Which entries are carried over; default all. Called with the buffers of a batch, more than once for an entry. */
  readonly keep?: (value: Uint8Array, key: Uint8Array) => boolean
  /** Changes a value on the way, in place, in a buffer that holds the larger of both: see {@link convert}. */
  readonly convert?: (value: Uint8Array, key: Uint8Array) => void
  /**
   * The datapath's clock: entries of a CT map whose time is over are left behind, as a collector would. A clock that
   * does not fit the table, or cannot be read, is not believed, and everything is copied.
   */
  readonly clock?: KernelClock.KernelClock["Service"]
  /** How long the old map must have been quiet for the end. Default: until one round finds nothing. */
  readonly settle?: Duration.Duration
  /** How long after the swap to wait for that at most, and no shorter than `settle`. Default: ten seconds more. */
  readonly giveUpAfter?: Duration.Duration
  /** Hears of every phase, in order. */
  readonly onPhase?: (phase: Phase) => Effect.Effect<void>
}

/**
 * Why the entries of a map cannot be carried over into one of a blueprint, or `undefined` where they can.
 *
 * **Details**
 *
 * Both must be plain hashes with keys of one size. Values of another size need a conversion, for a part of a value or
 * one that is padded with zeros would be an entry that nobody wrote.
 *
 * @since 0.1.0
 */
export const objection = (
  wanted: MapSpec.Properties,
  found: MapSpec.Properties,
  options: Pick<MigrateOptions, "convert"> = {}
): string | undefined => {
  for (const [whose, { type }] of [
    ["the pinned map", found],
    ["the wanted map", wanted]
  ] as const) {
    if (type !== MapSpec.mapType.hash && type !== MapSpec.mapType.lruHash)
      return `${whose} is of type ${type}, not a hash`
  }
  if (found.keySize !== wanted.keySize) return `its keys are of ${found.keySize} bytes, wanted are ${wanted.keySize}`
  return found.valueSize === wanted.valueSize || options.convert !== undefined
    ? undefined
    : `its values are of ${found.valueSize} bytes, wanted are ${wanted.valueSize}, and no conversion is known`
}

/**
 * Copies a pinned map into one of other properties and swaps the pin; what {@link migrate} does up to there.
 *
 * **Details**
 *
 * A smaller map is refused at once where the live entries do not fit. Everything else is copied into a new, unpinned
 * map; then the copy is made to hold what the old map holds now: changed entries are copied again, deleted ones deleted.
 * The new map's entries are counted, and if any was evicted the migration fails. Then it is pinned under a temporary
 * name, with owner and mode of the old pin, and renamed over it, which the kernel does in one step: a reader finds the
 * old map or the new one, never none. What is deleted from the old map in the moment between the last look and the
 * rename, or later, stays in the new one until its time is over.
 *
 * Interruption or failure at any point leaves the old map pinned, and no temporary pin; or, at the very last, the new
 * one, whole. Ownership: both maps stay open until the scope closes, for `catchUp`, which can be run for several maps at
 * once, after all of their pins have been swapped. Kernel: CAP_BPF and write access to the directory of the pin; CAP_CHOWN and
 * CAP_FOWNER where the pin is somebody else's.
 *
 * @since 0.1.0
 */
export const swap: (
  path: string,
  spec: MapSpec.MapSpec,
  options?: MigrateOptions
) => Effect.Effect<
  Swapped & { readonly catchUp: Effect.Effect<CaughtUp, CatchUpFailed, Bpf.Bpf> },
  SwapError,
  Bpf.Bpf | Scope.Scope
> = Effect.fnUntraced(function* (path: string, spec: MapSpec.MapSpec, options: MigrateOptions = {}) {
  const bpf = yield* Bpf.Bpf
  const tell = options.onPhase ?? (() => Effect.void)
  const keep = options.keep ?? (() => true)
  const old = yield* BpfMap.open(path)
  const why = objection(spec, old.info, options)
  if (why !== undefined) return yield* new NotMigratable({ path, why })
  const family = ctFamily(old)
  const time = yield* timeOf(old, family, options.clock)
  // A map that is no smaller takes whatever the old one holds; there is nothing to look for in it first.
  if (time.now !== undefined || spec.maxEntries < old.info.maxEntries) {
    const found = yield* survey(old, keep, time.now)
    time.believe(found.latest)
    const live = found.entries - found.left - (time.now === undefined ? 0 : found.expired)
    if (live > spec.maxEntries) return yield* new MapTooSmall({ path, live, maxEntries: spec.maxEntries })
  }
  const fresh = yield* BpfMap.create(spec, old.name)
  const passage: Passage = { bpf, old, fresh, keep, convert: options.convert ?? constVoid, isCt: family !== undefined }
  yield* tell({ _tag: "Copying", path })
  const first = yield* round(passage, "all", time.now)
  // Nobody else writes to the new map yet, so whatever differs by now was changed in the old one.
  const again = yield* round(passage, "different", time.now)
  const { present, gone } = yield* takeAway(passage)
  const missing = first.inserted + again.inserted - present
  if (missing > 0) return yield* new MigrationIncomplete({ path, missing, maxEntries: fresh.info.maxEntries })
  const copied = present - gone
  yield* tell({ _tag: "Verified", path, copied })
  const pinned = yield* Effect.scoped(Effect.map(BpfMap.open(path), ({ info }) => info.id))
  if (pinned !== old.info.id) return yield* new PinReplaced({ path })
  yield* BpfMap.replacePin(fresh, path)
  yield* tell({ _tag: "Swapped", path })
  return {
    path,
    differences: MapSpec.differences(spec, old.info),
    copied,
    left: again.left,
    expired: again.expired,
    removed: gone,
    untimely: time.untimely,
    catchUp: catchUp(path, passage, time.again, options)
  }
})

/**
 * Copies a pinned map into one of other properties, swaps the pin, and goes on carrying over what is written to the old.
 *
 * **Details**
 *
 * First {@link swap}. Programs that were loaded with the old map use it until they are reloaded: when `onPhase` hears
 * `Swapped`, or sooner, is the time to do that. Until the old map has been quiet for `settle`, entries that appear in
 * it or get a later lifetime are carried over; what is written after that stays behind.
 *
 * Errors: `CatchUpFailed` after the swap; any other leaves the old map pinned. Interruption after the swap leaves the
 * new map, with what was carried over up to then.
 *
 * @since 0.1.0
 */
export const migrate = (
  path: string,
  spec: MapSpec.MapSpec,
  options?: MigrateOptions
): Effect.Effect<Migrated, SwapError | CatchUpFailed, Bpf.Bpf> =>
  Effect.scoped(
    Effect.flatMap(swap(path, spec, options), ({ catchUp: rest, ...swapped }) =>
      Effect.map(rest, (caughtUp) => ({ ...swapped, ...caughtUp }))
    )
  )

/** Rounds take at most every other moment: a pause is as long as the round before it, within these milliseconds. */
const PAUSE = { least: 20, most: 1000 }

const catchUp = (
  path: string,
  passage: Passage,
  now: Effect.Effect<number | undefined>,
  { settle = Duration.zero, giveUpAfter, onPhase = () => Effect.void }: MigrateOptions
): Effect.Effect<CaughtUp, CatchUpFailed, Bpf.Bpf> =>
  Effect.gen(function* () {
    const wanted = Duration.toMillis(settle)
    const patience = giveUpAfter === undefined ? wanted + 10_000 : Math.max(wanted, Duration.toMillis(giveUpAfter))
    const start = yield* Clock.currentTimeMillis
    let lastWrite = start
    let caughtUp = 0
    for (let rounds = 1; ; rounds++) {
      const before = yield* Clock.currentTimeMillis
      const { inserted, replaced } = yield* round(passage, "newer", yield* now).pipe(
        Effect.mapError(({ message }) => new CatchUpFailed({ path, caughtUp, why: message }))
      )
      const after = yield* Clock.currentTimeMillis
      const found = inserted + replaced
      caughtUp += found
      if (found > 0) lastWrite = after
      const done = { caughtUp, rounds, quietFor: after - lastWrite }
      yield* onPhase({ _tag: "CatchingUp", path, ...done })
      const quiet = found === 0 && done.quietFor >= wanted
      if (quiet || after - start >= patience) {
        yield* onPhase({ _tag: quiet ? "Quiet" : "GaveUp", path, ...done })
        return { ...done, quiet }
      }
      yield* Effect.sleep(Duration.millis(Math.min(PAUSE.most, Math.max(PAUSE.least, after - before))))
    }
  })

/**
 * Rewrites a CT value from one release's layout to another's, in place.
 *
 * **Details**
 *
 * Shape: 56 bytes, and the key for the flag that tells a service entry, which keeps its backend. In any other entry
 * bytes 0..15 and 40..41 mean something else on the other side (nothing and an interface number in 1.17, the NAT address
 * and port in 1.20), so they are cleared: both datapaths treat zero as "not known" and fill it in with the next packet.
 *
 * @since 0.1.0
 */
export const convert =
  (from: Release.Release, to: Release.Release) =>
  (value: Uint8Array, key: Uint8Array): void => {
    if (from === to) return
    const tuple = key.byteLength === Tuple.v4.size ? Tuple.v4 : Tuple.v6
    value.fill(0, CtEntry.offset.ifindex, CtEntry.offset.ifindex + 2)
    if ((key[tuple.flags]! & TupleFlags.SERVICE) === 0) value.fill(0, 0, CtEntry.offset.packets)
  }
