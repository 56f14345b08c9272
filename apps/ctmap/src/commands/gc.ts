/**
 * `ctmap gc`, `ctmap flush`, `ctmap purge`: passes over CT maps that delete, or say what they would.
 *
 * @since 0.1.0
 */
import * as FilterPrinter from "ctmap-core/FilterPrinter"
import * as GcEngine from "ctmap-gc/GcEngine"
import type { GcPass, MapPass } from "ctmap-gc/GcPass"
import type { GcRequest } from "ctmap-gc/GcRequest"
import * as Guard from "ctmap-gc/Guard"
import { KernelClock } from "ctmap-kernel/KernelClock"
import * as MapIterator from "ctmap-kernel/MapIterator"
import * as Effect from "effect/Effect"
import * as Clock from "../Clock.ts"
import { confirm } from "../Confirm.ts"
import * as Entries from "../Entries.ts"
import * as Failures from "../Failures.ts"
import * as Kernel from "../Kernel.ts"
import type { Passing } from "../Options.ts"
import * as Output from "../Output.ts"
import * as Pairs from "../Pairs.ts"
import * as PassReport from "../render/PassReport.ts"
import { purgeFilter, type PurgeTarget } from "../purgeFilter.ts"
import * as Progress from "../Progress.ts"

/** @since 0.1.0 */
export interface GcOptions extends Passing {
  readonly where: string | undefined
}

/** @since 0.1.0 */
export const gc = (root: string, options: GcOptions) =>
  Kernel.provide(
    root,
    Effect.gen(function* () {
      const within = yield* Entries.parse(options.where)
      yield* passes(options, { expired: true, within }, limitsOf(options))
    })
  )

/** @since 0.1.0 */
export interface FlushOptions extends GcOptions {
  readonly yes: boolean
}

/** @since 0.1.0 */
export const flush = (root: string, options: FlushOptions) =>
  Kernel.provide(
    root,
    Effect.gen(function* () {
      const filter = yield* Entries.parse(options.where)
      const what = filter === undefined ? "every entry" : `every entry that matches "${FilterPrinter.print(filter)}"`
      const request: GcRequest = filter === undefined ? { everything: true } : { filter }
      // Everything is what was asked for; a filter may accept more than was meant.
      const limits = filter === undefined ? { ...Guard.unlimited, ...absolute(options) } : limitsOf(options)
      yield* passes(options, request, limits, { yes: options.yes, what, live: true })
    })
  )

/** @since 0.1.0 */
export interface PurgeOptions extends Passing, PurgeTarget {
  readonly yes: boolean
}

/** @since 0.1.0 */
export const purge = (root: string, options: PurgeOptions) =>
  Kernel.provide(
    root,
    Effect.gen(function* () {
      const filter = yield* purgeFilter(options)
      const what = `every entry that matches "${FilterPrinter.print(filter)}"`
      yield* passes(options, { filter }, limitsOf(options), { yes: options.yes, what, live: true })
    })
  )

/** What is asked before entries of live connections go. */
interface Question {
  readonly yes: boolean
  readonly what: string
  readonly live: true
}

const absolute = ({ maxDeletions }: Passing): Partial<Guard.Limits> =>
  maxDeletions === undefined ? {} : { maxDeletions }

const limitsOf = (options: Passing): Guard.Limits => ({
  ...Guard.defaults,
  ...(options.maxDeleteRatio === undefined ? {} : { maxDeleteRatio: options.maxDeleteRatio, floor: 0 }),
  ...absolute(options)
})

const passes = (options: Passing, request: GcRequest, limits: Guard.Limits, question?: Question) =>
  Effect.gen(function* () {
    const reading = yield* Clock.read(options)
    const chosen = yield* Pairs.choose(options)
    if (question !== undefined && !options.dryRun) yield* ask(question, chosen)
    const clock = { source: reading.source, now: Effect.succeed(reading.now) }
    const engine = yield* GcEngine.make({ engine: options.engine }).pipe(Effect.provideService(KernelClock, clock))
    const done: Array<GcPass> = []
    // A pair that fails does not keep the others from being collected.
    const failed = yield* Failures.collect(chosen, ({ source, transports }) =>
      Effect.scoped(
        Effect.flatMap(source.open, (pair) =>
          Progress.during((progress) =>
            engine.sweep(pair, {
              serial: done.length + 1,
              requests: [request],
              dryRun: options.dryRun,
              limits,
              transports,
              budget: options.budget,
              trustsClock: reading.fixed,
              progress,
              recorded: (pass) => done.push(pass)
            })
          )
        )
      )
    )
    yield* PassReport.print(options.output, done)
    if (options.dryRun) yield* warn(done, limits, request)
    yield* failed
  }).pipe(Effect.provide(MapIterator.layer))

/** Says which tables the guard would not let a pass go through. */
const warn = (done: ReadonlyArray<GcPass>, limits: Guard.Limits, { expired }: GcRequest) =>
  Effect.forEach(
    done.flatMap(({ maps }) => maps),
    ({ map, seen, wanted }: MapPass) => {
      const limited = expired === true ? { ...limits, maxDeleteRatio: 1 } : limits
      const stopped = Guard.check(limited, { map, entries: seen, wanted, deleted: 0 })
      return stopped === undefined
        ? Effect.void
        : Output.note(`ctmap: without --dry-run the guard would stop this: ${wanted} of ${seen} entries of ${map}`)
    },
    { discard: true }
  )

const ask = ({ yes, what }: Question, chosen: ReadonlyArray<Pairs.Chosen>) =>
  Effect.gen(function* () {
    const whose = chosen.map(({ source }) => Pairs.describe(source)).join(", ")
    yield* Output.note(`ctmap: deletes ${what} of ${whose}, with their NAT entries: live connections are cut`)
    yield* confirm({ yes, what: "this cuts live connections", message: `Delete ${what} of ${whose}?` })
  })
