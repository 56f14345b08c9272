/**
 * Passes over the NAT map of a pair: the purge of mappings whose connection is gone, and the flush.
 *
 * A pass over a CT map takes the mappings of what it deletes with it. What the LRU evicts, or the datapath replaces, leaves
 * its mapping behind: those are the orphans. Elsewhere this purge has wiped live mappings twice, for it was given CT maps
 * that the NAT map did not belong to; here it takes a `CtPair`, so that does not compile, and the guard stands behind it.
 *
 * @since 0.1.0
 */
import {
  type Filter,
  FilterPredicate,
  CtEntry,
  CtEntryFlags,
  type NatColumns,
  NatDerivation,
  Tuple,
  TupleFlags
} from "ctmap-core"
import { Bpf, type BpfMap, type CompareAndDelete, CtPair, Dump, Owner } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Guard from "./Guard.ts"
import { endOf } from "./internal/endOf.ts"
import { natSweep, type NatSweepError, noCounts } from "./internal/natSweep.ts"
import type { NatPass } from "./NatPass.ts"
import * as Pace from "./Pace.ts"

/**
 * How a pass over a NAT map is to be done.
 *
 * @since 0.1.0
 */
export interface Options {
  /** Names the pass in its record. */
  readonly serial: number
  readonly dryRun?: boolean
  /** Default {@link Guard.defaults}. A flush without a filter is not limited by share. */
  readonly limits?: Guard.Limits
  /** Share of one core, above 0. Default 1. */
  readonly budget?: number
  readonly engine?: CompareAndDelete.Options["engine"]
  readonly progress?: ((map: string, seen: number) => void) | undefined
  /** Gets the record in any case: done, failed or interrupted. */
  readonly recorded?: ((pass: NatPass) => void) | undefined
}

/** @since 0.1.0 */
export type NatPassError = NatSweepError | Dump.UnknownLayout

/**
 * Deletes the NAT entries of a pair whose CT entry is gone; `undefined` for a pair without a NAT map.
 *
 * **Details**
 *
 * An entry of either direction is alive while the CT entry that it is derived from exists: under an IN key the one of
 * `value.address` and `key.source`, under an OUT key the egress entry, or a swapped one that carries `DSRInternal`. A
 * look-up that fails otherwise than by absence keeps the entry. What is found is looked at again right before it is
 * deleted, and deleted only while its creation time is as it was read. Then the CT maps are asked twice more, at once and at
 * the end of the pass, and a mapping whose connection is back is put back as it was, both halves, unless the datapath has
 * made another by then: `docs/race.md` says what remains. Of more than 16,384 orphans the last question is about those that
 * were deleted last. Errors: `GuardStopped` before anything is deleted, `BpfError`, `Incomplete`, `UnknownLayout`. Cost:
 * one or two look-ups an entry, three to six more an orphan.
 *
 * @since 0.1.0
 */
export const orphans = (
  pair: CtPair.CtPair,
  options: Options
): Effect.Effect<NatPass | undefined, NatPassError, Bpf.Bpf> =>
  Effect.gen(function* () {
    if (pair.nat === undefined) return undefined
    yield* readable(pair.tcp, pair.any)
    const isOrphan = orphanTest(yield* Bpf.Bpf, pair)
    return yield* pass(pair.nat, { kind: "orphans", wants: isOrphan, confirms: isOrphan, compared: "created" }, options)
  })

/**
 * Deletes NAT entries that a filter accepts, or all of them; `undefined` for a pair without a NAT map.
 *
 * **Details**
 *
 * Live connections lose their translation. Errors: as {@link orphans}, and `FilterUnsupported`.
 *
 * @since 0.1.0
 */
