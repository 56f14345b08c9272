/**
 * What the CT and the NAT service share: the open outer maps of a host, and what is done to all of them at once.
 *
 * Owns the order of steps. Making a cluster pins every inner map before the first slot is written, deleting one empties
 * every slot before the first pin goes: whatever is cut off half-way leaves a pin that no slot names, and nothing else.
 * That is finished when the maps are opened again, so a delete that was cut off has not happened.
 */
import { ClusterId, type Family, type MapName } from "ctmap-core"
import { type Bpf, type BpfError, BpfMap, Pins } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import { ClusterFailed, type Failure, OuterMapsNotOpen } from "../ClusterError.ts"
import * as AboveRange from "./aboveRange.ts"
import { type ClusterTable, outerSpec } from "./clusterTable.ts"
import * as Slots from "./slots.ts"

/** What the services can be given. */
export interface Options {
  /** Families that are on. Default both. */
  readonly families?: ReadonlyArray<Family.Family>
  /** The highest cluster id: Cilium's `max-connected-clusters`. Default 255. */
  readonly max?: ClusterId.ClusterIdMax
  /**
   * What becomes of a pinned map of another size than the wanted one. `"replace"` is Cilium's: a new one takes its place,
   * and the entries of inner maps are lost. `"keep"` leaves it as it is. Default `"replace"`.
   */
  readonly whenDifferent?: "replace" | "keep"
  /**
   * What becomes of maps of clusters above `max` when the outer maps are opened. `"deleteEmpty"` deletes them, except
   * where a map of the cluster, CT or NAT, holds entries; `"delete"` deletes them all, and the entries are lost; the log
   * says which. `"keep"` leaves them pinned. Default `"deleteEmpty"`.
   */
  readonly aboveRange?: "deleteEmpty" | "delete" | "keep"
}

export type ClusterError = ClusterFailed | OuterMapsNotOpen | ClusterId.InvalidClusterId

export interface Words {
  readonly maps: OuterMapsNotOpen["maps"]
  /** As Cilium says it: `update outer CT map`. */
  readonly update: string
}

export interface OuterMaps {
  readonly openOrCreate: Effect.Effect<void, ClusterFailed>
  readonly close: Effect.Effect<void>
  readonly create: (clusterId: number) => Effect.Effect<void, ClusterError>
  readonly delete: (clusterId: number) => Effect.Effect<void, ClusterError>
  readonly check: (clusterId: number) => Effect.Effect<number, ClusterId.InvalidClusterId>
  readonly ids: Effect.Effect<ReadonlyArray<number>, BpfError.BpfError>
}

