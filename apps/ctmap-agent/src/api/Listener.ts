/**
 * Sockets that serve: their limits, and who may open them.
 *
 * Owns the life of the unix socket: it is there with its mode before anybody can connect, a stale one is replaced, one
 * that somebody answers on is not, and it is gone when the agent has stopped.
 *
 * @since 0.1.0
 */
import {
  chmodSync,
  chownSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync
} from "node:fs"
import { createServer, type Server } from "node:http"
import { connect, isIP, isIPv6, type Socket } from "node:net"
import { dirname } from "node:path"
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import { Problem } from "ctmap-api"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as HttpServer from "effect/http/HttpServer"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"

/** The socket cannot be served on. @since 0.1.0 */
export class ListenError extends Schema.TaggedError<ListenError>()("ListenError", {
  at: Schema.String,
  why: Schema.String
}) {
  override get message(): string {
    return `cannot serve on ${this.at}: ${this.why}`
  }
}

/** Where on TCP. @since 0.1.0 */
export interface HostPort {
  readonly host: string
  readonly port: number
}

/**
 * `HOST:PORT`, `[IPV6]:PORT`, or a port, whose host is then `otherwise`. `undefined` where it is neither.
 *
 * @since 0.1.0
 */
export const parseHostPort = (text: string, otherwise: string): HostPort | undefined => {
  const match = /^(?:(?:\[([0-9a-fA-F:.]+)\]|([^:[\]]*)):)?(\d{1,5})$/.exec(text)
  if (match === null) return undefined
  const [, six, name = "", digits] = match
  const port = Number(digits)
  if (port > 65_535 || (six !== undefined && !isIPv6(six))) return undefined
  return { host: six ?? (name === "" ? otherwise : name), port }
}

/** An address that only programs of this host reach. @since 0.1.0 */
export const isLoopback = (host: string): boolean =>
  host === "localhost" || host === "::1" || (isIP(host) === 4 && host.startsWith("127."))

/** Requests that run when the agent stops may take so long; then they are broken off. */
const GRACE = Duration.millis(500)

/** What the system says, and what to do about it. */
const told = (error: unknown): string => {
  if (!(error instanceof Error)) return String(error)
  const remedy = "code" in error ? remedies[String(error.code)] : undefined
  return remedy === undefined ? error.message : `${error.message}; ${remedy}`
}

const write = "let it write there, or choose another place (api-socket, empty for none; api-listen)"
const settings = "(api-listen, prometheus-serve-addr)"
const noName = `the name has no address here: write an address ${settings}`

const remedies: Readonly<Record<string, string>> = {
  EACCES: write,
  EPERM: write,
  EROFS: write,
  EADDRINUSE: `another process listens there: stop it, or choose another port ${settings}`,
  EADDRNOTAVAIL: `no interface of this host has that address: choose one that it has ${settings}`,
  ENOTFOUND: noName,
  EAI_AGAIN: noName
}

/** Connections that wait to be accepted: as many as Linux grants. A unix socket turns further ones away at once. */
const BACKLOG = 4096

/** What arrives must arrive in time, and be of a size that makes sense. */
const makeServer = (): Server => {
  const server = createServer({
    maxHeaderSize: 96 * 1024,
    headersTimeout: 10_000,
    requestTimeout: 30_000,
    keepAliveTimeout: 5_000,
    connectionsCheckingInterval: 2_000
  })
  server.maxConnections = 4096
  server.on("clientError", refuse)
  return server
}

/** What Node itself refuses, before there is a request. */
const refuse = (error: Error & { readonly code?: string }, socket: Socket): void => {
  if (!socket.writable || error.code === "ECONNRESET") {
    socket.destroy()
    return
  }
  const problem =
    error.code === "HPE_HEADER_OVERFLOW"
      ? new Problem.HeadersTooLarge({ detail: "the path, its query and the headers have at most 96 KiB" })
      : error.code === "ERR_HTTP_REQUEST_TIMEOUT"
        ? new Problem.RequestTimeout({ detail: "a request arrives within 30 seconds" })
        : new Problem.InvalidRequest({
            detail: "this is not HTTP",
            errors: [{ path: [], message: "this is not HTTP" }]
          })
  const body = JSON.stringify(Schema.encodeSync(Problem.Problem)(problem))
  socket.end(
    `HTTP/1.1 ${problem.status} ${problem.title}\r\nconnection: close\r\ncontent-type: application/problem+json\r\n` +
      `content-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`
  )
}