export const flush = (
  pair: CtPair.CtPair,
  options: Options & {
    readonly filter?: Filter.Filter | undefined
    readonly context?: Omit<FilterPredicate.FilterContext, "family">
  }
): Effect.Effect<NatPass | undefined, NatPassError | Filter.FilterUnsupported, Bpf.Bpf> =>
  Effect.gen(function* () {
    const { nat, family } = pair
    if (nat === undefined) return undefined
    const { filter, context = { release: "1.17" } } = options
    if (filter === undefined) {
      const limits = { ...Guard.unlimited, maxDeletions: options.limits?.maxDeletions ?? Number.POSITIVE_INFINITY }
      const all = { kind: "flush", wants: () => true, compared: "presence" } as const
      return yield* pass(nat, all, { ...options, limits })
    }
    const wants = yield* Effect.fromResult(FilterPredicate.compileNat(filter, { ...context, family }))
    return yield* pass(nat, { kind: "flush", wants, compared: "created" }, options)
  })

type What = Pick<Parameters<typeof natSweep>[1], "wants" | "confirms" | "compared"> & Pick<NatPass, "kind">

const pass = (
  nat: CtPair.NatMap,
  { kind, ...what }: What,
  options: Options
): Effect.Effect<NatPass, NatPassError, Bpf.Bpf> =>
  Effect.gen(function* () {
    if (nat.mismatch !== undefined) {
      return yield* Effect.fail(new Dump.UnknownLayout({ map: nat.map.name, why: nat.mismatch }))
    }
    const began = performance.now()
    const startedAtMillis = yield* Effect.clockWith((clock) => clock.currentTimeMillis)
    const tally = noCounts()
    const { dryRun = false, limits = Guard.defaults } = options
    const record = (exit: Exit.Exit<void, NatPassError>): NatPass => ({
      serial: options.serial,
      kind,
      family: nat.family,
      owner: Owner.describe(nat.owner),
      map: nat.map.name,
      capacity: nat.map.info.maxEntries,
      dryRun,
      ...tally,
      startedAtMillis,
      millis: performance.now() - began,
      ...endOf(exit)
    })
    const pace = yield* Pace.make(options.budget ?? 1)
    const plan = { ...what, engine: options.engine, dryRun, limits, pace, batchSize: 512, progress: options.progress }
    return yield* natSweep(nat, plan, tally).pipe(
      Effect.onExit((exit) => Effect.sync(() => options.recorded?.(record(exit)))),
      Effect.map(() => record(Exit.void))
    )
  })

const readable = (...maps: ReadonlyArray<CtPair.CtMap>): Effect.Effect<void, Dump.UnknownLayout> => {
  for (const { layout, map } of maps) {
    if (layout._tag === "Unknown") return Effect.fail(new Dump.UnknownLayout({ map: map.name, why: layout.why }))
  }
  return Effect.void
}

/** Whether no CT entry of the pair keeps a NAT entry alive. */
const orphanTest = (
  bpf: Bpf.Calls,
  pair: CtPair.CtPair
): ((columns: NatColumns.NatColumns, row: number) => boolean) => {
  const tuple = Tuple.shape(pair.family)
  const key = new Uint8Array(tuple.size)
  const value = new Uint8Array(CtEntry.SIZE)
  const words = new DataView(value.buffer)

  /** Unknown trouble counts as being there. */
  const isThere = ({ fd }: BpfMap.BpfMap): boolean => bpf.lookup(fd, key, value) !== ENOENT

  return (columns, row) => {
    const natKey = columns.keyBytes(row)
    const { map } = CtPair.mapOf(pair, columns.nexthdr(row))
    if ((columns.tupleFlags(row) & TupleFlags.IN) !== 0) {
      NatDerivation.ctOfNatIn(tuple, { key: natKey, value: columns.valueBytes(row) }, key)
      return !isThere(map)
    }
    NatDerivation.ctOfNatOut(tuple, natKey, key)
    if (isThere(map)) return false
    NatDerivation.dsrCtOfNatOut(tuple, natKey, key)
    const rc = bpf.lookup(map.fd, key, value)
    if (rc === ENOENT) return true
    return rc >= 0 && (words.getUint16(CtEntry.offset.flags, true) & CtEntryFlags.DSRInternal) === 0
  }
}

const ENOENT = -2
