/**
 * What a listener serves: the contract, its document, probes and metrics.
 *
 * @since 0.1.0
 */
import { AgentApi } from "ctmap-api"
import { Lifecycle } from "ctmap-cell"
import * as Effect from "effect/Effect"
import * as HttpApiBuilder from "effect/http-api/HttpApiBuilder"
import * as OpenApi from "effect/http-api/OpenApi"
import * as HttpRouter from "effect/http/HttpRouter"
import * as HttpServerRespondable from "effect/http/HttpServerRespondable"
import * as HttpServerResponse from "effect/http/HttpServerResponse"
import * as Layer from "effect/Layer"
import { Exposition } from "../Exposition.ts"
import * as Access from "./Access.ts"
import * as Edge from "./Edge.ts"
import * as Handlers from "./Handlers.ts"

/** Of Prometheus. */
const METRICS = "text/plain; version=0.0.4; charset=utf-8"

const metrics = Effect.flatMap(Exposition, ({ text }) =>
  Effect.map(text, (body) => HttpServerResponse.text(body, { contentType: METRICS }))
)

const readOnly = ["GET", "HEAD"] as const

/** Beside the contract. `/healthz` and `/readyz` are for everybody; they tell no more than yes or no. */
const beside = (policy: Access.Policy) =>
  HttpRouter.use(
    Effect.fnUntraced(function* ({ add }) {
      const { isReady } = yield* Lifecycle.Lifecycle
      const exposition = yield* Exposition
      const allowed = <E, R>(answer: Effect.Effect<HttpServerResponse.HttpServerResponse, E, R>) =>
        Effect.andThen(Access.check(policy), answer).pipe(
          Effect.catch((error) =>
            HttpServerRespondable.isRespondable(error)
              ? Effect.orDie(HttpServerRespondable.toResponse(error))
              : Effect.die(error)
          )
        )
      const document = JSON.stringify(OpenApi.fromApi(AgentApi.AgentApi))
      yield* add("GET", "/healthz", HttpServerResponse.text("ok\n"))
      yield* add(
        "GET",
        "/readyz",
        Effect.map(isReady, (ready) =>
          ready ? HttpServerResponse.text("ready\n") : HttpServerResponse.text("not ready\n", { status: 503 })
        )
      )
      yield* add("GET", "/metrics", allowed(Effect.provideService(metrics, Exposition, exposition)))
      yield* add(
        "GET",
        "/v1/openapi.json",
        allowed(Effect.succeed(HttpServerResponse.text(document, { contentType: "application/json" })))
      )
    })
  )

const all: Edge.Paths = new Map([
  ...Edge.paths,
  ...["/healthz", "/readyz", "/metrics", "/v1/openapi.json"].map((path) => [path, readOnly] as const)
])

/** Of a router: paths are what the contract says, and not nearly that; requests are logged at the edge. @since 0.1.0 */
export const options = {
  routerConfig: { ignoreTrailingSlash: false, ignoreDuplicateSlashes: false },
  disableLogger: true,
  disableListenLog: true
} as const

/** For a listener of this policy. @since 0.1.0 */
export const layer = (policy: Access.Policy) =>
  Layer.mergeAll(
    HttpApiBuilder.layer(AgentApi.AgentApi).pipe(
      Layer.provide(Handlers.layer.pipe(Layer.provide(Layer.merge(Access.layer(policy), Edge.layerBoundary))))
    ),
    beside(policy),
    Edge.layer(all)
  )

/** For the listener of Prometheus: its path and no other. @since 0.1.0 */
export const layerMetrics = Layer.merge(
  HttpRouter.use(
    Effect.fnUntraced(function* ({ add }) {
      yield* add("GET", "/metrics", Effect.provideService(metrics, Exposition, yield* Exposition))
    })
  ),
  Edge.layer(new Map([["/metrics", readOnly]]))
)