const listening = (
  at: string,
  listen: { readonly path: string } | HostPort
): Layer.Layer<HttpServer.HttpServer, ListenError> =>
  Layer.unwrap(
    Effect.sync(() => {
      const server = makeServer()
      // Released before the server, which waits for every connection: also for those that have sent half a request.
      const cut = Effect.addFinalizer(() => Effect.sync(() => server.closeAllConnections()))
      return Layer.effectDiscard(cut).pipe(
        Layer.provideMerge(
          Layer.effect(
            HttpServer.HttpServer,
            Effect.mapError(
              NodeHttpServer.make(() => server, { ...listen, backlog: BACKLOG, gracefulShutdownTimeout: GRACE }),
              ({ cause }) => new ListenError({ at, why: told(cause) })
            )
          )
        )
      )
    })
  )

/** @since 0.1.0 */
export const layerTcp = ({ host, port }: HostPort): Layer.Layer<HttpServer.HttpServer, ListenError> =>
  listening(isIPv6(host) ? `[${host}]:${port}` : `${host}:${port}`, { host, port })

/** @since 0.1.0 */
export interface SocketOptions {
  readonly path: string
  /** Whose members may connect, besides root. Default: the group of the agent. */
  readonly group?: string | undefined
}

/** Members of the group may do everything, others nothing. */
const MODE = 0o660

/**
 * A unix socket.
 *
 * **Details**
 *
 * Made under another name, given its group and mode, and only then put in its place: nobody connects before. Its folder
 * is made where it is missing. Errors: `ListenError` where another agent answers, something else is in the way, or the
 * system refuses.
 *
 * @since 0.1.0
 */
export const layerUnix = ({ group, path }: SocketOptions): Layer.Layer<HttpServer.HttpServer, ListenError> => {
  const temporary = `${path}.${process.pid}`
  const failed = (why: string) => new ListenError({ at: path, why })
  const attempt = <A>(what: () => A) => Effect.try({ try: what, catch: (error) => failed(told(error)) })

  const prepare = Effect.gen(function* () {
    if (Buffer.byteLength(temporary) > 107)
      return yield* failed("its path is longer than the 107 bytes that a socket may have")
    yield* attempt(() => mkdirSync(dirname(path), { recursive: true, mode: 0o755 }))
    yield* attempt(() => rmSync(temporary, { force: true }))
    if (!existsSync(path)) return
    if (!(yield* attempt(() => lstatSync(path).isSocket()))) {
      return yield* failed(
        "something that is no socket is in its place: remove it, or choose another path with api-socket"
      )
    }
    const taken = yield* Effect.mapError(answers(path), (code) =>
      failed(
        `whether somebody serves there cannot be told (${code}): stop who does, remove it, or choose another path with api-socket`
      )
    )
    if (taken) {
      return yield* failed("another agent answers there: stop it, or choose another path with api-socket")
    }
    yield* Effect.logInfo(`nobody answers on ${path}: it was left behind, and is replaced`)
  })
  const publish = Effect.acquireRelease(
    attempt(() => {
      chmodSync(temporary, MODE)
      if (group !== undefined) chownSync(temporary, -1, groupId(group))
      renameSync(temporary, path)
      return statSync(path).ino
    }),
    // Unless somebody else has one there by now.
    (own) => Effect.sync(() => existsSync(path) && statSync(path).ino === own && rmSync(path))
  )
  const served = Layer.effectDiscard(publish).pipe(Layer.provideMerge(listening(path, { path: temporary })))
  return Layer.unwrap(Effect.as(prepare, served))
}

const groupId = (name: string): number => {
  if (/^\d+$/.test(name)) return Number(name)
  const line = readFileSync("/etc/group", "utf8")
    .split("\n")
    .find((each) => each.startsWith(`${name}:`))
  const id = Number(line?.split(":")[2])
  if (!Number.isInteger(id))
    throw new Error(`there is no group "${name}": make it, or choose another with api-socket-group`)
  return id
}

/** Whether somebody accepts connections there. Fails with the code of the system where that cannot be told. */
const answers = (path: string): Effect.Effect<boolean, string> =>
  Effect.callback<boolean, string>((resume) => {
    const socket = connect(path)
    const done = (answer: Effect.Effect<boolean, string>) => {
      socket.destroy()
      resume(answer)
    }
    socket.once("connect", () => done(Effect.succeed(true)))
    // Nobody listens, or it has gone meanwhile. All else (too many wait, no permission) does not mean that nobody is there.
    socket.once("error", ({ code = "unknown" }: NodeJS.ErrnoException) =>
      done(code === "ECONNREFUSED" || code === "ENOENT" ? Effect.succeed(false) : Effect.fail(code))
    )
    return Effect.sync(() => socket.destroy())
  })
