/**
 * What can be wrong with a request, as problem documents (RFC 9457): `application/problem+json` with type, title, status,
 * `detail`, which is one sentence for people, and fields for programs.
 *
 * Owns the types (`urn:ctmap:problem:…`), which are what a client decides by: there are several of one status.
 *
 * @since 0.1.0
 */
import * as Health from "ctmap-cell/Health"
import * as HttpApiError from "effect/http-api/HttpApiError"
import * as Schema from "effect/Schema"
import { Done } from "./Collection.ts"

const urn = <const Name extends string>(name: Name): `urn:ctmap:problem:${Name}` => `urn:ctmap:problem:${name}`

/**
 * One thing that is wrong, and where: `["query", "limit"]`, `["payload", "ips", 0]`.
 *
 * @since 0.1.0
 */
export const Issue = Schema.Struct({
  path: Schema.Array(Schema.Union([Schema.String, Schema.Int])),
  message: Schema.String
}).annotate({ identifier: "Issue", examples: [{ path: ["query", "limit"], message: "Expected an integer" }] })
/** @since 0.1.0 */
export type Issue = typeof Issue.Type

/** A parameter or a body is not what the contract says. Nothing was done. @since 0.1.0 */
export class InvalidRequest extends HttpApiError.Problem<InvalidRequest>()(
  "InvalidRequest",
  { type: urn("invalid-request"), status: 400, title: "The request is not valid" },
  { errors: Schema.Array(Issue) }
) {}

/** The token is missing or wrong. @since 0.1.0 */
export class Unauthorized extends HttpApiError.Problem<Unauthorized>()("Unauthorized", {
  type: urn("unauthorized"),
  status: 401,
  title: "A token is needed"
}) {}

/** This listener only answers questions. @since 0.1.0 */
export class ReadOnly extends HttpApiError.Problem<ReadOnly>()("ReadOnly", {
  type: urn("read-only"),
  status: 403,
  title: "This listener is read-only"
}) {}

/** The request was addressed to a host that this listener is not: a page in somebody's browser can do that. @since 0.1.0 */
export class ForeignHost extends HttpApiError.Problem<ForeignHost>()("ForeignHost", {
  type: urn("foreign-host"),
  status: 403,
  title: "Not addressed to this host"
}) {}

/** There is no such map, or nothing is served under this path. @since 0.1.0 */
export class NotFound extends HttpApiError.Problem<NotFound>()("NotFound", {
  type: urn("not-found"),
  status: 404,
  title: "Not found"
}) {}

/** The path exists, with other methods. @since 0.1.0 */
export class MethodNotAllowed extends HttpApiError.Problem<MethodNotAllowed>()(
  "MethodNotAllowed",
  { type: urn("method-not-allowed"), status: 405, title: "The method is not allowed here" },
  { allow: Schema.Array(Schema.String) }
) {}

/** The request did not arrive in time. @since 0.1.0 */
export class RequestTimeout extends HttpApiError.Problem<RequestTimeout>()("RequestTimeout", {
  type: urn("request-timeout"),
  status: 408,
  title: "The request took too long to arrive"
}) {}

/**
 * The guard stopped a pass, as it would have deleted more than it may. `deleted` tells how much had gone by then, of this
 * and of other pairs; mostly nothing.
 *
 * @since 0.1.0
 */
export class GuardStopped extends HttpApiError.Problem<GuardStopped>()(
  "GuardStopped",
  { type: urn("guard-stopped"), status: 409, title: "The guard stopped the pass" },
  {
    map: Schema.String,
    wanted: Schema.Int,
    entries: Schema.Int,
    allowed: Schema.Int,
    limit: Schema.Literals(["max-delete-ratio", "max-deletions"]),
    ...Done
  }
) {}

/** The body is larger than any that makes sense. @since 0.1.0 */
export class PayloadTooLarge extends HttpApiError.Problem<PayloadTooLarge>()("PayloadTooLarge", {
  type: urn("payload-too-large"),
  status: 413,
  title: "The body is too large"
}) {}

