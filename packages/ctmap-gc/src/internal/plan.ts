/** What a pass over one CT map works with. */
import type { Release } from "ctmap-core"
import type { BpfError, CtPair, KernelClock, Owner, Scan } from "ctmap-kernel"
import type { Deleted } from "../GcEvents.ts"
import type * as GcPass from "../GcPass.ts"
import type * as Guard from "../Guard.ts"
import type { Pace } from "../Pace.ts"
import type { Hook } from "../PurgeHook.ts"
import type { Judge } from "./judge.ts"
import type { Programs } from "./programs.ts"

/** `auto`: hybrid, or portable where programs cannot be had. */
type Engine = "auto" | GcPass.Engine

/** What a pass over a map is to do. */
export interface Plan {
  readonly serial: number
  readonly judge: Judge
  readonly clock: KernelClock.KernelClock["Service"]
  readonly now: number
  /** Refuse a table that does not fit the clock. */
  readonly checksClock: boolean
  readonly dryRun: boolean
  readonly limits: Guard.Limits
  readonly pace: Pace
  /** `undefined` where nobody watches. */
  readonly publish: ((event: Deleted) => void) | undefined
  readonly hook: Hook | undefined
  readonly engine: Engine
  /** The NAT map that goes with the CT map; without one, NAT is left alone. */
  readonly nat: CtPair.NatMap | undefined
  readonly programs: Programs
  /** Larger maps are not swept in one go. */
  readonly kernelMaxEntries: number
  /** Smaller maps are not swept in pieces inside the kernel. */
  readonly walkMinEntries: number
  /** Entries per read. */
  readonly batchSize: number
  /** Hears of every batch. */
  readonly progress: ((map: string, seen: number) => void) | undefined
}

/** The map of a pass. */
export interface Target {
  readonly ct: CtPair.CtMap
  readonly owner: Owner.Owner
  readonly release: Release.Release
}

export type SweepError = BpfError.BpfError | Guard.GuardStopped | KernelClock.ImplausibleClock | Scan.Incomplete
