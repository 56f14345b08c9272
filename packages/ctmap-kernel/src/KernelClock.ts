/**
 * The datapath's clock: what time it is in the units that the tables are written in.
 *
 * Owns reading and detecting the clock, and the check that a table and a clock belong together. A wrong clock either
 * collects nothing for ever or everything at once; so an implausible one is an error with both readings, not a guess.
 *
 * @since 0.1.0
 */
import { readFileSync } from "node:fs"
import { type CtColumns, CtTime } from "ctmap-core"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Equal from "effect/Equal"
import * as Layer from "effect/Layer"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as Bpf from "./Bpf.ts"
import type { Reader } from "./Remedy.ts"

/**
 * Times of a table and of a clock do not fit together.
 *
 * @since 0.1.0
 */
export class ImplausibleClock extends Schema.TaggedError<ImplausibleClock>()("ImplausibleClock", {
  map: Schema.String,
  source: CtTime.ClockSource,
  /** The clock's reading, in its units. */
  now: Schema.Number,
  /** The latest expiry in the table, in the same units if the clock were right. */
  latest: Schema.Number,
  /** How far ahead an expiry can be. */
  maxLifetimeSeconds: Schema.Number
}) {
  override get message(): string {
    return this.sentenceFor("settings")
  }

  /** The same facts, and what this reader can do. */
  sentenceFor(reader: Reader): string {
    const clock = this.source.mode === "ktime" ? "ktime" : `jiffies at ${this.source.hertz} Hz`
    const ahead = CtTime.remaining(this.source, this.latest, this.now)
    return (
      `the times of map ${this.map} do not fit the ${clock} clock: now is ${this.now}, and the last entry expires at ${this.latest}, ` +
      `${Math.abs(ahead)} s ${ahead < 0 ? "ago" : "ahead"} where at most ${this.maxLifetimeSeconds} s are plausible; nothing was touched. ` +
      `The datapath probably counts with the other clock: ${remedies[reader]}`
    )
  }
}

const unused = "a table that nobody has used for so long can be collected by ctmap gc --now TIME"

const remedies: Readonly<Record<Reader, string>> = {
  command: "choose it with --clock, or override the time with --now",
  request: `have the agent started with the other one, its setting clock; ${unused}`,
  settings: `choose it with the setting clock; ${unused}`
}

/**
 * The clock of the datapath.
 *
 * @since 0.1.0
 */
export class KernelClock extends Context.Service<
  KernelClock,
  {
    readonly source: CtTime.ClockSource
    /** Now, as a table stores it: u32, in the units of `source`. */
    readonly now: Effect.Effect<number, CtTime.ClockError>
  }
>()("ctmap-kernel/KernelClock") {}

/**
 * Seconds of CLOCK_MONOTONIC, which is what Cilium uses unless it was told to count jiffies.
 *
 * @since 0.1.0
 */
export const layerKtime: Layer.Layer<KernelClock, never, Bpf.Bpf> = Layer.effect(
  KernelClock,
  Effect.map(Bpf.Bpf, (bpf) =>
    KernelClock.of({
      source: CtTime.ktime,
      now: Effect.sync(() => CtTime.toStored(CtTime.nowFromMonotonic(bpf.monotonic())))
    })
  )
)

/**
 * Reads the text of `/proc/schedstat`. A reference, so that tests (and kernels without scheduler statistics) can have
 * another.
 *
 * @since 0.1.0
 */
export const ReadSchedstat = Context.Reference<Effect.Effect<string, CtTime.ClockError>>(
  "ctmap-kernel/KernelClock/ReadSchedstat",
  {
    defaultValue: () =>
      Effect.try({
        try: () => readFileSync("/proc/schedstat", "latin1"),
        catch: () => new CtTime.ClockError({ reason: "schedstat", value: "" })
      })
  }
)

const readJiffies: Effect.Effect<bigint, CtTime.ClockError> = Effect.flatMap(ReadSchedstat, (read) =>
  Effect.flatMap(read, (text) => Effect.fromResult(CtTime.parseSchedstat(text)))
)

