/**
 * What every request passes: limits in, problems out, counts and log.
 *
 * Owns that whatever is not a success is a problem document, from whichever layer it comes, and that labels of counts
 * are bounded: paths of the contract or `other`.
 *
 * @since 0.1.0
 */
import { AgentApi, Problem } from "ctmap-api"
import * as ByteSize from "effect/ByteSize"
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as HttpApiMiddleware from "effect/http-api/HttpApiMiddleware"
import * as OpenApi from "effect/http-api/OpenApi"
import * as HttpIncomingMessage from "effect/http/HttpIncomingMessage"
import * as HttpRouter from "effect/http/HttpRouter"
import * as HttpServerError from "effect/http/HttpServerError"
import * as HttpServerRequest from "effect/http/HttpServerRequest"
import * as HttpServerRespondable from "effect/http/HttpServerRespondable"
import * as HttpServerResponse from "effect/http/HttpServerResponse"
import type * as Layer from "effect/Layer"
import * as Metric from "effect/Metric"
import * as SchemaIssue from "effect/SchemaIssue"
import type * as Types from "effect/Types"

/** The longest filter there can be, with room for the rest. */
const MAX_BODY = 128 * 1024

/** Paths that are served, each with its methods. @since 0.1.0 */
export type Paths = ReadonlyMap<string, ReadonlyArray<string>>

/** Those of the contract. @since 0.1.0 */
export const paths: Paths = new Map(
  Object.entries(OpenApi.fromApi(AgentApi.AgentApi).paths).map(([path, item]) => {
    const methods = Object.keys(item).map((method) => method.toUpperCase())
    return [path, methods.includes("GET") ? [...methods, "HEAD"] : methods]
  })
)

/** What is wrong with a request, by the words of the schema; what is wrong with an answer is a mistake of the agent. @since 0.1.0 */
export const layerBoundary: Layer.Layer<AgentApi.Boundary> = HttpApiMiddleware.layerSchemaErrorTransform(
  AgentApi.Boundary,
  (error) => {
    if (error.kind === "Body" || error.kind === "ResponseHeaders") {
      return Effect.andThen(
        Effect.logError("an answer of the API is not what its contract says", error.cause.message),
        Effect.fail(
          new Problem.InternalError({ detail: "the answer could not be written: the log of the agent has more" })
        )
      )
    }
    const errors = issues(error.cause.issue).issues.map(({ message, path = [] }) => ({
      path: [error.kind.toLowerCase(), ...path.map(segment)],
      message: message === UNKNOWN ? "there is no such name" : message
    }))
    return Effect.fail(invalid(errors))
  }
)

/** What the schema says of a name that it does not have. */
const UNKNOWN = "Expected no excess property"

const issues = SchemaIssue.makeFormatterStandardSchemaV1()

const segment = (part: PropertyKey | { readonly key: PropertyKey }): string | number => {
  const key = typeof part === "object" ? part.key : part
  return typeof key === "number" ? key : String(key)
}

/** A problem with all that is wrong; its sentence tells the first. @since 0.1.0 */
export const invalid = (errors: ReadonlyArray<Problem.Issue>): Problem.InvalidRequest => {
  const [first] = errors
  const more = errors.length > 1 ? ` (and ${errors.length - 1} more)` : ""
  const where = first === undefined || first.path.length === 0 ? "" : `${first.path.join(".")}: `
  return new Problem.InvalidRequest({
    errors,
    detail: `${where}${first?.message.split("\n")[0] ?? "the request is not valid"}${more}`
  })
}

const requests = Metric.counter("ctmap_agent_api_requests_total", {
  description: "Requests that were answered, by path and status",
  incremental: true
})

/**
 * Around all routes of a router that serves these paths.
 *
 * @since 0.1.0
 */
