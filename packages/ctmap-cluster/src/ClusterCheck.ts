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
import { counted, type Held, heldBy, totalOf } from "./internal/heldEntries.ts"
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
  | {
      readonly _tag: "BeyondRange"
      readonly map: string
      readonly clusterId: number
      readonly max: number
      /** Of this map. */
      readonly entries: number
      /** Of all maps of the cluster, this one as well. */
      readonly clusterEntries: number
    }
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
    case "BeyondRange": {
      const { clusterId, max, entries, clusterEntries } = finding
      const others =
        clusterEntries === 0 ? "it is empty" : `other maps of cluster ${clusterId} hold ${counted(clusterEntries)}`
      const held = entries > 0 ? `the pinned one holds ${counted(entries)}` : others
      return `the outer map has no slot ${clusterId}, its last is ${max}; ${held}`
    }
    case "Unreadable":
      return finding.why
  }
}

/**
 * What {@link repair} does about a finding; `undefined` where it leaves it alone.
 *
 * **Example** (Entries are not for a repair to lose)
 *
 * ```ts
 * import { ClusterCheck } from "ctmap-cluster"
 *
 * const map = "cilium_per_cluster_ct_tcp4_300"
 * const above = { _tag: "BeyondRange", map, clusterId: 300, max: 255, entries: 12, clusterEntries: 20 } as const
 * ClusterCheck.remedy(above) // => undefined
 * ClusterCheck.remedy(above, { discardEntries: true }) // => "remove the pin, and lose 12 entries"
 * ClusterCheck.remedy({ ...above, entries: 0, clusterEntries: 0 }) // => "remove the pin"
 * ```
 *
 * @since 0.1.0
 */