/** jiffies >> 8 at a tick rate that is known, read from `/proc/schedstat`. @since 0.1.0 */
export const layerJiffies = (hertz: number): Layer.Layer<KernelClock> =>
  Layer.effect(
    KernelClock,
    Effect.map(ReadSchedstat, (read) =>
      KernelClock.of({
        source: CtTime.jiffies(hertz),
        now: Effect.map(readJiffies, (jiffies) => CtTime.toStored(CtTime.nowFromJiffies(jiffies))).pipe(
          Effect.provideService(ReadSchedstat, read)
        )
      })
    )
  )

/** What Cilium's agent leaves behind for its command line. @since 0.1.0 */
export const RUNTIME_CONFIG = "/var/run/cilium/state/agent-runtime-config.json"

/** Reads the text of {@link RUNTIME_CONFIG}. A reference, so that tests can have another. @since 0.1.0 */
export const ReadRuntimeConfig = Context.Reference<Effect.Effect<string | undefined>>(
  "ctmap-kernel/KernelClock/ReadRuntimeConfig",
  {
    defaultValue: () =>
      Effect.sync(() => {
        try {
          return readFileSync(RUNTIME_CONFIG, "utf8")
        } catch {
          return undefined
        }
      })
  }
)

/**
 * The clock that Cilium's runtime configuration names: `undefined` where there is none, or none that can be understood.
 *
 * **Example** (A host that counts jiffies)
 *
 * ```ts
 * import { KernelClock } from "ctmap-kernel"
 * import * as Effect from "effect/Effect"
 *
 * const text = Effect.succeed('{ "ClockSource": 1, "KernelHz": 250 }')
 * const read = Effect.provideService(KernelClock.configured, KernelClock.ReadRuntimeConfig, text)
 * await Effect.runPromise(read) // => { mode: "jiffies", hertz: 250 }
 * ```
 *
 * @since 0.1.0
 */
export const configured: Effect.Effect<CtTime.ClockSource | undefined> = Effect.gen(function* () {
  const text = yield* yield* ReadRuntimeConfig
  const config = yield* decodeRuntimeConfig(text)
  return yield* Effect.fromResult(CtTime.fromRuntimeConfig(config))
}).pipe(Effect.catch(() => Effect.succeed(undefined)))

const decodeRuntimeConfig = Schema.decodeUnknownEffect(Schema.fromJsonString(CtTime.RuntimeConfig))

/** The clock of a source that is known. @since 0.1.0 */
export const layerOf = (source: CtTime.ClockSource): Layer.Layer<KernelClock, never, Bpf.Bpf> =>
  source.mode === "ktime" ? layerKtime : layerJiffies(source.hertz)

/**
 * The clock that is {@link configured}; else seconds, which is what the datapath counts unless told otherwise.
 *
 * **Details**
 *
 * The configuration is looked at with every reading: a program may have started before Cilium wrote it. One that goes
 * leaves the clock as it is. `source` is that of the last reading.
 *
 * @since 0.1.0
 */
export const layerDetected: Layer.Layer<KernelClock, never, Bpf.Bpf> = Layer.effect(
  KernelClock,
  Effect.gen(function* () {
    const services = yield* Effect.context<Bpf.Bpf>()
    const clockOf = (source: CtTime.ClockSource) =>
      Effect.scoped(Effect.map(Layer.build(layerOf(source)), (built) => Context.get(built, KernelClock)))
    let current = yield* clockOf((yield* configured) ?? CtTime.ktime)
    const now = Effect.gen(function* () {
      const found = yield* configured
      if (found !== undefined && !Equal.equals(found, current.source)) {
        yield* Effect.logInfo(`the datapath's clock is ${found.mode} now, by Cilium's runtime configuration`)
        current = yield* clockOf(found)
      }
      return yield* current.now
    }).pipe(Effect.provideContext(services))
    return KernelClock.of({
      get source() {
        return current.source
      },
      now
    })
  })
)

