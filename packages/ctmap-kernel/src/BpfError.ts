/**
 * What can go wrong between ctmap and the kernel, by situation.
 *
 * Owns the reasons, their sentences and the table from errno to reason. A reason names what is so, not a number: the
 * same errno means different things under different commands, and the map's type decides between some of them.
 *
 * @since 0.1.0
 */
import * as Schema from "effect/Schema"

/** A command of bpf(2), or a file operation on a bpffs. @since 0.1.0 */
export const Operation = Schema.Literals([
  "map create",
  "map info",
  "lookup",
  "update",
  "delete",
  "next key",
  "lookup batch",
  "update batch",
  "delete batch",
  "open pin",
  "pin",
  "unpin",
  "rename pin",
  "change owner",
  "change mode",
  "list pins",
  "make directory",
  "lock directory",
  "load program",
  "run program",
  "map memory",
  "iterate",
  "open perf event",
  "map perf ring",
  "watch",
  "open kernel"
])

/** See {@link Operation}. @since 0.1.0 */
export type Operation = typeof Operation.Type

const none = {}

/** No entry has the key. In a pass: somebody else deleted it, or the LRU evicted it. @since 0.1.0 */
export class KeyNotExist extends Schema.TaggedError<KeyNotExist>()("KeyNotExist", none) {}
/** The entry is there already, and the update was to insert only. @since 0.1.0 */
export class KeyExist extends Schema.TaggedError<KeyExist>()("KeyExist", none) {}
/** The hash is full. An LRU map never says this. @since 0.1.0 */
export class MapFull extends Schema.TaggedError<MapFull>()("MapFull", none) {}
/** The index lies beyond the array. @since 0.1.0 */
export class IndexOutOfRange extends Schema.TaggedError<IndexOutOfRange>()("IndexOutOfRange", none) {}
/** A bucket holds more entries than the batch has room for: try again at the same cursor with more. @since 0.1.0 */
export class BatchTooSmall extends Schema.TaggedError<BatchTooSmall>()("BatchTooSmall", none) {}
/** Nothing is pinned at the path. @since 0.1.0 */
export class PinNotFound extends Schema.TaggedError<PinNotFound>()("PinNotFound", none) {}
/** Something is pinned at the path already. @since 0.1.0 */
export class PinExists extends Schema.TaggedError<PinExists>()("PinExists", none) {}
/** A program or a link is pinned where a map was expected. @since 0.1.0 */
export class NotAMap extends Schema.TaggedError<NotAMap>()("NotAMap", none) {}
/** The path is not on a bpffs. @since 0.1.0 */
export class NotBpfFs extends Schema.TaggedError<NotBpfFs>()("NotBpfFs", none) {}
/** The caller lacks a capability or a file permission. @since 0.1.0 */
export class NotPermitted extends Schema.TaggedError<NotPermitted>()("NotPermitted", none) {}
/** The kernel does not know the command, map type or flag. @since 0.1.0 */
export class FeatureUnsupported extends Schema.TaggedError<FeatureUnsupported>()("FeatureUnsupported", {
  /** What is missing, and since which kernel it exists. */
  feature: Schema.String
}) {}
/** The kernel rejects the arguments. @since 0.1.0 */
export class InvalidArgument extends Schema.TaggedError<InvalidArgument>()("InvalidArgument", none) {}
/** The kernel is out of memory, or a limit on it is reached. @since 0.1.0 */
export class OutOfMemory extends Schema.TaggedError<OutOfMemory>()("OutOfMemory", none) {}
/** Try again: another CPU holds the bucket, or a signal came. @since 0.1.0 */
export class Busy extends Schema.TaggedError<Busy>()("Busy", none) {}
/** This machine cannot run ctmap's kernel side at all. @since 0.1.0 */
export class KernelUnavailable extends Schema.TaggedError<KernelUnavailable>()("KernelUnavailable", {
  why: Schema.String
}) {}
/** Anything else, by number. @since 0.1.0 */
export class OtherErrno extends Schema.TaggedError<OtherErrno>()("OtherErrno", none) {}

