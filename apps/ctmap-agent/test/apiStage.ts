/** An agent that serves, over the kernel in memory: asked through handlers alone, or through its sockets. */
import { mkdtempSync, rmSync } from "node:fs"
import { request as httpRequest, type IncomingMessage } from "node:http"
import { createServer } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { AgentApi } from "ctmap-api"
import { GcRunner } from "ctmap-gc"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as HttpApiTest from "effect/http-api/HttpApiTest"
import * as HttpServer from "effect/http/HttpServer"
import * as Layer from "effect/Layer"
import * as Access from "../src/api/Access.ts"
import * as Edge from "../src/api/Edge.ts"
import * as Handlers from "../src/api/Handlers.ts"
import * as Streams from "../src/api/Streams.ts"
import { agent, given, type Twin } from "./stage.ts"
import { vi } from "vitest"

/** A folder that is gone with the scope. */
export const folder = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "ctmap-agent-"))),
  (path) => Effect.sync(() => rmSync(path, { recursive: true, force: true }))
)

/** A client of the handlers, without a socket. */
export const inMemory = (
  twin: Twin,
  {
    flags = [],
    policy = Access.local
  }: { readonly flags?: ReadonlyArray<string>; readonly policy?: Access.Policy } = {}
) =>
  Effect.gen(function* () {
    const around = given(() => flags)
    const handlers = Handlers.layer.pipe(
      Layer.provideMerge(Layer.mergeAll(Access.layer(policy), Edge.layerBoundary, Streams.layer(2))),
      Layer.provideMerge(agent(twin, () => flags, undefined, around)),
      Layer.provideMerge(around),
      Layer.provideMerge(HttpServer.layerServices)
    )
    const context = yield* Layer.build(handlers)
    const client = yield* Effect.provide(
      HttpApiTest.groups(AgentApi.AgentApi, ["status", "maps", "collector", "settings"]),
      context
    )
    return { client, context }
  })

/** What came back. */
export interface Answer {
  readonly status: number
  readonly type: string
  readonly headers: IncomingMessage["headers"]
  readonly text: string
}

/** Where and what to ask. */
export interface Asking {
  readonly at: string | { readonly port: number }
  readonly method?: string
  readonly path: string
  readonly body?: string
  readonly headers?: Readonly<Record<string, string>>
}

const open = ({ at, method = "GET", path, headers = {} }: Asking) =>
  httpRequest({
    ...(typeof at === "string" ? { socketPath: at } : { host: "127.0.0.1", ...at }),
    method,
    path,
    headers
  })

/** One request, as anybody's program sends it. */
export const ask = (asking: Asking): Effect.Effect<Answer, Error> =>
  Effect.callback<Answer, Error>((resume) => {
    const request = open(asking)
    const fail = (error: Error) => resume(Effect.fail(error))
    request.once("error", fail)
    request.once("response", (response) => {
      let text = ""
      response.setEncoding("utf8")
      response.on("data", (chunk: string) => (text += chunk))
      response.once("error", fail)
      response.once("end", () =>
        resume(
          Effect.succeed({
            status: response.statusCode ?? 0,
            type: response.headers["content-type"] ?? "",
            headers: response.headers,
            text
          })
        )
      )
    })
    request.end(asking.body)
    return Effect.sync(() => request.destroy())
  })

/** A response that is read when the test wants to; its connection is broken with the scope. */
export const stream = (asking: Asking) =>
  Effect.acquireRelease(
    Effect.callback<IncomingMessage, Error>((resume) => {
      const request = open(asking)
      request.once("error", (error) => resume(Effect.fail(error)))
      request.once("response", (response) => {
        response.pause()
        resume(Effect.succeed(response))
      })
      request.end()
    }),
    (response) => Effect.sync(() => response.destroy())
  )

/** Serves on a socket in a folder of its own. */
export const serving = (twin: Twin, flags: ReadonlyArray<string> = []) =>
  Effect.gen(function* () {
    const at = join(yield* folder, "run", "agent.sock")
    const context = yield* Layer.build(agent(twin, () => [`--api-socket=${at}`, ...flags]))
    return { at, context }
  })

/** Looks in one turn of the event loop after the other until something is so. */
export const until = (isSo: () => boolean): Effect.Effect<void> =>
  Effect.asVoid(Effect.promise(() => vi.waitUntil(isSo, { timeout: 120_000, interval: 5 })))

/** Turns of the event loop in which nobody calls the kernel, after which nobody will. */
const QUIET = 50

/** Waits until nobody calls the kernel any more. */
export const quiet = ({ control }: Twin): Effect.Effect<void> =>
  Effect.suspend(() => {
    let [calls, turns] = [-1, 0]
    return until(() => {
      turns = control.count() === calls ? turns + 1 : 0
      calls = control.count()
      return turns >= QUIET
    })
  })

/** Waits until what an agent does at its start is over: then only what tests do opens and closes fds. */
export const settled = (context: Context.Context<GcRunner.GcRunner>, twin: Twin) =>
  Effect.andThen(Context.get(context, GcRunner.GcRunner).initialScanDone, quiet(twin))

/**
 * A port that nobody has, and that nobody gets who asks for any: Linux hands out those from 32768 on for that.
 */
export const freePort: Effect.Effect<number> = Effect.callback<number>((resume) => {
  const attempt = (): void => {
    const port = 20_000 + Math.floor(Math.random() * 12_000)
    const server = createServer()
    server.once("error", attempt)
    server.listen(port, "127.0.0.1", () => server.close(() => resume(Effect.succeed(port))))
  }
  attempt()
})

/** A problem document, or the reason why it is none. */
export const problemOf = ({ status, text, type }: Answer): { readonly type: string; readonly detail: string } => {
  if (!type.startsWith("application/problem+json")) throw new Error(`${status} ${type} is no problem: ${text}`)
  const document = JSON.parse(text) as { type: string; title: string; status: number; detail: string }
  if (document.status !== status) throw new Error(`the document says ${document.status}, the response ${status}`)
  if (typeof document.title !== "string" || typeof document.detail !== "string") throw new Error(`incomplete: ${text}`)
  return document
}
