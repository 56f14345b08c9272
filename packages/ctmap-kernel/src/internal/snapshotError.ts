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
