/**
 * What to do when a pinned map is not the one that is wanted: drop it, as Cilium does, or carry its entries over.
 *
 * Owns the two ways and their guarantees. Dropping loses every connection of the map once programs use the new one;
 * migrating copies what is alive into a map of the new size or layout, verifies the copy and swaps the pin in one step.
 *
 * @since 0.1.0
 */
import { CtEntry, MapSpec, type Release } from "ctmap-core"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Bpf from "./Bpf.ts"
import { type BpfError, fromErrno } from "./BpfError.ts"
import * as BpfMap from "./BpfMap.ts"
import { CtMaps, type Which } from "./CtMaps.ts"
import type * as Owner from "./Owner.ts"
import * as Scan from "./Scan.ts"

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
 * The copy does not hold everything that is alive, so the pin was not swapped.
 *
 * @since 0.1.0
 */
export class MigrationIncomplete extends Schema.TaggedError<MigrationIncomplete>()("MigrationIncomplete", {
  path: Schema.String,
  missing: Schema.Int,
  maxEntries: Schema.Int
}) {
  override get message(): string {
    return (
      `migrating ${this.path}: ${this.missing} live entries did not stay in the new map of ${this.maxEntries} entries, ` +
      `which evicts when it is full; the old map is still pinned and nothing was lost: choose a larger size`
    )
  }
}

/**
 * Somebody else replaced the pin while its map was being copied, so it was left alone.
 *
 * @since 0.1.0
 */
export class PinReplaced extends Schema.TaggedError<PinReplaced>()("PinReplaced", { path: Schema.String }) {
  override get message(): string {
    return `migrating ${this.path}: the pin was replaced meanwhile by another program; its map was left alone and nothing was changed: look again, and repeat if it still differs`
  }
}

/**
 * What a migration did.
 *
 * @since 0.1.0
 */
export interface Migrated {
  readonly path: string
  readonly differences: ReadonlyArray<MapSpec.Difference>
  /** Entries in the new map that came from the old one. */
  readonly copied: number
  /** Entries that were left behind because `keep` said so. */
  readonly left: number
  /** Entries that the datapath wrote to the old map meanwhile, carried over by later rounds. */
  readonly caughtUp: number
  /** Rounds over the old map, the first copy included. */
  readonly rounds: number
  /** The last round found nothing: nobody writes to the old map any more. If false, some programs still use it. */
  readonly quiet: boolean
}

/**
 * How to migrate.
 *
 * @since 0.1.0
 */
export interface MigrateOptions {
  /** Which entries are carried over; default all. Called with the buffers of a batch. */
  readonly keep?: (value: Uint8Array, key: Uint8Array) => boolean
  /** Changes a value on the way, in place: see {@link convert}. */
  readonly convert?: (value: Uint8Array) => void
  /**
   * For how long to go on carrying over what programs still write to the old map, after the pin was swapped: until
   * they have been reloaded. Default: until a round finds nothing.
   */
  readonly settle?: Duration.Duration
}

/**
 * Copies a pinned map into one of other properties and swaps the pin.
 *
 * **Details**
 *
 * First everything that `keep` accepts is copied into a new, unpinned map, whose entries are then counted. If any is
 * missing (the new map is too small and evicted it) the migration fails and nothing has changed. Then the new map is
 * pinned under a temporary name and renamed over the old pin, which the kernel does in one step: a reader finds the old
 * map or the new one, never none. Finally entries that the datapath wrote to the old map meanwhile are carried over,
 * until a round finds nothing, or for ten seconds beyond the time to settle. Programs that were loaded with the old map use it until they are reloaded; what they
 * write after the last round stays behind, so reload them soon.
 *
 * Keys must be of one size in both. Interruption or failure at any point before the rename leaves the old map pinned,
 * and no temporary pin. Needs CAP_BPF and write access to the directory of the pin.
 *
 * @since 0.1.0
 */
