import { assert, describe, it } from "@effect/vitest"
import { BpfError } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { errnoTable } from "./contract/errnoTable.ts"

type Tag = BpfError.Reason["_tag"]

const operations = BpfError.Operation.literals
const onPins: ReadonlySet<BpfError.Operation> = new Set([
  "open pin",
  "pin",
  "unpin",
  "rename pin",
  "change owner",
  "change mode",
  "list pins",
  "make directory",
  "lock directory"
])
const onElements: ReadonlySet<BpfError.Operation> = new Set([
  "lookup",
  "update",
  "delete",
  "next key",
  "lookup batch",
  "update batch",
  "delete batch"
])
const updates: ReadonlySet<BpfError.Operation> = new Set(["update", "update batch"])

/** What an errno is called, for every operation. */
const reasons: Readonly<Record<number, (operation: BpfError.Operation) => Tag>> = {
  1: () => "NotPermitted",
  2: (operation) => (onPins.has(operation) ? "PinNotFound" : onElements.has(operation) ? "KeyNotExist" : "OtherErrno"),
  4: () => "Busy",
  5: () => "OtherErrno",
  7: (operation) => (updates.has(operation) ? "MapFull" : "InvalidArgument"),
  9: () => "OtherErrno",
  11: () => "Busy",
  12: () => "OutOfMemory",
  13: () => "NotPermitted",
  14: () => "OtherErrno",
  16: () => "Busy",
  17: (operation) => (onPins.has(operation) ? "PinExists" : onElements.has(operation) ? "KeyExist" : "OtherErrno"),
  18: () => "OtherErrno",
  20: () => "OtherErrno",
  22: (operation) => (operation === "map info" ? "NotAMap" : "InvalidArgument"),
  24: () => "OtherErrno",
  28: (operation) => (operation === "lookup batch" ? "BatchTooSmall" : "OutOfMemory"),
  39: () => "OtherErrno",
  77: () => "OtherErrno",
  95: () => "FeatureUnsupported",
  524: () => "FeatureUnsupported"
}

const pairs = operations.flatMap((operation) =>
  Object.entries(reasons).map(([errno, reason]) => ({ operation, errno: Number(errno), reason: reason(operation) }))
)

