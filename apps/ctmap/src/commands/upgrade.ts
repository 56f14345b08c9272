/**
 * `ctmap upgrade`: replaces pinned CT maps that are not of the wanted size or shape, with or without their entries.
 *
 * @since 0.1.0
 */
import type { Family, Release } from "ctmap-core"
import * as MapLimits from "ctmap-core/MapLimits"
import * as MapSpec from "ctmap-core/MapSpec"
import type { Bpf } from "ctmap-kernel/Bpf"
import type { BpfError } from "ctmap-kernel/BpfError"
import * as BpfMap from "ctmap-kernel/BpfMap"
import * as CtMaps from "ctmap-kernel/CtMaps"
import * as Owner from "ctmap-kernel/Owner"
import * as Upgrade from "ctmap-kernel/Upgrade"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Result from "effect/Result"
import * as Clock from "../Clock.ts"
import { confirm } from "../Confirm.ts"
import { PartlyFailed, Refused } from "../Failure.ts"
import * as Kernel from "../Kernel.ts"
import type { ClockOptions, Sizes } from "../Options.ts"
import * as Output from "../Output.ts"
import * as Selection from "../Selection.ts"

/** @since 0.1.0 */
export interface UpgradeOptions extends Sizes, ClockOptions {
  readonly endpoint: number | undefined
  readonly migrate: boolean
  readonly yes: boolean
  readonly dryRun: boolean
  /** The release that is going to use the new maps, where entries of another are to be rewritten for it. */
  readonly toRelease: Release.Release | undefined
  /** How long the old maps must have been quiet. */
  readonly settle: Duration.Duration
  /** How long to wait for that. */
  readonly giveUpAfter: Duration.Duration
}

/** @since 0.1.0 */
export const upgrade = (root: string, options: UpgradeOptions) =>
  Kernel.provide(
    root,
    Effect.gen(function* () {
      const { ctTcp, ctAny, nat, endpoint } = options
      yield* Clock.check(options)
      const limits = yield* Effect.fromResult(MapLimits.check({ ctTcp, ctAny, nat }))
      const owner = endpoint === undefined ? Owner.global : Owner.endpoint(endpoint)
      yield* Effect.gen(function* () {
        yield* Selection.checkRoot
        const plan = yield* planOf(owner, options)
        if (!plan.some(({ there }) => there)) return yield* Selection.nothing("CT", owner, { family: "all" })
        for (const step of plan) yield* Output.write(`${say(step, options)}\n`)
        const changes = plan.filter(({ differences }) => differences.length > 0)
        if (changes.length === 0 || options.dryRun) return
        const stuck = changes.find(({ objection }) => objection !== undefined)
        if (stuck !== undefined) {
          return yield* new Refused({
            why: `${stuck.path}: ${stuck.objection}: its entries cannot be carried over, and nothing was changed; without --migrate it is unpinned`
          })
        }
        if (!options.yes) {
          yield* confirm({
            message: `${options.migrate ? "Migrate" : "Unpin"} ${changes.length} ${changes.length === 1 ? "map" : "maps"}?`,
            yes: false,
            what: "upgrade changes pinned maps"
          })
        }
        yield* options.migrate ? carryOver(changes, options) : drop(owner)
      }).pipe(Effect.provide(Layer.effect(CtMaps.CtMaps, CtMaps.make({ limits }))))
    })
  )

/** What is to be done with one map. */
interface Step {
  readonly name: string
  readonly path: string
  readonly wanted: MapSpec.MapSpec
  readonly there: boolean
  readonly differences: ReadonlyArray<MapSpec.Difference>
  /** Why its entries cannot be carried over, where they are to be. */
  readonly objection: string | undefined
  readonly convert: Upgrade.MigrateOptions["convert"]
}

const kinds = [
  { family: "ipv4", transport: "tcp" },
  { family: "ipv4", transport: "any" },
  { family: "ipv6", transport: "tcp" },
  { family: "ipv6", transport: "any" }
] as const

/** What would be done, without doing it. Errors: a map that cannot be looked at. */
const planOf = (owner: Owner.Owner, options: UpgradeOptions) =>
  Effect.gen(function* () {
    const maps = yield* CtMaps.CtMaps
    return yield* Effect.forEach(kinds, (kind) => {
      const which = { ...kind, owner }
      const path = maps.path(which)
      const wanted = maps.spec(which)
      const nothing = { differences: [], objection: undefined, convert: undefined }
      const step = { name: path.slice(path.lastIndexOf("/") + 1), path, wanted, ...nothing }
      return Effect.scoped(Effect.flatMap(BpfMap.open(path), (map) => look(map, kind.family, step, options))).pipe(
        Effect.catchReason("BpfError", "PinNotFound", () => Effect.succeed<Step>({ ...step, there: false }))
      )
    })
  })

