/**
 * From requests to passes, and from what pairs came to, to one answer.
 *
 * @since 0.1.0
 */
import { type Collection, Problem, Request } from "ctmap-api"
import { type CtTime, type Family, Filter, FilterParser } from "ctmap-core"
import { type Collector, type CtMapSources, GcPass, GcRunner, type Guard, NatPass } from "ctmap-gc"
import { type BpfError, type CtPair, type Dump, type KernelClock, Owner, Remedy, type Scan } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import { invalid } from "./Edge.ts"

/** What a pass over a pair can fail with. */
type PairError =
  | BpfError.BpfError
  | CtPair.HalfPair
  | CtPair.NotAPair
  | CtTime.ClockError
  | Dump.UnknownLayout
  | Filter.FilterUnsupported
  | Guard.GuardStopped
  | KernelClock.ImplausibleClock
  | Scan.Incomplete

/** @since 0.1.0 */
export type CollectProblem =
  | Problem.ClockImplausible
  | Problem.GuardStopped
  | Problem.InvalidRequest
  | Problem.KernelFailed
  | Problem.LayoutUnknown
  | Problem.NotFound
  | Problem.PairBroken

/** Deletes what has expired. @since 0.1.0 */
export const gc = ({ dryRun = false, families, owner, where }: Request.Gc) =>
  Effect.gen(function* () {
    const { run } = yield* GcRunner.GcRunner
    const choose = chosen(families, owner)
    const request = { expired: true, ...(where === undefined ? {} : { within: parsed(where) }) }
    return yield* answered(dryRun, ofCt, run(request, { dryRun, choose }))
  })

/** Deletes what fits every selector. @since 0.1.0 */
export const purge = ({ dryRun = false, families, ips, owner, ports, protocol, where }: Request.Purge) =>
  Effect.gen(function* () {
    const { run } = yield* GcRunner.GcRunner
    const terms = [
      ...(ips === undefined ? [] : [parsed(`host {${ips.join(", ")}}`)]),
      ...(ports === undefined ? [] : [parsed(`port {${ports.join(", ")}}`)]),
      ...(protocol === undefined ? [] : [parsed(`proto ${protocol}`)]),
      ...(where === undefined ? [] : [parsed(where)])
    ]
    const filter = terms.reduce((left, right) => Filter.and(left, right))
    const can = ips?.map(Request.familyOf)
    const isOf = chosen(families, owner)
    const choose: GcRunner.Choice = (source) => isOf(source) && (can === undefined || can.includes(source.family))
    return yield* answered(dryRun, ofCt, run({ filter }, { dryRun, choose }))
  })

/** Deletes NAT entries whose connection is gone. @since 0.1.0 */
export const purgeOrphans = ({ dryRun = false, families, owner }: Request.PurgeOrphans) =>
  Effect.gen(function* () {
    const { purgeOrphans: run } = yield* GcRunner.GcRunner
    return yield* answered(dryRun, ofNat, run({ dryRun, choose: chosen(families, owner) }))
  })

/** The schema of the request has parsed it before. */
const parsed = (text: string): Filter.Filter => Result.getOrThrow(FilterParser.parse(text))

/** Pairs of these families and of this owner; all where they are left out. */
const chosen =
  (families: ReadonlyArray<Family.Family> | undefined, owner: string | undefined): GcRunner.Choice =>
  (source) =>
    (families === undefined || families.includes(source.family)) &&
    (owner === undefined || Owner.describe(source.owner) === owner)

/** Of a pass over CT maps or over a NAT map. */
type Outcome<P> = Omit<Collection.CtOutcome, "pass"> & { readonly pass?: P }
type Told<P> = Pick<Outcome<P>, "wanted" | "deleted"> & { readonly pass: P }

interface Answer<P> extends Omit<Collection.CtCollection, "pairs"> {
  readonly pairs: ReadonlyArray<Outcome<P>>
}

/** What is to be told of passes of one kind. */
interface Kind<A, P> {
  /** Nothing of a pair that has no such map. */
  readonly toldOf: (result: A) => Told<P> | undefined
  /** Passes that were, the ones that broke off among them. */
  readonly recorded: (runner: GcRunner.GcRunner["Service"]) => Effect.Effect<ReadonlyArray<P>>
  readonly deletedOf: (pass: P) => number
}

const ofCt: Kind<Collector.Collected, GcPass.GcPass> = {
  toldOf: ({ counts, pass }) => ({ ...counts, pass }),
  recorded: ({ lastPasses }) => lastPasses,
  deletedOf: (pass) => GcPass.total(pass, "deleted")
}

const ofNat: Kind<NatPass.NatPass | undefined, NatPass.NatPass> = {
  toldOf: (pass) => pass && { wanted: pass.wanted, deleted: NatPass.deleted(pass), pass },
  recorded: ({ natHistory }) => natHistory,
  deletedOf: NatPass.deleted
}

/** What passes that broke off had deleted by then, for all of their requests; by pair. */
type BrokenOff = (pair: string) => number

