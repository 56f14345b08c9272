/** What a schedule knows, what it is told, and what it answers. Plain data; `scheduleStep.ts` is what happens with it. */
import { Family, GcInterval } from "ctmap-core"
import * as Duration from "effect/Duration"
import type * as GcConfig from "../GcConfig.ts"
import type { Trigger } from "../GcPass.ts"
import * as BackOff from "./scheduleBackOff.ts"
import type { Why } from "./scheduleWhy.ts"

export type Families = ReadonlyArray<Family.Family>

export type PerFamily<A> = Readonly<Record<Family.Family, A>>

export const perFamily = <A>(make: (family: Family.Family) => A): PerFamily<A> => ({
  ipv4: make("ipv4"),
  ipv6: make("ipv6")
})

/** The settings in milliseconds. Times are whole milliseconds of a clock that never steps. */
export interface Options {
  /** In the order of `Family.all`. */
  readonly families: Families
  readonly interval: GcInterval.Overrides & GcInterval.Bounds
  readonly signalGaps: BackOff.Gaps
  readonly minYield: number
  /** 0 is never. */
  readonly orphansEvery: number
  /** 0 is Cilium's schedule. */
  readonly backlogThreshold: number
  readonly backlogEvery: number
  readonly backlogGaps: BackOff.Gaps
}

export const optionsOf = (
  settings: GcConfig.Settings,
  interval: GcInterval.Overrides & GcInterval.Bounds,
  hasBacklog: boolean
): Options => {
  const backlogEvery = Duration.toMillis(settings.backlogCheckInterval)
  const max = Duration.toMillis(settings.signalMaxGap)
  return {
    families: Family.all.filter((family) => settings.families.includes(family)),
    interval,
    signalGaps: { min: Duration.toMillis(settings.signalMinGap), max },
    minYield: settings.signalMinYield,
    orphansEvery: Duration.toMillis(settings.orphanPurgeInterval),
    backlogThreshold: hasBacklog ? settings.backlogThreshold : 0,
    backlogEvery,
    backlogGaps: { min: backlogEvery, max }
  }
}

export interface Round {
  readonly trigger: Trigger
  readonly families: Families
  /** Families whose NAT orphans are purged after the pass: those that signalled. */
  readonly orphans: Families
  readonly startedAt: number
  /** Milliseconds since the last pass over the family that has waited longest; 0 where one never had any. */
  readonly since: number
}

/** What came of a round. */
export interface Outcome {
  readonly success: boolean
  readonly ratio: number
  readonly deleted: number
  /** Entries that the pass has seen, where it says. */
  readonly seen: number | undefined
  readonly deletedOf: Partial<Record<Family.Family, number>>
  readonly seenOf: Partial<Record<Family.Family, number>>
  /** NAT entries that the purges after it deleted. */
  readonly orphansOf: Partial<Record<Family.Family, number>>
  readonly problems: ReadonlyArray<string>
}

/** What others have said since the last event. Signals count; `ignored` are those that came during a back-off. */
export interface Heard {
  readonly signals: PerFamily<number>
  readonly ignored: PerFamily<number>
  readonly requested: Families
}

export const nothingHeard: Heard = { signals: { ipv4: 0, ipv6: 0 }, ignored: { ipv4: 0, ipv6: 0 }, requested: [] }

export interface Event {
  readonly now: number
  readonly heard: Heard
  /** What the action before came to; absent after a wait. */
  readonly result?:
    | { readonly _tag: "Round"; readonly outcome: Outcome }
    | { readonly _tag: "Purged"; readonly families: Families }
    | { readonly _tag: "Estimated"; readonly shares: Partial<Record<Family.Family, number>> }
    | undefined
}

export type Action =
  | { readonly _tag: "Round"; readonly round: Round }
  | { readonly _tag: "Purge"; readonly families: Families }
  | { readonly _tag: "Estimate" }
  | {
      readonly _tag: "Wait"
      readonly until: number
      /** Families whose signals count for nothing before `until`: passes have not helped them. */
      readonly ignoring: Families
      /** Families whose signals change nothing before `until`: a pass is due to them already. */
      readonly holding: Families
    }

interface Ended extends Round, Pick<Outcome, "success" | "ratio" | "deleted" | "seen" | "problems"> {
  readonly endedAt: number
  readonly orphansDeleted: number
}

export interface State {
  readonly initialScanDone: boolean
  readonly running: Round | undefined
  readonly interval: GcInterval.State
  /** When the next full pass begins unless something asks for one, and why then. */
  readonly fullAt: number
  readonly why: Why
  /** When the last full pass that succeeded ended. */
  readonly fullEndedAt: number | undefined
  /** When the last pass over a family began. */
  readonly startedAt: PerFamily<number | undefined>
  /** Signals that wait for a pass. */
  readonly pending: PerFamily<number>
  readonly requested: Families
  /** Families whose backlog was found to be over the threshold. */
  readonly over: Families
  readonly signal: PerFamily<BackOff.BackOff>
  readonly backlog: PerFamily<BackOff.BackOff>
  readonly heard: PerFamily<number>
  readonly ignored: PerFamily<number>
  readonly orphansAt: PerFamily<number>
  readonly estimateAt: number
  /** Passes, and those of them that failed in a row up to now. */
  readonly rounds: number
  readonly failures: number
  /** Full passes that failed in a row up to now. */
  readonly failedFull: number
  readonly last: Ended | undefined
}

export const initial = (options: Options): State => ({
  initialScanDone: false,
  running: undefined,
  interval: GcInterval.initial,
  fullAt: 0,
  why: { reason: "initial-scan", text: "nothing has been collected yet: the initial scan comes first" },
  fullEndedAt: undefined,
  startedAt: perFamily(() => undefined),
  pending: perFamily(() => 0),
  requested: [],
  over: [],
  signal: perFamily(() => BackOff.initial(options.signalGaps)),
  backlog: perFamily(() => BackOff.initial(options.backlogGaps)),
  heard: perFamily(() => 0),
  ignored: perFamily(() => 0),
  orphansAt: perFamily(() => Number.POSITIVE_INFINITY),
  estimateAt: Number.POSITIVE_INFINITY,
  rounds: 0,
  failures: 0,
  failedFull: 0,
  last: undefined
})