const look = (
  map: BpfMap.BpfMap,
  family: Family.Family,
  step: Omit<Step, "there">,
  { migrate, toRelease }: UpgradeOptions
): Effect.Effect<Step, BpfError, Bpf> =>
  Effect.gen(function* () {
    const { info } = map
    const found = { ...step, there: true }
    const differences = info.type === MapSpec.mapType.progArray ? [] : MapSpec.differences(step.wanted, info)
    if (!migrate || differences.length === 0) return { ...found, differences }
    const objection = Upgrade.objection(step.wanted, info)
    if (objection !== undefined || toRelease === undefined) return { ...found, differences, objection }
    const layout = yield* CtMaps.verdict(map, family, toRelease)
    return layout._tag === "Unknown"
      ? { ...found, differences, objection: layout.why }
      : { ...found, differences, convert: Upgrade.convert(layout.release, toRelease) }
  })

const say = ({ name, there, differences, objection }: Step, { migrate }: UpgradeOptions): string => {
  if (!there) return `${name}: not pinned, nothing to do`
  if (differences.length === 0) return `${name}: as wanted, nothing to do`
  const why = differences.map(({ property, wanted, found }) => `${property} is ${found}, wanted ${wanted}`).join(", ")
  return !migrate
    ? `${name}: ${why}; unpin it: its entries are lost once the datapath uses a new map (--migrate keeps them)`
    : objection === undefined
      ? `${name}: ${why}; copy its entries into a new map and swap the pin`
      : `${name}: ${why}; its entries cannot be carried over: ${objection}`
}

/** First every map is copied and its pin swapped, then programs are to be reloaded, once; and until then, caught up with. */
const carryOver = (steps: ReadonlyArray<Step>, options: UpgradeOptions) =>
  Effect.gen(function* () {
    const output = yield* Output.Output
    const clock = yield* clockOf(options)
    const swapped: Array<string> = []
    let unwritten: Output.WriteError | undefined
    // From the first swap on, a reader that goes away is no reason to leave the rest undone.
    const write = (line: string) =>
      output.write(`${line}\n`).pipe(Effect.catch((error) => Effect.sync(() => void (unwritten ??= error))))
    const work = Effect.gen(function* () {
      const waiting: Array<{ readonly name: string; readonly catchUp: Swapped["catchUp"] }> = []
      const waits = yield* waitingLine(options)
      for (const { name, path, wanted, convert } of steps) {
        const onPhase = (phase: Upgrade.Phase) =>
          phase._tag === "Swapped"
            ? Effect.sync(() => void swapped.push(name))
            : phase._tag === "CatchingUp"
              ? waits.tell(name, phase)
              : Effect.void
        const done = yield* Effect.result(
          Upgrade.swap(path, wanted, {
            onPhase,
            settle: options.settle,
            giveUpAfter: options.giveUpAfter,
            ...(clock === undefined ? {} : { clock }),
            ...(convert === undefined ? {} : { convert })
          })
        )
        if (Result.isFailure(done)) yield* output.note(`ctmap: ${done.failure.message}`)
        else {
          waiting.push({ name, catchUp: done.success.catchUp })
          yield* write(`${name}: migrated, ${summary(done.success)}`)
          if (done.success.untimely !== undefined) yield* output.note(doubt(name, done.success.untimely))
        }
      }
      if (waiting.length > 0) yield* output.note(reload(options))
      const outcomes = yield* Effect.forEach(waiting, ({ catchUp }) => Effect.result(catchUp), {
        concurrency: "unbounded"
      }).pipe(Effect.ensuring(waits.end))
      let busy = 0
      for (const [i, outcome] of outcomes.entries()) {
        if (Result.isFailure(outcome) || !outcome.success.quiet) busy++
        yield* Result.isFailure(outcome)
          ? output.note(`ctmap: ${outcome.failure.message}`)
          : write(`${waiting[i]!.name}: ${ending(outcome.success, options)}`)
      }
      const failed = steps.length - waiting.length
      const summaries = [
        ...(failed > 0 ? [`${failed} of ${steps.length} maps were not migrated`] : []),
        ...(busy > 0
          ? [`${busy} of ${waiting.length} old maps may still be in use: reload the programs that use them`]
          : [])
      ]
      if (summaries.length > 0) return yield* new PartlyFailed({ summary: summaries.join("; ") })
      if (unwritten !== undefined) return yield* unwritten
    })
    yield* Effect.onInterrupt(work, () => output.note(interrupted(steps, swapped)))
  })

