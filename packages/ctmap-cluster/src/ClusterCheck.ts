/**
 * Whether the per-cluster maps are as they should be: every cluster with all of its maps, each pinned and in its slot.
 *
 * Owns the findings and what is done about them. Needs no open service: what is looked at are the pins and the slots, by
 * the ids of maps, so CAP_BPF is enough. An agent that dies between two steps leaves less than this finds; maps that were
 * restored, pins that were removed by hand and sizes that were changed are what it is for.
 *
 * @since 0.1.0
 */
import { ClusterId, type Family, MapSpec } from "ctmap-core"
import { type Bpf, type BpfError, BpfMap, type CtMaps, type NatMaps, OuterMap } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { type ClusterTable, ctTables, natTables, outerSpec } from "./internal/clusterTable.ts"
import { idsOf } from "./internal/outerMaps.ts"
import * as Slots from "./internal/slots.ts"

/**
 * Something that is not as it should be.
 *
 * @since 0.1.0
 */
export type Finding =
  /** The outer map of a family in use is not pinned. */
  | { readonly _tag: "OuterMissing"; readonly map: string }
  /** A map is pinned, and its slot is empty or names another: the datapath does not use it. */
  | {
      readonly _tag: "OrphanedPin"
      readonly map: string
      readonly clusterId: number
      /** The kernel's id of the map in the slot. */
      readonly slot: number | undefined
    }
  /** A slot holds a map that is not pinned: the datapath uses it, and nobody can collect it. */
  | { readonly _tag: "OrphanedSlot"; readonly map: string; readonly clusterId: number; readonly slot: number }
  /** The other maps of the cluster are there: a CT map without the NAT map of its family, for one. */
  | { readonly _tag: "MapMissing"; readonly map: string; readonly clusterId: number }
  /** A map has other properties than the configured ones. */
  | {
      readonly _tag: "WrongSize"
      readonly map: string
      readonly clusterId: number
      readonly differences: ReadonlyArray<MapSpec.Difference>
    }
  /** A map is pinned for a cluster id that its outer map has no slot for. */
  | { readonly _tag: "BeyondRange"; readonly map: string; readonly clusterId: number; readonly max: number }
  /** A pin cannot be looked at. */
  | { readonly _tag: "Unreadable"; readonly map: string; readonly why: string }

/**
 * One sentence about a finding, without the map's name.
 *
 * **Example** (What it says)
 *
 * ```ts
 * import { ClusterCheck } from "ctmap-cluster"
 *
 * ClusterCheck.describe({ _tag: "OrphanedPin", map: "cilium_per_cluster_ct_tcp4_7", clusterId: 7, slot: undefined })
 * // => "pinned, but slot 7 of the outer map is empty: the datapath does not use it"
 * ```
 *
 * @since 0.1.0
 */
export const describe = (finding: Finding): string => {
  switch (finding._tag) {
    case "OuterMissing":
      return "the outer map is not pinned, and inner maps or other outer maps of its family are"
    case "OrphanedPin": {
      const slot = finding.slot === undefined ? "is empty" : `holds another map (id ${finding.slot})`
      return `pinned, but slot ${finding.clusterId} of the outer map ${slot}: the datapath does not use it`
    }
    case "OrphanedSlot":
      return `slot ${finding.clusterId} holds a map (id ${finding.slot}) that is not pinned: it cannot be collected`
    case "MapMissing":
      return `missing, while other maps of cluster ${finding.clusterId} are there`
    case "WrongSize":
      return finding.differences
        .map(({ property, found, wanted }) => `${property} is ${found}, wanted ${wanted}`)
        .join(", ")
    case "BeyondRange":
      return `the outer map has no slot ${finding.clusterId}, its last is ${finding.max}`
    case "Unreadable":
      return finding.why
  }
}

/**
 * What {@link repair} does about a finding; `undefined` where it leaves it alone.
 *
 * @since 0.1.0
 */
export const remedy = (finding: Finding): string | undefined => {
  switch (finding._tag) {
    case "OuterMissing":
      return "make it"
    case "OrphanedPin":
      return "enter it into its slot"
    case "OrphanedSlot":
      return "empty the slot"
    case "MapMissing":
      return "make it, and enter it"
    case "BeyondRange":
      return "remove the pin"
    case "WrongSize":
    case "Unreadable":
      return undefined
  }
}

