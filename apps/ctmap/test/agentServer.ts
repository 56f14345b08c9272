/** An agent made of the contract alone, on a socket of its own: what it says of tables is what the commands say directly. */
import { mkdtempSync, rmSync } from "node:fs"
import { createServer } from "node:http"
import { join } from "node:path"
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import { AgentApi, type AgentStream, type Collection, EntryRows, Problem, type Request, type Status } from "ctmap-api"
import { CtJson, CtTime, MapName, Protocol } from "ctmap-core"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as HttpApiBuilder from "effect/http-api/HttpApiBuilder"
import * as HttpApiMiddleware from "effect/http-api/HttpApiMiddleware"
import * as HttpRouter from "effect/http/HttpRouter"
import * as HttpServerResponse from "effect/http/HttpServerResponse"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { Ran } from "./harness.ts"

/** When the recorded tables were collected, which is now for this agent. */
export const NOW = 5462

export interface Script {
  /** The commands on the tables of its host. */
  readonly direct?: (...args: ReadonlyArray<string>) => Effect.Effect<Ran>
  readonly gc?: (request: Request.Gc) => Effect.Effect<Collection.CtCollection, Problem.GuardStopped | Problem.NotFound>
  readonly purge?: (request: Request.Purge) => Effect.Effect<Collection.CtCollection, Problem.GuardStopped>
  readonly purgeOrphans?: (request: Request.PurgeOrphans) => Effect.Effect<Collection.NatCollection, Problem.NotFound>
  readonly events?: (query: Request.EventsQuery) => Stream.Stream<AgentStream.Event>
  readonly status?: Partial<Status.Status>
  readonly settings?: Readonly<Record<string, string>>
  readonly token?: string
  /** Ends its listings early, with this for a reason. */
  readonly breaksOff?: string
}

const health: Status.Status["health"] = {
  name: "ctmap-agent",
  kind: "hive",
  status: "ok",
  message: "",
  sinceMillis: 0,
  parts: [{ name: "gc", kind: "cell", status: "ok", message: "", sinceMillis: 0, parts: [] }]
}

const signals = { heard: 0, ignored: 0, useless: 0, gapMillis: 1000 }

export const status: Status.Status = {
  version: "1.2.3",
  pid: 42,
  startedAtMillis: 0,
  uptimeMillis: 3_720_000,
  ready: true,
  status: "ok",
  health,
  cells: [{ cell: "gc", state: "started" }],
  clock: { source: CtTime.ktime, now: NOW },
  gc: {
    schedule: "cilium",
    families: ["ipv4", "ipv6"],
    active: true,
    initialScanDone: true,
    intervalMillis: 60_000,
    rounds: 3,
    consecutiveFailures: 0,
    signals: { ipv4: signals, ipv6: signals }
  },
  passes: []
}

type Asked = Array<{ readonly endpoint: string; readonly request?: unknown }>

/** A folder that is gone with the scope. */
export const folder = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync("/tmp/ctmap-test-")),
  (path) => Effect.sync(() => rmSync(path, { recursive: true, force: true }))
)

/** Listens until the scope closes. */
export const serve = (script: Script, listen: { readonly at?: string; readonly port?: 0 } = {}) =>
  Effect.gen(function* () {
    const path = listen.at ?? join(yield* folder, "agent.sock")
    const asked: Asked = []
    const heard = <A, E>(endpoint: string, answer: Effect.Effect<A, E>, request?: unknown): Effect.Effect<A, E> =>
      Effect.suspend(() => {
        asked.push(request === undefined ? { endpoint } : { endpoint, request })
        return answer
      })
    const server = createServer()
    const app = HttpApiBuilder.layer(AgentApi.AgentApi).pipe(
      Layer.provide(groups(script, heard)),
      Layer.provide(Layer.merge(access(script), boundary))
    )
    yield* Layer.build(
      HttpRouter.serve(app, { disableLogger: true, disableListenLog: true }).pipe(
        Layer.provide(
          NodeHttpServer.layer(() => server, listen.port === undefined ? { path } : { port: 0, host: "127.0.0.1" })
        )
      )
    )
    // An agent that is gone has no connection left.
    yield* Effect.addFinalizer(() => Effect.sync(() => server.closeAllConnections()))
    const address = server.address()
    const at = typeof address === "object" && address !== null ? `http://127.0.0.1:${address.port}` : path
    return { at, asked }
  })

