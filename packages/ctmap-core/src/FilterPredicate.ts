/**
 * From {@link Filter} to a predicate over the raw bytes of a batch, for one kind of table.
 *
 * What a term means is decided here, once, when the filter is compiled: the family and the release choose offsets, the
 * clock turns spans of time into raw values, answers that are the same for every row are folded away. A predicate is
 * closures only, allocates nothing and never throws.
 *
 * @since 0.1.0
 */
import * as Result from "effect/Result"
import type { CtColumns } from "./CtColumns.ts"
import type { Family } from "./Family.ts"
import { type Filter, FilterUnsupported } from "./Filter.ts"
import { ctTerm, natTerm, type TermCompiler } from "./internal/filterTables.ts"
import { every, type Match, negate, type Node, some } from "./internal/filterMatch.ts"
import type { NatColumns } from "./NatColumns.ts"
import type { Release } from "./Release.ts"

/**
 * What a filter is compiled against.
 *
 * @since 0.1.0
 */
export interface FilterContext {
  readonly family: Family
  readonly release: Release
  /** The clock of the datapath, in its units, as a u32. `expired`, `alive` and spans of time need it. */
  readonly now?: number | undefined
  /** Seconds of one clock unit, see {@link CtTime.secondsPerUnit}: 1, or 256 / hertz. Spans of time need it. */
  readonly secondsPerUnit?: number | undefined
}

/** Whether a row of a bound batch of CT entries matches. @since 0.1.0 */
export type CtPredicate = (columns: CtColumns, row: number) => boolean

/** Whether a row of a bound batch of NAT entries matches. @since 0.1.0 */
export type NatPredicate = (columns: NatColumns, row: number) => boolean

/**
 * Compiles a filter for CT tables of a family.
 *
 * **Details**
 *
 * `src` and `dst` are the true ends of the flow, see {@link Tuple.ctEnds}. `backend` under release 1.20 matches only
 * service entries, whatever the comparison: elsewhere the field holds part of a NAT address. Errors:
 * `FilterUnsupported` for a term that CT tables of the release do not have, and for one that needs a clock when the
 * context has none; also when the term could not matter. Units: `now` and lifetimes in clock units; spans of time are
 * compared exactly, not in whole units.
 *
 * **Example** (Expired entries to one port)
 *
 * ```ts
 * import { CtColumns, FilterParser, FilterPredicate, Rows } from "ctmap-core"
 * import * as Hex from "effect/encoding/Hex"
 * import * as Result from "effect/Result"
 *
 * const filter = Result.getOrThrow(FilterParser.parse("dst 1.1.1.0/24 and dport 80 and expired"))
 * const context = { family: "ipv4", release: "1.17", now: 100 } as const
 * const predicate = Result.getOrThrow(FilterPredicate.compileCt(filter, context))
 *
 * const keys = Result.getOrThrow(Hex.decode("0a00016301010101005086d80600"))
 * const columns = new CtColumns.CtColumns({ family: "ipv4", release: "1.17" })
 * columns.bind(Rows.separate(keys, new Uint8Array(56), { keySize: 14, valueSize: 56, count: 1 }))
 * predicate(columns, 0) // => true
 * ```
 *
 * @since 0.1.0
 */
export const compileCt = (filter: Filter, context: FilterContext): Result.Result<CtPredicate, FilterUnsupported> =>
  compile(filter, context, ctTerm(context))

/**
 * Compiles a filter for NAT tables of a family.
 *
 * **Details**
 *
 * Addresses and ports are in packet order. `dir in` is a reverse mapping, `dir out` an original one, `service` the
 * service bit beside either. Errors: `FilterUnsupported` for terms of CT values, with the terms that NAT tables have.
 *
 * @since 0.1.0
 */
export const compileNat = (filter: Filter, context: FilterContext): Result.Result<NatPredicate, FilterUnsupported> =>
  compile(filter, context, natTerm(context))

/** What {@link select} and {@link count} need of a batch. @since 0.1.0 */
export interface Selectable {
  readonly family: Family
  readonly count: number
}

/**
 * Writes the numbers of the matching rows of the bound batch into `into`, ascending, and returns how many they are.
 *
 * **Details**
 *
 * Errors: throws `RangeError` when `into` has less room than the batch has rows, and `TypeError` when the predicate was
 * compiled for the other family: both are mistakes of the caller. Allocates nothing.
 *
 * @since 0.1.0
 */
export const select = <C extends Selectable>(
  predicate: (columns: C, row: number) => boolean,
  columns: C,
  into: Uint32Array
): number => {
  const { count: rows } = columns
  checkFamily(predicate, columns)
  if (into.length < rows) {
    throw new RangeError(`the batch has ${rows} rows, but there is room for ${into.length} row numbers`)
  }
  let selected = 0
  for (let row = 0; row < rows; row++) if (predicate(columns, row)) into[selected++] = row
  return selected
}

/**
 * How many rows of the bound batch match. Errors: as {@link select}.
 *
 * @since 0.1.0
 */
export const count = <C extends Selectable>(predicate: (columns: C, row: number) => boolean, columns: C): number => {
  checkFamily(predicate, columns)
  let matched = 0
  for (let row = 0; row < columns.count; row++) if (predicate(columns, row)) matched++
  return matched
}

/** The families that predicates were compiled for: read once per batch, so that the wrong bytes are never read. */
const compiledFor = new WeakMap<object, Family>()

const checkFamily = (predicate: object, columns: { readonly family: Family }): void => {
  const family = compiledFor.get(predicate)
  if (family !== undefined && family !== columns.family) {
    throw new TypeError(`a filter compiled for ${family} cannot read a batch of ${columns.family} entries`)
  }
}

/**
 * Throws `TypeError` where a predicate of this module was compiled for another family than it is to be used on.
 * Predicates written by hand pass: nothing is known of them.
 *
 * @since 0.1.0
 */
export const assertFamily = (predicate: object, family: Family): void => checkFamily(predicate, { family })

const compile = (
  filter: Filter,
  context: FilterContext,
  term: TermCompiler
): Result.Result<Match, FilterUnsupported> => {
  try {
    const node = build(filter, term, 0)
    const predicate: Match = typeof node === "boolean" ? () => node : node
    compiledFor.set(predicate, context.family)
    return Result.succeed(predicate)
  } catch (error) {
    if (error instanceof FilterUnsupported) return Result.fail(error)
    throw error
  }
}

/** Trees that alternate operators more often than this cannot come from the parser. */
const MAX_DEPTH = 1000

const build = (filter: Filter, term: TermCompiler, depth: number): Node => {
  if (depth > MAX_DEPTH) return term.fail("…", `the filter nests operators deeper than ${MAX_DEPTH}`)
  switch (filter._tag) {
    case "And":
    case "Or": {
      const nodes = operands(filter).map((operand) => build(operand, term, depth + 1))
      return filter._tag === "And" ? every(nodes) : some(nodes)
    }
    case "Not":
      return negate(build(filter.filter, term, depth + 1))
    default:
      return term.compile(filter)
  }
}

/** What a chain of one operator joins, from left to right; however long, without recursion. */
const operands = (chain: Extract<Filter, { readonly _tag: "And" | "Or" }>): Array<Filter> => {
  const found: Array<Filter> = []
  const todo: Array<Filter> = [chain]
  for (let filter = todo.pop(); filter !== undefined; filter = todo.pop()) {
    if ((filter._tag === "And" || filter._tag === "Or") && filter._tag === chain._tag) {
      todo.push(filter.right, filter.left)
    } else found.push(filter)
  }
  return found
}
