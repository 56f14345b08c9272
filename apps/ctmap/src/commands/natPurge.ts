/**
 * `ctmap nat flush`, `ctmap nat purge-orphans`: passes over NAT maps that delete, or say what they would.
 *
 * @since 0.1.0
 */
import { secondsPerUnit } from "ctmap-core/CtTime"
import type * as Filter from "ctmap-core/Filter"
import * as Guard from "ctmap-gc/Guard"
import type { NatPass } from "ctmap-gc/NatPass"
import * as NatPurge from "ctmap-gc/NatPurge"
import type { Bpf } from "ctmap-kernel/Bpf"
import type { CtPair } from "ctmap-kernel/CtPair"
import * as Effect from "effect/Effect"
import * as Applicable from "../Applicable.ts"
import { ask, type Question } from "../Assent.ts"
import * as Clock from "../Clock.ts"
import * as Entries from "../Entries.ts"
import * as Failures from "../Failures.ts"
import * as Kernel from "../Kernel.ts"
import type { ClockOptions, Passing } from "../Options.ts"
import { missingFor } from "../missingFor.ts"
import * as Pairs from "../Pairs.ts"
import * as PassProgress from "../PassProgress.ts"
import * as PassReport from "../render/PassReport.ts"

/** @since 0.1.0 */
export type PurgeOrphansOptions = Omit<Passing, keyof ClockOptions>

/** @since 0.1.0 */
export const purgeOrphans = (root: string, options: PurgeOrphansOptions) =>
  Kernel.provide(
    root,
    Effect.gen(function* () {
      const limits = limitsOf(options)
      const chosen = yield* Pairs.chooseNat(options)
      yield* passes(options, chosen, limits, (pair, settings) => NatPurge.orphans(pair, settings))
    })
  )

/** @since 0.1.0 */
export interface FlushOptions extends Passing {
  readonly where: string | undefined
  readonly yes: boolean
}

/** @since 0.1.0 */
export const flush = (root: string, options: FlushOptions) =>
  Kernel.provide(
    root,
    Effect.gen(function* () {
      const filter = yield* Entries.parse(options.where)
      yield* Applicable.nat(filter, options.release)
      const reading = filter === undefined ? undefined : yield* Clock.read(options)
      const context = {
        release: options.release,
        ...(reading === undefined ? {} : { now: reading.now, secondsPerUnit: secondsPerUnit(reading.source) })
      }
      const chosen = yield* Pairs.chooseNat(options)
      // Everything is what was asked for; a filter may accept more than was meant.
      const limits = filter === undefined ? { ...limitsOf(options), maxDeleteRatio: 1 } : limitsOf(options)
      const run: Run<Filter.FilterUnsupported> = (pair, settings) =>
        NatPurge.flush(pair, { ...settings, filter, context })
      yield* passes(options, chosen, limits, run, { yes: options.yes, filter })
    })
  )

const limitsOf = ({ maxDeleteRatio, maxDeletions }: PurgeOrphansOptions): Guard.Limits => ({
  ...Guard.defaults,
  ...(maxDeleteRatio === undefined ? {} : { maxDeleteRatio, floor: 0 }),
  ...(maxDeletions === undefined ? {} : { maxDeletions })
})

type Run<E> = (
  pair: CtPair,
  settings: NatPurge.Options
) => Effect.Effect<NatPass | undefined, NatPurge.NatPassError | E, Bpf>

const passes = <E>(
  { budget, dryRun, engine, output }: PurgeOrphansOptions,
  chosen: ReadonlyArray<Pairs.Chosen>,
  limits: Guard.Limits,
  run: Run<E>,
  question?: Pick<Question, "filter" | "yes">
) =>
  Effect.gen(function* () {
    const sweepAll = (isDry: boolean, done: Array<NatPass>) =>
      Failures.collect(chosen, ({ source }) =>
        Effect.scoped(
          Effect.flatMap(source.open, (pair) => {
            const settings: NatPurge.Options = {
              serial: done.length + 1,
              dryRun: isDry,
              limits,
              budget,
              engine: engine === "auto" || engine === "portable" ? engine : "program",
              recorded: (pass) => done.push(pass)
            }
            const maps = pair.nat === undefined ? [] : [pair.nat.map]
            return PassProgress.during(maps, (progress) => run(pair, { ...settings, progress }))
          })
        )
      )
    if (question !== undefined && !dryRun) {
      const whose = Pairs.describe(chosen, "NAT tables")
      const look = Effect.gen(function* () {
        const found: Array<NatPass> = []
        const failed = yield* sweepAll(true, found)
        const sum = (count: "seen" | "wanted") => found.reduce((all, pass) => all + pass[count], 0)
        const looked = { seen: sum("seen"), wanted: sum("wanted") }
        yield* looked.wanted === 0 ? failed : PassReport.warn(limits, found)
        return looked
      })
      if (!(yield* ask({ ...question, whose, consequence: "live connections lose their translation" }, look))) return
    }
    const done: Array<NatPass> = []
    const failed = yield* sweepAll(dryRun, done).pipe(
      Effect.onInterrupt(() => Effect.ignore(PassReport.printNat(output, done)))
    )
    yield* PassReport.printNat(output, done)
    if (dryRun) yield* PassReport.warn(limits, done)
    yield* failed.pipe(Effect.tapError(missingFor(engine)))
  })
