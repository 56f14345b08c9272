/**
 * `ctmap upgrade`: replaces pinned CT maps that are not of the wanted size or shape, with or without their entries.
 *
 * @since 0.1.0
 */
import * as NodeServices from "@effect/platform-node/NodeServices"
import * as MapLimits from "ctmap-core/MapLimits"
import * as MapSpec from "ctmap-core/MapSpec"
import * as BpfMap from "ctmap-kernel/BpfMap"
import * as CtMaps from "ctmap-kernel/CtMaps"
import * as Owner from "ctmap-kernel/Owner"
import * as Upgrade from "ctmap-kernel/Upgrade"
import * as Prompt from "effect/cli/Prompt"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { PartlyFailed, Refused } from "../Failure.ts"
import * as Kernel from "../Kernel.ts"
import type { Sizes } from "../Options.ts"
import * as Output from "../Output.ts"

/** @since 0.1.0 */
export interface UpgradeOptions extends Sizes {
  readonly endpoint: number | undefined
  readonly migrate: boolean
  readonly yes: boolean
  readonly dryRun: boolean
}

/** @since 0.1.0 */
export const upgrade = (root: string, { migrate, yes, dryRun, endpoint, ...sizes }: UpgradeOptions) =>
  Kernel.provide(
    root,
    Effect.gen(function* () {
      const limits = yield* Effect.fromResult(MapLimits.check(sizes))
      const owner = endpoint === undefined ? Owner.global : Owner.endpoint(endpoint)
      yield* Effect.gen(function* () {
        const plan = yield* planOf(owner)
        const changes = plan.filter(({ differences }) => differences.length > 0)
        for (const step of plan) yield* Output.write(`${say(step, migrate)}\n`)
        if (changes.length === 0 || dryRun) return
        if (!yes) yield* confirm(changes.length, migrate)
        yield* migrate ? carryOver(changes) : drop(owner)
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
}

const kinds = [
  { family: "ipv4", transport: "tcp" },
  { family: "ipv4", transport: "any" },
  { family: "ipv6", transport: "tcp" },
  { family: "ipv6", transport: "any" }
] as const

/** What would be done, without doing it. Errors: a map that cannot be looked at. */
const planOf = (owner: Owner.Owner) =>
  Effect.gen(function* () {
    const maps = yield* CtMaps.CtMaps
    return yield* Effect.forEach(kinds, (kind) => {
      const which = { ...kind, owner }
      const path = maps.path(which)
      const wanted = maps.spec(which)
      const step = { name: path.slice(path.lastIndexOf("/") + 1), path, wanted }
      return Effect.scoped(BpfMap.open(path)).pipe(
        Effect.map(({ info }): Step => {
          const differences = info.type === MapSpec.mapType.progArray ? [] : MapSpec.differences(wanted, info)
          return { ...step, there: true, differences }
        }),
        Effect.catchReason("BpfError", "PinNotFound", () =>
          Effect.succeed<Step>({ ...step, there: false, differences: [] })
        )
      )
    })
  })

const say = ({ name, there, differences }: Step, migrate: boolean): string => {
  if (!there) return `${name}: not pinned, nothing to do`
  if (differences.length === 0) return `${name}: as wanted, nothing to do`
  const why = differences.map(({ property, wanted, found }) => `${property} is ${found}, wanted ${wanted}`).join(", ")
  return migrate
    ? `${name}: ${why}; copy its entries into a new map and swap the pin`
    : `${name}: ${why}; unpin it: its entries are lost once the datapath uses a new map (--migrate keeps them)`
}

const confirm = (count: number, migrate: boolean) =>
  Effect.gen(function* () {
    const { terminals } = yield* Output.Output
    if (!terminals.stdin || !terminals.stdout) {
      return yield* new Refused({ why: "upgrade changes pinned maps and nobody is there to be asked: add --yes" })
    }
    const message = `${migrate ? "Migrate" : "Unpin"} ${count} ${count === 1 ? "map" : "maps"}?`
    const agreed = yield* Prompt.run(Prompt.Confirm({ message })).pipe(Effect.provide(NodeServices.layer))
    if (!agreed) {
      return yield* new Refused({ why: "nothing was changed" })
    }
  })

const carryOver = (steps: ReadonlyArray<Step>) =>
  Effect.gen(function* () {
    let failed = 0
    for (const { name, path, wanted } of steps) {
      yield* Upgrade.migrate(path, wanted).pipe(
        Effect.matchEffect({
          onSuccess: ({ copied, caughtUp }) =>
            Output.write(
              `${name}: migrated, ${copied} entries copied, ${caughtUp} that were written meanwhile carried over\n`
            ),
          onFailure: ({ message }) => {
            failed++
            return Output.note(`ctmap: ${message}`)
          }
        })
      )
    }
    if (failed > 0) return yield* new PartlyFailed({ summary: `${failed} of ${steps.length} maps were not migrated` })
    yield* Output.note("ctmap: reload the datapath's programs now: until then they use the old maps")
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