/** Closed with the scope; pins stay. */
export const make = Effect.fnUntraced(function* (
  tables: ReadonlyArray<ClusterTable>,
  words: Words,
  { max = 255, whenDifferent = "replace", aboveRange = "deleteEmpty" }: Options
): Effect.fn.Return<OuterMaps, never, Bpf.Bpf | Scope.Scope> {
  const services = yield* Effect.context<Bpf.Bpf>()
  const one = yield* Semaphore.make(1)
  const alone = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> => one.withPermit(effect)
  let open: { readonly tables: ReadonlyArray<Slots.OpenTable>; readonly scope: Scope.Closeable } | undefined
  /** What could not be undone or deleted, by cluster: the next operation tries again. */
  const left = new Map<number, ReadonlyArray<Slots.OpenTable["table"]>>()
  let isSettled = true

  const close = Effect.suspend(() => {
    const before = open
    open = undefined
    return before === undefined ? Effect.void : Scope.close(before.scope, Exit.void)
  })
  yield* Effect.addFinalizer(() => close)

  /** Empties the slots of a cluster, then, if that went well for all, removes its pins. */
  const remove = (on: ReadonlyArray<Slots.OpenTable>, clusterId: number) =>
    Effect.gen(function* () {
      const slots = yield* Slots.onEach(on, "update outer map", (table) => Slots.vacate(table, clusterId))
      if (slots.failures.length > 0) return slots.failures
      const pins = yield* Slots.onEach(on, "delete inner map", ({ table }) => BpfMap.unpin(table.innerPath(clusterId)))
      return pins.failures
    })

  /** Finishes what was cut off for one cluster: pins that no slot names are entered, with what is missing beside them. */
  const settle = (on: ReadonlyArray<Slots.OpenTable>, clusterId: number) =>
    Effect.gen(function* () {
      const looked = yield* Slots.onEach(on, "open inner map", (each) => Slots.placeOf(each, clusterId))
      if (!looked.done.some(({ value }) => Slots.isUnentered(value))) return looked.failures
      return [...looked.failures, ...(yield* build(on, clusterId, Slots.openInner)).failures]
    })

  const build = (on: ReadonlyArray<Slots.OpenTable>, clusterId: number, openInner: typeof Slots.openInner) =>
    Effect.scoped(
      Effect.gen(function* () {
        const inner = yield* Slots.onEach(on, "create inner map", ({ table }) => openInner(table, clusterId))
        const fresh = inner.done.filter(({ value }) => value.isNew).map((each) => each.on)
        if (inner.failures.length > 0) return { fresh, failures: inner.failures }
        const maps = new Map(inner.done.map(({ on: each, value }) => [each, value.map]))
        const slots = yield* Slots.onEach(on, words.update, (each) => Slots.enter(each, clusterId, maps.get(each)!))
        return { fresh, failures: slots.failures }
      })
    )

  /** Finishes what was cut off for any cluster. What cannot be finished now is left to the next operation. */
  const settleAll = (on: ReadonlyArray<Slots.OpenTable>) =>
    Effect.gen(function* () {
      isSettled = false
      const ids = yield* Effect.result(idsOf(tables))
      if (ids._tag === "Failure") return yield* Effect.logWarning(ids.failure.message)
      const failures: Array<unknown> = []
      for (const clusterId of ids.success) {
        if (clusterId > max && aboveRange === "keep") continue
        const failed = clusterId > max ? yield* clear(on, clusterId) : yield* settle(on, clusterId)
        failures.push(...failed)
        if (failed.length > 0) yield* warn(`cluster ${clusterId} is not as it should be`, failed)
      }
      isSettled = failures.length === 0
    })

  /** Above the range there are pins, and slots where an outer map of more of them was kept. */
  const clear = (on: ReadonlyArray<Slots.OpenTable>, clusterId: number) =>
    Effect.gen(function* () {
      const removed = yield* AboveRange.takeAway(on, clusterId, aboveRange === "delete")
      if (removed.error !== undefined) return removed.error.failures
      const log = removed.entries > 0 ? Effect.logWarning : Effect.logInfo
      yield* log(
        `cluster ${clusterId} is above the range, which ends with ${max}: ${AboveRange.describe(removed, words.maps)}`
      )
      return []
    })

  const retry = (on: ReadonlyArray<Slots.OpenTable>, but: number) =>
    Effect.gen(function* () {
      left.delete(but)
      for (const [clusterId, which] of left) {
        const failures = yield* remove(
          on.filter(({ table }) => which.includes(table)),
          clusterId
        )
        if (failures.length === 0) left.delete(clusterId)
        else yield* warn(`what is left of cluster ${clusterId} cannot be deleted`, failures)
      }
      if (!isSettled) yield* settleAll(on)
    })

  const check = (clusterId: number) => Effect.fromResult(ClusterId.check(clusterId, max))

  const change = (
    clusterId: number,
    work: (on: ReadonlyArray<Slots.OpenTable>) => Effect.Effect<void, ClusterFailed, Bpf.Bpf>
  ): Effect.Effect<void, ClusterError> =>
    Effect.gen(function* () {
      yield* check(clusterId)
      if (open === undefined) return yield* new OuterMapsNotOpen({ maps: words.maps })
      yield* retry(open.tables, clusterId)
      yield* work(open.tables)
    }).pipe(Effect.provide(services), Effect.uninterruptible, alone)

  const openOrCreate = Effect.gen(function* () {
    const scope = yield* Scope.make()
    const opened = yield* Slots.onEach(tables, "open outer map", (table) =>
      Effect.map(openOuter(table, max, whenDifferent), (outer): Slots.OpenTable => ({ table, outer }))
    ).pipe(Scope.provide(scope))
    if (opened.failures.length > 0) {
      yield* Scope.close(scope, Exit.void)
      return yield* Slots.joined(opened.failures)
    }
    yield* close
    open = { tables: opened.done.map(({ value }) => value), scope }
    yield* settleAll(open.tables)
  }).pipe(Effect.provide(services), Effect.uninterruptible, alone)

  return {
    openOrCreate,
    close: alone(close),
    check,
    create: (clusterId) =>
      change(clusterId, (on) =>
        Effect.gen(function* () {
          const { fresh, failures } = yield* build(
            on,
            clusterId,
            whenDifferent === "keep" ? Slots.openInner : Slots.replaceInner
          )
          if (failures.length === 0) return
          const undone = yield* remove(fresh, clusterId)
          if (undone.length > 0)
            left.set(
              clusterId,
              fresh.map(({ table }) => table)
            )
          yield* Slots.joined(failures)
        })
      ),
    delete: (clusterId) =>
      change(clusterId, (on) =>
        Effect.gen(function* () {
          const failures = yield* remove(on, clusterId)
          if (failures.length > 0)
            left.set(
              clusterId,
              on.map(({ table }) => table)
            )
          yield* Slots.joined(failures)
        })
      ),
    ids: idsOf(tables).pipe(Effect.provide(services))
  }
})