/** An agent that can be stopped before the scope closes. */
export const stoppable = (script: Script, listen: { readonly at: string }) =>
  Effect.gen(function* () {
    const scope = yield* Scope.fork(yield* Effect.scope)
    yield* Scope.provide(serve(script, listen), scope)
    return { stop: Scope.close(scope, Exit.void) }
  })

type Heard = <A, E>(endpoint: string, answer: Effect.Effect<A, E>, request?: unknown) => Effect.Effect<A, E>

const groups = (script: Script, heard: Heard) =>
  Layer.mergeAll(
    HttpApiBuilder.group(AgentApi.AgentApi, "status", (handlers) =>
      handlers.handleAll({
        status: () => heard("status", Effect.succeed({ ...status, ...script.status })),
        health: () => Effect.succeed(health)
      })
    ),
    HttpApiBuilder.group(AgentApi.AgentApi, "maps", (handlers) =>
      handlers.handleAll({
        maps: () => heard("maps", mapsOf(script)),
        entries: ({ query }) => heard("entries", entriesOf(script, query), query),
        rows: ({ query }) => heard("entries", rowsOf(script, query), query)
      })
    ),
    HttpApiBuilder.group(AgentApi.AgentApi, "collector", (handlers) =>
      handlers.handleAll({
        gc: ({ payload }) => heard("gc", script.gc?.(payload) ?? Effect.die("not asked for"), payload),
        purge: ({ payload }) => heard("purge", script.purge?.(payload) ?? Effect.die("not asked for"), payload),
        purgeOrphans: ({ payload }) =>
          heard("purgeOrphans", script.purgeOrphans?.(payload) ?? Effect.die("not asked for"), payload),
        passes: () => Effect.succeed({ ct: [], nat: [] }),
        events: ({ query }) => heard("events", Effect.succeed(script.events?.(query) ?? Stream.never), query)
      })
    ),
    HttpApiBuilder.group(AgentApi.AgentApi, "settings", (handlers) =>
      handlers.handleAll({
        config: () =>
          Effect.succeed({
            settings: Object.entries(script.settings ?? {}).map(([name, value]) => ({
              cell: "gc",
              name,
              value,
              source: "default" as const,
              where: "",
              secret: false
            }))
          }),
        reload: () => Effect.succeed({ applied: [], needRestart: [] }),
        logLevel: () => heard("logLevel", Effect.succeed({ level: "info" as const })),
        setLogLevel: ({ payload }) => Effect.succeed(payload)
      })
    )
  )

const nothing = (): Effect.Effect<Ran> => Effect.succeed({ code: 0, stdout: "[]", stderr: "" })

/** Of `ctmap maps -o json`. */
interface Row extends Pick<Status.PinnedMap, "path" | "health"> {
  readonly map: string
  readonly owner: string
  readonly type: string
  readonly keySize: number
  readonly valueSize: number
  readonly maxEntries: number
  readonly flags: number
  readonly entries: number
  readonly fill: number
  readonly layout: string
}

const kinds = { Nat: "nat", ClusterNatInner: "nat", ClusterOuter: "ct-outer" } as const

const mapsOf = ({ direct = nothing }: Script): Effect.Effect<Status.Maps> =>
  Effect.map(direct("maps", "-o", "json", "--now", String(NOW)), ({ stdout }) => ({
    root: "/agents/bpf",
    maps: (JSON.parse(stdout) as ReadonlyArray<Row>).map(pinnedMap)
  }))