export const layer = (served: Paths): Layer.Layer<never, never, HttpRouter.HttpRouter> => {
  const counters = new Map<string, Metric.Counter<number>>()
  const counted = (route: string, status: number): Effect.Effect<void> => {
    const name = `${route} ${status}`
    const counter = counters.get(name) ?? Metric.withAttributes(requests, { route, status: String(status) })
    counters.set(name, counter)
    return Metric.update(counter, 1)
  }
  return HttpRouter.use(({ addGlobalMiddleware }) =>
    addGlobalMiddleware((handler) =>
      Effect.gen(function* () {
        const request = yield* HttpServerRequest.HttpServerRequest
        const began = yield* Clock.currentTimeMillis
        const path = pathOf(request.url)
        const answered = Number(request.headers["content-length"]) > MAX_BODY ? tooLarge : handler
        const response = yield* Effect.uninterruptibleMask((restore) =>
          restore(answered).pipe(
            Effect.provideService(HttpIncomingMessage.MaxBodySize, ByteSize.bytes(MAX_BODY)),
            Effect.catchCause((cause) => recovered(cause, path, request.method, served)),
            Effect.flatMap(asProblem)
          )
        )
        yield* counted(served.has(path) ? path : "other", response.status)
        const millis = (yield* Clock.currentTimeMillis) - began
        yield* Effect.logDebug(`${request.method} ${path} ${response.status}`, { millis })
        return HttpServerResponse.setHeader(response, "cache-control", "no-store")
      })
    )
  )
}

const pathOf = (url: string): string => /^[^?#;]*/.exec(url)![0]

const problem = (error: Problem.Problem): Effect.Effect<HttpServerResponse.HttpServerResponse> =>
  Effect.map(HttpServerRespondable.toResponse(error), (response) =>
    error._tag === "Unauthorized"
      ? HttpServerResponse.setHeader(response, "www-authenticate", "Bearer")
      : error._tag === "MethodNotAllowed"
        ? HttpServerResponse.setHeader(response, "allow", error.allow.join(", "))
        : response
  )

const tooLarge = Effect.suspend(() =>
  problem(new Problem.PayloadTooLarge({ detail: `a body has at most ${MAX_BODY} bytes` }))
)

/** Failures that no endpoint declares: of the router, of reading a body, of the code. */
const recovered = (
  cause: Cause.Cause<unknown>,
  path: string,
  method: string,
  served: Paths
): Effect.Effect<HttpServerResponse.HttpServerResponse, Types.unhandled> => {
  if (Cause.hasInterruptsOnly(cause)) {
    // A caller that has left is told nothing; one that waits while the agent stops is.
    const hasLeft = cause.reasons.some(({ annotations }) => annotations.has(HttpServerError.ClientAbort.key))
    return hasLeft
      ? Effect.failCause(cause as Cause.Cause<Types.unhandled>)
      : problem(new Problem.Stopping({ detail: "the agent stops, and broke this off: ask again when it is back" }))
  }
  const error = Cause.squash(cause)
  if (error instanceof HttpServerError.HttpServerError) {
    const { reason } = error
    if (reason._tag === "RouteNotFound") {
      const allow = served.get(path)
      return problem(
        allow === undefined
          ? new Problem.NotFound({ detail: `nothing is served under ${path}; /v1/openapi.json has what there is` })
          : new Problem.MethodNotAllowed({ allow, detail: `${path} has no ${method}, only ${allow.join(", ")}` })
      )
    }
    if (reason._tag === "RequestParseError") {
      return reason.reason === "BodyTooLarge"
        ? tooLarge
        : problem(invalid([{ path: [], message: "it cannot be read" }]))
    }
  }
  if (HttpServerRespondable.isRespondable(error)) {
    return HttpServerRespondable.toResponse(error).pipe(Effect.catch(() => mistake(cause)))
  }
  return mistake(cause)
}

const mistake = (cause: Cause.Cause<unknown>) =>
  Effect.andThen(
    Effect.logError("a request of the API ended in a mistake", cause),
    problem(new Problem.InternalError({ detail: "the agent made a mistake: its log has more" }))
  )

/** Whatever says no says it as a problem. */
const asProblem = (
  response: HttpServerResponse.HttpServerResponse
): Effect.Effect<HttpServerResponse.HttpServerResponse> => {
  const { status } = response
  const type = response.headers["content-type"]
  if (status < 400 || type?.startsWith("application/problem+json") === true) {
    return status === 401
      ? Effect.succeed(HttpServerResponse.setHeader(response, "www-authenticate", "Bearer"))
      : Effect.succeed(response)
  }
  switch (status) {
    case 413:
      return tooLarge
    case 415:
      return problem(
        new Problem.UnsupportedMediaType({
          detail: "bodies are JSON: send them as application/json (curl --json, or -H 'content-type: application/json')"
        })
      )
    default:
      return problem(
        status < 500
          ? invalid([{ path: [], message: "it cannot be understood" }])
          : new Problem.InternalError({ detail: "the agent made a mistake: its log has more" })
      )
  }
}
