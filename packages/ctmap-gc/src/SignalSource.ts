/**
 * Where the datapath's signals come from: the rings of the pinned `cilium_signals`, or a test.
 *
 * Owns the map and its rings for the life of the layer. One process reads the signals of a host: filling the slots takes
 * them from whoever read before (see `PerfRing`), so use this in the place of Cilium's own collector, not beside it.
 *
 * @since 0.1.0
 */
import { MapName } from "ctmap-core"
import type { Bpf } from "ctmap-kernel"
import type * as BpfError from "ctmap-kernel/BpfError"
import * as BpfMap from "ctmap-kernel/BpfMap"
import * as PerfRing from "ctmap-kernel/PerfRing"
import * as Pins from "ctmap-kernel/Pins"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Queue from "effect/Queue"

/** What a read can fail with. @since 0.1.0 */
export type ReadError = BpfError.BpfError | PerfRing.PerfRingDamaged

/**
 * Something that signals are read from. It starts paused.
 *
 * @since 0.1.0
 */
export interface Source {
  /** Waits for records and hands them to the sink; how many there were. */
  readonly read: (sink: PerfRing.Sink) => Effect.Effect<number, ReadError>
  /** Refuses signals where they are sent, until `resume`. */
  readonly pause: Effect.Effect<void, BpfError.BpfError>
  readonly resume: Effect.Effect<void, BpfError.BpfError>
}

/**
 * The source of this process, or why there is none.
 *
 * @since 0.1.0
 */
export class SignalSource extends Context.Service<
  SignalSource,
  { readonly source: Source; readonly off?: undefined } | { readonly source?: undefined; readonly off: string }
>()("ctmap-gc/SignalSource") {}

const open = Effect.gen(function* () {
  const map = yield* BpfMap.open(yield* Pins.pathOf(MapName.SIGNALS))
  return yield* PerfRing.open(map)
})

/**
 * The pinned `cilium_signals`.
 *
 * **Details**
 *
 * Errors: `PinNotFound` where no datapath has pinned it, `NotPermitted` without CAP_PERFMON or without access to the
 * pin, `FeatureUnsupported` where the pin is a map of another type. Kernel: see `PerfRing.open`.
 *
 * @since 0.1.0
 */
export const layer: Layer.Layer<SignalSource, BpfError.BpfError, Bpf.Bpf> = Layer.effect(
  SignalSource,
  Effect.map(open, (source) => ({ source }))
)

/**
 * The same where it can be had; otherwise signals are off, and `off` says why. Collection by interval needs none.
 *
 * @since 0.1.0
 */
export const layerOptional: Layer.Layer<SignalSource, never, Bpf.Bpf> = Layer.effect(
  SignalSource,
  open.pipe(
    Effect.map((source) => ({ source })),
    Effect.catch((error) =>
      Effect.as(
        error.reason._tag === "PinNotFound"
          ? Effect.logInfo("signals are off", error.message)
          : Effect.logWarning("signals are off", error.message),
        { off: error.message }
      )
    )
  )
)

/** No signals at all. @since 0.1.0 */
export const layerNoop: Layer.Layer<SignalSource> = Layer.succeed(SignalSource, {
  off: "signals were not asked for"
})

/**
 * The tester's side of {@link layerTest}.
 *
 * @since 0.1.0
 */
export interface Controls {
  /** Sends a sample as a datapath would; whether it was taken: not while the source is paused. */
  readonly send: (sample: Uint8Array) => boolean
  /** A record of samples that were lost. */
  readonly lose: (count: number) => void
  /** Fails the read after what was sent until now, so many times (default 1). */
  readonly fail: (error: ReadError, times?: number) => void
  readonly isPaused: () => boolean
  /** `pause` and `resume`, in the order they were called. */
  readonly calls: ReadonlyArray<"pause" | "resume">
}

/** See {@link Controls}. @since 0.1.0 */
export class Control extends Context.Service<Control, Controls>()("ctmap-gc/SignalSource/Control") {}

type Record = Uint8Array | number | ReadError

/**
 * A source that does what a test says, one record to a read.
 *
 * @since 0.1.0
 */
export const layerTest: Layer.Layer<SignalSource | Control> = Layer.effectContext(
  Effect.gen(function* () {
    const queue = yield* Queue.unbounded<Record>()
    const calls: Array<"pause" | "resume"> = []
    let isPaused = true
    const set = (call: "pause" | "resume") =>
      Effect.sync(() => {
        isPaused = call === "pause"
        calls.push(call)
      })
    const source: Source = {
      read: (sink) =>
        Effect.flatMap(Queue.take(queue), (record) => {
          if (record instanceof Uint8Array) sink.sample(0, record)
          else if (typeof record === "number") sink.lost(0, record)
          else return Effect.fail(record)
          return Effect.succeed(1)
        }),
      pause: set("pause"),
      resume: set("resume")
    }
    const control: Controls = {
      send: (sample) => !isPaused && Queue.offerUnsafe(queue, sample),
      lose: (count) => void Queue.offerUnsafe(queue, count),
      fail: (error, times = 1) => {
        for (let i = 0; i < times; i++) Queue.offerUnsafe(queue, error)
      },
      isPaused: () => isPaused,
      calls
    }
    return Context.make(SignalSource, SignalSource.of({ source })).pipe(Context.add(Control, control))
  })
)
