/**
 * Hears what the datapath signals (a table is full) and hands it to who has asked for it.
 *
 * Owns the handlers, one for each signal, which signals are muted, and the loop that reads. While no signal is active,
 * the datapath itself is refused, so that muting costs nobody anything. Numbers and protocols that do not exist are
 * counted and go no further.
 *
 * @since 0.1.0
 */
import { type Family, Signal } from "ctmap-core"
import type { Bpf, BpfError, PerfRing } from "ctmap-kernel"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import { make as makeCounts } from "./internal/signalCounts.ts"
import * as SignalSource from "./SignalSource.ts"

/** Registration is over once signals are being read. @since 0.1.0 */
export class RegistrationClosed extends Schema.TaggedError<RegistrationClosed>()("RegistrationClosed", {}) {
  override get message(): string {
    return "runtime registration not supported: register signal handlers before signals are started"
  }
}

/** A number that no signal has. @since 0.1.0 */
export class SignalNotSupported extends Schema.TaggedError<SignalNotSupported>()("SignalNotSupported", {
  signal: Schema.Number
}) {
  override get message(): string {
    return `signal number not supported: ${this.signal}; there are 0 (nat_fill_up), 1 (ct_fill_up) and 2 (auth_required)`
  }
}

/** Somebody else has the signal. @since 0.1.0 */
export class AlreadyRegistered extends Schema.TaggedError<AlreadyRegistered>()("AlreadyRegistered", {
  signal: Schema.Int
}) {
  override get message(): string {
    return `channel for signal number already registered: ${this.signal} (${Signal.names[this.signal]}); a signal has one handler`
  }
}

/** Nobody listens, or everything is muted: there is nothing to read for. @since 0.1.0 */
export class NoHandlers extends Schema.TaggedError<NoHandlers>()("NoHandlers", {}) {
  override get message(): string {
    return "no registered signal handlers: register one, and leave a signal unmuted, before signals are started"
  }
}

/** Why a handler could not be registered. @since 0.1.0 */
export type RegisterError = RegistrationClosed | SignalNotSupported | AlreadyRegistered

/**
 * What a handler did with a message: took it, had no room, or could not make sense of it.
 *
 * @since 0.1.0
 */
export type Handled =
  | { readonly status: "received"; readonly data: Family.Family | "" }
  | { readonly status: "channel overflow" }
  | { readonly status: "parse error"; readonly error: unknown }

/**
 * Takes the messages of a signal.
 *
 * @since 0.1.0
 */
export interface Handler {
  /** `payload` is what follows the signal's number, the kernel's padding included; valid during the call only. */
  readonly handle: (signal: number, payload: Uint8Array) => Handled
  /** Nothing comes any more. */
  readonly close: () => void
}

/**
 * Signals of the datapath.
 *
 * @since 0.1.0
 */
export class Signals extends Context.Service<
  Signals,
  {
    /** Why there are no signals here; `undefined` where there are. Everything else then works and nothing comes. */
    readonly off: string | undefined
    /** Gives signals to a handler and unmutes them. On an error nothing has changed. */
    readonly register: (handler: Handler, ...signals: ReadonlyArray<number>) => Effect.Effect<void, RegisterError>
    /** Drops messages of these signals; with the last active one, refuses all where they are sent. */
    readonly mute: (...signals: ReadonlyArray<number>) => Effect.Effect<void, SignalNotSupported>
    readonly unmute: (...signals: ReadonlyArray<number>) => Effect.Effect<void, SignalNotSupported>
    /** Signals that are not muted, by rising number. */
    readonly active: () => ReadonlyArray<number>
    /**
     * Reads until the scope closes; then every handler is told. Starting again does nothing. Errors: `NoHandlers`; and
     * `NotPermitted` where the map is open for reading only.
     */
    readonly start: Effect.Effect<void, NoHandlers | BpfError.BpfError, Scope.Scope>
  }
>()("ctmap-gc/Signals") {}

const COUNT = Signal.names.length
/** How long a reader that fails waits: twice as long each time, in milliseconds. */
const BACK_OFF = { first: 100, last: 30_000 }

const checked = (signals: ReadonlyArray<number>): Effect.Effect<number, SignalNotSupported> => {
  let mask = 0
  for (const signal of signals) {
    if (!Number.isInteger(signal) || signal < 0 || signal >= COUNT) {
      return Effect.fail(new SignalNotSupported({ signal }))
    }
    mask |= 1 << signal
  }
  return Effect.succeed(mask)
}

/**
 * Signals over the source that is provided.
 *
 * @since 0.1.0
 */
