/**
 * Whether tables are collected: what the last pass over each pair came to, and what kept rounds from making one.
 *
 * Owns the memory of what is wrong. A pair that cannot be collected stays in it until a pass over it ends well, or until
 * a round no longer finds it, whatever becomes of other pairs meanwhile.
 *
 * @since 0.1.0
 */
import type { GcPass, GcSchedule } from "ctmap-gc"

/** Pairs that are told one by one. */
const MOST = 8

/** @since 0.1.0 */
export interface PassHealth {
  /** Takes a pass that has ended. */
  readonly note: (pass: GcPass.GcPass) => void
  /** Takes what the schedule knows of its last round. */
  readonly compare: (last: GcSchedule.Status["last"]) => void
  /** What is wrong, in a sentence; `undefined` where nothing is. */
  readonly complaint: () => string | undefined
}

/** Nothing is wrong yet. @since 0.1.0 */
export const make = (): PassHealth => {
  const pairs = new Map<string, { readonly pass: GcPass.GcPass; readonly why: string }>()
  let round: ReadonlyArray<string> = []
  return {
    note: (pass) => {
      const pair = `${pass.family} ${pass.owner}`
      if (pass.completed) {
        if (!pass.dryRun) pairs.delete(pair)
        // Somebody no longer wanted it, or the agent stops.
      } else if (!pass.dryRun && pass.why !== "interrupted") pairs.set(pair, { pass, why: pass.why ?? "" })
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
      const texts = pairs.size > 0 ? [...pairs].map(([pair, { why }]) => `the last pass over ${pair}: ${why}`) : round
      if (texts.length === 0) return undefined
      return [...texts.slice(0, MOST), ...(texts.length > MOST ? [`and ${texts.length - MOST} more`] : [])].join("; ")
    }
  }
}
