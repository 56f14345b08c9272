/**
 * Why a map was not migrated, or not to the end: one class for each situation.
 *
 * Owns the sentences. All but {@link CatchUpFailed} leave the old map pinned, and no other.
 *
 * @since 0.1.0
 */
import * as Schema from "effect/Schema"
import type { BpfError } from "./BpfError.ts"
import type { Incomplete } from "./Scan.ts"

/**
 * The entries of the pinned map cannot become entries of the wanted one. Nothing was changed.
 *
 * @since 0.1.0
 */
export class NotMigratable extends Schema.TaggedError<NotMigratable>()("NotMigratable", {
  path: Schema.String,
  why: Schema.String
}) {
  override get message(): string {
    return `migrating ${this.path}: ${this.why}: its entries cannot be carried over, and nothing was changed; unpin the map to do without them`
  }
}

/**
 * More entries are alive than the wanted map takes. Nothing was changed, no map was made.
 *
 * @since 0.1.0
 */
export class MapTooSmall extends Schema.TaggedError<MapTooSmall>()("MapTooSmall", {
  path: Schema.String,
  live: Schema.Int,
  maxEntries: Schema.Int
}) {
  override get message(): string {
    return `migrating ${this.path}: ${this.live} live entries do not fit into a map of ${this.maxEntries}; nothing was changed: choose a larger size`
  }
}

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
      `which evicts when it is nearly full; the old map is still pinned and nothing was lost: choose a larger size`
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
 * The new map is pinned, but carrying over what programs still write to the old one came to an early end.
 *
 * @since 0.1.0
 */
export class CatchUpFailed extends Schema.TaggedError<CatchUpFailed>()("CatchUpFailed", {
  path: Schema.String,
  caughtUp: Schema.Int,
  why: Schema.String
}) {
  override get message(): string {
    return (
      `migrating ${this.path}: the new map is pinned and whole, but what programs still write to the old one is no ` +
      `longer carried over, after ${this.caughtUp} entries: ${this.why}; reload them now`
    )
  }
}

/** Why a map was not replaced. In each case the old map is still pinned, and nothing else. @since 0.1.0 */
export type SwapError = BpfError | NotMigratable | MapTooSmall | MigrationIncomplete | PinReplaced | Incomplete