/** A clock that stands still: `--now T`, replayed tables, tests. @since 0.1.0 */
export const layerFixed = (source: CtTime.ClockSource, now: number): Layer.Layer<KernelClock> =>
  Layer.succeed(KernelClock, KernelClock.of({ source, now: Effect.succeed(now) }))

/**
 * The tick rate of this kernel: two readings of `/proc/schedstat`, 200 ms apart. Errors: `ClockError`.
 *
 * @since 0.1.0
 */
export const measureHertz: Effect.Effect<number, CtTime.ClockError, Bpf.Bpf> = Effect.gen(function* () {
  const bpf = yield* Bpf.Bpf
  const reading = Effect.map(readJiffies, (jiffies) => ({ nanoseconds: bpf.monotonic(), jiffies }))
  const first = yield* reading
  yield* Effect.sleep(Duration.millis(200))
  return yield* Effect.fromResult(CtTime.measureHertz(first, yield* reading))
})

/** How far ahead of now an expiry may plausibly be: Cilium's longest timeout, with room for a changed one. @since 0.1.0 */
export const MAX_LIFETIME: Duration.Duration = Duration.hours(24 * 7)

/**
 * Fails where the bound batch of a table cannot have been written under the clock.
 *
 * **Details**
 *
 * Expiries far ahead of now mean that the clock is behind the table's, or counts in other units: nothing would ever
 * expire. That even the last entry expired longer ago than any lifetime lasts is the dangerous mix-up, a clock ahead of
 * the table's, under which everything alive would be deleted. A table that nobody used or collected for so long looks
 * the same, and is refused too: override the time to collect it. `0xffffffff` is the end of the scale and no time.
 *
 * @since 0.1.0
 */
export const checkPlausible = (
  clock: { readonly source: CtTime.ClockSource; readonly now: number },
  columns: CtColumns.CtColumns,
  map: string,
  maxLifetime: Duration.Duration = MAX_LIFETIME
): Result.Result<void, ImplausibleClock> => {
  let latest = 0
  for (let row = 0; row < columns.count; row++) {
    const lifetime = columns.lifetime(row)
    if (lifetime > latest && lifetime !== CtTime.MAX_TIME) latest = lifetime
  }
  return checkLatest(clock, latest, map, maxLifetime)
}

/**
 * As {@link checkPlausible} where the latest expiry of a table is known already; 0 where there is none.
 *
 * @since 0.1.0
 */
export const checkLatest = (
  clock: { readonly source: CtTime.ClockSource; readonly now: number },
  latest: number,
  map: string,
  maxLifetime: Duration.Duration = MAX_LIFETIME
): Result.Result<void, ImplausibleClock> => {
  const maxLifetimeSeconds = Duration.toSeconds(maxLifetime)
  const ahead = CtTime.remaining(clock.source, latest, clock.now)
  return latest !== 0 && Math.abs(ahead) > maxLifetimeSeconds
    ? Result.fail(new ImplausibleClock({ map, source: clock.source, now: clock.now, latest, maxLifetimeSeconds }))
    : Result.succeed(undefined)
}

/**
 * Which clocks a table can have been written under, of those whose time is known: the likeliest first.
 *
 * **Details**
 *
 * A table's expiries cluster around now, most of them less than a few hours away. The source whose now lies nearest to the middle of
 * the sampled expiries comes first. An empty sample says nothing: the order given is kept.
 *
 * @since 0.1.0
 */
export const likeliest = (
  clocks: ReadonlyArray<{ readonly source: CtTime.ClockSource; readonly now: number }>,
  columns: CtColumns.CtColumns
): ReadonlyArray<{ readonly source: CtTime.ClockSource; readonly now: number }> => {
  if (columns.count === 0) return clocks
  const lifetimes = Array.from({ length: columns.count }, (_, row) => columns.lifetime(row)).toSorted((a, b) => a - b)
  const middle = lifetimes[lifetimes.length >> 1]!
  const distance = (clock: { readonly source: CtTime.ClockSource; readonly now: number }): number =>
    Math.abs(CtTime.remaining(clock.source, middle, clock.now))
  return clocks.toSorted((a, b) => distance(a) - distance(b))
}