/** Bodies are JSON. @since 0.1.0 */
export class UnsupportedMediaType extends HttpApiError.Problem<UnsupportedMediaType>()("UnsupportedMediaType", {
  type: urn("unsupported-media-type"),
  status: 415,
  title: "The body is of a type that is not understood"
}) {}

/** The head of the request is larger than any that makes sense. @since 0.1.0 */
export class HeadersTooLarge extends HttpApiError.Problem<HeadersTooLarge>()("HeadersTooLarge", {
  type: urn("headers-too-large"),
  status: 431,
  title: "The head of the request is too large"
}) {}

/** The times of a table do not fit the clock, so nothing of it can be said to have expired. @since 0.1.0 */
export class ClockImplausible extends HttpApiError.Problem<ClockImplausible>()(
  "ClockImplausible",
  { type: urn("clock-implausible"), status: 422, title: "The clock does not fit the table" },
  { map: Schema.String, ...Done }
) {}

/** The entries of a map are not of a layout that is known. @since 0.1.0 */
export class LayoutUnknown extends HttpApiError.Problem<LayoutUnknown>()(
  "LayoutUnknown",
  { type: urn("layout-unknown"), status: 422, title: "The layout of the map is not known" },
  { map: Schema.String, ...Done }
) {}

/** Of the maps that are used together one is missing, or they are not of one owner. @since 0.1.0 */
export class PairBroken extends HttpApiError.Problem<PairBroken>()(
  "PairBroken",
  { type: urn("pair-broken"), status: 422, title: "The maps do not make a pair" },
  Done
) {}

/** Settings were read again and are not valid: everything stays as it was. @since 0.1.0 */
export class SettingsInvalid extends HttpApiError.Problem<SettingsInvalid>()(
  "SettingsInvalid",
  { type: urn("settings-invalid"), status: 422, title: "The settings are not valid" },
  { issues: Schema.Array(Schema.Struct({ setting: Schema.String, where: Schema.String, message: Schema.String })) }
) {}

/** A mistake of the agent; its log has more. @since 0.1.0 */
export class InternalError extends HttpApiError.Problem<InternalError>()("InternalError", {
  type: urn("internal-error"),
  status: 500,
  title: "The agent made a mistake"
}) {}

/** Something is not well: the tree says what. @since 0.1.0 */
export class Unhealthy extends HttpApiError.Problem<Unhealthy>()(
  "Unhealthy",
  { type: urn("unhealthy"), status: 503, title: "Not everything works" },
  { health: Health.Node }
) {}

/** The kernel refused or failed. `deleted` and `pairs` say what was done all the same. @since 0.1.0 */
export class KernelFailed extends HttpApiError.Problem<KernelFailed>()(
  "KernelFailed",
  { type: urn("kernel-failed"), status: 503, title: "The kernel cannot be asked" },
  Done
) {}

/** As many as can be served at a time are served already. @since 0.1.0 */
export class Busy extends HttpApiError.Problem<Busy>()("Busy", {
  type: urn("busy"),
  status: 503,
  title: "Too many at once"
}) {}

/** The agent is about to stop: what was asked for was broken off, or not begun. @since 0.1.0 */
export class Stopping extends HttpApiError.Problem<Stopping>()("Stopping", {
  type: urn("stopping"),
  status: 503,
  title: "The agent stops"
}) {}

/** Any of them, told apart by `type`. @since 0.1.0 */
export const Problem = Schema.Union([
  InvalidRequest,
  Unauthorized,
  ReadOnly,
  ForeignHost,
  NotFound,
  MethodNotAllowed,
  RequestTimeout,
  GuardStopped,
  PayloadTooLarge,
  UnsupportedMediaType,
  HeadersTooLarge,
  ClockImplausible,
  LayoutUnknown,
  PairBroken,
  SettingsInvalid,
  InternalError,
  Unhealthy,
  KernelFailed,
  Busy,
  Stopping
])
/** @since 0.1.0 */
export type Problem = typeof Problem.Type
