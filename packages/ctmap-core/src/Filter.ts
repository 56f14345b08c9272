/**
 * The filter language as plain data: what a filter says, without its text and without a table.
 *
 * Owns the syntax tree, its schema and the two errors. {@link FilterParser} makes a tree from text, {@link FilterPrinter}
 * makes the canonical text from a tree, {@link FilterPredicate} compiles a tree against the bytes of one kind of table.
 *
 * @since 0.1.0
 */
import * as IpNetwork from "effect/net/IpNetwork"
import * as NetAddress from "effect/net/NetAddress"
import * as Schema from "effect/Schema"
import * as SchemaTransformation from "effect/SchemaTransformation"
import * as Family_ from "./Family.ts"
import { pointAt } from "./internal/filterMessage.ts"
import { U16, U8 } from "./internal/schemas.ts"

/**
 * A comparison. `!=` is always the negation of `=`: `port != 443` holds when neither port is 443.
 *
 * @since 0.1.0
 */
export const Comparison = Schema.Literals(["<", "<=", ">", ">=", "=", "!="])
/** See {@link Comparison}. @since 0.1.0 */
export type Comparison = typeof Comparison.Type

/** `tcp`, `proto 41`: the IP protocol number. @since 0.1.0 */
export const Protocol = Schema.TaggedStruct("Protocol", { protocol: U8 })
/** See {@link Protocol}. @since 0.1.0 */
export type Protocol = typeof Protocol.Type

/** `ipv4`, `ipv6`: all rows of a table of that family, none of the other. @since 0.1.0 */
export const Family = Schema.TaggedStruct("Family", { family: Family_.Family })
/** See {@link Family}. @since 0.1.0 */
export type Family = typeof Family.Type

const bytes = (length: number) => Schema.Array(U8).check(Schema.isMinLength(length), Schema.isMaxLength(length))
const parts = (size: 4 | 16) =>
  Schema.Struct({
    octets: bytes(size),
    prefixLength: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: size * 8 }))
  })

/** A network, host bits cleared; a single address has the prefix of its full width. @since 0.1.0 */
export const Network = Schema.IpNetwork.annotate({
  toCodecArbitrary: () =>
    Schema.link<IpNetwork.IpNetwork>()(
      Schema.Union([parts(4), parts(16)]),
      SchemaTransformation.transform({
        decode: ({ octets, prefixLength }): IpNetwork.IpNetwork => {
          const raw = Uint8Array.from(octets)
          const address = raw.length === 4 ? NetAddress.ipv4FromBytesUnsafe(raw) : NetAddress.ipv6FromBytesUnsafe(raw)
          return IpNetwork.fromAddressUnsafe<NetAddress.IpAddress>(address, prefixLength)
        },
        encode: ({ address, prefixLength }) => ({
          octets: NetAddress.isIpv4Address(address)
            ? NetAddress.ipv4ToOctets(address)
            : NetAddress.ipv6ToOctets(address),
          prefixLength
        })
      })
    )
})

/**
 * `src`, `dst`, `host` (either end), `xlate` (the translated address of a NAT entry): one of the networks holds it.
 *
 * @since 0.1.0
 */
export const Address = Schema.TaggedStruct("Address", {
  end: Schema.Literals(["src", "dst", "host", "xlate"]),
  networks: Schema.NonEmptyArray(Network)
})
/** See {@link Address}. @since 0.1.0 */
export type Address = typeof Address.Type

/** `from` to `to`, both included; a single port has both the same. @since 0.1.0 */
export const PortRange = Schema.Struct({ from: U16, to: U16 })
  .check(Schema.makeFilter(({ from, to }) => from <= to || "a port range runs from the lower to the higher port"))
  .annotate({
    toCodecArbitrary: () =>
      Schema.link<{ readonly from: number; readonly to: number }>()(
        Schema.Tuple([U16, U16]),
        SchemaTransformation.transform({
          decode: ([a, b]) => ({ from: Math.min(a, b), to: Math.max(a, b) }),
          encode: ({ from, to }) => [from, to] as const
        })
      )
  })
/** See {@link PortRange}. @since 0.1.0 */
export type PortRange = typeof PortRange.Type

/** Which port: `port` is either end, `xport` the translated one (NAT), `natport` that of a 1.20 CT value. */
const PortEnd = Schema.Literals(["sport", "dport", "port", "xport", "natport"])

/** `dport 443`, `port {80, 8000-8100}`: one of the ranges holds the port. @since 0.1.0 */
export const Port = Schema.TaggedStruct("Port", { end: PortEnd, ranges: Schema.NonEmptyArray(PortRange) })
/** See {@link Port}. @since 0.1.0 */
export type Port = typeof Port.Type