/** Why a call failed. @since 0.1.0 */
export const Reason = Schema.Union([
  KeyNotExist,
  KeyExist,
  MapFull,
  IndexOutOfRange,
  BatchTooSmall,
  PinNotFound,
  PinExists,
  NotAMap,
  NotBpfFs,
  NotPermitted,
  FeatureUnsupported,
  InvalidArgument,
  OutOfMemory,
  Busy,
  KernelUnavailable,
  OtherErrno
])

/** See {@link Reason}. @since 0.1.0 */
export type Reason = typeof Reason.Type

/**
 * A call to the kernel failed.
 *
 * **Details**
 *
 * Recover by situation with `Effect.catchReason("BpfError", "PinNotFound", …)`. `retryable` says whether the same call
 * can succeed as it is.
 *
 * **Example** (What it says)
 *
 * ```ts
 * import { BpfError } from "ctmap-kernel"
 *
 * BpfError.fromErrno({ operation: "open pin", errno: 2, path: "/sys/fs/bpf/tc/globals/cilium_ct4_global" }).message
 * // => "open pin /sys/fs/bpf/tc/globals/cilium_ct4_global: nothing is pinned there (errno 2): check the path; the datapath pins its maps when it starts"
 * ```
 *
 * @since 0.1.0
 */
export class BpfError extends Schema.TaggedError<BpfError>()("BpfError", {
  operation: Operation,
  errno: Schema.Int,
  /** Name of the map. */
  map: Schema.optionalKey(Schema.String),
  /** Path of the pin. */
  path: Schema.optionalKey(Schema.String),
  reason: Reason
}) {
  override get message(): string {
    const where = this.path ?? (this.map === undefined ? "" : `of map ${this.map}`)
    const code = this.errno === 0 ? "" : ` (errno ${this.errno})`
    return `${this.operation}${where === "" ? "" : ` ${where}`}: ${sentence(this.reason)}${code}${hint(this)}`
  }
  /** Whether the same call can succeed without a change. */
  get retryable(): boolean {
    return this.reason._tag === "Busy" || this.reason._tag === "BatchTooSmall"
  }
}

const sentence = (reason: Reason): string => {
  switch (reason._tag) {
    case "KeyNotExist":
      return "no entry has this key"
    case "KeyExist":
      return "an entry has this key already"
    case "MapFull":
      return "the map is full"
    case "IndexOutOfRange":
      return "the index lies beyond the end of the array"
    case "BatchTooSmall":
      return "a bucket holds more entries than the batch has room for"
    case "PinNotFound":
      return "nothing is pinned there"
    case "PinExists":
      return "something is pinned there already"
    case "NotAMap":
      return "what is pinned there is a program or a link, not a map"
    case "NotBpfFs":
      return "the path is not on a bpffs"
    case "NotPermitted":
      return "not permitted"
    case "FeatureUnsupported":
      return `this kernel lacks ${reason.feature}`
    case "InvalidArgument":
      return "the kernel rejects the arguments"
    case "OutOfMemory":
      return "the kernel has no memory for it"
    case "Busy":
      return "the kernel is busy"
    case "KernelUnavailable":
      return reason.why
    case "OtherErrno":
      return "the kernel refuses"
  }
}

/** The last name of a path. */
const nameOf = (path = ""): string => path.slice(path.lastIndexOf("/") + 1)