/**
 * @since 0.1.0
 */
export interface Options {
  /** Default both. */
  readonly families?: ReadonlyArray<Family.Family>
  /** For outer maps that are not there; those that are say it themselves. Default 255. */
  readonly max?: ClusterId.ClusterIdMax
}

/** @since 0.1.0 */
export type Needs = Bpf.Bpf | CtMaps.CtMaps | NatMaps.NatMaps

/**
 * Looks at every slot and every pin.
 *
 * **Details**
 *
 * A family is in use where any of its per-cluster maps is pinned; where none is, there is nothing to find. Inner maps are
 * compared with the blueprints of `CtMaps` and `NatMaps`. Slots are read before pins, so a cluster that is being made is
 * no orphaned slot. Errors: `BpfError` where the pins cannot be listed.
 *
 * @since 0.1.0
 */
export const check = (options: Options = {}): Effect.Effect<ReadonlyArray<Finding>, BpfError.BpfError, Needs> =>
  Effect.scoped(
    Effect.gen(function* () {
      const tables = yield* tablesOf(options)
      const looked = yield* Effect.forEach(tables, (table) => look(table))
      const ids = yield* idsOf(tables)
      const found: Array<Finding> = []
      for (const family of new Set(tables.map((table) => table.family))) {
        const own = looked.filter(({ table }) => table.family === family)
        const isPinned = (yield* idsOf(own.map(({ table }) => table))).length > 0
        const isInUse = isPinned || own.some(({ outer, why }) => outer !== undefined || why !== undefined)
        if (isInUse) found.push(...(yield* checkFamily(own, ids, options)))
      }
      return found
    })
  )

/** A table, its outer map if that opens, and the slots that are not empty. */
interface Looked {
  readonly table: ClusterTable
  readonly outer: BpfMap.BpfMap | undefined
  readonly why: string | undefined
  readonly slots: ReadonlyMap<number, number>
}

const tablesOf = ({ families }: Options) =>
  Effect.gen(function* () {
    return [...(yield* ctTables(families)), ...(yield* natTables(families))]
  })

const look = (table: ClusterTable): Effect.Effect<Looked, never, Bpf.Bpf | Scope.Scope> =>
  Effect.gen(function* () {
    const outer = yield* BpfMap.open(table.outer.path)
    const slots = new Map<number, number>()
    for (let id = 0; id < Math.min(outer.info.maxEntries, ClusterId.outerMaxEntries(511)); id++) {
      const slot = yield* OuterMap.idAt(outer, id)
      if (slot !== undefined) slots.set(id, slot)
    }
    return { table, outer, why: undefined, slots }
  }).pipe(
    Effect.catch((error) =>
      Effect.succeed<Looked>({
        table,
        outer: undefined,
        why: error.reason._tag === "PinNotFound" ? undefined : error.message,
        slots: new Map()
      })
    )
  )

const checkFamily = (looked: ReadonlyArray<Looked>, ids: ReadonlyArray<number>, { max = 255 }: Options) =>
  Effect.gen(function* () {
    const found: Array<Finding> = []
    for (const { table, outer, why, slots } of looked) {
      if (why !== undefined) {
        found.push({ _tag: "Unreadable", map: table.outer.name, why })
        continue
      }
      if (outer === undefined) found.push({ _tag: "OuterMissing", map: table.outer.name })
      const last = outer === undefined ? max : outer.info.maxEntries - 1
      for (const clusterId of [...new Set([...ids, ...slots.keys()])].toSorted((a, b) => a - b)) {
        const seen = { table, clusterId, slot: slots.get(clusterId), last, isKnown: ids.includes(clusterId) }
        found.push(...(yield* checkPlace(seen, outer)))
      }
    }
    return found
  })

interface Seen {
  readonly table: ClusterTable
  readonly clusterId: number
  readonly slot: number | undefined
  /** The last slot that there is. */
  readonly last: number
  /** Some map of the cluster is pinned. */
  readonly isKnown: boolean
}