/** `sport >= 1024`. `dport = 443` is a {@link Port} of one range. @since 0.1.0 */
export const PortCompare = Schema.TaggedStruct("PortCompare", {
  end: PortEnd,
  op: Schema.Literals(["<", "<=", ">", ">=", "!="]),
  port: U16
})
/** See {@link PortCompare}. @since 0.1.0 */
export type PortCompare = typeof PortCompare.Type

/** `dir in`, `dir out`, `service`: see {@link TupleFlags}. @since 0.1.0 */
export const Direction = Schema.TaggedStruct("Direction", { direction: Schema.Literals(["in", "out", "service"]) })
/** See {@link Direction}. @since 0.1.0 */
export type Direction = typeof Direction.Type

/** `related`: companion entries that admit ICMP errors. @since 0.1.0 */
export const Related = Schema.TaggedStruct("Related", {})
/** See {@link Related}. @since 0.1.0 */
export type Related = typeof Related.Type

/** `flag SeenNonSyn`, `flag 0x0011`: all bits of the mask are set in the flags of a CT value. @since 0.1.0 */
export const Flag = Schema.TaggedStruct("Flag", {
  mask: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 0xffff }))
})
/** See {@link Flag}. @since 0.1.0 */
export type Flag = typeof Flag.Type

/** `expired`: the lifetime of a CT entry is before now. @since 0.1.0 */
export const Expired = Schema.TaggedStruct("Expired", {})
/** See {@link Expired}. @since 0.1.0 */
export type Expired = typeof Expired.Type

/** `alive`: not expired. @since 0.1.0 */
export const Alive = Schema.TaggedStruct("Alive", {})
/** See {@link Alive}. @since 0.1.0 */
export type Alive = typeof Alive.Type

/**
 * `lifetime < 60s`, `idle > 5m`, `age >= 1d`: a span of time, in exact milliseconds; may be negative.
 *
 * **Details**
 *
 * `lifetime` is what remains until expiry, negative once expired. `idle` is the time since the later of the two
 * reports of a CT entry; an entry that never reported has reports of 0, so its idle time is that of the clock itself.
 * `age` is the time since a NAT entry was created.
 *
 * @since 0.1.0
 */
export const Time = Schema.TaggedStruct("Time", {
  field: Schema.Literals(["lifetime", "idle", "age"]),
  op: Comparison,
  millis: Schema.Int.check(Schema.makeFilter((n: number) => !Object.is(n, -0) || "zero has no sign"))
})
/** See {@link Time}. @since 0.1.0 */
export type Time = typeof Time.Type

/**
 * `packets > 1000`, `identity 1001`: an integer field of a CT value, compared exactly, within what the field can hold.
 *
 * @since 0.1.0
 */
export interface Integer {
  readonly _tag: "Integer"
  readonly field: "packets" | "bytes" | "identity" | "revnat" | "backend" | "ifindex"
  readonly op: Comparison
  readonly value: bigint
}

const integerOf = <const F extends ReadonlyArray<Integer["field"]>>(fields: F, maximum: bigint) =>
  Schema.TaggedStruct("Integer", {
    field: Schema.Literals(fields),
    op: Comparison,
    value: Schema.BigInt.check(Schema.isBetweenBigInt({ minimum: 0n, maximum }))
  })

/** See {@link Integer}. @since 0.1.0 */
export const Integer: Schema.Codec<Integer> = Schema.Union([
  integerOf(["packets", "bytes", "backend"], (1n << 64n) - 1n),
  integerOf(["identity"], (1n << 32n) - 1n),
  integerOf(["revnat", "ifindex"], (1n << 16n) - 1n)
])

/** `needs-ct`: NAT entries that depend on a CT entry. @since 0.1.0 */
export const NeedsCt = Schema.TaggedStruct("NeedsCt", {})
/** See {@link NeedsCt}. @since 0.1.0 */
export type NeedsCt = typeof NeedsCt.Type

/** A filter without operators. @since 0.1.0 */
export const Term = Schema.Union([
  Protocol,
  Family,
  Address,
  Port,
  PortCompare,
  Direction,
  Related,
  Flag,
  Expired,
  Alive,
  Time,
  Integer,
  NeedsCt
])
/** See {@link Term}. @since 0.1.0 */
export type Term = typeof Term.Type

/** Both hold. @since 0.1.0 */
export interface And {
  readonly _tag: "And"
  readonly left: Filter
  readonly right: Filter
}