const hint = ({ operation, errno, path, reason }: BpfError): string => {
  switch (reason._tag) {
    case "PinNotFound":
      return ": check the path; the datapath pins its maps when it starts"
    case "PinExists":
      return ": open it, or remove the pin first"
    case "NotAMap":
      return ": name the pin of a map, or find out who pinned it there (`bpftool prog show pinned`)"
    case "NotBpfFs":
      return ": mount one with `mount -t bpf bpf /sys/fs/bpf`, or name another directory with --bpffs-root"
    case "NotPermitted":
      if (operation === "open perf event")
        return ": run as root, or give the process CAP_PERFMON (before Linux 5.8 CAP_SYS_ADMIN); only the datapath's signals need it"
      if (operation === "map perf ring")
        return ": locked memory is limited: run as root, or with CAP_IPC_LOCK, or raise the sysctl kernel.perf_event_mlock_kb"
      return accessOperations.has(operation)
        ? ": the new pin is to have the owner and mode of the old one; run as root, or with CAP_CHOWN and CAP_FOWNER"
        : !pinOperations.has(operation)
          ? ": run as root, or give the process CAP_BPF; a frozen map refuses changes to anybody"
          : errno === EPERM && nameOf(path).includes(".")
            ? ": a bpffs allows no dot in a name"
            : errno === EPERM && operation === "open pin"
              ? ": run as root, or with CAP_BPF: this kernel opens pins for nobody else"
              : `: the pin and every directory above it must be accessible to this user; run as root, or with ${
                  operation === "open pin" ? "CAP_DAC_READ_SEARCH (to write it, CAP_DAC_OVERRIDE)" : "CAP_DAC_OVERRIDE"
                }`
    case "OutOfMemory":
      return ": free memory, or make the map smaller"
    case "Busy":
      return operation === "lock directory"
        ? ": another process has locked it; /proc/locks and `lslocks` show which one"
        : ": try again"
    default:
      return ""
  }
}

const EPERM = 1
const ENOENT = 2
const EINTR = 4
const E2BIG = 7
const EAGAIN = 11
const ENOMEM = 12
const EACCES = 13
const EBUSY = 16
const EEXIST = 17
const EINVAL = 22
const ENOSPC = 28
const EOPNOTSUPP = 95
const ENOTSUPP = 524

/**
 * What a failed call was about.
 *
 * @since 0.1.0
 */
export interface Failure {
  readonly operation: Operation
  /** Positive. */
  readonly errno: number
  readonly map?: string | undefined
  readonly path?: string | undefined
  /** The map is an array, or an array of maps: decides what E2BIG and EINVAL mean. */
  readonly isArray?: boolean | undefined
  /** What the call needed of the kernel, for when the kernel says that it lacks it. */
  readonly feature?: string | undefined
}

/**
 * The typed error of a failed call.
 *
 * @since 0.1.0
 */
export const fromErrno = (failure: Failure): BpfError =>
  new BpfError({
    operation: failure.operation,
    errno: failure.errno,
    ...(failure.map === undefined ? {} : { map: failure.map }),
    ...(failure.path === undefined ? {} : { path: failure.path }),
    reason: reasonOf(failure)
  })

/** What gives a pin the owner and mode of another. */
const accessOperations: ReadonlySet<Operation> = new Set(["change owner", "change mode"])

const pinOperations: ReadonlySet<Operation> = new Set([
  ...accessOperations,
  "open pin",
  "pin",
  "unpin",
  "rename pin",
  "list pins",
  "make directory",
  "lock directory"
])

const elementOperations: ReadonlySet<Operation> = new Set([
  "lookup",
  "update",
  "delete",
  "next key",
  "lookup batch",
  "update batch",
  "delete batch"
])

const reasonOf = ({ operation, errno, isArray = false, feature }: Failure): Reason => {
  const onPin = pinOperations.has(operation)
  const onElement = elementOperations.has(operation)
  switch (errno) {
    case ENOENT:
      return onPin ? new PinNotFound() : onElement ? new KeyNotExist() : new OtherErrno()
    case EEXIST:
      return onPin ? new PinExists() : onElement ? new KeyExist() : new OtherErrno()
    case E2BIG:
      return isArray
        ? new IndexOutOfRange()
        : operation === "update" || operation === "update batch"
          ? new MapFull()
          : new InvalidArgument()
    case ENOSPC:
      return operation === "lookup batch" ? new BatchTooSmall() : new OutOfMemory()
    case EPERM:
    case EACCES:
      return new NotPermitted()
    case ENOMEM:
      return new OutOfMemory()
    case EINTR:
    case EAGAIN:
    case EBUSY:
      return new Busy()
    case ENOTSUPP:
    case EOPNOTSUPP:
      return new FeatureUnsupported({ feature: feature ?? `"${operation}" of this kind of map` })
    case EINVAL:
      return operation === "map info"
        ? new NotAMap()
        : feature === undefined
          ? new InvalidArgument()
          : new FeatureUnsupported({ feature })
    default:
      return new OtherErrno()
  }
}
