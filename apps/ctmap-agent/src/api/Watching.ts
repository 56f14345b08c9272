/**
 * What passes delete, as server-sent events.
 *
 * Owns that a slow reader costs nobody anything but itself: batches and passes wait in buffers of fixed size, and what
 * does not fit is counted and told.
 *
 * @since 0.1.0
 */
import type { AgentStream, Problem, Request } from "ctmap-api"
import { CtJson, CtTime, type Filter, FilterParser, FilterPredicate } from "ctmap-core"
import { Collector, GcEvents, type GcPass, GcReason } from "ctmap-gc"
import { KernelClock, Owner } from "ctmap-kernel"
import type * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Queue from "effect/Queue"
import * as Result from "effect/Result"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { invalid } from "./Edge.ts"
import { reading } from "./Reading.ts"

/** A comment keeps the connection, and those on the way, from thinking that it is dead. */
const HEARTBEAT = Duration.seconds(15)

/** Passes that wait for a reader. */
const PASSES = 64
/** Entries of an event. */
const ENTRIES = 64
const LOOKED_AT = 1024

/** @since 0.1.0 */
export type Needs = Collector.Collector | GcEvents.GcEvents | KernelClock.KernelClock

/**
 * Subscribes, from this moment on. What a slow reader is told of passes may be ahead of what they deleted. Errors: a filter that CT tables cannot be asked.
 *
 * @since 0.1.0
 */
export const open = ({
  family,
  reason,
  where
}: Request.EventsQuery): Effect.Effect<Stream.Stream<Uint8Array>, Problem.InvalidRequest, Needs | Scope.Scope> =>
  Effect.gen(function* () {
    const { observe4, observe6 } = yield* GcEvents.GcEvents
    const { passes } = yield* Collector.Collector
    const time = yield* KernelClock.KernelClock
    const filter = where === undefined ? undefined : Result.getOrThrow(FilterParser.parse(where))
    const unsupported = filter === undefined ? undefined : unsupportedBy(filter)
    if (unsupported !== undefined)
      return yield* Effect.fail(invalid([{ path: ["query", "where"], message: unsupported }]))
    const reasons = reason === undefined ? undefined : new Set(reason.map((name) => GcReason.number[name]))
    let lostPasses = 0
    const ended = yield* Queue.dropping<GcPass.GcPass>(PASSES)
    const about = ({ family: of }: Pick<GcPass.GcPass, "family">) => family === undefined || of === family
    yield* Effect.forkScoped(
      Stream.runForEach(passes, (pass) =>
        Effect.sync(() => {
          if (about(pass) && !Queue.offerUnsafe(ended, pass)) lostPasses++
        })
      ),
      { startImmediately: true }
    )
    const observed = yield* Effect.forEach(
      [...(family === "ipv6" ? [] : [observe4]), ...(family === "ipv4" ? [] : [observe6])],
      fromNowOn
    )
    const deletions = observed.map((events) =>
      Stream.flatMap(events, (event) =>
        event._tag === "Lost"
          ? Stream.succeed(lostEvent({ entries: event.entries, passes: 0 }))
          : Stream.unwrap(Effect.map(reading(time), (clock) => batchEvents(event, { clock, filter, reasons })))
      )
    )
    const passEvents = Stream.fromQueue(ended).pipe(
      Stream.flatMap((pass) => {
        const lost = lostPasses
        lostPasses = 0
        const told = eventText({ event: "pass", data: pass })
        return lost === 0 ? Stream.succeed(told) : Stream.make(told, lostEvent({ entries: 0, passes: lost }))
      })
    )
    const heartbeat = Stream.map(Stream.tick(HEARTBEAT), () => comment)
    return Stream.mergeAll([...deletions, passEvents, heartbeat], { concurrency: "unbounded", bufferSize: 1 })
  })

/** Subscribed when this is done, not when somebody reads; of what waits here there is one element. */
const fromNowOn = <A>(events: Stream.Stream<A>): Effect.Effect<Stream.Stream<A>, never, Scope.Scope> =>
  Effect.gen(function* () {
    const waiting = yield* Queue.bounded<A, Cause.Done>(1)
    yield* Effect.forkScoped(
      Effect.ensuring(
        Stream.runForEach(events, (event) => Queue.offer(waiting, event)),
        Queue.end(waiting)
      ),
      { startImmediately: true }
    )
    return Stream.fromQueue(waiting)
  })

const encoder = new TextEncoder()
const comment = encoder.encode(": alive\n\n")

const eventText = ({ data, event }: AgentStream.Event): Uint8Array =>
  encoder.encode(`event: ${event}\ndata: ${JSON.stringify(data)}\n\n`)

const lostEvent = (data: AgentStream.Lost): Uint8Array => eventText({ event: "lost", data })

/** Why a filter means nothing for CT tables, or needs a clock that there is not. */
const unsupportedBy = (filter: Filter.Filter): string | undefined => {
  const compiled = FilterPredicate.compileCt(filter, { family: "ipv4", release: "1.17", now: 0, secondsPerUnit: 1 })
  return Result.isFailure(compiled) ? compiled.failure.message : undefined
}

interface Selection {
  readonly clock: { readonly source: CtTime.ClockSource; readonly now: number } | undefined
  readonly filter: Filter.Filter | undefined
  readonly reasons: ReadonlySet<number> | undefined
}

/** Those entries of a batch that are asked for, a few at a time. */
const batchEvents = (batch: GcEvents.Deleted, { clock, filter, reasons }: Selection): Stream.Stream<Uint8Array> => {
  const { count, dryRun, family, map, owner, release, serial } = batch
  const columns = GcEvents.columns(batch)
  const time = clock === undefined ? {} : { now: clock.now, secondsPerUnit: CtTime.secondsPerUnit(clock.source) }
  const compiled = filter && FilterPredicate.compileCt(filter, { family, release, ...time })
  // Whether an entry fits cannot be told: it is not held back.
  const fits = compiled === undefined || Result.isFailure(compiled) ? () => true : compiled.success
  const context = { map, ...(clock === undefined ? {} : { clock }) }
  const about = { serial, dryRun, family, owner: Owner.describe(owner), map }
  return Stream.unfold(0, (from) =>
    Effect.gen(function* () {
      if (from >= count) return undefined
      yield* Effect.yieldNow
      const entries: Array<AgentStream.DeletedEntry> = []
      let row = from
      const end = Math.min(count, from + LOOKED_AT)
      for (; row < end && entries.length < ENTRIES; row++) {
        const number = batch.reasons[row]!
        if (reasons?.has(number) === false || !fits(columns, row)) continue
        entries.push({ reason: GcReason.names[number]!, entry: CtJson.ctRecord(columns, row, context) })
      }
      return [entries.length === 0 ? none : eventText({ event: "deleted", data: { ...about, entries } }), row] as const
    })
  ).pipe(Stream.filter((text) => text.length > 0))
}

const none = new Uint8Array(0)
