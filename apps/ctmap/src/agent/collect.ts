/**
 * `gc`, `purge` and `nat purge-orphans` by an agent: its passes, reported as our own.
 *
 * @since 0.1.0
 */
import type { AgentError } from "ctmap-api/AgentClient"
import type * as Collection from "ctmap-api/Collection"
import type * as Request from "ctmap-api/Request"
import * as FilterParser from "ctmap-core/FilterParser"
import * as FilterPrinter from "ctmap-core/FilterPrinter"
import { type GcPass, total } from "ctmap-gc/GcPass"
import * as Guard from "ctmap-gc/Guard"
import type { NatPass } from "ctmap-gc/NatPass"
import * as Effect from "effect/Effect"
import * as Applicable from "../Applicable.ts"
import { ask } from "../Assent.ts"
import type { GcOptions, PurgeOptions } from "../commands/gc.ts"
import type { PurgeOrphansOptions } from "../commands/natPurge.ts"
import type { UsageError } from "../Failure.ts"
import * as MapFlags from "../MapFlags.ts"
import type { Agent, Selection } from "../Options.ts"
import * as Output from "../Output.ts"
import { list, purgeFilter } from "../purgeFilter.ts"
import * as PassReport from "../render/PassReport.ts"
import * as Connection from "./Connection.ts"
import * as Refuse from "./refuse.ts"

/** @since 0.1.0 */
export const gc = (agent: Agent, options: GcOptions) =>
  Connection.provide(agent, (client) =>
    Effect.gen(function* () {
      const { dryRun, output, where } = options
      yield* refuseSettings(options)
      yield* Refuse.refuse(Refuse.maps(options), wholePairs)
      if (where !== undefined) yield* Applicable.anyCt(yield* Effect.fromResult(FilterParser.parse(where)))
      const owner = yield* ownerOf(options)
      const request: Request.Gc = { ...familiesOf(options), ...(where === undefined ? {} : { where }), owner, dryRun }
      const passes = yield* reported(client.gc(request), (pairs) => PassReport.print(output, passesOf(pairs)))
      // Expiry is not limited by share.
      if (dryRun) yield* warn(client, passes, { maxDeleteRatio: 1 })
    })
  )

/** @since 0.1.0 */
export const purge = (agent: Agent, options: PurgeOptions) =>
  Connection.provide(agent, (client) =>
    Effect.gen(function* () {
      const { dryRun, output, yes } = options
      yield* refuseSettings(options)
      yield* Refuse.refuse(Refuse.maps(options), wholePairs)
      const filter = yield* purgeFilter(options)
      yield* Applicable.anyCt(filter)
      const owner = yield* ownerOf(options)
      const request: Request.Purge = {
        ...selectorsOf(options, FilterPrinter.print(filter)),
        ...familiesOf(options),
        owner
      }
      const consequence = "with them go their NAT entries, and live connections are cut"
      if (!dryRun) {
        const look = Effect.gen(function* () {
          const passes = passesOf((yield* client.purge({ ...request, dryRun: true })).pairs)
          const sum = (count: "seen" | "wanted") => passes.reduce((all, pass) => all + total(pass, count), 0)
          const found = { seen: sum("seen"), wanted: sum("wanted") }
          if (found.wanted > 0) yield* warn(client, passes, {})
          return found
        })
        if (!(yield* ask({ yes, filter, whose: whose(client, options, owner), consequence }, look))) return
      }
      const answer = client.purge({ ...request, dryRun })
      const passes = yield* reported(answer, (pairs) => PassReport.print(output, passesOf(pairs)))
      if (dryRun) yield* warn(client, passes, {})
    })
  )

/** In the words of a question. */
const whose = ({ at }: Connection.Client, { family }: Selection, owner: string): string => {
  const tables = family === "all" ? "tables" : family === "ipv4" ? "IPv4 tables" : "IPv6 tables"
  return owner === "global" ? `the global ${tables} of the agent at ${at}` : `the ${tables} of ${owner}, agent at ${at}`
}

/** By selectors, of which the agent makes the most; several protocols are a filter. */
const selectorsOf = ({ ip, port, proto, where }: PurgeOptions, filter: string): Request.Purge => {
  const [ips, ports, protocols] = [list(ip), list(port), list(proto === undefined ? [] : [proto])]
  const [protocol] = protocols
  if (protocols.length > 1) return { where: filter }
  return {
    ...(ips.length === 0 ? {} : { ips }),
    ...(ports.length === 0 ? {} : { ports }),
    ...(protocol === undefined ? {} : { protocol }),
    ...(where === undefined ? {} : { where })
  }
}

