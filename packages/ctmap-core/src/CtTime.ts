/**
 * The two clocks of the datapath, and what their numbers mean.
 *
 * Owns conversion, detection maths and Cilium's error texts. Reading a clock is the kernel package's job; everything
 * here takes what was read.
 *
 * @see `pkg/maps/timestamp` and `pkg/datapath/linux/probes` of Cilium
 * @since 0.1.0
 */
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"

/**
 * How the datapath counts time.
 *
 * **Details**
 *
 * `ktime`: stored times are whole seconds of CLOCK_MONOTONIC. `jiffies`: stored times are jiffies >> 8, and `hertz`
 * is the kernel's tick rate, so a unit is 256 / hertz seconds.
 *
 * @since 0.1.0
 */
export const ClockSource = Schema.Union([
  Schema.Struct({ mode: Schema.Literal("ktime") }),
  Schema.Struct({
    mode: Schema.Literal("jiffies"),
    hertz: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 65_535 }))
  })
])

/** See {@link ClockSource}. @since 0.1.0 */
export type ClockSource = typeof ClockSource.Type

/** The default: seconds of CLOCK_MONOTONIC. @since 0.1.0 */
export const ktime: ClockSource = { mode: "ktime" }

/**
 * `jiffies >> 8` at this tick rate. Errors: throws `ClockError` for a rate that is no whole number from 1 to 65535;
 * {@link fromInput} returns it instead.
 *
 * @since 0.1.0
 */
export const jiffies = (hertz: number): ClockSource => {
  if (!isHertz(hertz)) throw new ClockError({ reason: "hertz", value: hertz })
  return { mode: "jiffies", hertz }
}

const isHertz = (hertz: number): boolean => Number.isInteger(hertz) && hertz > 0 && hertz <= 65_535

/** How far the datapath shifts jiffies: Cilium's "BPF mono scaler". @since 0.1.0 */
export const JIFFIES_SHIFT = 8

/** The largest time a table can hold, and the largest that a pass can be given: Cilium's `MaxTime`. @since 0.1.0 */
export const MAX_TIME = 0xffff_ffff

/**
 * A clock that cannot be used. `message` is Cilium's wording where Cilium has one; `sentenceFor` names the flags that help
 * to who typed a command.
 *
 * @since 0.1.0
 */
export class ClockError extends Schema.TaggedError<ClockError>()("ClockError", {
  reason: Schema.Literals(["missing", "hertz", "mode", "schedstat", "backwards", "too-fast"]),
  value: Schema.Union([Schema.String, Schema.Number])
}) {
  override get message(): string {
    switch (this.reason) {
      case "missing":
        return "clockSource is nil"
      case "hertz":
        return `invalid clock Hertz value (${this.value})`
      case "mode":
        return `invalid clocksource: ${this.value}`
      case "schedstat":
        return "/proc/schedstat has no `timestamp` line: the kernel was built without scheduler statistics, so jiffies cannot be read; use the ktime clock"
      case "backwards":
        return `the ${this.value} went backwards between two readings: the tick rate cannot be measured now, try again`
      case "too-fast":
        return `a tick rate of ${this.value} Hz is not plausible (at most 65535): the tick rate cannot be measured`
    }
  }

  readonly sentenceFor = (reader: "command" | "request" | "settings"): string => {
    if (reader !== "command") return this.message
    switch (this.reason) {
      case "schedstat":
        return this.message.replace(
          "use the ktime clock",
          "use --clock ktime, or say what time it is and how long a tick is, with --now and --hz"
        )
      case "backwards":
      case "too-fast":
        return `${this.message}, or give it with --hz`
      default:
        return this.message
    }
  }
}

/**
 * Checks a clock source that came from outside, with Cilium's own error texts.
 *
 * **Example** (What is refused)
 *
 * ```ts
 * import { CtTime } from "ctmap-core"
 * import * as Result from "effect/Result"
 *
 * const why = (input: CtTime.ClockInput | undefined) => Result.getOrThrow(Result.flip(CtTime.fromInput(input))).message
 * why(undefined) // => "clockSource is nil"
 * why({ mode: "jiffies", hertz: 0 }) // => "invalid clock Hertz value (0)"
 * why({ mode: "tai" }) // => "invalid clocksource: tai"
 * ```
 *
 * @since 0.1.0
 */
export const fromInput = (input: ClockInput | undefined): Result.Result<ClockSource, ClockError> => {
  if (input === undefined) return Result.fail(new ClockError({ reason: "missing", value: "" }))
  if (input.mode === "ktime") return Result.succeed(ktime)
  if (input.mode !== "jiffies") return Result.fail(new ClockError({ reason: "mode", value: input.mode }))
  const hertz = input.hertz ?? 0
  return isHertz(hertz)
    ? Result.succeed(jiffies(hertz))
    : Result.fail(new ClockError({ reason: "hertz", value: hertz }))
}

/** A clock source as configuration and Cilium's API spell it. @since 0.1.0 */
export interface ClockInput {
  readonly mode: string
  readonly hertz?: number
}

/** Seconds that one unit of stored time lasts: 1, or 256 / hertz. @since 0.1.0 */
export const secondsPerUnit = (source: ClockSource): number =>
  source.mode === "ktime" ? 1 : 2 ** JIFFIES_SHIFT / source.hertz

/**
 * Converts a stored time to whole seconds.
 *
 * **Details**
 *
 * Unsigned 64-bit arithmetic as in Cilium: the shift of the jiffies clock wraps at 2^64.
 *
 * **Example** (Both clocks)
 *
 * ```ts
 * import { CtTime } from "ctmap-core"
 *
 * CtTime.toSeconds(CtTime.ktime, 0xff00ff0012345678n) === 0xff00ff0012345678n // => true
 * CtTime.toSeconds(CtTime.jiffies(100), 0x00ffff0012345678n) === 0x28f5999c834108fn // => true
 * ```
 *
 * @since 0.1.0
 */
