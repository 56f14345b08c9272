/**
 * One cluster's place in an open outer map: its slot, and the pin of its inner map. They belong together; a crash between
 * two steps leaves one without the other.
 */
import { type Bpf, type BpfError, BpfMap, OuterMap } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import type * as Scope from "effect/Scope"
import { ClusterFailed, type Failure } from "../ClusterError.ts"
import type { ClusterTable } from "./clusterTable.ts"

/** A table whose outer map is open. */
export interface OpenTable {
  readonly table: ClusterTable
  readonly outer: BpfMap.BpfMap
}

/** Kernel ids: of the map in the slot, and of the map that is pinned. */
export interface Place {
  readonly slot: number | undefined
  readonly pin: Bpf.MapInfo | undefined
}

type Kernel<A> = Effect.Effect<A, BpfError.BpfError, Bpf.Bpf>

/** What is pinned for a cluster, if anything; closed again at once. */
export const pinned = (table: ClusterTable, clusterId: number): Kernel<Bpf.MapInfo | undefined> =>
  Effect.scoped(Effect.map(BpfMap.open(table.innerPath(clusterId)), ({ info }) => info)).pipe(
    Effect.catchReason("BpfError", "PinNotFound", () => Effect.succeed(undefined))
  )

/** The slot is read first: whoever makes a cluster meanwhile pins first, so a slot never looks orphaned that is not. */
export const placeOf = ({ table, outer }: OpenTable, clusterId: number): Kernel<Place> =>
  Effect.gen(function* () {
    const slot = yield* OuterMap.idAt(outer, clusterId)
    return { slot, pin: yield* pinned(table, clusterId) }
  })

/** Pinned, and not what the slot names: the trace of something that was cut off, or of a map that was restored. */
export const isUnentered = ({ slot, pin }: Place): boolean => pin !== undefined && pin.id !== slot

/** An inner map that is open, and whether this call has made it where there was none. */
export interface Inner {
  readonly map: BpfMap.BpfMap
  readonly isNew: boolean
}

/** Opens the inner map as it is, or makes it. */
export const openInner = (
  table: ClusterTable,
  clusterId: number
): Effect.Effect<Inner, BpfError.BpfError, Bpf.Bpf | Scope.Scope> => {
  const path = table.innerPath(clusterId)
  return BpfMap.open(path).pipe(
    Effect.map((map) => ({ map, isNew: false })),
    Effect.catchReason("BpfError", "PinNotFound", () =>
      Effect.map(BpfMap.createPinned(table.innerSpec, path), (map) => ({ map, isNew: true }))
    )
  )
}

/** Opens the inner map if it is of the wanted size; any other is replaced. */
export const replaceInner = (
  table: ClusterTable,
  clusterId: number
): Effect.Effect<Inner, BpfError.BpfError, Bpf.Bpf | Scope.Scope> =>
  Effect.map(BpfMap.openOrCreate(table.innerSpec, table.innerPath(clusterId)), ({ map, created, replaced }): Inner => ({
    map,
    isNew: created && replaced.length === 0
  }))

/** Enters a map, unless the slot names it already: looking costs a microsecond, writing an RCU grace period. */
export const enter = ({ outer }: OpenTable, clusterId: number, map: BpfMap.BpfMap): Kernel<void> =>
  Effect.flatMap(OuterMap.idAt(outer, clusterId), (slot) =>
    slot === map.info.id ? Effect.void : OuterMap.put(outer, clusterId, map)
  )

/** Empties a slot, if there is anything in it. */
export const vacate = ({ outer }: OpenTable, clusterId: number): Kernel<void> =>
  Effect.flatMap(OuterMap.idAt(outer, clusterId), (slot) =>
    slot === undefined ? Effect.void : Effect.asVoid(OuterMap.remove(outer, clusterId))
  )

/** What came of an operation on several tables: it was tried on each, and slots wait for the kernel together. */
export interface Outcomes<T, A> {
  readonly done: ReadonlyArray<{ readonly on: T; readonly value: A }>
  readonly failures: ReadonlyArray<Failure>
}

export const onEach = <T extends ClusterTable | OpenTable, A, R>(
  tables: ReadonlyArray<T>,
  doing: string,
  use: (on: T) => Effect.Effect<A, BpfError.BpfError, R>
): Effect.Effect<Outcomes<T, A>, never, R> =>
  Effect.map(
    Effect.forEach(tables, (on) => Effect.result(use(on)), { concurrency: "unbounded" }),
    (results) => {
      const done: Array<{ readonly on: T; readonly value: A }> = []
      const failures: Array<Failure> = []
      for (const [i, result] of results.entries()) {
        const on = tables[i]!
        if (Result.isSuccess(result)) done.push({ on, value: result.success })
        else failures.push({ label: labelOf(on), doing, cause: result.failure })
      }
      return { done, failures }
    }
  )

const labelOf = (on: ClusterTable | OpenTable) => ("table" in on ? on.table.label : on.label)

/** Fails where anything has failed. */
export const joined = (...all: ReadonlyArray<ReadonlyArray<Failure>>): Effect.Effect<void, ClusterFailed> => {
  const failures = all.flat()
  return failures.length === 0 ? Effect.void : Effect.fail(new ClusterFailed({ failures }))
}
