/**
 * Several requests made into one decision per row, and who asked for what was decided.
 *
 * A code is the number of a reason, with {@link PRESENCE} added where the entry goes whatever became of its lifetime.
 */
import { AddressSet, type CtColumns, CtTime, type Family, type Filter, FilterPredicate, type Release } from "ctmap-core"
import * as Effect from "effect/Effect"
import * as GcReason from "../GcReason.ts"
import { type EmitKept, type GcRequest, isVolatile } from "../GcRequest.ts"

/** Of a code: its being there is all that is compared again, not its lifetime. */
export const PRESENCE = 0x100

/** What a pass decides under. */
export interface Context {
  readonly family: Family.Family
  readonly release: Release.Release
  readonly now: number
  readonly source: CtTime.ClockSource
}

type Predicate = (columns: CtColumns.CtColumns, row: number) => boolean

/** One request, compiled. */
interface Rules {
  /** Whether what has expired goes, and since when it has: 0 where it does not. */
  readonly expired: boolean
  readonly expiredBefore: number
  readonly addresses: AddressSet.AddressSet | undefined
  readonly stable: ReadonlyArray<Predicate>
  readonly volatile: ReadonlyArray<Predicate>
  readonly everything: boolean
  readonly within: Predicate | undefined
  /** What `within` says can change while the entry lives. */
  readonly isWithinVolatile: boolean
}

export interface Judge {
  /**
   * Has `decide` leave out the requests that nobody wants any more, and says whether there are any. What they wanted is
   * attributed to them all the same: entries of theirs may be on their way.
   */
  readonly leavesOut: () => boolean
  /** The code of a row, or `GcReason.KEEP`. */
  readonly decide: (columns: CtColumns.CtColumns, row: number) => number
  /** Adds 1 for every request that wants the row. */
  readonly attribute: (columns: CtColumns.CtColumns, row: number, into: Array<number>) => void
  readonly requests: number
  /** Nothing but expiry is asked for, and nobody asks for what is kept. */
  readonly isExpiryOnly: boolean
  /** Some rule deletes for another reason than expiry: the guard limits it. */
  readonly isLimited: boolean
  readonly emits: ReadonlyArray<EmitKept>
}

const compileOne = (request: GcRequest, context: Context): Effect.Effect<Rules, Filter.FilterUnsupported> =>
  Effect.gen(function* () {
    const { family, release, now, source } = context
    const predicateOf = (filter: Filter.Filter | undefined) => {
      const secondsPerUnit = CtTime.secondsPerUnit(source)
      return filter === undefined
        ? Effect.undefined
        : Effect.fromResult(FilterPredicate.compileCt(filter, { family, release, now, secondsPerUnit }))
    }
    const predicate = yield* predicateOf(request.filter)
    const isStable = request.filter !== undefined && !isVolatile(request.filter)
    const ips = request.addresses === undefined ? undefined : AddressSet.make(family, request.addresses)
    return {
      expired: request.expired === true,
      expiredBefore: request.expired === true ? now : 0,
      addresses: ips === undefined || ips.size === 0 ? undefined : ips,
      stable: predicate !== undefined && isStable ? [predicate] : [],
      volatile: predicate !== undefined && !isStable ? [predicate] : [],
      everything: request.everything === true,
      within: yield* predicateOf(request.within),
      isWithinVolatile: request.within !== undefined && isVolatile(request.within)
    }
  })

/** All rules of all requests as those of one. */
const union = (all: ReadonlyArray<Rules>, addresses: AddressSet.AddressSet | undefined): Rules => ({
  expired: all.some((rules) => rules.expired),
  expiredBefore: Math.max(0, ...all.map(({ expiredBefore }) => expiredBefore)),
  addresses,
  stable: all.flatMap(({ stable }) => stable),
  volatile: all.flatMap((rules) => rules.volatile),
  everything: all.some(({ everything }) => everything),
  within: undefined,
  isWithinVolatile: false
})

const hasAddress = ({ addresses }: Rules, columns: CtColumns.CtColumns, row: number): boolean => {
  if (addresses === undefined) return false
  const key = columns.keyAt(row)
  return addresses.has(columns.keys, key) || addresses.has(columns.keys, key + columns.tuple.saddr)
}

const accepts = (predicates: ReadonlyArray<Predicate>, columns: CtColumns.CtColumns, row: number): boolean => {
  for (const predicate of predicates) if (predicate(columns, row)) return true
  return false
}

const { expired, "matched-address": address, "matched-filter": filter, flushed } = GcReason.number

