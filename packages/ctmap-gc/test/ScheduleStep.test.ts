/** Properties of the pure decisions: whatever happens, in whatever order. */
import { assert, describe, it } from "@effect/vitest"
import type { Family } from "ctmap-core"
import type { Options } from "../src/internal/scheduleState.ts"
import { optionsFor, play, type Seen, Settings, Turns } from "./schedulePlay.ts"

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
