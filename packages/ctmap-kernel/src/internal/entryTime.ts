/** Whether a map holds CT entries, and what time it is for them as far as that is certain. */
import { type CtTime, type Family, MapName } from "ctmap-core"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import type { BpfMap } from "../BpfMap.ts"
import { verdict } from "../CtMaps.ts"
import * as KernelClock from "../KernelClock.ts"
import * as Layout from "../Layout.ts"

/** Of which family a map's entries are, if it is a CT map. IPv6 NAT entries have the same sizes: its name tells. */
export const ctFamily = ({ info, name }: BpfMap): Family.Family | undefined => {
  const denoted = MapName.parse(name)?._tag
  return denoted === "Nat" || denoted === "ClusterNatInner"
    ? undefined
    : (["ipv4", "ipv6"] as const).find((family) => Layout.ctMismatch(info, family) === undefined)
}

/** A clock for the entries of a map. What cannot be read, or does not fit the table, tells no time. */
export const timeOf = Effect.fnUntraced(function* (
  map: BpfMap,
  family: Family.Family | undefined,
  clock: KernelClock.KernelClock["Service"] | undefined
) {
  const isTimed =
    clock !== undefined && family !== undefined && (yield* verdict(map, family, "1.17"))._tag !== "Unknown"
  const reading = isTimed ? yield* Effect.result(clock.now) : undefined
  let now = reading !== undefined && Result.isSuccess(reading) ? reading.success : undefined
  let untimely: KernelClock.ImplausibleClock | CtTime.ClockError | undefined =
    reading !== undefined && Result.isFailure(reading) ? reading.failure : undefined
  return {
    /** `undefined` where nothing may be called expired. */
    get now() {
      return now
    },
    get untimely() {
      return untimely
    },
    /** Compares the clock with the latest expiry of the whole table. */
    believe: (latest: number): void => {
      if (clock === undefined || now === undefined) return
      const checked = KernelClock.checkLatest({ source: clock.source, now }, latest, map.name)
      // Without a single time, the table says neither that the clock fits nor that it does not.
      if (Result.isSuccess(checked) && latest !== 0) return
      now = undefined
      if (Result.isFailure(checked)) untimely = checked.failure
    },
    /** Read anew, if it was believed. */
    again: Effect.suspend(() =>
      clock === undefined || now === undefined
        ? Effect.succeed(undefined)
        : Effect.orElseSucceed(clock.now, () => undefined)
    )
  }
})