type Swapped = Effect.Success<ReturnType<typeof Upgrade.swap>>

/** A clock that cannot be had leaves nothing behind; the migration goes on without. */
const clockOf = (options: UpgradeOptions) =>
  Clock.service(options).pipe(
    Effect.catchTag("ClockError", ({ message }) =>
      Effect.as(Output.note(`ctmap: warning: expired entries are copied too: ${message}`), undefined)
    )
  )

const entries = (n: number): string => `${n} ${n === 1 ? "entry" : "entries"}`

const summary = ({ copied, expired, removed }: Upgrade.Swapped): string =>
  [
    `${entries(copied)} copied`,
    ...(expired > 0 ? [`${expired} expired left behind`] : []),
    ...(removed > 0 ? [`${removed} deleted meanwhile`] : [])
  ].join(", ")

const doubt = (name: string, untimely: NonNullable<Upgrade.Swapped["untimely"]>): string =>
  `ctmap: warning: expired entries of ${name} were copied too: ${
    untimely._tag === "ImplausibleClock"
      ? `its times do not fit the ${untimely.source.mode} clock, which --clock or --now can change`
      : untimely.message
  }`

const reload = ({ settle, giveUpAfter }: UpgradeOptions): string =>
  "ctmap: the pins name the new maps: reload the datapath's programs now. What they write to the old maps until then " +
  `is carried over, until that has been quiet for ${Duration.format(settle)}, at most for ${Duration.format(giveUpAfter)}; ctrl-C ends it`

const ending = ({ caughtUp, quiet, quietFor }: Upgrade.CaughtUp, { giveUpAfter }: UpgradeOptions): string =>
  (quiet
    ? `old map quiet for ${Math.floor(quietFor / 1000)} s`
    : `gave up after ${Duration.format(giveUpAfter)}, programs still write to the old map`) +
  `; ${entries(caughtUp)} carried over`

const interrupted = (steps: ReadonlyArray<Step>, swapped: ReadonlyArray<string>): string => {
  if (swapped.length === 0) return "ctmap: interrupted: the old maps are pinned as before, and nothing was changed"
  const rest = steps.filter(({ name }) => !swapped.includes(name)).map(({ name }) => name)
  return (
    `ctmap: interrupted: the new maps stay pinned, with every entry up to now: ${swapped.join(", ")}; what programs ` +
    "write to the old maps from now on is not carried over: reload them at once" +
    (rest.length === 0 ? "" : `; not migrated: ${rest.join(", ")}`)
  )
}

/** One line on a terminal: how long all old maps have been quiet. */
const waitingLine = ({ settle }: UpgradeOptions) =>
  Effect.map(Output.Output, ({ progress, terminals }) => {
    const rounds = new Map<string, { readonly quietFor: number; readonly caughtUp: number }>()
    let shown = ""
    return {
      tell: (name: string, done: { readonly quietFor: number; readonly caughtUp: number }) => {
        rounds.set(name, done)
        const quiet = Math.min(...[...rounds.values()].map(({ quietFor }) => quietFor))
        const carried = [...rounds.values()].reduce((sum, { caughtUp }) => sum + caughtUp, 0)
        const line = `old maps quiet for ${Math.floor(quiet / 1000)} s of ${Duration.format(settle)}; ${entries(carried)} carried over`
        if (!terminals.stderr || line === shown) return Effect.void
        shown = line
        return progress(line)
      },
      end: Effect.suspend(() => (shown === "" ? Effect.void : progress("")))
    }
  })

const drop = (owner: Owner.Owner) =>
  Effect.gen(function* () {
    const outcomes = yield* Upgrade.deleteIfUpgradeNeeded(owner)
    for (const { path, outcome, error } of outcomes) {
      if (outcome === "deleted") yield* Output.write(`${path}: unpinned\n`)
      if (error !== undefined) yield* Output.note(`ctmap: ${error.message}`)
    }
    const failed = outcomes.filter(({ outcome }) => outcome === "failed").length
    if (failed > 0)
      return yield* new PartlyFailed({
        summary: `${failed} of ${outcomes.length} maps could not be checked or unpinned`
      })
  })
