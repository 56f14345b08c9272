/**
 * The contract of the agent's API, version 1: every endpoint with what it takes, answers and refuses.
 *
 * Owns paths, methods and which endpoints change something. No code of a server: who implements it provides the groups
 * and two middlewares, {@link Boundary} and {@link Access}.
 *
 * @since 0.1.0
 */
import * as Health from "ctmap-cell/Health"
import * as Context from "effect/Context"
import * as HttpApi from "effect/http-api/HttpApi"
import * as HttpApiEndpoint from "effect/http-api/HttpApiEndpoint"
import * as HttpApiGroup from "effect/http-api/HttpApiGroup"
import * as HttpApiMiddleware from "effect/http-api/HttpApiMiddleware"
import * as HttpApiSchema from "effect/http-api/HttpApiSchema"
import * as HttpApiSecurity from "effect/http-api/HttpApiSecurity"
import * as OpenApi from "effect/http-api/OpenApi"
import * as AgentStream from "./AgentStream.ts"
import * as Collection from "./Collection.ts"
import * as EntryRows from "./EntryRows.ts"
import { complete } from "./internal/openApi.ts"
import * as Problem from "./Problem.ts"
import * as Request from "./Request.ts"
import * as Status from "./Status.ts"

/**
 * Whether an endpoint changes anything: maps, settings, the log. Annotates those that do.
 *
 * @since 0.1.0
 */
export const Changes = Context.Reference<boolean>("ctmap-api/AgentApi/Changes", { defaultValue: () => false })

/**
 * Turns requests that are not valid, and mistakes of the agent, into problems.
 *
 * @since 0.1.0
 */
export class Boundary extends HttpApiMiddleware.Service<Boundary>()("ctmap-api/AgentApi/Boundary", {
  error: [
    Problem.InvalidRequest,
    Problem.RequestTimeout,
    Problem.PayloadTooLarge,
    Problem.UnsupportedMediaType,
    Problem.HeadersTooLarge,
    Problem.InternalError,
    Problem.Stopping
  ]
}) {}

/**
 * Who may do what: everything over the unix socket; over TCP everything with the token, and reading only where the agent
 * has no token.
 *
 * @since 0.1.0
 */
export class Access extends HttpApiMiddleware.Service<Access>()("ctmap-api/AgentApi/Access", {
  security: { bearer: HttpApiSecurity.bearer },
  error: [Problem.Unauthorized, Problem.ReadOnly, Problem.ForeignHost]
}) {}

const about = (summary: string, description: string) => OpenApi.annotations({ summary, description })

const status = HttpApiGroup.make("status")
  .add(
    HttpApiEndpoint.get("status", "/status", { success: Status.Status }).annotateMerge(
      about(
        "How the agent is",
        "Version, health, times of cells, the schedule of passes and what the last ones came to."
      )
    ),
    HttpApiEndpoint.get("health", "/health", { success: Health.Node, error: Problem.Unhealthy }).annotateMerge(
      about("Whether everything works", "The tree of health: 200 where nothing is degraded, else 503.")
    )
  )
  .annotateMerge(OpenApi.annotations({ description: "The agent itself." }))

const maps = HttpApiGroup.make("maps")
  .add(
    HttpApiEndpoint.get("maps", "/maps", { success: Status.Maps, error: Problem.KernelFailed }).annotateMerge(
      about("Maps that are pinned", "With owner, layout, fill as it was last sampled, and what is wrong with them.")
    ),
    HttpApiEndpoint.get("entries", "/entries", {
      query: Request.EntriesQuery,
      success: HttpApiSchema.StreamNdjson({ schema: AgentStream.Line }),
      error: [Problem.NotFound, Problem.LayoutUnknown, Problem.KernelFailed, Problem.Busy]
    }).annotateMerge(
      about(
        "Entries of maps",
        "CT or NAT entries as lines of JSON, by the published schema of records. What fails before the first line is a " +
          "problem; what fails later is told in the last line."
      )
    ),
    HttpApiEndpoint.get("rows", "/entries/rows", {
      query: Request.EntriesQuery,
      success: HttpApiSchema.StreamUint8Array({ contentType: EntryRows.CONTENT_TYPE }),
      error: [Problem.NotFound, Problem.LayoutUnknown, Problem.KernelFailed, Problem.Busy]
    }).annotateMerge(
      about(
        "Entries of maps, as the kernel has them",
        "Keys and values in frames (u32 kind, u32 length, body; little endian): 1 a table, as JSON; 2 rows of it, all keys, " +
          "then all values; 3 why the listing ends early, as JSON."
      )
    )
  )
  .annotateMerge(OpenApi.annotations({ description: "Tables and what is in them." }))