/** What each reason says, and what it tells to do about it. */
const words: Readonly<Record<Tag, RegExp>> = {
  KeyNotExist: /no entry has this key/,
  KeyExist: /an entry has this key already/,
  MapFull: /the map is full/,
  IndexOutOfRange: /beyond the end of the array/,
  BatchTooSmall: /more entries than the batch has room for/,
  PinNotFound: /nothing is pinned there.*check the path/,
  PinExists: /pinned there already.*open it, or remove the pin first/,
  NotAMap: /a program or a link, not a map.*name the pin of a map/,
  NotBpfFs: /not on a bpffs.*mount one with `mount -t bpf bpf/,
  NotPermitted: /not permitted.*run as root/,
  FeatureUnsupported: /this kernel lacks/,
  InvalidArgument: /the kernel rejects the arguments/,
  OutOfMemory: /no memory.*free memory, or make the map smaller/,
  Busy: /busy.*(try again|another process)/,
  KernelUnavailable: /why/,
  OtherErrno: /the kernel refuses/
}

const path = "/sys/fs/bpf/tc/globals/cilium_ct4_global"

describe("the errno table", () => {
  it("has a reason for every errno of every operation", () => {
    for (const { operation, errno, reason } of pairs) {
      assert.strictEqual(BpfError.fromErrno({ operation, errno }).reason._tag, reason, `${operation} ${errno}`)
    }
  })
  for (const { operation, situation, errno, reason, isArray, feature, retryable = false } of errnoTable) {
    it(`${operation}, ${situation}: ${reason}${retryable ? ", which can be tried again" : ""}`, () => {
      const error = BpfError.fromErrno({ operation, errno, isArray, feature })
      assert.strictEqual(error.reason._tag, reason)
      assert.strictEqual(error.retryable, retryable)
    })
  }
  it("only a busy kernel and a batch that is too small are worth another try", () => {
    for (const { operation, errno, reason } of pairs) {
      const { retryable } = BpfError.fromErrno({ operation, errno })
      assert.strictEqual(retryable, reason === "Busy" || reason === "BatchTooSmall", `${operation} ${errno}`)
    }
  })
  it("the map's type decides what E2BIG means", () => {
    const failure = { operation: "update", errno: 7 } as const
    assert.strictEqual(BpfError.fromErrno({ ...failure, isArray: true }).reason._tag, "IndexOutOfRange")
    assert.strictEqual(BpfError.fromErrno({ ...failure, isArray: false }).reason._tag, "MapFull")
  })
  it("a caller that knows what it needs hears that by name", () => {
    const feature = "batch commands (Linux 5.6)"
    for (const errno of [22, 95, 524]) {
      const error = BpfError.fromErrno({ operation: "lookup batch", errno, feature })
      assert.include(error.message, feature)
      assert.strictEqual(error.reason._tag, "FeatureUnsupported")
    }
  })
})

describe("what an error says", () => {
  it("what happened, on which map, with which number, and what to do", () => {
    for (const { operation, errno, reason } of pairs) {
      const { message } = BpfError.fromErrno({ operation, errno, map: "cilium_ct4_global" })
      assert.isTrue(message.startsWith(`${operation} of map cilium_ct4_global: `), message)
      assert.include(message, `errno ${errno}`)
      assert.match(message, words[reason])
    }
  })
  it("a path rather than a name where both are known", () => {
    const { message } = BpfError.fromErrno({ operation: "open pin", errno: 13, map: "cilium_ct4_global", path })
    assert.isTrue(message.startsWith(`open pin ${path}: not permitted (errno 13)`), message)
    assert.match(
      message,
      /CAP_DAC_READ_SEARCH.* CAP_DAC_OVERRIDE/,
      "the lesser one, which is enough to read, comes first"
    )
  })
  it("a permission of a map command asks for a capability, one of a pin for access to the file", () => {
    assert.include(BpfError.fromErrno({ operation: "map create", errno: 1 }).message, "CAP_BPF")
    for (const operation of onPins) {
      // Before Linux 5.19 opening a pin was for root and CAP_BPF only; what the file forbids is another errno.
      const wanted =
        operation === "open pin" ? "CAP_BPF" : operation.startsWith("change") ? "CAP_CHOWN" : "CAP_DAC_OVERRIDE"
      assert.include(BpfError.fromErrno({ operation, errno: 1, path }).message, wanted)
    }
  })
  it("a name with a dot, which a bpffs refuses as if it were a permission", () => {
    const { message } = BpfError.fromErrno({ operation: "pin", errno: 1, path: `${path}.new` })
    assert.include(message, "a bpffs allows no dot in a name")
    const elsewhere = BpfError.fromErrno({ operation: "pin", errno: 1, path: "/run/ctmap.d/ct" })
    assert.notInclude(elsewhere.message, "dot")
  })
  it("who is in the way of a lock, and where to see who that is", () => {
    const { message } = BpfError.fromErrno({ operation: "lock directory", errno: 11, path: "/sys/fs/bpf" })
    assert.strictEqual(
      message,
      "lock directory /sys/fs/bpf: the kernel is busy (errno 11): another process has locked it; /proc/locks and `lslocks` show which one"
    )
  })
  it("no number where there was no call", () => {
    const reason = new BpfError.KernelUnavailable({ why: "this is why" })
    const error = new BpfError.BpfError({ operation: "open kernel", errno: 0, reason })
    assert.strictEqual(error.message, "open kernel: this is why")
  })
  it("every reason has words", () => {
    const reasonsOfSchema = BpfError.Reason.members.map((member) => member.fields._tag.schema.literal)
    assert.sameMembers(reasonsOfSchema, Object.keys(words))
  })
})

describe("an error as a value", () => {
  const error = BpfError.fromErrno({ operation: "open pin", errno: 2, path })
  it.effect("is recovered from by situation", () =>
    Effect.gen(function* () {
      const failing: Effect.Effect<string, BpfError.BpfError> = Effect.fail(error)
      const found = yield* failing.pipe(
        Effect.catchReason("BpfError", "PinNotFound", () => Effect.succeed("nothing there"))
      )
      assert.strictEqual(found, "nothing there")
    })
  )
  it.effect("survives being written down", () =>
    Effect.gen(function* () {
      const json = yield* Schema.encodeEffect(BpfError.BpfError)(error)
      const back = yield* Schema.decodeEffect(BpfError.BpfError)(json)
      assert.strictEqual(back.message, error.message)
      assert.strictEqual(back.reason._tag, "PinNotFound")
    })
  )
})
