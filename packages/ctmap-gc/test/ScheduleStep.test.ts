/** Properties of the pure decisions: whatever happens, in whatever order. */
import { assert, describe, it } from "@effect/vitest"
import { Family } from "ctmap-core"
import { GcConfig } from "ctmap-gc"
import * as Duration from "effect/Duration"
import * as Schema from "effect/Schema"
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

const int = (minimum: number, maximum: number) => Schema.Int.check(Schema.isBetween({ minimum, maximum }))

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
const Turns = Schema.Array(Turn).check(Schema.isMinLength(1), Schema.isMaxLength(80))

const Settings = Schema.Struct({
  families: Schema.Literals(["ipv4", "both"]),
  maxInterval: Schema.Literals([0, 20, 400]),
  interval: Schema.Literals([0, 0, 45]),
  gap: Schema.Literals([0, 1, 30]),
  orphans: Schema.Literals([0, 90]),
  threshold: Schema.Literals([0, 0.25]),
  whenNothingDeleted: Schema.Literals(["grow", "keep"])
})

const optionsFor = (given: typeof Settings.Type): Options => {
  const settings: GcConfig.Settings = {
    ...GcConfig.defaults,
    families: given.families === "both" ? Family.all : ["ipv4"],
    conntrackGcInterval: Duration.seconds(given.interval),
    conntrackGcMaxInterval: Duration.seconds(given.maxInterval),
    signalMinGap: Duration.seconds(given.gap),
    orphanPurgeInterval: Duration.seconds(given.orphans),
    backlogThreshold: given.threshold,
    whenNothingDeleted: given.whenNothingDeleted
  }
  return optionsOf(settings, GcConfig.intervalOptions(settings), true)
}

interface Seen {
  readonly at: number
  readonly before: State
  readonly state: State
  readonly action: Action
  readonly event: Event
}

/** Plays the loop: the actions it took, each with what led to it. */
const play = (options: Options, turns: ReadonlyArray<typeof Turn.Type>): ReadonlyArray<Seen> => {
  const seen: Array<Seen> = []
  let now = 0
  let state = initial(options)
  let event: Event = { now, heard: nothingHeard }
  for (const turn of turns) {
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
  const outcome: Outcome = { success, ratio, deleted, seen: 1000, deletedOf: {}, seenOf: {}, orphansOf: {} }
  if (action._tag === "Round") return { _tag: "Round", outcome }
  return action._tag === "Purge"
    ? { _tag: "Purged", families: action.families }
    : { _tag: "Estimated", shares: { ipv4: ratio } }
}

const isFull = (options: Options, { action }: Seen): boolean =>
  action._tag === "Round" && action.round.families.length === options.families.length

describe("whatever happens", () => {
  const given = [Settings, Turns] as const

  it.prop(
    "the first thing is a pass over everything, and only the first is the initial scan",
    [...given],
    ([settings, turns]) => {
      const options = optionsFor(settings)
      play(options, turns).forEach(({ action }, i) => {
        assert.strictEqual(action._tag === "Round" && action.round.trigger === "initial", i === 0)
        if (i === 0 && action._tag === "Round") assert.deepStrictEqual(action.round.families, options.families)
      })
    }
  )

  it.prop("a wait ends in the future: nothing that is due is waited for", [...given], ([settings, turns]) => {
    for (const { action, at } of play(optionsFor(settings), turns)) {
      if (action._tag === "Wait") assert.isAbove(action.until, at)
    }
  })

  it.prop("a pass over one family never moves the full pass beyond the deadline", [...given], ([settings, turns]) => {
    const options = optionsFor(settings)
    let deadline = Number.POSITIVE_INFINITY
    for (const { action, at, event, before, state } of play(options, turns)) {
      if (event.result?._tag === "Round") {
        const wasFull = before.running?.families.length === options.families.length
        if (wasFull && event.result.outcome.success) deadline = state.interval.fullPassDueAt
        // A full pass that failed is tried again later, but by then it was tried.
        else if (wasFull) deadline = Math.max(deadline, state.fullAt)
      }
      if (state.initialScanDone && action._tag !== "Round") assert.isAtMost(state.fullAt, Math.max(deadline, at))
      if (action._tag === "Wait") assert.isAtMost(action.until, Math.max(deadline, at))
    }
  })

  it.prop(
    "full passes that nobody asked for are apart by the minimum, or by what the operator fixed (G6)",
    [...given],
    ([settings, turns]) => {
      const options = optionsFor(settings)
      const least = Math.min(10, settings.interval || 10, settings.maxInterval || 10) * 1000
      let ended: number | undefined
      for (const { action, at, before, event } of play(options, turns)) {
        const wasFull = event.result?._tag === "Round" && before.running?.families.length === options.families.length
        if (wasFull) ended = at
        if (action._tag === "Round" && action.round.trigger === "interval" && ended !== undefined)
          assert.isAtLeast(at - ended, least)
      }
    }
  )

  it.prop("passes for signals of a family are apart by its gap", [...given], ([settings, turns]) => {
    const ended: Partial<Record<Family.Family, number>> = {}
    for (const { action, at, before, event } of play(optionsFor(settings), turns)) {
      if (event.result?._tag === "Round") for (const family of before.running?.orphans ?? []) ended[family] = at
      if (action._tag !== "Round" || action.round.trigger !== "signal") continue
      for (const family of action.round.families) {
        const { useless } = before.signal[family]
        const last = ended[family]
        if (last !== undefined && useless === 0 && before.last?.trigger === "signal")
          assert.isAtLeast(at - last, settings.gap * 1000)
      }
    }
  })

  it.prop("every signal is heard, and then waits, was served or was ignored", [...given], ([settings, turns]) => {
    const options = optionsFor(settings)
    let sent = 0
    let served = 0
    for (const { action, event, state } of play(options, turns)) {
      const { signals } = event.heard
      sent += signals.ipv4 + signals.ipv6
      if (action._tag === "Round") served += action.round.orphans.length
      assert.strictEqual(state.heard.ipv4 + state.heard.ipv6, sent)
      assert.isAtMost(state.pending.ipv4 + state.pending.ipv6 + state.ignored.ipv4 + state.ignored.ipv6 + served, sent)
    }
  })

  it.prop("only enabled families are collected", [...given], ([settings, turns]) => {
    const options = optionsFor({ ...settings, families: "ipv4" })
    for (const { action } of play(options, turns)) {
      if (action._tag === "Round") assert.deepStrictEqual(action.round.families, ["ipv4"])
      if (action._tag === "Purge") assert.deepStrictEqual(action.families, ["ipv4"])
    }
  })

  it("the plays reach every kind of action and trigger", () => {
    const turn = { took: 100, success: true, ratio: 0.3, deleted: 500, requested: false, waits: 100 } as const
    const options = optionsFor({
      families: "both",
      maxInterval: 0,
      interval: 0,
      gap: 1,
      orphans: 90,
      threshold: 0.25,
      whenNothingDeleted: "grow"
    })
    const turns = Array.from({ length: 60 }, (_, i) => ({
      ...turn,
      requested: i % 7 === 5,
      signals: { ipv4: i % 9 === 3 ? 1 : 0, ipv6: 0 }
    }))
    const seen = play(options, turns)
    const kinds = new Set(seen.map(({ action }) => (action._tag === "Round" ? action.round.trigger : action._tag)))
    assert.deepStrictEqual([...kinds].toSorted(), [
      "Estimate",
      "Purge",
      "Wait",
      "backlog",
      "initial",
      "interval",
      "request",
      "signal"
    ])
    assert.isTrue(seen.some((one) => isFull(options, one)))
  })
})
