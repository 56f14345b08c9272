/**
 * What time it is for the tables: asked for on the command line, named by Cilium's own runtime configuration, or
 * seconds since boot, which is what the datapath counts unless it was told otherwise.
 *
 * @since 0.1.0
 */
import * as CtTime from "ctmap-core/CtTime"
import type { Bpf } from "ctmap-kernel/Bpf"
import * as KernelClock from "ctmap-kernel/KernelClock"
import * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import { UsageError } from "./Failure.ts"
import type { ClockOptions } from "./Options.ts"

/** A reading. @since 0.1.0 */
export interface Reading {
  readonly source: CtTime.ClockSource
  /** In units of the source, as a table stores it. */
  readonly now: number
  /** The command line says what time it is: nobody needs to be warned that it is not now. */
  readonly fixed: boolean
}

/** Reads the clock, once. Errors: `ClockError`, `UsageError` for flags that contradict each other. @since 0.1.0 */
export const read = (options: ClockOptions): Effect.Effect<Reading, CtTime.ClockError | UsageError, Bpf> =>
  Effect.gen(function* () {
    yield* check(options)
    const source = yield* sourceOf(options)
    const { now } = options
    if (now !== undefined) return { source, now, fixed: true }
    return { source, now: yield* readNow(KernelClock.layerOf(source)), fixed: false }
  })

/**
 * The clock itself, for what reads it more than once; `--now` makes one that stands still. Errors: as {@link read}.
 *
 * @since 0.1.0
 */
export const service = (
  options: ClockOptions
): Effect.Effect<KernelClock.KernelClock["Service"], CtTime.ClockError | UsageError, Bpf> =>
  Effect.gen(function* () {
    yield* check(options)
    const source = yield* sourceOf(options)
    const { now } = options
    const layer = now === undefined ? KernelClock.layerOf(source) : KernelClock.layerFixed(source, now)
    return yield* Effect.provide(Effect.service(KernelClock.KernelClock), layer)
  })

/** Flags that contradict each other are wrong even where no clock is needed. @since 0.1.0 */
export const check = ({ clock, hz }: ClockOptions): Effect.Effect<void, UsageError> =>
  hz !== undefined && clock !== "jiffies"
    ? Effect.fail(new UsageError({ problem: "--hz is the tick rate of the jiffies clock: add --clock jiffies" }))
    : Effect.void

const sourceOf = (options: ClockOptions): Effect.Effect<CtTime.ClockSource, CtTime.ClockError, Bpf> =>
  options.clock === "ktime"
    ? Effect.succeed(CtTime.ktime)
    : options.clock === "jiffies"
      ? Effect.map(options.hz === undefined ? KernelClock.measureHertz : Effect.succeed(options.hz), CtTime.jiffies)
      : Effect.map(KernelClock.configured, (source) => source ?? CtTime.ktime)

const readNow = (
  layer: Layer.Layer<KernelClock.KernelClock, never, Bpf>
): Effect.Effect<number, CtTime.ClockError, Bpf> =>
  Effect.flatMap(KernelClock.KernelClock, ({ now }) => now).pipe(Effect.provide(layer))