const warn = (what: string, failures: ReadonlyArray<Failure>) =>
  Effect.logWarning(`${what}: ${new ClusterFailed({ failures }).message}`)

const openOuter = (table: ClusterTable, max: ClusterId.ClusterIdMax, whenDifferent: "replace" | "keep") => {
  const [spec, path] = [outerSpec(table, max), table.outer.path]
  const replaced = Effect.map(BpfMap.openOrCreate(spec, path), ({ map }) => map)
  return whenDifferent === "replace"
    ? replaced
    : BpfMap.open(path).pipe(Effect.catchReason("BpfError", "PinNotFound", () => replaced))
}

/** The clusters that have a pin among these tables, rising; none where nothing is pinned at all. */
export const idsOf = (
  tables: ReadonlyArray<ClusterTable>
): Effect.Effect<ReadonlyArray<number>, BpfError.BpfError, Bpf.Bpf> =>
  Effect.map(Pins.discover.pipe(Effect.catchReason("BpfError", "PinNotFound", () => Effect.succeed([]))), (pins) => {
    const ids = new Set<number>()
    for (const { denoted } of pins) {
      const id = innerIdOf(denoted, tables)
      if (id !== undefined) ids.add(id)
    }
    return [...ids].toSorted((a, b) => a - b)
  })

const innerIdOf = (denoted: MapName.Denoted, tables: ReadonlyArray<ClusterTable>): number | undefined => {
  if (denoted._tag === "ClusterInner") {
    const { family, transport } = denoted.kind
    const isOurs = tables.some((table) => table.family === family && table.transport === transport)
    return isOurs ? denoted.clusterId : undefined
  }
  if (denoted._tag === "ClusterNatInner") {
    const isOurs = tables.some((table) => table.kind === "nat" && table.family === denoted.family)
    return isOurs ? denoted.clusterId : undefined
  }
  return undefined
}

/** Unpins the inner maps of these tables, of every cluster in any range, and then the outer ones. */
export const cleanup = (tables: ReadonlyArray<ClusterTable>): Effect.Effect<void, ClusterFailed, Bpf.Bpf> =>
  Effect.gen(function* () {
    const listed = yield* Effect.result(idsOf(tables))
    const failures: Array<Failure> = []
    if (listed._tag === "Failure") {
      // Without a list there are still the outer maps.
      const [first] = tables
      if (first !== undefined) failures.push({ label: first.label, doing: "find inner maps", cause: listed.failure })
    } else {
      for (const clusterId of listed.success) {
        const doing = `delete inner map for cluster ID ${clusterId}`
        const { failures: failed } = yield* Slots.onEach(tables, doing, (table) =>
          BpfMap.unpin(table.innerPath(clusterId))
        )
        failures.push(...failed)
      }
    }
    const outer = yield* Slots.onEach(tables, "delete outer map", ({ outer: { path } }) => BpfMap.unpin(path))
    yield* Slots.joined(failures, outer.failures)
  })

/** What the stand-ins of both services do: they note ids. */
export const notes = () => {
  const ids = new Set<number>()
  return {
    control: {
      has: (clusterId: number): boolean => ids.has(clusterId),
      ids: (): ReadonlyArray<number> => [...ids].toSorted((a, b) => a - b)
    },
    create: (clusterId: number): Effect.Effect<void> => Effect.sync(() => void ids.add(clusterId)),
    remove: (clusterId: number): Effect.Effect<void> => Effect.sync(() => void ids.delete(clusterId))
  }
}