export const make: Effect.Effect<Signals["Service"], never, SignalSource.SignalSource> = Effect.gen(function* () {
  const { source, off } = yield* SignalSource.SignalSource
  const handlers: Array<Handler | undefined> = Array.from({ length: COUNT }, () => undefined)
  const counts = makeCounts()
  const turn = yield* Semaphore.make(1)
  let active = 0
  let isStarted = false
  let isReading = false

  const change = (next: (mask: number) => number) => (signals: ReadonlyArray<number>) =>
    Effect.flatMap(checked(signals), (mask) =>
      Effect.suspend(() => {
        const before = active
        active = next(mask)
        if (!isReading || source === undefined || (before === 0) === (active === 0)) return Effect.void
        const [call, what] = active === 0 ? [source.pause, "paused"] : [source.resume, "resumed"]
        // What the datapath goes on sending is dropped as muted; what it does not send, the interval makes up for.
        const words = `signals could not be ${what}`
        return call.pipe(Effect.catch((error) => Effect.logWarning(words, error.message)))
      })
    ).pipe(turn.withPermits(1))
  const mute = change((mask) => active & ~mask)
  const unmute = change((mask) => active | mask)

  const sink: PerfRing.Sink = {
    lost: (_cpu, lost) => counts.add("", "", "lost", lost),
    sample: (_cpu, bytes) => {
      if (bytes.byteLength < 4) {
        return counts.warn("", "too short", () => `a signal of ${bytes.byteLength} bytes, which has no number`)
      }
      const signal = new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true)
      if (signal >= COUNT) return counts.warn("", "unknown signal", () => `signal number not supported: ${signal}`)
      const name = Signal.names[signal]!
      const handler = handlers[signal]
      if (handler === undefined) return counts.add(name, "", "unregistered")
      if ((active & (1 << signal)) === 0) return counts.add(name, "", "muted")
      const handled = handle(handler, signal, bytes.subarray(4))
      if (handled.status === "received") counts.add(name, handled.data, "received")
      else if (handled.status === "channel overflow") counts.add(name, "", "channel overflow")
      else counts.warn(name, "parse error", () => wordsOf(handled.error))
    }
  }

  const read = (from: SignalSource.Source): Effect.Effect<never> => {
    let pause = BACK_OFF.first
    const once = from.read(sink).pipe(
      Effect.tap(() => Effect.sync(() => (pause = BACK_OFF.first))),
      Effect.catch((error) => {
        counts.add("", "", "error")
        const wait = pause
        pause = Math.min(2 * pause, BACK_OFF.last)
        return Effect.andThen(
          Effect.logError(`signals cannot be read, next attempt in ${wait} ms`, error.message),
          Effect.andThen(flush, Effect.sleep(wait))
        )
      })
    )
    return Effect.forever(Effect.andThen(once, flush))
  }
  const flush = Effect.flatMap(Clock.currentTimeMillis, counts.flush)

  const close = Effect.sync(() => {
    isReading = false
    for (const handler of new Set(handlers)) handler?.close()
  })

  return Signals.of({
    off,
    register: Effect.fnUntraced(function* (handler: Handler, ...signals: ReadonlyArray<number>) {
      if (isStarted) return yield* new RegistrationClosed()
      yield* checked(signals)
      const taken = signals.find((signal) => handlers[signal] !== undefined)
      if (taken !== undefined) return yield* new AlreadyRegistered({ signal: taken })
      for (const signal of signals) handlers[signal] = handler
      yield* unmute(signals)
    }),
    mute: (...signals) => mute(signals),
    unmute: (...signals) => unmute(signals),
    active: () => Signal.names.flatMap((_, signal) => ((active & (1 << signal)) === 0 ? [] : [signal])),
    start: Effect.gen(function* () {
      if (isStarted) return
      if (active === 0) return yield* new NoHandlers()
      const begin = Effect.sync(() => {
        isStarted = true
        isReading = source !== undefined
      })
      yield* Effect.acquireRelease(Effect.andThen(source?.resume ?? Effect.void, begin), () =>
        Effect.andThen(close, source === undefined ? Effect.void : Effect.ignore(source.pause))
      )
      if (source !== undefined) yield* Effect.forkScoped(read(source), { startImmediately: true })
    })
  })
})

const handle = (handler: Handler, signal: number, payload: Uint8Array): Handled => {
  try {
    return handler.handle(signal, payload)
  } catch (error) {
    return { status: "parse error", error }
  }
}

const wordsOf = (error: unknown): string => (error instanceof Error ? error.message : String(error))

/** Over the pinned `cilium_signals`. Errors: see `SignalSource.layer`. @since 0.1.0 */
export const layer: Layer.Layer<Signals, BpfError.BpfError, Bpf.Bpf> = Layer.provide(
  Layer.effect(Signals, make),
  SignalSource.layer
)

/** Over the pinned `cilium_signals` where it can be had; otherwise `off` says why. @since 0.1.0 */
export const layerOptional: Layer.Layer<Signals, never, Bpf.Bpf> = Layer.provide(
  Layer.effect(Signals, make),
  SignalSource.layerOptional
)

/** Takes handlers, and never has a signal for them. @since 0.1.0 */
export const layerNoop: Layer.Layer<Signals> = Layer.provide(Layer.effect(Signals, make), SignalSource.layerNoop)

/**
 * Over a source that a test controls.
 *
 * **Example** (A table is full)
 *
 * ```ts
 * import { Signal } from "ctmap-core"
 * import { SignalQueue, Signals, SignalSource } from "ctmap-gc"
 * import * as Effect from "effect/Effect"
 * import * as Stream from "effect/Stream"
 *
 * const program = Effect.gen(function* () {
 *   const { start } = yield* Signals.Signals
 *   const { signals } = yield* SignalQueue.subscribe()
 *   yield* start
 *   const datapath = yield* SignalSource.Control
 *   datapath.send(Signal.toBytes(new Signal.FillUp({ signal: "nat_fill_up", family: "ipv6" })))
 *   return yield* Stream.runCollect(Stream.take(signals, 1))
 * })
 * const heard = await Effect.runPromise(Effect.scoped(Effect.provide(program, Signals.layerTest)))
 * heard.map(({ signal, family }) => `${signal} ${family}`) // => ["nat_fill_up ipv6"]
 * ```
 *
 * @since 0.1.0
 */
export const layerTest: Layer.Layer<Signals | SignalSource.Control> = Layer.provideMerge(
  Layer.effect(Signals, make),
  SignalSource.layerTest
)
