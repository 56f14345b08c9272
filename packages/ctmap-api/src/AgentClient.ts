/**
 * A client of the agent, over its unix socket or TCP.
 *
 * Owns where the agent is looked for and what is said when it does not answer. Errors are the problems that the agent
 * tells, or one of the three classes here; each message says what happened and what to do.
 *
 * @since 0.1.0
 */
import * as NodeHttpClient from "@effect/platform-node/NodeHttpClient"
import type * as Health from "ctmap-cell/Health"
import type * as CtJson from "ctmap-core/CtJson"
import * as Config from "effect/Config"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import type * as Sse from "effect/encoding/Sse"
import * as HttpClient from "effect/http/HttpClient"
import * as HttpClientError from "effect/http/HttpClientError"
import * as HttpClientRequest from "effect/http/HttpClientRequest"
import * as HttpApiClient from "effect/http-api/HttpApiClient"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import type * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { AgentApi } from "./AgentApi.ts"
import type * as AgentStream from "./AgentStream.ts"
import * as EntryRows from "./EntryRows.ts"
import type * as Collection from "./Collection.ts"
import * as Address from "./internal/address.ts"
import { unreachable } from "./internal/unreachable.ts"
import type * as Problem from "./Problem.ts"
import type * as Request from "./Request.ts"
import type * as Status from "./Status.ts"

/** Where the agent listens unless it is told otherwise. @since 0.1.0 */
export const SOCKET = "/run/ctmap/agent.sock"

/** The agent cannot be reached, or went away. @since 0.1.0 */
export class AgentUnreachable extends Schema.TaggedError<AgentUnreachable>()("AgentUnreachable", {
  at: Schema.String,
  /** Of the operating system, such as `ENOENT`; absent where there is none. */
  code: Schema.optionalKey(Schema.String),
  why: Schema.String
}) {
  override get message(): string {
    return `the agent at ${this.at} cannot be reached: ${this.why}`
  }
}

/** The agent answered something that this client does not understand. @since 0.1.0 */
export class AgentAnswer extends Schema.TaggedError<AgentAnswer>()("AgentAnswer", {
  at: Schema.String,
  why: Schema.String
}) {
  override get message(): string {
    return `the agent at ${this.at} answered what this client does not understand, so they are probably of different versions: ${this.why}`
  }
}

/** A listing ended early: what came before is not all there is. @since 0.1.0 */
export class ListingIncomplete extends Schema.TaggedError<ListingIncomplete>()("ListingIncomplete", {
  at: Schema.String,
  entries: Schema.Int,
  why: Schema.String
}) {
  override get message(): string {
    return `the agent at ${this.at} could not finish its listing after ${this.entries} entries: ${this.why}`
  }
}

/** @since 0.1.0 */
export type AgentError = Problem.Problem | AgentUnreachable | AgentAnswer

/**
 * The agent of a host.
 *
 * @since 0.1.0
 */
export class AgentClient extends Context.Service<
  AgentClient,
  {
    /** Where it is: a path or a URL. */
    readonly at: string
    readonly status: Effect.Effect<Status.Status, AgentError>
    /** The tree of health, whether it is well or not. */
    readonly health: Effect.Effect<Health.Node, AgentError>
    readonly maps: Effect.Effect<Status.Maps, AgentError>
    /** Entries as records. One element each; their arrays are what came together. */
    readonly entries: (
      query: Request.EntriesQuery
    ) => Stream.Stream<CtJson.CtRecord | CtJson.NatRecord, AgentError | ListingIncomplete>
    /** The same as lines of JSON that nobody has parsed: several times as fast, for whoever only hands them on. */
    readonly entryLines: (query: Request.EntriesQuery) => Stream.Stream<string, AgentError | ListingIncomplete>
    /** Entries as the kernel has them, for whoever renders them: faster still. Each batch is valid until the next. */
    readonly entryRows: (query: Request.EntriesQuery) => Stream.Stream<EntryRows.Batch, AgentError | ListingIncomplete>
    readonly gc: (request: Request.Gc) => Effect.Effect<Collection.CtCollection, AgentError>
    readonly purge: (request: Request.Purge) => Effect.Effect<Collection.CtCollection, AgentError>
    readonly purgeOrphans: (request: Request.PurgeOrphans) => Effect.Effect<Collection.NatCollection, AgentError>
    readonly passes: Effect.Effect<Status.Passes, AgentError>
    /** Events from now on, until the agent stops. */
    readonly events: (query: Request.EventsQuery) => Stream.Stream<AgentStream.Event, AgentError>
    readonly config: Effect.Effect<Status.Config, AgentError>
    readonly reload: Effect.Effect<Status.Reloaded, AgentError>
    readonly logLevel: Effect.Effect<Status.Level, AgentError>
    readonly setLogLevel: (level: Status.Level) => Effect.Effect<Status.Level, AgentError>
  }
>()("ctmap-api/AgentClient") {}

/** @since 0.1.0 */
export interface Options {
  /**
   * The path of a unix socket, or the URL of a listener on TCP. Default: the environment's `CTMAP_AGENT_SOCKET`, else
   * {@link SOCKET}.
   */
  readonly at?: string | undefined
  /** For TCP. Default: the environment's `CTMAP_AGENT_TOKEN`, if there is one. */
  readonly token?: Redacted.Redacted | undefined
}

/**
 * A client over whatever `HttpClient` there is, which must know the way to the agent: `at` is for messages, and the host
 * of requests where it is a URL.
 *
 * @since 0.1.0
 */