/** Why a pass does not do what it was asked to. */
const refusals = [
  Problem.NotFound,
  Problem.GuardStopped,
  Problem.ClockImplausible,
  Problem.LayoutUnknown,
  Problem.PairBroken,
  Problem.KernelFailed
] as const

const collector = HttpApiGroup.make("collector")
  .add(
    HttpApiEndpoint.post("gc", "/gc", {
      payload: Request.Gc,
      success: Collection.CtCollection,
      error: refusals
    })
      .annotateMerge(
        about(
          "Delete what has expired",
          "Requests that wait for a pair share its next pass; counts are of this request."
        )
      )
      .annotate(Changes, true),
    HttpApiEndpoint.post("purge", "/purge", {
      payload: Request.Purge,
      success: Collection.CtCollection,
      error: refusals
    })
      .annotateMerge(
        about(
          "Delete connections",
          "Whatever fits every selector that is given, expired or not, with its NAT entries. A selector is required."
        )
      )
      .annotate(Changes, true),
    HttpApiEndpoint.post("purgeOrphans", "/nat/purge-orphans", {
      payload: Request.PurgeOrphans,
      success: Collection.NatCollection,
      error: refusals
    })
      .annotateMerge(about("Delete NAT entries without a connection", "Looks twice before it deletes."))
      .annotate(Changes, true),
    HttpApiEndpoint.get("passes", "/passes", { success: Status.Passes }).annotateMerge(
      about(
        "The last passes",
        "Up to 128 over CT maps and as many over NAT maps, the latest last: of the schedule and on request, the incomplete ones too."
      )
    ),
    HttpApiEndpoint.get("events", "/events", {
      query: Request.EventsQuery,
      success: HttpApiSchema.StreamSse({ events: AgentStream.Event }),
      error: Problem.Busy
    }).annotateMerge(
      about(
        "What passes delete, live",
        "Server-sent events: deleted, pass, lost. From now on and without replay; a comment every 15 s keeps the " +
          "connection open. A reader that is too slow is told how much it lost; it may " +
          "hear of a pass before all of what that has deleted."
      )
    )
  )
  .annotateMerge(OpenApi.annotations({ description: "Passes: asked for, recorded, watched." }))

const settings = HttpApiGroup.make("settings")
  .add(
    HttpApiEndpoint.get("config", "/config", { success: Status.Config }).annotateMerge(
      about("Settings in force", "Each with its value (secrets redacted) and where that came from.")
    ),
    HttpApiEndpoint.post("reload", "/reload", { success: Status.Reloaded, error: Problem.SettingsInvalid })
      .annotateMerge(
        about("Read settings again", "As SIGHUP does: what can change without a restart is in force at once.")
      )
      .annotate(Changes, true),
    HttpApiEndpoint.get("logLevel", "/log-level", { success: Status.LogLevel }).annotateMerge(
      about("Which log lines are written", "The least severe level.")
    ),
    HttpApiEndpoint.put("setLogLevel", "/log-level", { payload: Status.LogLevel, success: Status.LogLevel })
      .annotateMerge(
        about(
          "Write other log lines",
          "Until the agent stops, or a reload brings another log-level. One that brings the same leaves it, and says so in the log."
        )
      )
      .annotate(Changes, true)
  )
  .annotateMerge(OpenApi.annotations({ description: "Settings and the log." }))

const strict = { onExcessProperty: "error", errors: "all" } as const

/**
 * The API.
 *
 * **Example** (Its paths)
 *
 * ```ts
 * import { AgentApi } from "ctmap-api"
 * import * as OpenApi from "effect/http-api/OpenApi"
 *
 * Object.keys(OpenApi.fromApi(AgentApi.AgentApi).paths).slice(0, 3) // => ["/v1/status", "/v1/health", "/v1/maps"]
 * ```
 *
 * @since 0.1.0
 */
export class AgentApi extends HttpApi.make("ctmap-agent")
  .add(status, maps, collector, settings)
  .prefix("/v1")
  .middleware(Access)
  .middleware(Boundary)
  .annotate(HttpApi.QueryParseOptions, strict)
  .annotate(HttpApi.PayloadParseOptions, strict)
  .annotateMerge(
    OpenApi.annotations({
      title: "ctmap-agent",
      version: "1",
      description:
        "The conntrack and NAT tables of this host: how full they are, what is in them, what is deleted and why. Served on " +
        "a unix socket; on TCP only where that is configured, and read-only unless a token is set. Errors are problem " +
        "documents (RFC 9457).",
      license: { name: "Apache-2.0", url: "https://www.apache.org/licenses/LICENSE-2.0" },
      transform: complete({
        "maps.entries": Request.EntriesQuery,
        "maps.rows": Request.EntriesQuery,
        "collector.events": Request.EventsQuery
      })
    })
  ) {}
