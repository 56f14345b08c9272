/** A schedule's decisions played without a loop: random settings, random turns, everything that came of them. */
import { Family } from "ctmap-core"
import { GcConfig } from "ctmap-gc"
import * as Duration from "effect/Duration"
import * as Schema from "effect/Schema"
import { reconfigured } from "../src/internal/scheduleReconfigure.ts"
import {
  type Action,
  type Event,
  initial,
  nothingHeard,
  type Options,
  optionsOf,
  type Outcome,
  type State
} from "../src/internal/scheduleState.ts"
import { step } from "../src/internal/scheduleStep.ts"

export const int = (minimum: number, maximum: number) => Schema.Int.check(Schema.isBetween({ minimum, maximum }))

/** What one turn of the loop meets: how a pass ends, how long it takes, which signals came, where a wait is cut short. */
const Turn = Schema.Struct({
  took: int(0, 40_000),
  success: Schema.Boolean,
  ratio: Schema.Literals([0, 0.001, 0.1, 0.3, 0.9]),
  deleted: Schema.Literals([0, 3, 500]),
  signals: Schema.Struct({ ipv4: int(0, 3), ipv6: int(0, 1) }),
  requested: Schema.Boolean,
  /** Of the time until a wait ends, in percent. */
  waits: int(0, 130)
})
export const Turns = Schema.Array(Turn).check(Schema.isMinLength(1), Schema.isMaxLength(80))

export const Settings = Schema.Struct({
  families: Schema.Literals(["ipv4", "ipv6", "both"]),
  maxInterval: Schema.Literals([0, 20, 400]),
  interval: Schema.Literals([0, 0, 45]),
  gap: Schema.Literals([0, 1, 30]),
  orphans: Schema.Literals([0, 90]),
  threshold: Schema.Literals([0, 0.25]),
  whenNothingDeleted: Schema.Literals(["grow", "keep"])
})

export const optionsFor = (given: typeof Settings.Type): Options => {
  const settings: GcConfig.Settings = {
    ...GcConfig.defaults,
    families: given.families === "both" ? Family.all : [given.families],
    conntrackGcInterval: Duration.seconds(given.interval),
    conntrackGcMaxInterval: Duration.seconds(given.maxInterval),
    signalMinGap: Duration.seconds(given.gap),
    orphanPurgeInterval: Duration.seconds(given.orphans),
    backlogThreshold: given.threshold,
    whenNothingDeleted: given.whenNothingDeleted
  }
  return optionsOf(settings, GcConfig.intervalOptions(settings), true)
}

export interface Seen {
  readonly at: number
  readonly before: State
  readonly state: State
  readonly action: Action
  readonly event: Event
}

/** Plays the loop: the actions it took, each with what led to it; under other options from some turn on, if given. */
export const play = (
  given: Options,
  turns: ReadonlyArray<typeof Turn.Type>,
  change?: { readonly turn: number; readonly options: Options }
): ReadonlyArray<Seen> => {
  const seen: Array<Seen> = []
  let options = given
  let now = 0
  let state = initial(options)
  let event: Event = { now, heard: nothingHeard }
  for (const [i, turn] of turns.entries()) {
    if (change !== undefined && i === change.turn) {
      state = reconfigured(options, change.options, state, now)
      options = change.options
    }
    const before = state
    const next = step(options, state, event)
    const { action } = next
    state = next.state
    seen.push({ at: now, before, state, action, event })
    const heard = { ...nothingHeard, signals: turn.signals, requested: turn.requested ? Family.all : [] }
    if (action._tag === "Wait") {
      // A wait that is cut short was cut short by somebody.
      const woken = turn.requested || turn.signals.ipv4 + turn.signals.ipv6 > 0
      now += Math.max(1, Math.ceil(((action.until - now) * (woken ? turn.waits : Math.max(100, turn.waits))) / 100))
      event = { now, heard }
    } else {
      now += turn.took
      event = { now, heard, result: resultOf(action, turn) }
    }
  }
  return seen
}

const resultOf = (action: Exclude<Action, { _tag: "Wait" }>, turn: typeof Turn.Type): Event["result"] => {
  const { deleted, ratio, success } = turn
  const counts = { deletedOf: {}, seenOf: {}, orphansOf: {} }
  const outcome: Outcome = { success, ratio, deleted, seen: 1000, problems: [], ...counts }
  if (action._tag === "Round") return { _tag: "Round", outcome }
  return action._tag === "Purge"
    ? { _tag: "Purged", families: action.families }
    : { _tag: "Estimated", shares: { ipv4: ratio } }
}