const checkPlace = (
  { table, clusterId, slot, last, isKnown }: Seen,
  outer: BpfMap.BpfMap | undefined
): Effect.Effect<ReadonlyArray<Finding>, never, Bpf.Bpf> =>
  Effect.gen(function* () {
    const map = table.innerName(clusterId)
    const pin = yield* Slots.pinned(table, clusterId)
    if (pin === undefined) {
      // Looked at once more: the cluster may have been deleted since.
      const still = slot === undefined || outer === undefined ? undefined : yield* OuterMap.idAt(outer, clusterId)
      if (still !== undefined) return [{ _tag: "OrphanedSlot" as const, map: table.outer.name, clusterId, slot: still }]
      return isKnown && clusterId <= last ? [{ _tag: "MapMissing" as const, map, clusterId }] : []
    }
    if (clusterId > last) return [{ _tag: "BeyondRange" as const, map, clusterId, max: last }]
    const differences = MapSpec.differences(table.innerSpec, pin)
    return [
      ...(Slots.isUnentered({ slot, pin }) ? [{ _tag: "OrphanedPin" as const, map, clusterId, slot }] : []),
      ...(differences.length > 0 ? [{ _tag: "WrongSize" as const, map, clusterId, differences }] : [])
    ]
  }).pipe(
    Effect.catch(({ message }) =>
      Effect.succeed([{ _tag: "Unreadable" as const, map: table.innerName(clusterId), why: message }])
    )
  )

/**
 * What became of a finding.
 *
 * @since 0.1.0
 */
export interface Repaired {
  readonly finding: Finding
  /** `left`: there is nothing that could be done without losing entries, or it is as it should be by now. */
  readonly outcome: "repaired" | "left" | "failed"
  readonly error?: BpfError.BpfError
}

/**
 * Does what {@link remedy} says about each finding, outer maps first; one that fails does not keep the others from it.
 *
 * **Details**
 *
 * No entry of a map that is pinned is lost: what is emptied are slots whose map nobody can reach, and what is unpinned has
 * no slot. Every finding is looked at again before.
 *
 * @since 0.1.0
 */
export const repair = (
  findings: ReadonlyArray<Finding>,
  options: Options = {}
): Effect.Effect<ReadonlyArray<Repaired>, never, Needs> =>
  Effect.gen(function* () {
    const tables = yield* tablesOf(options)
    const first = findings.filter(({ _tag }) => _tag === "OuterMissing")
    return yield* Effect.forEach([...first, ...findings.filter((finding) => !first.includes(finding))], (finding) =>
      Effect.scoped(mend(finding, tables, options)).pipe(
        Effect.map((isDone): Repaired => ({ finding, outcome: isDone ? "repaired" : "left" })),
        Effect.catch((error) => Effect.succeed<Repaired>({ finding, outcome: "failed", error }))
      )
    )
  })

const mend = (
  finding: Finding,
  tables: ReadonlyArray<ClusterTable>,
  { max = 255 }: Options
): Effect.Effect<boolean, BpfError.BpfError, Bpf.Bpf | Scope.Scope> =>
  Effect.gen(function* () {
    const table = tables.find(
      ({ outer, innerName }) =>
        outer.name === finding.map || ("clusterId" in finding && innerName(finding.clusterId) === finding.map)
    )
    if (table === undefined || finding._tag === "WrongSize" || finding._tag === "Unreadable") return false
    if (finding._tag === "OuterMissing") {
      yield* BpfMap.createPinned(outerSpec(table, max), table.outer.path)
      return true
    }
    const { clusterId } = finding
    if (finding._tag === "BeyondRange") return yield* BpfMap.unpin(table.innerPath(clusterId))
    const outer = { table, outer: yield* BpfMap.open(table.outer.path) }
    if (finding._tag === "OrphanedSlot") {
      const { slot, pin } = yield* Slots.placeOf(outer, clusterId)
      return slot !== undefined && pin === undefined && (yield* OuterMap.remove(outer.outer, clusterId))
    }
    const { map } =
      finding._tag === "MapMissing"
        ? yield* Slots.openInner(table, clusterId)
        : { map: yield* BpfMap.open(table.innerPath(clusterId)) }
    yield* Slots.enter(outer, clusterId, map)
    return true
  })