export const toSeconds = (source: ClockSource, time: bigint): bigint =>
  source.mode === "ktime" ? BigInt.asUintN(64, time) : BigInt.asUintN(64, time << 8n) / BigInt(source.hertz)

/** As {@link toSeconds} for the u32 times of CT entries: exact, without allocation. @since 0.1.0 */
export const toSeconds32 = (source: ClockSource, time: number): number =>
  source.mode === "ktime" ? time : Math.floor((time * 2 ** JIFFIES_SHIFT) / source.hertz)

/**
 * Seconds until a lifetime ends; negative once it has.
 *
 * **Example** (25 units of jiffies >> 8 at HZ 250 are 25.6 seconds; whole seconds are subtracted, as Cilium does)
 *
 * ```ts
 * import { CtTime } from "ctmap-core"
 *
 * CtTime.remaining(CtTime.ktime, 37459, 15856) // => 21603
 * CtTime.remaining(CtTime.jiffies(250), 125, 100) // => 26
 * ```
 *
 * @since 0.1.0
 */
export const remaining = (source: ClockSource, lifetime: number, now: number): number =>
  toSeconds32(source, lifetime) - toSeconds32(source, now)

/** What stands in parentheses behind a lifetime. @since 0.1.0 */
export const remainingText = (seconds: number): string => `remaining: ${seconds} sec(s)`

/** Seconds since a 64-bit creation time; negative for one in the future. @since 0.1.0 */
export const age = (source: ClockSource, created: bigint, now: bigint): bigint =>
  toSeconds(source, now) - toSeconds(source, created)

/**
 * Now, in stored units, from a reading of CLOCK_MONOTONIC in nanoseconds.
 *
 * @since 0.1.0
 */
export const nowFromMonotonic = (nanoseconds: bigint): bigint => nanoseconds / 1_000_000_000n

/**
 * Now, in stored units, from a reading of jiffies.
 *
 * @since 0.1.0
 */
export const nowFromJiffies = (jiffiesNow: bigint): bigint => jiffiesNow >> BigInt(JIFFIES_SHIFT)

/** The low 32 bits, which is what tables store and a pass compares with. @since 0.1.0 */
export const toStored = (now: bigint): number => Number(BigInt.asUintN(32, now))

/**
 * Jiffies from the text of `/proc/schedstat`: its first `timestamp` line.
 *
 * **Example** (Reading the file's head)
 *
 * ```ts
 * import { CtTime } from "ctmap-core"
 * import * as Result from "effect/Result"
 *
 * Result.getOrThrow(CtTime.parseSchedstat("version 15\ntimestamp 4296292563\ncpu0 0\n")) === 4296292563n // => true
 * ```
 *
 * @since 0.1.0
 */
export const parseSchedstat = (text: string): Result.Result<bigint, ClockError> => {
  const digits = /^timestamp[ \t]+([0-9]+)[ \t]*$/m.exec(text)?.[1]
  return digits === undefined
    ? Result.fail(new ClockError({ reason: "schedstat", value: "" }))
    : Result.succeed(BigInt.asUintN(64, BigInt(digits)))
}

/** Tick rates that kernels are built with, in the order that ties prefer. @since 0.1.0 */
export const knownHertz: ReadonlyArray<number> = [1000, 300, 250, 100]

/**
 * The tick rate from two readings at least 100 ms apart: jiffies per second, snapped to the nearest known rate.
 *
 * **Details**
 *
 * Units: nanoseconds of a wall clock, and jiffies. Errors: `ClockError` when either went backwards, no time passed, or
 * the rate is above 65535.
 *
 * **Example** (Snapping a noisy measurement)
 *
 * ```ts
 * import { CtTime } from "ctmap-core"
 * import * as Result from "effect/Result"
 *
 * const start = { nanoseconds: 0n, jiffies: 1000n }
 * Result.getOrThrow(CtTime.measureHertz(start, { nanoseconds: 100_000_000n, jiffies: 1026n })) // => 250
 * ```
 *
 * @since 0.1.0
 */
export const measureHertz = (first: Reading, second: Reading): Result.Result<number, ClockError> => {
  const elapsed = Number(second.nanoseconds - first.nanoseconds) / 1e9
  const ticks = Number(second.jiffies - first.jiffies)
  if (elapsed <= 0) return Result.fail(new ClockError({ reason: "backwards", value: "wall clock" }))
  if (ticks < 0) return Result.fail(new ClockError({ reason: "backwards", value: "jiffies counter" }))
  const rate = Math.round(ticks / elapsed)
  if (rate > 65_535) return Result.fail(new ClockError({ reason: "too-fast", value: rate }))
  return Result.succeed(
    knownHertz.reduce((best, known) => (Math.abs(known - rate) < Math.abs(best - rate) ? known : best))
  )
}

/** One reading of both counters. @since 0.1.0 */
export interface Reading {
  readonly nanoseconds: bigint
  readonly jiffies: bigint
}

/**
 * The clock fields of Cilium's `agent-runtime-config.json`.
 *
 * @since 0.1.0
 */
export const RuntimeConfig = Schema.Struct({
  /** 0 is ktime, 1 is jiffies. */
  ClockSource: Schema.Literals([0, 1]),
  KernelHz: Schema.Int
})

/**
 * The clock source that Cilium's runtime configuration names.
 *
 * @since 0.1.0
 */
export const fromRuntimeConfig = (config: typeof RuntimeConfig.Type): Result.Result<ClockSource, ClockError> =>
  fromInput(config.ClockSource === 0 ? { mode: "ktime" } : { mode: "jiffies", hertz: config.KernelHz })