const pinnedMap = (row: Row): Status.PinnedMap => {
  const { entries, fill, flags, keySize, layout, map, maxEntries, owner, path, type, valueSize } = row
  const tag = MapName.parse(map)?._tag as keyof typeof kinds
  const about = { name: map, path, kind: kinds[tag] ?? "ct", owner }
  // Could not be opened.
  if ((type ?? null) === null) return { ...about, health: row.health }
  return {
    ...about,
    type,
    keySize,
    valueSize,
    capacity: maxEntries,
    flags,
    layout,
    health: [],
    fill: { method: "counted", entries, error: 0, pressure: fill, expiredRatio: 0.25, sampledAtMillis: 0 }
  }
}

const ROWS = 300

/** Whatever a listing says of entries, as rows. */
const rowsOf = (script: Script, query: Request.EntriesQuery) =>
  Effect.gen(function* () {
    const text = yield* textOf(script, query)
    const frames: Array<Uint8Array> = []
    const records = text.split("\n").flatMap((line) => (line === "" ? [] : [JSON.parse(line) as CtJson.Record]))
    for (let from = 0; from < records.length; from += ROWS) {
      const some = records.slice(from, from + ROWS)
      const { family, map, type, protocol, protocolNumber } = some[0]!
      const bytes = some.map((record) =>
        Result.getOrThrow(record.type === "ct" ? CtJson.ctBytes(record) : CtJson.natBytes(record))
      )
      const sizes = { keySize: bytes[0]!.key.byteLength, valueSize: bytes[0]!.value.byteLength }
      const release = Protocol.name(protocolNumber, "1.17") === protocol ? "1.17" : "1.20"
      const frame = EntryRows.rowsFrame(sizes, some.length)
      for (const [i, { key, value }] of bytes.entries()) {
        frame.keys.set(key, i * sizes.keySize)
        frame.values.set(value, i * sizes.valueSize)
      }
      frames.push(EntryRows.tableFrame({ map: map ?? "", kind: type, family, release, ...sizes }), frame.bytes)
    }
    const { breaksOff } = script
    if (breaksOff !== undefined) frames.push(EntryRows.failedFrame({ type: "error", detail: breaksOff, entries: 7 }))
    return inPieces(Buffer.concat(frames), EntryRows.CONTENT_TYPE)
  })

const entriesOf = (script: Script, query: Request.EntriesQuery) =>
  Effect.gen(function* () {
    const text = yield* textOf(script, query)
    const { breaksOff } = script
    const end = breaksOff === undefined ? "" : `${JSON.stringify({ type: "error", detail: breaksOff, entries: 7 })}\n`
    return inPieces(Buffer.from(text + end, "latin1"), "application/x-ndjson")
  })

/** In pieces that end anywhere but where a line or a frame does. */
const inPieces = (bytes: Buffer, contentType: string) => {
  const pieces = Array.from({ length: Math.ceil(bytes.length / 9973) }, (_, i) =>
    bytes.subarray(9973 * i, 9973 * (i + 1))
  )
  return HttpServerResponse.stream(Stream.fromIterable(pieces), { contentType })
}

const textOf = ({ direct = nothing }: Script, { limit, map = [], nat, where }: Request.EntriesQuery) =>
  Effect.gen(function* () {
    const list = nat === true ? ["nat", "list"] : ["list"]
    const { code, stderr, stdout } = yield* direct(
      ...list,
      ...map.flatMap((name) => ["--map", name]),
      ...(where === undefined ? [] : ["--where", where]),
      ...(limit === undefined ? [] : ["--limit", String(limit)]),
      "-o",
      "ndjson",
      "--now",
      String(NOW)
    )
    if (code !== 0) return yield* new Problem.KernelFailed({ detail: stderr, deleted: 0, pairs: [] })
    return stdout
  })

const access = ({ token }: Script) =>
  Layer.succeed(AgentApi.Access, {
    bearer: (answer, { credential }) =>
      token === undefined || Redacted.value(credential) === token
        ? answer
        : new Problem.Unauthorized({ detail: "the token is not the one of this agent." })
  })

const boundary = HttpApiMiddleware.layerSchemaErrorTransform(AgentApi.Boundary, ({ cause }) =>
  Effect.fail(new Problem.InvalidRequest({ errors: [{ path: ["query", "where"], message: cause.message }] }))
)
