/**
 * How the program ends when it does not succeed: which of its own errors mean which exit code.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"

/** Exit codes: done, failed, wrong usage, refused. @since 0.1.0 */
export const exit = { done: 0, failed: 1, usage: 2, refused: 3, interrupted: 130 } as const

/** The command line asks for something that makes no sense. @since 0.1.0 */
export class UsageError extends Schema.TaggedError<UsageError>()("UsageError", { problem: Schema.String }) {
  override get message(): string {
    return this.problem
  }
}

/** A guard, or the person at the terminal, said no. Nothing was changed. @since 0.1.0 */
export class Refused extends Schema.TaggedError<Refused>()("Refused", { why: Schema.String }) {
  override get message(): string {
    return this.why
  }
}

/** What was asked for is not there. @since 0.1.0 */
export class NotFound extends Schema.TaggedError<NotFound>()("NotFound", { what: Schema.String }) {
  override get message(): string {
    return this.what
  }
}

/** Some of the work failed; each failure has been reported already. @since 0.1.0 */
export class PartlyFailed extends Schema.TaggedError<PartlyFailed>()("PartlyFailed", { summary: Schema.String }) {
  override get message(): string {
    return this.summary
  }
}

/** A listing of maps of which none could be read is no success, whoever reads them. @since 0.1.0 */
export const failWhereNoneIsRead = (
  unread: ReadonlyArray<string>,
  listed: number
): Effect.Effect<void, PartlyFailed> => {
  if (unread.length < listed) return Effect.void
  const none = unread.length === 1 ? "" : `none of the ${unread.length} maps can be read: `
  return Effect.fail(new PartlyFailed({ summary: `${none}${unread[0]}` }))
}

/** The reader of our output went away, as `head` does once it has enough: no failure of ours. @since 0.1.0 */
export class BrokenPipe extends Schema.TaggedError<BrokenPipe>()("BrokenPipe", {}) {}

/** A file or the standard output cannot be written or read. @since 0.1.0 */
export class FileFailed extends Schema.TaggedError<FileFailed>()("FileFailed", {
  path: Schema.String,
  action: Schema.Literals(["write", "read"]),
  why: Schema.String
}) {
  override get message(): string {
    return `cannot ${this.action} ${this.path}: ${this.why}`
  }
}

/** The agent could not do what it was asked for, or would not for us. @since 0.1.0 */
export class AgentFailed extends Schema.TaggedError<AgentFailed>()("AgentFailed", { why: Schema.String }) {
  override get message(): string {
    return this.why
  }
}

/** A part of the program is missing, unreadable or broken. @since 0.1.0 */
export class Unloadable extends Schema.TaggedError<Unloadable>()("Unloadable", { cause: Schema.Defect() }) {
  override get message(): string {
    return `cannot load its own code: install ctmap again, or let this user read its files (${firstLine(this.cause)})`
  }
}

/** What a defect says, in one line. @since 0.1.0 */
export const firstLine = (defect: unknown): string =>
  (defect instanceof Error ? defect.message : String(defect)).split("\n")[0] ?? ""

const usageTags: ReadonlySet<string> = new Set([
  "UsageError",
  "FilterSyntaxError",
  "FilterUnsupported",
  "InvalidEnd",
  "MixedFamilies",
  "InvalidProtocol",
  "UnknownProtocol",
  "InvalidMapLimits",
  "InvalidClusterId"
])

const refusedTags: ReadonlySet<string> = new Set(["Refused", "ImplausibleClock", "GuardStopped", "NoRoom"])

/** The exit code of an error. @since 0.1.0 */
export const codeOf = (error: unknown): number => {
  const tag = typeof error === "object" && error !== null && "_tag" in error ? String(error._tag) : ""
  if (tag === "BrokenPipe") return exit.done
  if (refusedTags.has(tag)) return exit.refused
  return usageTags.has(tag) ? exit.usage : exit.failed
}
