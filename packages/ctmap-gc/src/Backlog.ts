/**
 * How much of the tables waits for collection, estimated in milliseconds: what a schedule with a backlog threshold goes by.
 *
 * @since 0.1.0
 */
import type { Family } from "ctmap-core"
import { Bpf, KernelClock } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import { CtMapSources, type PairSource } from "./CtMapSources.ts"
import * as TableEstimate from "./TableEstimate.ts"

/**
 * The expired share of a family.
 *
 * @since 0.1.0
 */
export interface Share {
  readonly family: Family.Family
  /** Of the fullest backlog among its tables, 0 to 1. */
  readonly expiredRatio: number
}

/**
 * Estimates the shares of the families whose tables are pinned, when it is run.
 *
 * **Details**
 *
 * A table that cannot be opened or read says nothing: a pass will say what is wrong with it. Tables of fewer than 1,000
 * entries count as having no backlog, for there is nothing to gain. Errors: `BpfError` where pairs cannot be listed,
 * `ClockError`.
 *
 * @since 0.1.0
 */
export const make = Effect.gen(function* () {
  const { list } = yield* CtMapSources
  const clock = yield* KernelClock.KernelClock
  const bpf = yield* Bpf.Bpf
  return Effect.gen(function* () {
    const now = yield* clock.now
    const shares = new Map<Family.Family, number>()
    for (const source of (yield* list).pairs) {
      const share = yield* shareOf(source, now).pipe(Effect.orElseSucceed(() => undefined))
      if (share !== undefined) shares.set(source.family, Math.max(share, shares.get(source.family) ?? 0))
    }
    return [...shares].map(([family, expiredRatio]): Share => ({ family, expiredRatio }))
  }).pipe(Effect.provideService(Bpf.Bpf, bpf))
})

/** Fewer entries than this are no backlog. */
const FEWEST = 1000

const shareOf = ({ open }: PairSource, now: number) =>
  Effect.scoped(
    Effect.gen(function* () {
      const { tcp, any } = yield* open
      let share = 0
      for (const { map } of [tcp, any]) {
        const { entries, expiredRatio = 0 } = yield* TableEstimate.estimate(map, { expiredBefore: now })
        if (entries >= FEWEST) share = Math.max(share, expiredRatio)
      }
      return share
    })
  )
