/**
 * How many streams are served at a time, and what ends them all.
 *
 * @since 0.1.0
 */
import { Problem } from "ctmap-api"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as HttpServerRequest from "effect/http/HttpServerRequest"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import type { ServerResponse } from "node:http"

/** Listings at a time: each holds a map open, and an iterator. */
const LISTINGS = 16

/** A listing waits so long for its turn: ten seconds; more in tests. @since 0.1.0 */
export const Patience = Context.Reference<Duration.Duration>("ctmap-agent/api/Patience", {
  defaultValue: () => Duration.seconds(10)
})

/** A reader that takes nothing for so long is given up: a minute; less in tests. @since 0.1.0 */
export const Stall = Context.Reference<Duration.Duration>("ctmap-agent/api/Stall", {
  defaultValue: () => Duration.seconds(60)
})

/**
 * See the module.
 *
 * @since 0.1.0
 */
export class Streams extends Context.Service<
  Streams,
  {
    /** A place among the readers of events, until the scope closes. */
    readonly events: Effect.Effect<void, Problem.Busy, Scope.Scope>
    /** A place among listings, until the scope closes; there may be a wait. */
    readonly listing: Effect.Effect<void, Problem.Busy, Scope.Scope>
    /** Succeeds when the agent stops. */
    readonly stopping: Effect.Effect<void>
    readonly stop: Effect.Effect<void>
  }
>()("ctmap-agent/api/Streams") {}

/** @since 0.1.0 */
export const layer = (maxEventStreams: number): Layer.Layer<Streams> =>
  Layer.effect(
    Streams,
    Effect.gen(function* () {
      const listings = yield* Semaphore.make(LISTINGS)
      const patience = yield* Patience
      const stopped = yield* Deferred.make<void>()
      let readers = 0
      const busy = (detail: string) => new Problem.Busy({ detail })
      return Streams.of({
        events: Effect.acquireRelease(
          Effect.suspend(() => {
            if (readers >= maxEventStreams) {
              return busy(`${readers} readers of events are served already: try later, or raise api-max-event-streams`)
            }
            readers++
            return Effect.void
          }),
          () => Effect.sync(() => void readers--)
        ),
        listing: Effect.acquireRelease(
          Effect.timeoutOrElse(listings.take(1), {
            duration: patience,
            orElse: () => busy(`${LISTINGS} listings are being served already: try later`)
          }),
          () => listings.release(1),
          { interruptible: true }
        ),
        stopping: Deferred.await(stopped),
        stop: Effect.asVoid(Deferred.succeed(stopped, undefined))
      })
    })
  )

/**
 * Gives up a reader that takes nothing for {@link Stall}: what it holds here is let go. The connection breaks, so what it
 * has does not look complete. Without a connection (in tests) there is nothing to give up.
 *
 * @since 0.1.0
 */
export const impatient: Effect.Effect<void, never, HttpServerRequest.HttpServerRequest> = Effect.flatMap(
  Stall,
  Effect.fnUntraced(function* (stall) {
    const request = yield* HttpServerRequest.HttpServerRequest
    const { response } = request as { readonly response?: ServerResponse | (() => ServerResponse) }
    const own = typeof response === "function" ? response() : response
    own?.setTimeout(Duration.toMillis(stall), () => void own.destroy())
  })
)