export const migrate: (
  path: string,
  spec: MapSpec.MapSpec,
  options?: MigrateOptions
) => Effect.Effect<Migrated, BpfError | MigrationIncomplete | PinReplaced | Scan.Incomplete, Bpf.Bpf> =
  Effect.fnUntraced(function* (path: string, spec: MapSpec.MapSpec, options: MigrateOptions = {}) {
    const bpf = yield* Bpf.Bpf
    const old = yield* BpfMap.open(path)
    const fresh = yield* BpfMap.create(spec, old.name)
    const differences = MapSpec.differences(spec, old.info)
    if (spec.keySize !== old.info.keySize) {
      return yield* fromErrno({ operation: "map create", errno: 22, path })
    }
    const first = yield* copy(bpf, old, fresh, { ...options, which: "all" })
    // Nobody else has the new map: an entry that went in and is not there was evicted.
    const missing = first.copied - (yield* Scan.count(fresh))
    if (missing > 0) return yield* new MigrationIncomplete({ path, missing, maxEntries: fresh.info.maxEntries })
    // Nobody else writes to the new map yet, so whatever differs by now was changed in the old one.
    yield* copy(bpf, old, fresh, { ...options, which: "different" })
    const pinned = yield* Effect.scoped(Effect.map(BpfMap.open(path), ({ info }) => info.id))
    if (pinned !== old.info.id) return yield* new PinReplaced({ path })
    yield* BpfMap.replacePin(fresh, path)
    const until = (yield* Clock.currentTimeMillis) + Duration.toMillis(options.settle ?? Duration.zero)
    let caughtUp = 0
    let rounds = 1
    let quiet = false
    for (let now = 0; !quiet && now < until + PATIENCE;) {
      const { copied } = yield* copy(bpf, old, fresh, { ...options, which: "newer" })
      caughtUp += copied
      rounds++
      now = yield* Clock.currentTimeMillis
      quiet = copied === 0 && now >= until
      if (!quiet && copied === 0) yield* Effect.sleep(PAUSE)
    }
    return { path, differences, copied: first.copied, left: first.left, caughtUp, rounds, quiet }
  }, Effect.scoped)

/** Rounds end at the latest this many milliseconds after the time to settle: a busy datapath never leaves one empty. */
const PATIENCE = 10_000

/** Between two rounds that found nothing. */
const PAUSE = Duration.millis(20)

/** One round from the old map to the new: everything, or only what the new map lacks or has older. */
const copy = (
  bpf: Bpf.Calls,
  old: BpfMap.BpfMap,
  fresh: BpfMap.BpfMap,
  options: MigrateOptions & { readonly which: "all" | "different" | "newer" }
): Effect.Effect<{ readonly copied: number; readonly left: number }, BpfError | Scan.Incomplete, Bpf.Bpf> => {
  const { keySize, valueSize } = old.info
  const there = new Uint8Array(fresh.info.valueSize)
  const value = new Uint8Array(Math.max(valueSize, fresh.info.valueSize))
  let copied = 0
  let left = 0
  return Effect.flatMap(
    Scan.forEach(old, ({ keys, values, count }) =>
      Effect.suspend(() => {
        for (let i = 0; i < count; i++) {
          const key = keys.subarray(i * keySize, (i + 1) * keySize)
          const from = values.subarray(i * valueSize, (i + 1) * valueSize)
          if (options.keep !== undefined && !options.keep(from, key)) {
            left++
            continue
          }
          value.fill(0).set(from)
          options.convert?.(value)
          const target = value.subarray(0, fresh.info.valueSize)
          if (options.which !== "all" && bpf.lookup(fresh.fd, key, there) === 0) {
            const isWanted = options.which === "newer" ? isNewer(target, there) : differs(target, there)
            if (!isWanted) continue
          }
          const rc = bpf.update(fresh.fd, key, target, Bpf.ANY)
          if (rc < 0) return Effect.fail(BpfMap.failure(fresh, "update", rc))
          copied++
        }
        return Effect.void
      })
    ),
    (report) => {
      const why = Scan.whyIncomplete(old, report)
      return why === undefined ? Effect.succeed({ copied, left }) : Effect.fail(why)
    }
  )
}

const differs = (value: Uint8Array, there: Uint8Array): boolean => value.some((byte, i) => byte !== there[i])

/** By lifetime for CT values; any difference counts where the value is of another kind. */
const isNewer = (value: Uint8Array, there: Uint8Array): boolean => {
  const view = (bytes: Uint8Array) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  return value.byteLength === CtEntry.SIZE
    ? view(value).getUint32(CtEntry.offset.lifetime, true) > view(there).getUint32(CtEntry.offset.lifetime, true)
    : differs(value, there)
}

/**
 * Rewrites a CT value from one release's layout to another's, in place.
 *
 * **Details**
 *
 * Shape: 56 bytes. A service entry keeps its backend. In any other entry bytes 0..15 and 40..41 mean something else on
 * the other side (nothing and an interface number in 1.17, the NAT address and port in 1.20), so they are cleared: both
 * datapaths treat zero as "not known" and fill it in with the next packet.
 *
 * @since 0.1.0
 */
export const convert =
  (from: Release.Release, to: Release.Release, isService: (value: Uint8Array) => boolean) =>
  (value: Uint8Array): void => {
    if (from === to) return
    value.fill(0, CtEntry.offset.ifindex, CtEntry.offset.ifindex + 2)
    if (!isService(value)) value.fill(0, 0, CtEntry.offset.packets)
  }
