/**
 * Whether tables are collected: what the last pass and purge over each pair came to, and what kept rounds from making one.
 *
 * Owns the memory of what is wrong. A pair that cannot be collected stays in it until a pass over it ends well, or until
 * a round no longer finds it, whatever becomes of other pairs meanwhile.
 *
 * @since 0.1.0
 */
import type { Family } from "ctmap-core"
import type { GcPass, GcRunner, GcSchedule, NatPass } from "ctmap-gc"
import { BpfError, CtPair } from "ctmap-kernel"
import * as Cause from "effect/Cause"
import * as Exit from "effect/Exit"

/** Pairs that are told one by one. */
const MOST = 8

/** @since 0.1.0 */
export interface PassHealth {
  /** Takes a pass that has ended. */
  readonly note: (pass: GcPass.GcPass) => void
  /** Takes a purge of NAT entries that has ended, whoever wanted it. */
  readonly notePurge: (pass: NatPass.NatPass) => void
  /** Takes what the schedule knows of its last round. */
  readonly compare: (last: GcSchedule.Status["last"]) => void
  /** Takes what came of a purge of orphans over some families. */
  readonly purged: (ran: Pick<GcRunner.RanNat, "pairs">, families: ReadonlyArray<Family.Family>) => void
  /** What is wrong, in a sentence; `undefined` where nothing is. */
  readonly complaint: () => string | undefined
}

/** Nothing is wrong yet. @since 0.1.0 */
export const make = (): PassHealth => {
  const pairs = new Map<string, { readonly pass: GcPass.GcPass; readonly why: string }>()
  const purges = new Map<string, { readonly family: Family.Family; readonly why: string }>()
  let round: ReadonlyArray<string> = []
  return {
    purged: (ran, families) => {
      for (const [pair, { family }] of purges) if (families.includes(family)) purges.delete(pair)
      for (const { exit, pair, source } of ran.pairs) {
        const why = whyNot(exit)
        if (why !== undefined) purges.set(pair, { family: source.family, why })
      }
    },
    note: (pass) => {
      const pair = `${pass.family} ${pass.owner}`
      if (pass.dryRun) return
      if (pass.completed) pairs.delete(pair)
      // Somebody no longer wanted it, or the agent stops: no trouble. Of what somebody asked for, that one has been told,
      // and rounds tell of what is wrong with the pair; that somebody wanted more than may go, only this can tell.
      else if (pass.stoppedBy === "guard" || (pass.stoppedBy !== "interruption" && pass.trigger !== "request")) {
        pairs.set(pair, { pass, why: pass.why ?? "" })
      }
    },
    notePurge: (pass) => {
      const pair = `${pass.family} ${pass.owner}`
      if (pass.dryRun) return
      if (pass.completed) purges.delete(pair)
      // All else that is wrong with the schedule's own it tells itself.
      else if (pass.stoppedBy === "guard") purges.set(pair, { family: pass.family, why: pass.why ?? "" })
    },
    compare: (last) => {
      round = last?.problems ?? []
      if (last === undefined || round.length > 0) return
      for (const [pair, { pass }] of pairs) {
        const isOver = last.families.includes(pass.family) && last.startedAtMillis > pass.startedAtMillis
        if (isOver) pairs.delete(pair)
      }
    },
    complaint: () => {
      const passed = pairs.size > 0 ? [...pairs].map(([pair, { why }]) => `the last pass over ${pair}: ${why}`) : round
      const texts = [...passed]
      // What keeps passes from a pair keeps purges, too: that is said once.
      for (const [pair, { why }] of purges) {
        if (!passed.some((text) => text.endsWith(why))) texts.push(`the last purge of NAT entries of ${pair}: ${why}`)
      }
      if (texts.length === 0) return undefined
      return [...texts.slice(0, MOST), ...(texts.length > MOST ? [`and ${texts.length - MOST} more`] : [])].join("; ")
    }
  }
}

/** Why a purge did not get to its end; nothing where it did, was interrupted, or there is no whole pair to purge. */
const whyNot = (exit: GcRunner.RanNat["pairs"][number]["exit"]): string | undefined => {
  if (Exit.isSuccess(exit) || Cause.hasInterruptsOnly(exit.cause)) return undefined
  const error = Cause.squash(exit.cause)
  if (error instanceof CtPair.HalfPair) return undefined
  if (error instanceof BpfError.BpfError && error.reason._tag === "PinNotFound") return undefined
  return error instanceof Error ? error.message : String(error)
}
