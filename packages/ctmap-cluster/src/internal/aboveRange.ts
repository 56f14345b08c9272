/**
 * Taking the maps of one cluster above the range away, without losing an entry unless that is meant.
 */
import { type Bpf, type BpfError, BpfMap, OuterMap } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import { ClusterFailed, type Failure } from "../ClusterError.ts"
import type { ClusterTable } from "./clusterTable.ts"
import { counted, heldBy, totalOf } from "./heldEntries.ts"
import * as Slots from "./slots.ts"

/** A table, and its outer map where one is pinned. */
export interface Place {
  readonly table: ClusterTable
  readonly outer: BpfMap.BpfMap | undefined
}

/** What became of a cluster. */
export interface Removed {
  readonly clusterId: number
  /** `left`: its maps hold entries, and nobody said that they may be lost. */
  readonly outcome: "deleted" | "left" | "failed"
  /** That went with the maps that were deleted, or that are held by those that were left. */
  readonly entries: number
  readonly error?: ClusterFailed
}

/** One sentence; `kind` where only its CT or its NAT maps were meant. */
export const describe = ({ clusterId, entries, error, outcome }: Removed, kind?: "CT" | "NAT"): string => {
  const maps = `${kind === undefined ? "the maps" : `the ${kind} maps`} of cluster ${clusterId}`
  switch (outcome) {
    case "deleted":
      return `${maps} were deleted${entries === 0 ? "" : `, and ${counted(entries)} with them`}`
    case "left":
      return `${maps} stay: ${kind === undefined ? "they hold" : "its maps hold"} ${counted(entries)}`
    case "failed":
      return `${maps} cannot be deleted: ${error?.message ?? "no reason is known"}`
  }
}

/**
 * Entries are counted, slots emptied, entries counted again now that no program can add any, and only then pins removed.
 * Cut off half-way it leaves pins that no slot names, as deleting a cluster does.
 */
export const takeAway = (
  places: ReadonlyArray<Place>,
  clusterId: number,
  discardEntries: boolean
): Effect.Effect<Removed, never, Bpf.Bpf> =>
  Effect.gen(function* () {
    const before = totalOf(yield* counting(places, clusterId))
    if (before > 0 && !discardEntries) return { clusterId, outcome: "left" as const, entries: before }

    const open = places.filter((place): place is Slots.OpenTable => place.outer !== undefined)
    const slots = yield* Slots.onEach(open, "update outer map", (each) => vacate(each, clusterId))
    if (slots.failures.length > 0) return yield* new ClusterFailed({ failures: slots.failures })
    const held = yield* counting(places, clusterId)
    if (totalOf(held) > 0 && !discardEntries) {
      const vacated = slots.done.filter(({ value }) => value).map(({ on }) => on)
      const back = yield* Slots.onEach(vacated, "update outer map", (each) => enterAgain(each, clusterId))
      yield* Slots.joined(back.failures)
      return { clusterId, outcome: "left" as const, entries: totalOf(held) }
    }

    const tables = places.map(({ table }) => table)
    const pins = yield* Slots.onEach(tables, "delete inner map", (table) => BpfMap.unpin(table.innerPath(clusterId)))
    yield* Slots.joined(pins.failures)
    const entries = tables.reduce((sum, table) => sum + (held.get(table.innerName(clusterId)) ?? 0), 0)
    return { clusterId, outcome: "deleted" as const, entries }
  }).pipe(
    Effect.catch((error) => Effect.succeed({ clusterId, outcome: "failed" as const, entries: 0, error })),
    Effect.uninterruptible
  )

/** Whether there was anything in the slot; an outer map that is too short for the id has none. */
const vacate = ({ outer }: Slots.OpenTable, clusterId: number): Effect.Effect<boolean, BpfError.BpfError, Bpf.Bpf> =>
  Effect.flatMap(OuterMap.idAt(outer, clusterId), (slot) =>
    slot === undefined ? Effect.succeed(false) : OuterMap.remove(outer, clusterId)
  )

const enterAgain = (on: Slots.OpenTable, clusterId: number) =>
  Effect.scoped(Effect.flatMap(BpfMap.open(on.table.innerPath(clusterId)), (map) => Slots.enter(on, clusterId, map)))

const counting = (places: ReadonlyArray<Place>, clusterId: number) =>
  heldBy(clusterId).pipe(
    Effect.mapError((cause) => {
      const failures: ReadonlyArray<Failure> = places
        .slice(0, 1)
        .map(({ table: { label } }) => ({ label, doing: "count entries", cause }))
      return new ClusterFailed({ failures })
    })
  )
