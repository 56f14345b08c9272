/**
 * From text to {@link Filter}. One grammar for every command; what a term means for a table is decided later, by
 * {@link FilterPredicate}.
 *
 * **Grammar** (keywords in any case; blanks separate words and mean nothing else)
 *
 * ```text
 * filter     = and { ( "or" | "||" ) and }
 * and        = not { ( "and" | "&&" ) not }
 * not        = ( "not" | "!" ) not | "(" filter ")" | term
 *
 * term       = protocol | "ipv4" | "ipv6"
 *            | ( "src" | "dst" | "host" | "xlate" ) ( network | "{" network { "," network } "}" )
 *            | ( "sport" | "dport" | "port" | "xport" | "natport" ) ports
 *            | "dir" ( "in" | "out" | "service" ) | "service" | "related"
 *            | "flag" ( FLAG-NAME | HEX-MASK )
 *            | "expired" | "alive" | "needs-ct"
 *            | ( "lifetime" | "idle" | "age" ) cmp duration
 *            | ( "packets" | "bytes" ) cmp count
 *            | ( "identity" | "revnat" | "backend" | "ifindex" ) [ cmp ] NUMBER
 *
 * protocol   = "tcp" | "udp" | "icmp" | "icmpv6" | "sctp" | "igmp" | "ipip" | "gre" | "esp" | "ah" | "vrrp"
 *            | "proto" ( PROTOCOL-NAME | 0..255 )
 * network    = ADDRESS [ "/" PREFIX-LENGTH ]
 * ports      = range | "{" range { "," range } "}" | cmp PORT
 * range      = PORT [ "-" PORT ]                                  (no blanks inside)
 * cmp        = "<" | "<=" | ">" | ">=" | "=" | "==" | "!="
 * duration   = [ "-" ] ( NUMBER | [ N "d" ] [ N "h" ] [ N "m" ] [ N "s" ] [ N "ms" ] )    (no blanks inside)
 * count      = NUMBER [ "k" | "M" | "G" | "Ki" | "Mi" | "Gi" ]
 * ```
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as SchemaIssue from "effect/SchemaIssue"
import * as SchemaTransformation from "effect/SchemaTransformation"
import * as Filter from "./Filter.ts"
import * as FilterPrinter from "./FilterPrinter.ts"
import { Cursor, quote } from "./internal/filterLexer.ts"
import { starts, term } from "./internal/filterTerms.ts"
import { didYouMean } from "./internal/filterWords.ts"

/** Parentheses and negations inside one another, at most. @since 0.1.0 */
export const MAX_DEPTH = 200

/** UTF-16 units of a text, at most. @since 0.1.0 */
export const MAX_LENGTH = 65_536

/**
 * Parses a filter.
 *
 * **Details**
 *
 * Errors: `FilterSyntaxError` points at the column and lists what is allowed there; never throws, whatever the text.
 * Networks with host bits are taken as the network that holds the address. Numbers, durations and networks are kept
 * in one form, so two texts that say the same in different words may have equal trees.
 *
 * **Example** (Precedence: not, and, or)
 *
 * ```ts
 * import { FilterParser, FilterPrinter } from "ctmap-core"
 * import * as Result from "effect/Result"
 *
 * const filter = Result.getOrThrow(FilterParser.parse("TCP && (dport 443 || dport = 80) && src 10.1.2.3/8"))
 * FilterPrinter.print(filter) // => "tcp and (dport 443 or dport 80) and src 10.0.0.0/8"
 * Result.isFailure(FilterParser.parse("tcp and")) // => true
 * ```
 *
 * @since 0.1.0
 */
export const parse = (input: string): Result.Result<Filter.Filter, Filter.FilterSyntaxError> => {
  try {
    return Result.succeed(whole(input))
  } catch (error) {
    if (error instanceof Filter.FilterSyntaxError) return Result.fail(error)
    throw error
  }
}

/**
 * Between text and {@link Filter}, as a schema: for configuration, API and flags. Decodes any spelling, encodes the
 * canonical one.
 *
 * **Example** (In a schema of settings)
 *
 * ```ts
 * import { FilterParser } from "ctmap-core"
 * import * as Schema from "effect/Schema"
 *
 * const Settings = Schema.Struct({ keep: FilterParser.FromString })
 * const settings = Schema.decodeUnknownSync(Settings)({ keep: "udp  &&  dport=53" })
 * Schema.encodeSync(Settings)(settings) // => { keep: "udp and dport 53" }
 * ```
 *
 * @since 0.1.0
 */
export const FromString: Schema.Codec<Filter.Filter, string> = Schema.String.pipe(
  Schema.decodeTo(
    Schema.declare(Filter.isFilter),
    SchemaTransformation.transformEffect<Filter.Filter, string>({
      decode: (text, options) =>
        Result.match(parse(text), {
          onSuccess: (filter) => Effect.succeed(filter),
          onFailure: ({ message }) => Effect.fail(new SchemaIssue.InvalidValue({ message }, text, options))
        }),
      encode: (filter) => Effect.succeed(FilterPrinter.print(filter))
    })
  )
)

const whole = (input: string): Filter.Filter => {
  if (input.length > MAX_LENGTH) {
    throw new Filter.FilterSyntaxError({
      input,
      column: 1,
      problem: `a filter has at most ${MAX_LENGTH} characters, this one has ${input.length}`,
      found: "",
      expected: []
    })
  }
  const cursor = new Cursor(input)
  if (cursor.token.kind === "end") {
    cursor.fail({ problem: "a filter is empty, it needs at least one term such as tcp or dport 443", expected: starts })
  }
  const filter = or(cursor, 0)
  return cursor.token.kind === "end" ? filter : trailing(cursor)
}

const or = (cursor: Cursor, depth: number): Filter.Filter => {
  let left = and(cursor, depth)
  while (cursor.accept("or", "||")) left = Filter.or(left, and(cursor, depth))
  return left
}

const and = (cursor: Cursor, depth: number): Filter.Filter => {
  let left = not(cursor, depth)
  while (cursor.accept("and", "&&")) left = Filter.and(left, not(cursor, depth))
  return left
}

const not = (cursor: Cursor, depth: number): Filter.Filter => {
  if (depth > MAX_DEPTH) {
    cursor.fail({ problem: `parentheses and negations are nested deeper than ${MAX_DEPTH}`, expected: [] })
  }
  if (cursor.accept("not", "!")) return Filter.not(not(cursor, depth + 1))
  const open = cursor.token
  if (!cursor.accept("(")) return term(cursor)
  const filter = or(cursor, depth + 1)
  if (cursor.accept(")")) return filter
  return cursor.token.kind === "end"
    ? cursor.fail({ problem: `the "(" at column ${cursor.column(open)} is not closed`, expected: [")", "and", "or"] })
    : trailing(cursor)
}

/** A term is complete, and what follows neither joins nor closes. */
const trailing = (cursor: Cursor): never => {
  const { kind, lower, text } = cursor.token
  const expected = ["and", "or", "the end"]
  if (lower === ")") cursor.fail({ problem: 'no "(" is open here', expected })
  if (lower === ",") cursor.fail({ problem: "a list of values is written as a set: {80, 443}", expected })
  if (lower === "-" || /^-\d/.test(lower)) {
    cursor.fail({ problem: "a range is written without blanks: 8000-8100", expected })
  }
  if (kind === "sign") cursor.fail({ problem: `${quote(text)} cannot follow a complete term`, expected })
  return cursor.fail({
    problem: `${quote(text)} follows a complete term: join terms with "and" or "or"${didYouMean(lower, ["and", "or"])}`,
    expected
  })
}