export const remedy = (
  finding: Finding,
  { discardEntries = false }: Pick<RepairOptions, "discardEntries"> = {}
): string | undefined => {
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
      if (finding.clusterEntries > 0 && !discardEntries) return undefined
      return finding.entries === 0 ? "remove the pin" : `remove the pin, and lose ${counted(finding.entries)}`
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

/**
 * @since 0.1.0
 */
export interface RepairOptions extends Options {
  /**
   * Also removes pins of clusters above the range whose maps hold entries, which are lost. Default no: while one map of
   * a cluster holds entries, all of its pins stay.
   */
  readonly discardEntries?: boolean
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
 * no orphaned slot. The maps of clusters above the range are counted. Errors: `BpfError` where the pins cannot be listed.
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
      const held = heldOnce()
      for (const family of new Set(tables.map((table) => table.family))) {
        const own = looked.filter(({ table }) => table.family === family)
        const isPinned = (yield* idsOf(own.map(({ table }) => table))).length > 0
        const isInUse = isPinned || own.some(({ outer, why }) => outer !== undefined || why !== undefined)
        if (isInUse) found.push(...(yield* checkFamily(own, ids, held, options)))
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

/** A cluster is counted once, though each of its maps asks. */
const heldOnce = () => {
  const known = new Map<number, Held>()
  return (clusterId: number): Effect.Effect<Held, BpfError.BpfError, Bpf.Bpf> => {
    const before = known.get(clusterId)
    if (before !== undefined) return Effect.succeed(before)
    return Effect.tap(heldBy(clusterId), (held) => Effect.sync(() => known.set(clusterId, held)))
  }
}

const checkFamily = (
  looked: ReadonlyArray<Looked>,
  ids: ReadonlyArray<number>,
  held: ReturnType<typeof heldOnce>,
  { max = 255 }: Options
) =>
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
        found.push(...(yield* checkPlace(seen, outer, held)))
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
  outer: BpfMap.BpfMap | undefined,
  held: ReturnType<typeof heldOnce>
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
    if (clusterId > last) {
      const all = yield* held(clusterId)
      const [entries, clusterEntries] = [all.get(map) ?? 0, totalOf(all)]
      return [{ _tag: "BeyondRange" as const, map, clusterId, max: last, entries, clusterEntries }]
    }
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
  /** Entries that went with a pin; only where `discardEntries` said so. */
  readonly lost?: number
  /** Entries that the maps of the cluster hold by now, for which a pin was left. */
  readonly held?: number
  readonly error?: BpfError.BpfError
}

/**
 * Does what {@link remedy} says about each finding, outer maps first; one that fails does not keep the others from it.
 *
 * **Details**
 *
 * No entry of a map that is pinned is lost unless `discardEntries` says so: what is emptied are slots whose map nobody can
 * reach, and what is unpinned has no slot, and is as empty as the other maps of its cluster. Every finding is looked at
 * again before, entries right before the pin goes; what a program writes that still holds the map goes with it.
 *
 * @since 0.1.0
 */
export const repair = (
  findings: ReadonlyArray<Finding>,
  options: RepairOptions = {}
): Effect.Effect<ReadonlyArray<Repaired>, never, Needs> =>
  Effect.gen(function* () {
    const tables = yield* tablesOf(options)
    const first = findings.filter(({ _tag }) => _tag === "OuterMissing")
    return yield* Effect.forEach([...first, ...findings.filter((finding) => !first.includes(finding))], (finding) =>
      Effect.scoped(mend(finding, tables, options)).pipe(
        Effect.map((done): Repaired => ({ finding, ...done })),
        Effect.catch((error) => Effect.succeed<Repaired>({ finding, outcome: "failed", error }))
      )
    )
  })

type Done = Pick<Repaired, "outcome" | "lost" | "held">

const [repaired, left]: [Done, Done] = [{ outcome: "repaired" }, { outcome: "left" }]

const mend = (
  finding: Finding,
  tables: ReadonlyArray<ClusterTable>,
  options: RepairOptions
): Effect.Effect<Done, BpfError.BpfError, Bpf.Bpf | Scope.Scope> =>
  Effect.gen(function* () {
    const table = tables.find(
      ({ outer, innerName }) =>
        outer.name === finding.map || ("clusterId" in finding && innerName(finding.clusterId) === finding.map)
    )
    if (table === undefined || finding._tag === "WrongSize" || finding._tag === "Unreadable") return left
    if (finding._tag === "OuterMissing") {
      yield* BpfMap.createPinned(outerSpec(table, options.max ?? 255), table.outer.path)
      return repaired
    }
    const { clusterId } = finding
    if (finding._tag === "BeyondRange") return yield* unpinBeyond(table, clusterId, options)
    const outer = { table, outer: yield* BpfMap.open(table.outer.path) }
    if (finding._tag === "OrphanedSlot") {
      const { slot, pin } = yield* Slots.placeOf(outer, clusterId)
      const isOrphaned = slot !== undefined && pin === undefined
      return isOrphaned && (yield* OuterMap.remove(outer.outer, clusterId)) ? repaired : left
    }
    const { map } =
      finding._tag === "MapMissing"
        ? yield* Slots.openInner(table, clusterId)
        : { map: yield* BpfMap.open(table.innerPath(clusterId)) }
    yield* Slots.enter(outer, clusterId, map)
    return repaired
  })

/** Range and entries are looked at again, the entries last. */
const unpinBeyond = (
  table: ClusterTable,
  clusterId: number,
  { max = 255, discardEntries = false }: RepairOptions
): Effect.Effect<Done, BpfError.BpfError, Bpf.Bpf | Scope.Scope> =>
  Effect.gen(function* () {
    const last = yield* BpfMap.open(table.outer.path).pipe(
      Effect.map(({ info }) => info.maxEntries - 1),
      Effect.catchReason("BpfError", "PinNotFound", () => Effect.succeed(max))
    )
    if (clusterId <= last) return left
    const held = yield* heldBy(clusterId)
    if (totalOf(held) > 0 && !discardEntries) return { outcome: "left", held: totalOf(held) }
    if (!(yield* BpfMap.unpin(table.innerPath(clusterId)))) return left
    return { outcome: "repaired", lost: held.get(table.innerName(clusterId)) ?? 0 }
  })