/** @since 0.1.0 */
export const purgeOrphans = (agent: Agent, options: PurgeOrphansOptions) =>
  Connection.provide(agent, (client) =>
    Effect.gen(function* () {
      const { dryRun, output } = options
      yield* Refuse.refuse({ ...Refuse.release(options), ...Refuse.passing(options) }, Refuse.settings)
      yield* Refuse.refuse(Refuse.maps(options), "which purges whole NAT maps: --family and --cluster select them")
      yield* Refuse.refuse(Refuse.endpoint(options), "for endpoints have no NAT maps of their own")
      const answer = client.purgeOrphans({ ...familiesOf(options), owner: yield* ownerOf(options), dryRun })
      const passes = yield* reported(answer, (pairs) => PassReport.printNat(output, passesOf(pairs)))
      if (dryRun) yield* Effect.flatMap(limitsOf(client), (limits) => PassReport.warn(limits, passes, "request"))
    })
  )

const refuseSettings = (options: GcOptions) =>
  Refuse.refuse({ ...Refuse.clock(options), ...Refuse.release(options), ...Refuse.passing(options) }, Refuse.settings)

const wholePairs = "which collects TCP and non-TCP tables together: --family, --cluster and --endpoint select them"

const familiesOf = ({ family }: Pick<Selection, "family">): Pick<Request.Gc, "families"> =>
  family === "all" ? {} : { families: [family] }

const ownerOf = (selection: Selection): Effect.Effect<string, UsageError> => {
  const { cluster, endpoint } = selection
  return Effect.as(
    MapFlags.check(selection),
    cluster !== undefined ? `cluster ${cluster}` : endpoint !== undefined ? `endpoint ${endpoint}` : "global"
  )
}

/** What an agent says of a pair. */
type Outcome<P> = Omit<Collection.CtOutcome, "pass"> & { readonly pass?: P }

const passesOf = <P>(pairs: ReadonlyArray<Outcome<P>>): ReadonlyArray<P> =>
  pairs.flatMap(({ pass }) => (pass === undefined ? [] : [pass]))

/** Prints what was done, however it ended; then fails, if it failed. */
const reported = <P extends GcPass | NatPass, R>(
  answer: Effect.Effect<{ readonly pairs: ReadonlyArray<Outcome<P>> }, AgentError>,
  print: (pairs: ReadonlyArray<Outcome<P>>) => Effect.Effect<void, Output.WriteError, R>
): Effect.Effect<ReadonlyArray<P>, AgentError | Output.WriteError, R | Output.Output> =>
  Effect.gen(function* () {
    const { pairs } = yield* answer.pipe(
      Effect.tapError((error) => {
        if (!("pairs" in error)) return Effect.void
        const done = error.pairs as ReadonlyArray<Outcome<P>>
        return Effect.andThen(print(done), others(done, error.message))
      }),
      Effect.onInterrupt(() => Output.note(interrupted))
    )
    yield* print(pairs)
    yield* shared(pairs)
    return passesOf(pairs)
  })

/** Whoever leaves hears no answer; what they asked for is withdrawn. */
const interrupted =
  "ctmap: interrupted: the agent deletes nothing more for this from its next batch on; its record says what went by then " +
  "(GET /v1/passes)"

/** Why other pairs were not collected; the gravest is the error itself. */
const others = (pairs: ReadonlyArray<Outcome<unknown>>, said: string) =>
  Effect.forEach(
    pairs.filter(({ outcome, why = "" }) => outcome !== "collected" && outcome !== "absent" && !said.startsWith(why)),
    ({ pair, why = "" }) => Output.note(`ctmap: ${pair}: ${why}`),
    { discard: true }
  )

/** A pass that others asked for, too, has their counts in its rows. */
const shared = (pairs: ReadonlyArray<Outcome<GcPass | NatPass>>) =>
  Effect.forEach(
    pairs.filter(({ pass }) => pass !== undefined && "requests" in pass && pass.requests.length > 1),
    ({ deleted, pair }) =>
      Output.note(`ctmap: the pass over ${pair} was shared with others: ${deleted.toLocaleString("en")} went for this`),
    { discard: true }
  )

/** Says where the agent's guard would have stopped passes that only looked. */
const warn = (client: Connection.Client, passes: ReadonlyArray<GcPass>, but: Partial<Guard.Limits>) =>
  Effect.flatMap(limitsOf(client), (limits) =>
    PassReport.warn(
      { ...limits, ...but },
      passes.flatMap(({ maps }) => maps),
      "request"
    )
  )

/** The agent's own limits, as its settings say. */
const limitsOf = (client: Connection.Client): Effect.Effect<Guard.Limits, AgentError> =>
  Effect.map(client.config, ({ settings }) => {
    const number = (name: string): number | undefined => {
      const value = settings.find((setting) => setting.cell === "gc" && setting.name === name)?.value
      return value === undefined || value === "" || Number.isNaN(Number(value)) ? undefined : Number(value)
    }
    const most = number("max-deletions") ?? 0
    return {
      maxDeleteRatio: number("max-delete-ratio") ?? Guard.defaults.maxDeleteRatio,
      floor: number("max-delete-floor") ?? Guard.defaults.floor,
      maxDeletions: most === 0 ? Infinity : most
    }
  })
