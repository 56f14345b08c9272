/**
 * The API: on a unix socket, and on TCP where that is asked for.
 *
 * @since 0.1.0
 */
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import { AgentClient } from "ctmap-api"
import { Cell, Health } from "ctmap-cell"
import { Collector, GcEvents, GcRunner, MapPressure } from "ctmap-gc"
import { CtMaps, KernelClock, MapIterator, NatMaps } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import * as HttpRouter from "effect/http/HttpRouter"
import type * as HttpServer from "effect/http/HttpServer"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as Access from "../api/Access.ts"
import * as Listener from "../api/Listener.ts"
import * as Routes from "../api/Routes.ts"
import * as Streams from "../api/Streams.ts"
import { Exposition } from "../Exposition.ts"
import { LogControl } from "../Logs.ts"
import { Reload } from "../Reload.ts"
import { keys } from "./kernel.ts"

const config = Schema.Struct({
  apiSocket: Schema.String.annotate({ description: "the unix socket of the API; empty: none" }).pipe(
    Schema.withDecodingDefaultKey(Effect.succeed(AgentClient.SOCKET))
  ),
  apiSocketGroup: Schema.optionalKey(
    Schema.NonEmptyString.annotate({ description: "members of this group may use the socket, besides root" })
  ),
  apiListen: Schema.optionalKey(
    Schema.String.check(
      Schema.makeFilter((text: string) =>
        Listener.parseHostPort(text, LOOPBACK) === undefined
          ? "Expected HOST:PORT, or a port for 127.0.0.1, such as 127.0.0.1:9964"
          : undefined
      )
    ).annotate({
      description: "serve the API on TCP, too: HOST:PORT, or a port of 127.0.0.1; read-only without a token"
    })
  ),
  apiToken: Schema.optionalKey(
    Schema.RedactedFromValue(Schema.NonEmptyString).annotate({
      description:
        "what requests over TCP must send as a bearer token; with it, they may change things. Not as a flag, which others on the host can see"
    })
  ),
  apiMaxEventStreams: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 1024 }))
    .annotate({ description: "readers of live events at a time" })
    .pipe(Schema.withDecodingDefaultKey(Effect.succeed(16)))
})

const LOOPBACK = "127.0.0.1"

const serve = <E>(policy: Access.Policy, listener: Layer.Layer<HttpServer.HttpServer, E>) =>
  HttpRouter.serve(Routes.layer(policy), Routes.options).pipe(
    Layer.provide(Layer.merge(listener, NodeHttpServer.layerHttpServices))
  )

/** @since 0.1.0 */
export const cell = Cell.make("api", {
  description: "answers questions and takes orders: status, tables, passes, events, settings",
  config,
  needs: [
    ...keys,
    KernelClock.KernelClock,
    MapIterator.MapIterator,
    CtMaps.CtMaps,
    NatMaps.NatMaps,
    GcRunner.GcRunner,
    Collector.Collector,
    GcEvents.GcEvents,
    MapPressure.MapPressure,
    Exposition,
    LogControl,
    Reload
  ],
  layer: ({ apiListen, apiMaxEventStreams, apiSocket: path, apiSocketGroup: group, apiToken }) => {
    let token = apiToken
    const tcp = apiListen === undefined ? undefined : Listener.parseHostPort(apiListen, LOOPBACK)
    const unix = path === "" ? Layer.empty : serve(Access.local, Listener.layerUnix({ path, group }))
    const remote =
      tcp === undefined
        ? Layer.empty
        : serve({ _tag: "remote", host: tcp.host, token: () => token }, Listener.layerTcp(tcp))
    const said = Effect.gen(function* () {
      // Released before the servers: readers of events go, and do not hold them up.
      const { stop } = yield* Streams.Streams
      yield* Effect.addFinalizer(() => stop)
      const warn = Effect.suspend(() =>
        tcp === undefined || Listener.isLoopback(tcp.host)
          ? Effect.void
          : token === undefined
            ? Effect.logWarning(`whoever reaches ${apiListen} can read the tables of this host: set api-token`)
            : Effect.logWarning(`the API on ${apiListen} is not encrypted: its token can be read on the way`)
      )
      yield* warn
      const places = () => [
        ...(path === "" ? [] : [path]),
        ...(tcp === undefined ? [] : [`${apiListen} (${token === undefined ? "read-only" : "with a token"})`])
      ]
      if (places().length === 0) return yield* Health.stopped("off: neither a socket nor an address is set")
      const report = yield* Health.Reporter
      const tell = Effect.suspend(() => report.ok(`serves on ${places().join(" and ")}`))
      yield* tell
      const { register } = yield* Reload
      yield* register("api", ["api-token"], (next) => {
        token = (next as { readonly apiToken?: typeof token }).apiToken
        return Effect.andThen(warn, tell)
      })
    })
    return Layer.effectDiscard(said).pipe(
      Layer.provide(Layer.merge(unix, remote)),
      Layer.provide(Streams.layer(apiMaxEventStreams))
    )
  }
})
