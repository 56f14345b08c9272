/**
 * Who may do what: by the listener that a request came in on, and by its token.
 *
 * @since 0.1.0
 */
import { createHash, timingSafeEqual } from "node:crypto"
import { isIP } from "node:net"
import { AgentApi, Problem } from "ctmap-api"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as HttpServerRequest from "effect/http/HttpServerRequest"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"

/**
 * `local`: whoever can open the socket may do everything. `remote`: with a token, whoever has it may do everything, and
 * nobody else anything; without one, everybody may read.
 *
 * @since 0.1.0
 */
export type Policy =
  | { readonly _tag: "local" }
  | {
      readonly _tag: "remote"
      readonly host: string
      /** Asked for every request, as it can become another. */
      readonly token: () => Redacted.Redacted | undefined
    }

/** @since 0.1.0 */
export const local: Policy = { _tag: "local" }

/** @since 0.1.0 */
export type Refusal = Problem.Unauthorized | Problem.ReadOnly | Problem.ForeignHost

/** What speaks against a request; `undefined` where nothing does. */
const refusal = (
  policy: Policy,
  request: { readonly token: string; readonly host: string | undefined; readonly changes: boolean }
): Refusal | undefined => {
  if (policy._tag === "local") return undefined
  const token = policy.token()
  if (token !== undefined) {
    return isSame(request.token, Redacted.value(token))
      ? undefined
      : new Problem.Unauthorized({
          detail:
            request.token === ""
              ? "this listener answers only requests with its token: send it as `Authorization: Bearer TOKEN`"
              : "the token is not the one of this agent: its setting api-token has it"
        })
  }
  if (!isOwn(request.host, policy.host)) {
    return new Problem.ForeignHost({
      detail: `the request is for the host "${request.host ?? ""}": without a token, only an address, localhost, or the host of api-listen will do`
    })
  }
  return request.changes
    ? new Problem.ReadOnly({
        detail: "this listener has no token and only answers questions: set api-token, or use the unix socket"
      })
    : undefined
}

/** Takes the same time wherever two texts differ. */
const isSame = (given: string, token: string): boolean => timingSafeEqual(digest(given), digest(token))

const digest = (text: string): Buffer => createHash("sha256").update(text).digest()

/** A page that has its own name point to this host reads nothing here: its name goes with its requests. */
const isOwn = (header: string | undefined, own: string): boolean => {
  if (header === undefined) return true
  const host = header.replace(/:\d*$/, "").replace(/^\[(.*)\]$/, "$1")
  return host === "localhost" || host === own || isIP(host) !== 0
}

/** The token of an `Authorization` header; empty where there is none. */
const tokenOf = (authorization: string | undefined): string => /^bearer +(.+)$/i.exec(authorization ?? "")?.[1] ?? ""

/** For routes outside of the contract. They read. @since 0.1.0 */
export const check = (policy: Policy): Effect.Effect<void, Refusal, HttpServerRequest.HttpServerRequest> =>
  Effect.flatMap(HttpServerRequest.HttpServerRequest, ({ headers }) => {
    const token = tokenOf(headers["authorization"])
    const refused = refusal(policy, { token, host: headers["host"], changes: false })
    return refused === undefined ? Effect.void : Effect.fail(refused)
  })

/** For the contract. @since 0.1.0 */
export const layer = (policy: Policy): Layer.Layer<AgentApi.Access> =>
  Layer.succeed(AgentApi.Access, {
    bearer: (handler, { credential, endpoint }) =>
      Effect.gen(function* () {
        const { headers } = yield* HttpServerRequest.HttpServerRequest
        const refused = refusal(policy, {
          token: Redacted.value(credential),
          host: headers["host"],
          changes: Context.get(endpoint.annotations, AgentApi.Changes)
        })
        return yield* refused === undefined ? handler : Effect.fail(refused)
      })
  })
