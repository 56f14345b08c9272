/**
 * The counts of a pass over one map while it runs. Whatever ends the pass, what was done by then stands here.
 */
import type { CompareAndDelete } from "ctmap-kernel"
import * as GcPass from "../GcPass.ts"
import * as GcReason from "../GcReason.ts"

type Mutable<T> = { -readonly [K in keyof T]: T[K] }

type About = Pick<GcPass.MapPass, "map" | "transport" | "capacity">

export class MapTally {
  seen = 0
  wanted = 0
  /** Of `wanted`: for another reason than expiry. */
  limited = 0
  deleted = 0
  refreshed = 0
  restored = 0
  vanished = 0
  busy = 0
  readonly reasons: Mutable<GcReason.Counts> = { expired: 0, "matched-address": 0, "matched-filter": 0, flushed: 0 }
  readonly nat: Mutable<GcPass.NatCounts> = { ...GcPass.noNat }
  readonly requests: Array<Mutable<GcPass.RequestCounts>>
  reads = 0
  restarts = 0
  fallbacks = 0
  longestCallMillis = 0
  millis = 0
  completed = false

  readonly #about: About

  /** What really did it: an engine that cannot be had is replaced. */
  engine: GcPass.Engine

  constructor(about: About, engine: GcPass.Engine, requests: number) {
    this.#about = about
    this.engine = engine
    this.requests = Array.from({ length: requests }, () => ({ wanted: 0, deleted: 0 }))
  }

  /** Forgets what a first look has counted, before the map is walked again to delete. */
  restart(): void {
    this.seen = this.wanted = this.limited = 0
    for (const request of this.requests) request.wanted = 0
  }

  /** Before the map is walked once more: what is left of it counts anew, what has been done stays. */
  again(): void {
    const gone = this.deleted + this.refreshed + this.vanished + this.busy
    this.restart()
    this.seen = this.wanted = gone
    // Reasons of what was deleted stand; those of a dry run, which deletes nothing, are found again.
    if (this.deleted === 0) for (const reason of GcReason.names) this.reasons[reason] = 0
    this.limited = this.deleted - this.reasons.expired
    for (const request of this.requests) request.wanted = request.deleted
  }

  /** Sums of compare-and-delete, where what was put back is no part of what was refreshed. */
  addCompared(totals: Readonly<CompareAndDelete.Totals>): void {
    this.add({ ...totals, refreshed: totals.refreshed + totals.restored })
  }

  add(totals: Readonly<CompareAndDelete.Totals>): void {
    this.deleted += totals.deleted
    this.refreshed += totals.refreshed
    this.restored += totals.restored
    this.vanished += totals.vanished
    this.busy += totals.busy
  }

  addNat(totals: GcPass.NatCounts): void {
    for (const name of natNames) this.nat[name] += totals[name]
  }

  /** Counts a deletion's reason. */
  because(code: number): void {
    const reason = GcReason.names[code & 0xff]
    if (reason !== undefined) this.reasons[reason]++
  }

  /** The longest call so far, with one more that took so long. */
  called(millis: number): void {
    if (millis > this.longestCallMillis) this.longestCallMillis = millis
  }

  record(): GcPass.MapPass {
    const gone = this.deleted + this.refreshed + this.vanished + this.busy
    const { seen, wanted, deleted, refreshed, restored, vanished, busy } = this
    const { reads, restarts, fallbacks, longestCallMillis, millis, completed } = this
    return {
      ...this.#about,
      engine: this.engine,
      seen,
      kept: seen - gone,
      wanted,
      deleted,
      refreshed,
      restored,
      vanished,
      busy,
      reasons: { ...this.reasons },
      nat: { ...this.nat },
      reads,
      restarts,
      fallbacks,
      longestCallMillis,
      millis,
      completed
    }
  }
}

const natNames = Object.keys(GcPass.noNat) as ReadonlyArray<keyof GcPass.NatCounts>