/** The code of the first rule that wants the row for what it is, whatever its lifetime. */
const lasting = (rules: Rules, columns: CtColumns.CtColumns, row: number): number =>
  hasAddress(rules, columns, row)
    ? address
    : accepts(rules.stable, columns, row)
      ? filter
      : rules.everything
        ? flushed
        : GcReason.KEEP

const decideAny =
  (rules: Rules): Judge["decide"] =>
  (columns, row) => {
    const isExpired = columns.lifetime(row) < rules.expiredBefore
    const wanted = lasting(rules, columns, row)
    if (wanted !== GcReason.KEEP) {
      const isFiltered = wanted === flushed && accepts(rules.volatile, columns, row)
      return (isExpired ? expired : isFiltered ? filter : wanted) | PRESENCE
    }
    return isExpired ? expired : accepts(rules.volatile, columns, row) ? filter : GcReason.KEEP
  }

const decideExpired =
  (expiredBefore: number): Judge["decide"] =>
  (columns, row) =>
    columns.lifetime(row) < expiredBefore ? expired : GcReason.KEEP

const isExpiry = ({ addresses, stable, volatile, everything }: Rules): boolean =>
  addresses === undefined && stable.length === 0 && volatile.length === 0 && !everything

const decider = (rules: Rules): Judge["decide"] => {
  const decide = isExpiry(rules) ? decideExpired(rules.expiredBefore) : decideAny(rules)
  const { within, isWithinVolatile } = rules
  if (within === undefined) return decide
  // An entry that need not be within any more when it is deleted must be as it was read, whatever wants it.
  const compared = isWithinVolatile ? ~PRESENCE : ~0
  return (columns, row) => {
    const code = decide(columns, row)
    return code !== GcReason.KEEP && within(columns, row) ? code & compared : GcReason.KEEP
  }
}

/** The first reason that any of several gives; presence alone where any of them asks for no more. */
const firstOf =
  (deciders: ReadonlyArray<Judge["decide"]>): Judge["decide"] =>
  (columns, row) => {
    let first: number = GcReason.KEEP
    let presence = 0
    for (const decide of deciders) {
      const code = decide(columns, row)
      if (code === GcReason.KEEP) continue
      first = Math.min(first, code & 0xff)
      presence |= code & PRESENCE
    }
    return first === GcReason.KEEP ? first : first | presence
  }

/**
 * Compiles requests for the tables of a family, for as long as each is wanted. Errors: `FilterUnsupported` for a term that
 * CT tables do not have.
 */
export const compile = (
  requests: ReadonlyArray<GcRequest>,
  context: Context,
  isWanted: (request: number) => boolean = () => true
): Effect.Effect<Judge, Filter.FilterUnsupported> =>
  Effect.map(
    Effect.forEach(requests, (request) => compileOne(request, context)),
    (each) => {
      const deciders = each.map(decider)
      const isNarrowed = (i: number): boolean => each[i]!.within !== undefined
      const combined = (some: ReadonlyArray<number>): Judge["decide"] => {
        const open = some.filter((i) => !isNarrowed(i))
        const ips = open.flatMap((i) => requests[i]!.addresses ?? [])
        const all = decider(
          union(
            open.map((i) => each[i]!),
            ips.length === 0 ? undefined : AddressSet.make(context.family, ips)
          )
        )
        const narrowed = some.filter(isNarrowed).map((i) => deciders[i]!)
        return narrowed.length === 0 ? all : firstOf([...(open.length > 0 ? [all] : []), ...narrowed])
      }
      let wanted = requests.map((_, i) => i)
      let current = combined(wanted)
      const emits = requests.flatMap(({ emit }) => (emit === undefined ? [] : [emit]))
      return {
        decide: requests.length === 1 ? current : (columns, row) => current(columns, row),
        leavesOut: () => {
          // Where there is one, its end is that of the pass.
          if (requests.length === 1) return false
          const still = wanted.filter(isWanted)
          if (still.length < wanted.length) current = combined(still)
          wanted = still
          return wanted.length < requests.length
        },
        attribute:
          deciders.length === 1
            ? (_columns, _row, into) => {
                into[0]! += 1
              }
            : (columns, row, into) => {
                for (let i = 0; i < deciders.length; i++)
                  if (deciders[i]!(columns, row) !== GcReason.KEEP) into[i]! += 1
              },
        requests: requests.length,
        isExpiryOnly:
          each.length > 0 &&
          each.every((rules) => rules.expired && isExpiry(rules)) &&
          each.every(({ within }) => within === undefined) &&
          emits.length === 0,
        isLimited: !each.every(isExpiry),
        emits
      }
    }
  )
