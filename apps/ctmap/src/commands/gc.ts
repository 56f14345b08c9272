/**
 * `ctmap gc`, `ctmap flush`, `ctmap purge`: passes over CT maps that delete, or say what they would.
 *
 * @since 0.1.0
 */
import * as GcEngine from "ctmap-gc/GcEngine"
import { type GcPass, total } from "ctmap-gc/GcPass"
import type { GcRequest } from "ctmap-gc/GcRequest"
import * as Guard from "ctmap-gc/Guard"
import { KernelClock } from "ctmap-kernel/KernelClock"
import * as MapIterator from "ctmap-kernel/MapIterator"
import * as Effect from "effect/Effect"
import * as Applicable from "../Applicable.ts"
import { ask, type Question } from "../Assent.ts"
import * as Clock from "../Clock.ts"
import * as Entries from "../Entries.ts"
import * as Failures from "../Failures.ts"
import * as Kernel from "../Kernel.ts"
import type { Passing } from "../Options.ts"
import { missingFor } from "../missingFor.ts"
import * as Pairs from "../Pairs.ts"
import * as PassReport from "../render/PassReport.ts"
import { familyOf, purgeFilter, type PurgeTarget } from "../purgeFilter.ts"
import * as PassProgress from "../PassProgress.ts"

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
      const request: GcRequest = filter === undefined ? { everything: true } : { filter }
      // Everything is what was asked for; a filter may accept more than was meant.
      const limits = filter === undefined ? { ...Guard.unlimited, ...absolute(options) } : limitsOf(options)
      yield* passes(options, request, limits, { yes: options.yes, filter })
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
      const family = options.family === "all" && options.map.length === 0 ? familyOf(options.ip) : options.family
      yield* passes({ ...options, family }, { filter }, limitsOf(options), { yes: options.yes, filter })
    })
  )

const absolute = ({ maxDeletions }: Passing): Partial<Guard.Limits> =>
  maxDeletions === undefined ? {} : { maxDeletions }

const limitsOf = (options: Passing): Guard.Limits => ({
  ...Guard.defaults,
  ...(options.maxDeleteRatio === undefined ? {} : { maxDeleteRatio: options.maxDeleteRatio, floor: 0 }),
  ...absolute(options)
})

const passes = (
  options: Passing,
  request: GcRequest,
  limits: Guard.Limits,
  question?: Pick<Question, "filter" | "yes">
) =>
  Effect.gen(function* () {
    const reading = yield* Clock.read(options)
    const chosen = yield* Pairs.choose(options)
    for (const { releases } of chosen) yield* Applicable.ct(request.filter ?? request.within, releases)
    const clock = { source: reading.source, now: Effect.succeed(reading.now) }
    const engine = yield* GcEngine.make({ engine: options.engine }).pipe(Effect.provideService(KernelClock, clock))
    /** Over every pair: one that fails does not keep the others from being collected. */
    const sweepAll = (dryRun: boolean, done: Array<GcPass>) =>
      Failures.collect(chosen, ({ source, transports }) =>
        Effect.scoped(
          Effect.flatMap(source.open, (pair) => {
            const maps = [pair.tcp, pair.any].filter(({ transport }) => transports.includes(transport))
            const plan: GcEngine.Plan = {
              serial: done.length + 1,
              requests: [request],
              dryRun,
              limits,
              transports,
              budget: options.budget,
              trustsClock: reading.fixed,
              recorded: (pass) => done.push(pass)
            }
            return PassProgress.during(
              maps.map(({ map }) => map),
              (progress) => engine.sweep(pair, { ...plan, progress })
            )
          })
        )
      )
    if (question !== undefined && !options.dryRun) {
      const consequence = "with them go their NAT entries, and live connections are cut"
      const look = Effect.gen(function* () {
        const found: Array<GcPass> = []
        const failed = yield* sweepAll(true, found)
        const sum = (count: "seen" | "wanted") => found.reduce((all, pass) => all + total(pass, count), 0)
        const looked = { seen: sum("seen"), wanted: sum("wanted") }
        yield* looked.wanted === 0 ? failed : warn(limits, request, found)
        return looked
      })
      if (!(yield* ask({ ...question, whose: Pairs.describe(chosen), consequence }, look))) return
    }
    const done: Array<GcPass> = []
    const failed = yield* sweepAll(options.dryRun, done).pipe(
      Effect.onInterrupt(() => Effect.ignore(PassReport.print(options.output, done)))
    )
    yield* PassReport.print(options.output, done)
    if (options.dryRun) yield* warn(limits, request, done)
    yield* failed.pipe(Effect.tapError(missingFor(options.engine)))
  }).pipe(Effect.provide(MapIterator.layer))

/** Says which tables the guard would not let a pass go through. */
const warn = (limits: Guard.Limits, { expired }: GcRequest, found: ReadonlyArray<GcPass>) =>
  PassReport.warn(
    expired === true ? { ...limits, maxDeleteRatio: 1 } : limits,
    found.flatMap(({ maps }) => maps)
  )
