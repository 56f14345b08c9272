/**
 * `ctmap watch`: entries as they become due for collection, seen by dry passes of our own. Deletes nothing.
 *
 * @since 0.1.0
 */
import * as CtJson from "ctmap-core/CtJson"
import * as CtMapSources from "ctmap-gc/CtMapSources"
import * as GcEngine from "ctmap-gc/GcEngine"
import * as GcEvents from "ctmap-gc/GcEvents"
import * as GcReason from "ctmap-gc/GcReason"
import { KernelClock } from "ctmap-kernel/KernelClock"
import * as MapIterator from "ctmap-kernel/MapIterator"
import { sentence } from "ctmap-kernel/Remedy"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Clock from "../Clock.ts"
import * as Entries from "../Entries.ts"
import { UsageError } from "../Failure.ts"
import * as Failures from "../Failures.ts"
import * as Kernel from "../Kernel.ts"
import type { ClockOptions, Selection } from "../Options.ts"
import * as Output from "../Output.ts"
import * as Pairs from "../Pairs.ts"
import { eventLine } from "../render/eventLine.ts"

/** @since 0.1.0 */
export interface WatchOptions extends Selection, ClockOptions {
  readonly where: string | undefined
  readonly output: "text" | "ndjson"
  /** Seconds between two passes; absent for 5. */
  readonly interval: number | undefined
  /** Passes to make; absent for no end. */
  readonly passes: number | undefined
  /** Tell of what is due already, too. */
  readonly backlog: boolean
  readonly budget: number
  /** Of an agent: wait for one that stops, and go on. */
  readonly reconnect: boolean
}

/**
 * Every pass tells of the entries of a pair that have expired since the one before, so each is told of once: an entry
 * that is refreshed and expires again is told of again. Once it has begun, a pair that cannot be read is a remark, and
 * what it has to tell waits for the next pass: maps can be replaced while we watch.
 *
 * @since 0.1.0
 */
export const watch = (root: string, options: WatchOptions) =>
  Kernel.provide(
    root,
    Effect.gen(function* () {
      if (!options.reconnect) return yield* new UsageError({ problem: "--no-reconnect is for --agent" })
      const within = yield* Entries.parse(options.where)
      const first = yield* Clock.read(options)
      /** Up to which time of each pair everything has been told. */
      const told = new Map<string, number>()
      const start = options.backlog ? 0 : first.now
      for (let made = 1; ; made++) {
        const reading = made === 1 ? first : yield* Clock.read(options)
        const clock = { source: reading.source, now: Effect.succeed(reading.now) }
        const engine = yield* GcEngine.make({}).pipe(Effect.provideService(KernelClock, clock))
        const look = Effect.flatMap(Pairs.choose(options), (chosen) =>
          Failures.collect(chosen, ({ source, transports }) =>
            Effect.gen(function* () {
              const name = CtMapSources.nameOf(source)
              const found: Array<GcEvents.Deleted> = []
              const plan: GcEngine.Plan = {
                serial: made,
                requests: [{ expired: true, within }],
                dryRun: true,
                transports,
                budget: options.budget,
                trustsClock: reading.fixed,
                publish: (event) => found.push(event)
              }
              yield* Effect.scoped(Effect.flatMap(source.open, (pair) => engine.sweep(pair, plan)))
              const since = told.get(name) ?? start
              told.set(name, reading.now)
              for (const event of found) yield* tell(event, since, reading, options.output)
            })
          )
        )
        const isLast = made === options.passes
        const goesOn = made > 1 && !isLast
        yield* Effect.flatten(look).pipe(goesOn ? Effect.catchIf(isOfTheTables, remark) : (failure) => failure)
        if (isLast) return
        yield* Effect.sleep(Duration.seconds(options.interval ?? 5))
      }
    }).pipe(Effect.provide(MapIterator.layer))
  )

/** Anything but that nobody reads what we write. */
const isOfTheTables = (error: { readonly _tag: string }): boolean =>
  error._tag !== "BrokenPipe" && error._tag !== "FileFailed"

const remark = (error: Error) => Output.note(`ctmap: ${sentence(error, "command")}; looking again`)

const tell = (event: GcEvents.Deleted, since: number, clock: Clock.Reading, output: WatchOptions["output"]) => {
  const columns = GcEvents.columns(event)
  let text = ""
  for (let row = 0; row < columns.count; row++) {
    if (columns.lifetime(row) < since) continue
    const reason = GcReason.names[event.reasons[row]!]!
    text +=
      output === "ndjson"
        ? `${JSON.stringify({ event: "due", reason, ...CtJson.ctRecord(columns, row, { map: event.map, clock }) })}\n`
        : eventLine(columns, row, event.map, reason)
  }
  return text === "" ? Effect.void : Output.write(text)
}