/** One answer, or the gravest of what pairs were refused for. */
const answered = <A, P extends GcPass.GcPass | NatPass.NatPass>(
  dryRun: boolean,
  { deletedOf, recorded, toldOf }: Kind<A, P>,
  run: Effect.Effect<GcRunner.Ran<A, PairError>, CtMapSources.OpenError>
): Effect.Effect<Answer<P>, CollectProblem, GcRunner.GcRunner> =>
  Effect.gen(function* () {
    const passes = recorded(yield* GcRunner.GcRunner)
    const before = new Set((yield* passes).map(({ serial }) => serial))
    const ran = yield* Effect.mapError(
      run,
      ({ message }) => new Problem.KernelFailed({ detail: message, deleted: 0, pairs: [] })
    )
    const broken = (yield* passes).filter(({ completed, serial }) => !completed && !before.has(serial))
    const brokenOff: BrokenOff = (pair) =>
      broken
        .filter(({ family, owner }) => `${family} ${owner}` === pair)
        .reduce((all, pass) => all + deletedOf(pass), 0)
    const pairs = ran.pairs.map((each) => outcomeOf(each, toldOf, brokenOff))
    const sum = (name: "wanted" | "deleted") => pairs.reduce((total, outcome) => total + outcome[name], 0)
    const done: Done = { deleted: sum("deleted"), pairs: pairs as Done["pairs"] }
    const errors = ran.pairs.flatMap(({ exit }) => Option.toArray(Exit.findErrorOption(exit)))
    const [worst] = errors.filter((error) => !isAbsent(error)).toSorted((a, b) => gravity(a) - gravity(b))
    if (worst !== undefined) return yield* Effect.fail(problemOf(worst, done))
    if (pairs.some(({ outcome }) => outcome === "failed")) {
      return yield* new Problem.KernelFailed({ ...done, detail: "the pass was broken off, as the agent stops" })
    }
    if (pairs.every(({ outcome }) => outcome === "absent")) {
      const why = pairs[0]?.why ?? "there are no such tables: /v1/maps lists what is pinned"
      return yield* new Problem.NotFound({ detail: why })
    }
    return { dryRun, wanted: sum("wanted"), deleted: done.deleted, pairs }
  })

const outcomeOf = <A, P>(
  { exit, pair, source }: GcRunner.Ran<A, PairError>["pairs"][number],
  toldOf: Kind<A, P>["toldOf"],
  brokenOff: BrokenOff
): Outcome<P> => {
  const about = { pair, family: source.family, owner: Owner.describe(source.owner) }
  const none = { ...about, wanted: 0, deleted: 0 }
  if (Exit.isSuccess(exit)) {
    const told = toldOf(exit.value)
    return told === undefined
      ? { ...none, outcome: "absent", why: "it has no NAT map" }
      : { ...about, outcome: "collected", ...told }
  }
  const error = Option.getOrUndefined(Exit.findErrorOption(exit))
  if (error === undefined) return { ...none, outcome: "failed", why: "it was broken off" }
  if (isAbsent(error)) return { ...none, outcome: "absent", why: error.message }
  const outcome = isRefusal(error) ? "stopped" : "failed"
  if (error._tag === "GuardStopped") {
    return { ...about, outcome, why: sentence(error), wanted: error.wanted, deleted: error.deleted }
  }
  const deleted = brokenOff(pair)
  return { ...about, outcome, why: sentence(error), wanted: deleted, deleted }
}

/** To whoever asked. */
const sentence = (error: PairError): string => Remedy.sentence(error, "request")

interface Done {
  readonly deleted: number
  readonly pairs: ReadonlyArray<Collection.CtOutcome | Collection.NatOutcome>
}

const isAbsent = (error: PairError): boolean => error._tag === "BpfError" && error.reason._tag === "PinNotFound"

const isRefusal = ({ _tag }: PairError): boolean => gravity({ _tag }) < order.indexOf("ClockError")

const order: ReadonlyArray<PairError["_tag"]> = [
  "FilterUnsupported",
  "GuardStopped",
  "ImplausibleClock",
  "UnknownLayout",
  "NotAPair",
  "HalfPair",
  "ClockError",
  "BpfError",
  "Incomplete"
]
const gravity = ({ _tag }: Pick<PairError, "_tag">): number => order.indexOf(_tag)

const problemOf = (error: PairError, done: Done): CollectProblem => {
  const elsewhere = done.deleted - ("deleted" in error ? error.deleted : 0)
  const said = sentence(error)
  const detail = elsewhere > 0 ? `${said} (${elsewhere} entries of other tables were deleted)` : said
  switch (error._tag) {
    case "FilterUnsupported":
      return invalid([{ path: ["payload", "where"], message: error.message }])
    case "GuardStopped": {
      const { allowed, entries, limit, map, wanted } = error
      return new Problem.GuardStopped({ ...done, detail, allowed, entries, limit, map, wanted })
    }
    case "ImplausibleClock":
      return new Problem.ClockImplausible({ ...done, detail, map: error.map })
    case "UnknownLayout":
      return new Problem.LayoutUnknown({ ...done, detail, map: error.map })
    case "NotAPair":
    case "HalfPair":
      return new Problem.PairBroken({ ...done, detail })
    default:
      return new Problem.KernelFailed({ ...done, detail })
  }
}
