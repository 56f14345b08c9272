/** What saving and restoring fail with, besides the errors of the kernel and of the file system. */
import * as Schema from "effect/Schema"

/**
 * The text is no snapshot, a damaged one, or one that does not fit the maps it is for.
 *
 * @since 0.1.0
 */
export class SnapshotError extends Schema.TaggedError<SnapshotError>()("SnapshotError", {
  /** From 1; absent where it is not about a line. */
  line: Schema.optionalKey(Schema.Int),
  why: Schema.String,
  hint: Schema.String
}) {
  override get message(): string {
    return `${this.line === undefined ? "the snapshot" : `line ${this.line} of the snapshot`} ${this.why}: ${this.hint}`
  }
}

/**
 * What does not come from a regular file is kept in a temporary one until it has been checked, and that cannot be done.
 * Nothing was changed.
 *
 * @since 0.1.0
 */
export class SpoolFailed extends Schema.TaggedError<SpoolFailed>()("SpoolFailed", {
  directory: Schema.String,
  cause: Schema.Unknown
}) {
  override get message(): string {
    return (
      `the snapshot cannot be kept in ${this.directory} while it is checked (${deepest(this.cause)}); nothing was ` +
      `changed: see to that directory, or name another with the environment variable TMPDIR`
    )
  }
}

/** What the system said, below what was made of it. */
const deepest = (error: unknown): string => {
  let at = error
  while (at instanceof Error) {
    const below: unknown = "reason" in at ? at.reason : at.cause
    if (!(below instanceof Error)) return at.message
    at = below
  }
  return String(at)
}

/** How the sizes of maps are said on a command line. */
const SIZES = "--bpf-ct-global-tcp-max, --bpf-ct-global-any-max, --bpf-nat-global-max"

/**
 * Maps that were made for a snapshot were too small for it: they evicted some of its entries for others. They are gone.
 *
 * @since 0.1.0
 */
export class EntriesEvicted extends Schema.TaggedError<EntriesEvicted>()("EntriesEvicted", {
  maps: Schema.Array(
    Schema.Struct({ map: Schema.String, maxEntries: Schema.Int, restored: Schema.Int, evicted: Schema.Int })
  )
}) {
  override get message(): string {
    const each = this.maps.map(
      ({ map, maxEntries, restored, evicted }) =>
        `map ${map} has room for ${maxEntries} entries and evicted ${evicted} while ${restored} were restored`
    )
    return (
      `${each.join("; ")}: make the maps larger (${SIZES}; an LRU needs some room to spare), or accept the loss ` +
      `(--allow-eviction)`
    )
  }
}

/**
 * Maps have no room for a snapshot, or so little that an LRU may evict entries. Nothing was changed.
 *
 * @since 0.1.0
 */
export class NoRoom extends Schema.TaggedError<NoRoom>()("NoRoom", {
  maps: Schema.Array(
    Schema.Struct({
      map: Schema.String,
      /** The pin, also where nothing is pinned yet. */
      path: Schema.String,
      isPinned: Schema.Boolean,
      isLru: Schema.Boolean,
      maxEntries: Schema.Int,
      /** Entries that are in the map and stay. */
      there: Schema.Int,
      /** Entries of the snapshot that the map does not hold. */
      coming: Schema.Int,
      /** How many the map takes before it is full or, an LRU, may evict. */
      room: Schema.Int,
      /** How many entries a map must be for to take them all. */
      needed: Schema.Int
    })
  )
}) {
  override get message(): string {
    const each = this.maps.map(({ map, path, isPinned, isLru, maxEntries, there, coming, room, needed }) =>
      isPinned
        ? `map ${map} at ${path} holds ${there} of ${maxEntries} entries and takes ${room} more` +
          `${isLru ? " before it may evict" : ""}, ${coming} are to come (${needed} entries would do)`
        : `map ${map}, to be made for ${maxEntries} entries, has no room for ${coming}`
    )
    const ways = [
      this.maps.some(({ isPinned }) => !isPinned) ? `make the maps larger (${SIZES})` : undefined,
      this.maps.some(({ isPinned }) => isPinned)
        ? `make pinned CT maps larger (ctmap upgrade --migrate --bpf-ct-global-tcp-max N --bpf-ct-global-any-max N)`
        : undefined,
      this.maps.some(({ there }) => there > 0) ? `replace what they hold (--replace)` : undefined,
      this.maps.every(({ isLru }) => isLru) ? `accept that entries are evicted (--allow-eviction)` : undefined
    ].filter((way) => way !== undefined)
    return `${each.join("; ")}; nothing was changed: ${ways.join(", or ")}`
  }
}

/**
 * A restore came to a stop after it had changed maps that were there: how far it came.
 *
 * @since 0.1.0
 */
export class RestoreStopped extends Schema.TaggedError<RestoreStopped>()("RestoreStopped", {
  /** The error that stopped it; `undefined` for an interruption. */
  cause: Schema.Unknown,
  maps: Schema.Array(
    Schema.Struct({
      map: Schema.String,
      path: Schema.String,
      /** It was made for the snapshot, and is unpinned again. */
      created: Schema.Boolean,
      /** Entries that the snapshot has of it. */
      entries: Schema.Int,
      /** Of these: written, and left as they were in the map. */
      written: Schema.Int,
      kept: Schema.Int,
      /** Entries that were there and were deleted. */
      cleared: Schema.Int
    })
  )
}) {
  override get message(): string {
    const { cause } = this
    const why =
      cause === undefined
        ? "interrupted"
        : cause instanceof Error
          ? cause.message
          : typeof cause === "string"
            ? cause
            : "it could not be read"
    const each = this.maps.map(({ map, path, created, entries, written, kept, cleared }) =>
      created
        ? `${map} was made for it and is gone again`
        : written + cleared === 0
          ? `${map} is as it was`
          : `${map} at ${path} has ${written} of ${entries} entries written` +
            `${kept > 0 ? `, ${kept} kept as they were` : ""}${cleared > 0 ? `, ${cleared} that were there deleted` : ""}`
    )
    return `${why}; the restore stopped half-way: ${each.join("; ")}; give the same command again to complete it`
  }
}