export const make = ({
  at,
  token
}: Options & { readonly at: string }): Effect.Effect<AgentClient["Service"], never, HttpClient.HttpClient> =>
  Effect.gen(function* () {
    const plain = yield* HttpClient.HttpClient
    const base = Address.base(at)
    const httpClient = token === undefined ? plain : HttpClient.mapRequest(plain, HttpClientRequest.bearerToken(token))
    const api = yield* HttpApiClient.makeWith(AgentApi, { httpClient, baseUrl: base })
    const decodeListing = HttpApiClient.decodeResponse(AgentApi, { group: "maps", endpoint: "entries" })

    type Raw = HttpClientError.HttpClientError | Schema.SchemaError | Sse.SseError | Sse.Retry
    const translate = <E extends { readonly _tag: string }>(
      error: E
    ): Exclude<E, Raw> | AgentUnreachable | AgentAnswer => {
      if (Schema.isSchemaError(error)) return new AgentAnswer({ at, why: error.message })
      if (error._tag === "SseError" || error._tag === "Retry") return new AgentAnswer({ at, why: "not such an event" })
      if (!HttpClientError.isHttpClientError(error)) return error as Exclude<E, Raw>
      const { reason } = error
      const lost = unreachable(at, reason)
      return lost === undefined ? new AgentAnswer({ at, why: error.message }) : new AgentUnreachable({ at, ...lost })
    }
    const asked = <A, E extends { readonly _tag: string }>(effect: Effect.Effect<A, E>) =>
      Effect.mapError(effect, translate)
    const streamed = <A, E extends { readonly _tag: string }, E2 extends { readonly _tag: string }>(
      effect: Effect.Effect<Stream.Stream<A, E2>, E>
    ) => Stream.mapError(Stream.unwrap(asked(effect)), translate)
    const incomplete = ({ detail, entries }: AgentStream.ListingFailed) =>
      new ListingIncomplete({ at, entries, why: detail })

    return AgentClient.of({
      at,
      status: asked(api.status.status()),
      health: asked(api.status.health()).pipe(Effect.catchTag("Unhealthy", ({ health }) => Effect.succeed(health))),
      maps: asked(api.maps.maps()),
      entries: (query) =>
        streamed(api.maps.entries({ query })).pipe(
          Stream.mapEffect((line) => (line.type === "error" ? Effect.fail(incomplete(line)) : Effect.succeed(line)))
        ),
      entryLines: (query) =>
        Stream.suspend(() => {
          let failed: string | undefined
          const lines = streamed(
            Effect.gen(function* () {
              const response = yield* api.maps.entries({ query, responseMode: "response-only" })
              if (response.status !== 200) return yield* Effect.as(decodeListing(response), Stream.empty)
              return response.stream.pipe(Stream.decodeText(), Stream.splitLines)
            })
          )
          const end = Stream.suspend(() =>
            failed === undefined
              ? Stream.empty
              : Stream.fail(incomplete(JSON.parse(failed) as AgentStream.ListingFailed))
          )
          // Lines stay together as they came: an effect for each would cost more than all the rest.
          const isEntry = (line: string): boolean => {
            if (!line.startsWith(FAILED)) return true
            failed = line
            return false
          }
          return Stream.concat(Stream.takeWhile(lines, isEntry), end)
        }),
      entryRows: (query) =>
        EntryRows.decode(streamed(api.maps.rows({ query }))).pipe(
          Stream.mapError((error) =>
            "type" in error && error.type === "error"
              ? incomplete(error)
              : error._tag === "NotRows"
                ? new AgentAnswer({ at, why: error.message })
                : error
          )
        ),
      gc: (payload) => asked(api.collector.gc({ payload })),
      purge: (payload) => asked(api.collector.purge({ payload })),
      purgeOrphans: (payload) => asked(api.collector.purgeOrphans({ payload })),
      passes: asked(api.collector.passes()),
      events: (query) => streamed(api.collector.events({ query })),
      config: asked(api.settings.config()),
      reload: asked(api.settings.reload()),
      logLevel: Effect.map(asked(api.settings.logLevel()), ({ level }) => level),
      setLogLevel: (level) => Effect.map(asked(api.settings.setLogLevel({ payload: { level } })), (set) => set.level)
    })
  })

/** What a line of a failed listing begins with: `type` is the first key of every record. */
const FAILED = '{"type":"error"'

/**
 * A client of the agent that is meant.
 *
 * **Details**
 *
 * Connects for each request and keeps connections for a while; building the layer asks nobody. Errors: an environment
 * that cannot be read is one of the configuration.
 *
 * **Example** (Nobody there)
 *
 * ```ts
 * import { AgentClient } from "ctmap-api"
 * import * as Effect from "effect/Effect"
 *
 * const program = Effect.flip(Effect.flatMap(AgentClient.AgentClient, ({ status }) => status))
 * const error = await Effect.runPromise(Effect.provide(program, AgentClient.layer({ at: "/nowhere/agent.sock" })))
 * error.message
 * // => "the agent at /nowhere/agent.sock cannot be reached: there is no such socket; start ctmap-agent, or name the socket that it has"
 * ```
 *
 * @since 0.1.0
 */
export const layer = (options: Options = {}): Layer.Layer<AgentClient, Config.ConfigError> =>
  Layer.unwrap(
    Effect.gen(function* () {
      const at = options.at ?? (yield* Config.String("CTMAP_AGENT_SOCKET").pipe(Config.withDefault(SOCKET)))
      const token = options.token ?? Option.getOrUndefined(yield* Config.option(Config.Redacted("CTMAP_AGENT_TOKEN")))
      const socketPath = Address.socketPath(at)
      return Layer.effect(AgentClient, make({ at, token: socketPath === undefined ? token : undefined })).pipe(
        Layer.provide(
          socketPath === undefined
            ? NodeHttpClient.layerNodeHttp
            : NodeHttpClient.layerNodeHttpOptions({ socketPath, keepAlive: true })
        )
      )
    })
  )
