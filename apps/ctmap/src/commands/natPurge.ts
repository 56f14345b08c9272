/**
 * `ctmap nat flush`, `ctmap nat purge-orphans`: passes over NAT maps that delete, or say what they would.
 *
 * @since 0.1.0
 */
import { secondsPerUnit } from "ctmap-core/CtTime"
import * as FilterPrinter from "ctmap-core/FilterPrinter"
import * as Guard from "ctmap-gc/Guard"
import type { NatPass } from "ctmap-gc/NatPass"
import * as NatPurge from "ctmap-gc/NatPurge"
import type { Bpf } from "ctmap-kernel/Bpf"
import type { CtPair } from "ctmap-kernel/CtPair"
import * as Effect from "effect/Effect"
import * as Clock from "../Clock.ts"
import { confirm } from "../Confirm.ts"
import * as Entries from "../Entries.ts"
import { NotFound } from "../Failure.ts"
import * as Failures from "../Failures.ts"
import * as Kernel from "../Kernel.ts"
import type { ClockOptions, Passing } from "../Options.ts"
import * as Output from "../Output.ts"
import * as Pairs from "../Pairs.ts"
import * as Progress from "../Progress.ts"
import * as PassReport from "../render/PassReport.ts"

/** @since 0.1.0 */
export type PurgeOrphansOptions = Omit<Passing, keyof ClockOptions>

/** @since 0.1.0 */
export const purgeOrphans = (root: string, options: PurgeOrphansOptions) =>
  Kernel.provide(
    root,
    Effect.gen(function* () {
      const chosen = yield* Pairs.choose(options)
      yield* passes(options, chosen, (pair, settings) =>
        NatPurge.orphans(pair, { ...settings, limits: limitsOf(options) })
      )
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
      const reading = filter === undefined ? undefined : yield* Clock.read(options)
      const context = {
        release: options.release,
        ...(reading === undefined ? {} : { now: reading.now, secondsPerUnit: secondsPerUnit(reading.source) })
      }
      const chosen = yield* Pairs.choose(options)
      const what =
        filter === undefined ? "every NAT entry" : `every NAT entry that matches "${FilterPrinter.print(filter)}"`
      if (!options.dryRun) {
        const whose = chosen.map(({ source }) => Pairs.describe(source)).join(", ")
        yield* Output.note(`ctmap: deletes ${what} of ${whose}: live connections lose their translation`)
        const message = `Delete ${what} of ${whose}?`
        yield* confirm({ yes: options.yes, what: "this cuts live connections", message })
      }
      yield* passes(options, chosen, (pair, settings) =>
        NatPurge.flush(pair, { ...settings, limits: limitsOf(options), filter, context })
      )
    })
  )

const limitsOf = ({ maxDeleteRatio, maxDeletions }: PurgeOrphansOptions): Guard.Limits => ({
  ...Guard.defaults,
  ...(maxDeleteRatio === undefined ? {} : { maxDeleteRatio, floor: 0 }),
  ...(maxDeletions === undefined ? {} : { maxDeletions })
})

const passes = <E>(
  { budget, dryRun, engine, output }: PurgeOrphansOptions,
  chosen: ReadonlyArray<Pairs.Chosen>,
  run: (pair: CtPair, options: NatPurge.Options) => Effect.Effect<NatPass | undefined, E, Bpf>
) =>
  Effect.gen(function* () {
    const done: Array<NatPass> = []
    let found = 0
    const failed = yield* Failures.collect(chosen, ({ source }) =>
      Effect.scoped(
        Effect.flatMap(source.open, (pair) => {
          if (pair.nat !== undefined) found++
          return Progress.during((progress) =>
            run(pair, {
              serial: done.length + 1,
              dryRun,
              budget,
              engine: engine === "portable" ? "portable" : engine === "hybrid" ? "program" : "auto",
              progress,
              recorded: (pass) => done.push(pass)
            })
          )
        })
      )
    )
    if (found === 0) {
      yield* failed
      return yield* new NotFound({
        what: `no NAT map is pinned beside the CT maps of the selection; \`ctmap maps\` lists what is`
      })
    }
    yield* PassReport.printNat(output, done)
    yield* failed
  })
