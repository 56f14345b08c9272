/** A schedule whose passes are given by the test, and a record of what it did when. */
import { type Family, Signal } from "ctmap-core"
import { GcConfig, GcSchedule } from "ctmap-gc"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Logger from "effect/Logger"
import * as Queue from "effect/Queue"
import * as Stream from "effect/Stream"

export interface RoundInfo extends GcSchedule.RoundContext {
  readonly at: number
}

interface Rig extends Partial<Omit<GcSchedule.Parameters, "settings" | "round" | "signals">> {
  readonly settings?: Partial<GcConfig.Settings>
  readonly round?: (info: RoundInfo) => Effect.Effect<GcSchedule.Outcome, unknown>
}

/** A pass that leaves the interval where it is, and was worth it. */
export const worthIt: GcSchedule.Outcome = { success: true, ratio: 0.1, deleted: 100, seen: 1000 }

/** A pass soon after another that was worth it, and does not shorten the interval. */
export const brisk: GcSchedule.Outcome = { success: true, ratio: 0.0001, deleted: 100, seen: 1000 }

/** A pass that found nothing to delete in a full table. */
export const useless: GcSchedule.Outcome = { success: true, ratio: 0, deleted: 0, seen: 1000 }

export const brief: Readonly<Record<Family.Family, string>> = { ipv4: "v4", ipv6: "v6" }

/** Forks a schedule; `did` lists, as text, what it did: seconds, trigger, families. */
export const start = Effect.fnUntraced(function* ({ purgeOrphans, round, settings, ...rest }: Rig = {}) {
  const rounds: Array<RoundInfo> = []
  const did: Array<string> = []
  const muting: Array<string> = []
  const signals = yield* Queue.unbounded<Signal.FillUp>()
  const note = (at: number, what: string, families: ReadonlyArray<Family.Family>) =>
    did.push(`${at / 1000} ${what} ${families.map((family) => brief[family]).join("+")}`)
  const schedule = yield* GcSchedule.make({
    settings: yield* GcConfig.make({ orphanPurgeInterval: GcConfig.defaults.startupWarning, ...settings }),
    round: (families, { trigger }) =>
      Effect.gen(function* () {
        const at = yield* Clock.currentTimeMillis
        rounds.push({ at, families, trigger })
        note(at, trigger, families)
        return yield* round === undefined
          ? Effect.succeed(trigger === "signal" ? brisk : worthIt)
          : round({ at, families, trigger })
      }),
    purgeOrphans: (families) =>
      Effect.gen(function* () {
        note(yield* Clock.currentTimeMillis, "orphans", families)
        return yield* purgeOrphans === undefined ? Effect.succeed({ deleted: 0 }) : purgeOrphans(families)
      }),
    signals: Stream.fromQueue(signals),
    mute: Effect.sync(() => muting.push("mute")),
    unmute: Effect.sync(() => muting.push("unmute")),
    ...rest
  })
  const fiber = yield* Effect.forkChild(schedule.run, { startImmediately: true })
  const signal = (family: Family.Family) => Queue.offer(signals, new Signal.FillUp({ signal: "nat_fill_up", family }))
  return { schedule, fiber, signal, signals, rounds, did, muting }
})

/** Runs an effect and gives the warnings that it logged, too. */
export const withWarnings = <A, E, R>(effect: Effect.Effect<A, E, R>) => {
  const warnings: Array<string> = []
  const logger = Logger.make<unknown, void>(({ logLevel, message }) => {
    if (logLevel === "Warn") warnings.push(Array.isArray(message) ? String(message[0]) : String(message))
  })
  return Effect.map(Effect.provide(effect, Logger.layer([logger])), (value) => ({ value, warnings }))
}