/** One holds, or both. @since 0.1.0 */
export interface Or {
  readonly _tag: "Or"
  readonly left: Filter
  readonly right: Filter
}

/** It does not hold. @since 0.1.0 */
export interface Not {
  readonly _tag: "Not"
  readonly filter: Filter
}

/**
 * A whole filter.
 *
 * **Example** (Building one without text)
 *
 * ```ts
 * import { Filter, FilterPrinter } from "ctmap-core"
 *
 * const filter = Filter.and(Filter.Protocol.make({ protocol: 6 }), Filter.not(Filter.expired))
 * FilterPrinter.print(filter) // => "tcp and not expired"
 * ```
 *
 * @since 0.1.0
 */
export type Filter = And | Or | Not | Term

const nested = Schema.suspend((): Schema.Codec<Filter> => Filter)

/** Schema of the tree: checks trees from outside, generates them for tests. The text form is the one to store. @since 0.1.0 */
export const Filter: Schema.Codec<Filter> = Schema.Union([
  Term,
  Schema.TaggedStruct("And", { left: nested, right: nested }),
  Schema.TaggedStruct("Or", { left: nested, right: nested }),
  Schema.TaggedStruct("Not", { filter: nested })
])

/**
 * Whether a value is a filter, however deep: the schema follows a tree by recursion, this does not.
 *
 * @since 0.1.0
 */
export const isFilter = (value: unknown): value is Filter => {
  const open: Array<unknown> = [value]
  while (open.length > 0) {
    const node = open.pop()
    if (typeof node !== "object" || node === null || !("_tag" in node)) return false
    if (node._tag === "And" || node._tag === "Or") {
      if (!("left" in node && "right" in node)) return false
      open.push(node.left, node.right)
    } else if (node._tag === "Not") {
      if (!("filter" in node)) return false
      open.push(node.filter)
    } else if (!isTerm(node)) return false
  }
  return true
}

const isTerm = Schema.is(Term)

/** Both hold. @since 0.1.0 */
export const and = (left: Filter, right: Filter): And => ({ _tag: "And", left, right })
/** One holds, or both. @since 0.1.0 */
export const or = (left: Filter, right: Filter): Or => ({ _tag: "Or", left, right })
/** It does not hold. @since 0.1.0 */
export const not = (filter: Filter): Not => ({ _tag: "Not", filter })
/** `expired`. @since 0.1.0 */
export const expired: Expired = { _tag: "Expired" }
/** `alive`. @since 0.1.0 */
export const alive: Alive = { _tag: "Alive" }
/** `related`. @since 0.1.0 */
export const related: Related = { _tag: "Related" }
/** `needs-ct`. @since 0.1.0 */
export const needsCt: NeedsCt = { _tag: "NeedsCt" }

/**
 * The text is not a filter. `message` shows the text with a caret under the column, and what is allowed there.
 *
 * **Example** (What it says)
 *
 * ```ts
 * import { FilterParser } from "ctmap-core"
 * import * as Result from "effect/Result"
 *
 * const error = Result.getOrThrow(Result.flip(FilterParser.parse("tcp and dport 70000")))
 * error.column // => 15
 * error.message.split("\n").slice(0, 3)
 * // => ["column 15: port 70000 is above 65535", "  tcp and dport 70000", "                ^"]
 * ```
 *
 * @since 0.1.0
 */
export class FilterSyntaxError extends Schema.TaggedError<FilterSyntaxError>()("FilterSyntaxError", {
  /** The whole text. */
  input: Schema.String,
  /** Where it goes wrong: 1 is the first character, one more than the last is the end. */
  column: Schema.Int,
  /** What is wrong, as a sentence without a position. */
  problem: Schema.String,
  /** The word or sign that stands at the column; empty at the end of the text. */
  found: Schema.String,
  /** What may stand at the column. */
  expected: Schema.Array(Schema.String)
}) {
  override get message(): string {
    return pointAt(this)
  }
}

/**
 * A term of the filter means nothing for this kind of table, or cannot be decided with what is known.
 *
 * @since 0.1.0
 */
export class FilterUnsupported extends Schema.TaggedError<FilterUnsupported>()("FilterUnsupported", {
  /** The term, in canonical text. */
  term: Schema.String,
  table: Schema.Literals(["ct", "nat"]),
  /** Why, and what to do about it. */
  problem: Schema.String
}) {
  override get message(): string {
    return `the filter term "${this.term}" cannot be used on a ${this.table.toUpperCase()} table: ${this.problem}`
  }
}
