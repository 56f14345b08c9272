import { assert, describe, it } from "@effect/vitest"
import { AgentClient, EntryRows } from "ctmap-api"
import * as ConfigProvider from "effect/ConfigProvider"
import * as Effect from "effect/Effect"
import * as HttpClientError from "effect/http/HttpClientError"
import * as HttpClientRequest from "effect/http/HttpClientRequest"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import * as Stream from "effect/Stream"
import { spawnSync } from "node:child_process"
import { mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs"
import { createServer, type IncomingMessage, type RequestListener } from "node:http"
import type { AddressInfo } from "node:net"
import { tmpdir } from "node:os"
import { dirname, join } from "node:path"
import { unreachable } from "../src/internal/unreachable.ts"

const record = {
  type: "ct",
  map: "cilium_ct4_global",
  family: "ipv4",
  protocol: "TCP",
  protocolNumber: 6,
  source: { address: "10.0.1.99", port: 34_520 },
  destination: { address: "1.1.1.1", port: 80 },
  related: false,
  tupleFlagBits: 0,
  release: "1.17",
  direction: "out",
  expires: 100,
  packets: 1,
  bytes: 60,
  flags: [],
  flagBits: 0,
  rx: { tcpFlags: [], tcpFlagBits: 0, lastReport: 0 },
  tx: { tcpFlags: [], tcpFlagBits: 0, lastReport: 0 },
  revNat: 0,
  sourceSecurityId: 0,
  backendId: 0,
  ifindex: 0
}
const line = (value: unknown) => `${JSON.stringify(value)}\n`

const folder = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "ctmap-api-"))),
  (path) => Effect.sync(() => rmSync(path, { recursive: true, force: true }))
)

/** An agent that says what it is told to. */
const agent = (answer: RequestListener, listen: (folder: string) => string | 0 = (path) => join(path, "agent.sock")) =>
  Effect.gen(function* () {
    const seen: Array<IncomingMessage> = []
    const where = listen(yield* folder)
    const server = createServer((request, response) => {
      seen.push(request)
      answer(request, response)
    })
    yield* Effect.acquireRelease(
      Effect.promise(() => new Promise<void>((done) => server.listen(where, done))),
      () =>
        Effect.promise(() => {
          server.closeAllConnections()
          return new Promise((done) => server.close(done))
        })
    )
    const at = where === 0 ? `http://127.0.0.1:${(server.address() as AddressInfo).port}` : where
    return { at, seen }
  })

const json = (status: number, body: unknown): RequestListener => {
  const type = status < 400 ? "application/json" : "application/problem+json"
  return (_, response) => void response.writeHead(status, { "content-type": type }).end(JSON.stringify(body))
}

type Client = AgentClient.AgentClient["Service"]
type Read = (client: Client) => Stream.Stream<unknown, AgentClient.AgentError | AgentClient.ListingIncomplete>
const readings: ReadonlyArray<Read> = [(client) => client.entries({}), (client) => client.entryLines({})]

const ask = <A, E>(at: string, use: (client: Client) => Effect.Effect<A, E>) =>
  Effect.flatMap(AgentClient.AgentClient, use).pipe(Effect.provide(AgentClient.layer({ at })))

describe("a client", () => {
  it.live("asks over a unix socket", () =>
    Effect.gen(function* () {
      const { at, seen } = yield* agent(json(200, { level: "debug" }))
      assert.strictEqual(yield* ask(at, (client) => client.logLevel), "debug")
      assert.strictEqual(yield* ask(`unix://${at}`, (client) => client.logLevel), "debug")
      assert.strictEqual(seen[0]?.url, "/v1/log-level")
      assert.isUndefined(seen[0]?.headers.authorization)
    })
  )

  it.live("asks over TCP, with a token", () =>
    Effect.gen(function* () {
      const { at, seen } = yield* agent(json(200, { applied: [], needRestart: ["api-socket"] }), () => 0)
      const token = Redacted.make("hush")
      const reloaded = yield* Effect.flatMap(AgentClient.AgentClient, ({ reload }) => reload).pipe(
        Effect.provide(AgentClient.layer({ at: `${at}/`, token }))
      )
      assert.deepStrictEqual(reloaded.needRestart, ["api-socket"])
      assert.strictEqual(seen[0]?.headers.authorization, "Bearer hush")
      assert.strictEqual(seen[0]?.method, "POST")
      assert.strictEqual(seen[0]?.url, "/v1/reload")
    })
  )

  it.live("finds its agent in the environment", () =>
    Effect.gen(function* () {
      const { at } = yield* agent(json(200, { level: "warn" }))
      const env = ConfigProvider.layer(ConfigProvider.fromUnknown({ CTMAP_AGENT_SOCKET: at }))
      const level = yield* Effect.flatMap(AgentClient.AgentClient, (client) => client.logLevel).pipe(
        Effect.provide(Layer.provide(AgentClient.layer(), env))
      )
      assert.strictEqual(level, "warn")
    })
  )

  it.live("fails with the problem that the agent tells", () =>
    Effect.gen(function* () {
      const { at } = yield* agent(
        json(409, {
          type: "urn:ctmap:problem:guard-stopped",
          status: 409,
          title: "The guard stopped the pass",
          detail: "nothing was deleted",
          map: "cilium_ct4_global",
          wanted: 10,
          entries: 12,
          allowed: 6,
          limit: "max-delete-ratio",
          deleted: 0,
          pairs: []
        })
      )
      const error = yield* Effect.flip(ask(at, (client) => client.purge({ where: "tcp" })))
      assert.strictEqual(error._tag, "GuardStopped")
      assert.strictEqual(error.message, "nothing was deleted")
    })
  )

  it.live("takes health for an answer, good or bad", () =>
    Effect.gen(function* () {
      const health = { name: "a", kind: "hive", status: "degraded", message: "", sinceMillis: 0, parts: [] }
      const type = "urn:ctmap:problem:unhealthy"
      const { at } = yield* agent(json(503, { type, status: 503, title: "Not everything works", health }))
      assert.deepStrictEqual(yield* ask(at, (client) => client.health), health as never)
    })
  )

  it.live("streams entries, as records and as lines", () =>
    Effect.gen(function* () {
      const { at, seen } = yield* agent((_, response) => {
        response.writeHead(200, { "content-type": "application/x-ndjson" })
        response.write(line(record).slice(0, 50))
        response.end(`${line(record).slice(50)}${line({ ...record, packets: "9007199254740993" })}`)
      })
      const query = { where: "tcp and dport 80", map: ["a", "b"], nat: true, limit: 7 } as const
      const records = yield* ask(at, (client) => Stream.runCollect(client.entries(query)))
      assert.deepStrictEqual(
        records.map((entry) => (entry.type === "ct" ? entry.packets : undefined)),
        [1, "9007199254740993"]
      )
      const lines = yield* ask(at, (client) => Stream.runCollect(client.entryLines({})))
      assert.deepStrictEqual(JSON.parse(lines[0] ?? ""), record)
      assert.strictEqual(lines.length, 2)
      const asked = new URL(seen[0]?.url ?? "", "http://agent").searchParams
      assert.deepStrictEqual(
        [...asked],
        [
          ["map", "a"],
          ["map", "b"],
          ["nat", "true"],
          ["where", "tcp and dport 80"],
          ["limit", "7"]
        ]
      )
    })
  )

  it.live("says so where a listing ends early", () =>
    Effect.gen(function* () {
      const { at } = yield* agent((_, response) => {
        response.writeHead(200, { "content-type": "application/x-ndjson" })
        response.end(line(record) + line({ type: "error", detail: "the map is gone", entries: 1 }))
      })
      for (const read of readings) {
        let seen = 0
        const reading = ask(at, (client) => Stream.runForEach(read(client), () => Effect.sync(() => seen++)))
        const error = yield* Effect.flip(reading)
        assert.strictEqual(error._tag, "ListingIncomplete")
        assert.include(error.message, "could not finish its listing after 1 entries: the map is gone")
        assert.strictEqual(seen, 1)
      }
    })
  )

  it.live("reads rows, and says so where they end early or are none", () =>
    Effect.gen(function* () {
      const sizes = { keySize: 14, valueSize: 56 }
      const table = EntryRows.tableFrame({ map: "m", kind: "ct", family: "ipv4", release: "1.17", ...sizes })
      const answer = (...frames: ReadonlyArray<Uint8Array>) =>
        agent((_, response) => {
          response.writeHead(200, { "content-type": EntryRows.CONTENT_TYPE })
          response.end(Buffer.concat(frames))
        })
      const counts: Array<number> = []
      const read = (at: string) =>
        ask(at, (client) =>
          Stream.runForEach(client.entryRows({ where: "tcp" }), ({ count }) => Effect.sync(() => counts.push(count)))
        )
      const { at, seen } = yield* answer(table, EntryRows.rowsFrame(sizes, 2).bytes)
      yield* read(at)
      assert.deepStrictEqual([counts, seen[0]?.url], [[2], "/v1/entries/rows?where=tcp"])
      const failed = EntryRows.failedFrame({ type: "error", detail: "the map is gone", entries: 1 })
      const early = yield* Effect.flip(read((yield* answer(table, EntryRows.rowsFrame(sizes, 1).bytes, failed)).at))
      assert.include(String(early), "could not finish its listing after 1 entries: the map is gone")
      const strange = yield* Effect.flip(read((yield* answer(Buffer.from("what is this?"))).at))
      assert.strictEqual(strange._tag, "AgentAnswer")
      assert.deepStrictEqual(counts, [2, 1])
    })
  )

  it.live("says so where the agent goes away in the middle", () =>
    Effect.gen(function* () {
      const { at } = yield* agent((_, response) => {
        response.writeHead(200, { "content-type": "application/x-ndjson" })
        response.write(line(record), () => response.destroy())
      })
      for (const read of readings) {
        const error = yield* Effect.flip(ask(at, (client) => Stream.runDrain(read(client))))
        assert.strictEqual(error._tag, "AgentUnreachable")
        assert.include(error.message, "it closed the connection")
      }
    })
  )

  it.live("refuses a problem before the first line of a listing", () =>
    Effect.gen(function* () {
      const type = "urn:ctmap:problem:not-found"
      const { at } = yield* agent(json(404, { type, status: 404, title: "Not found", detail: "no such map" }))
      for (const read of readings) {
        const error = yield* Effect.flip(ask(at, (client) => Stream.runDrain(read(client))))
        assert.strictEqual(error._tag, "NotFound")
        assert.strictEqual(error.message, "no such map")
      }
    })
  )

  it.live("hears events until they end", () =>
    Effect.gen(function* () {
      const { at, seen } = yield* agent((_, response) => {
        response.writeHead(200, { "content-type": "text/event-stream" })
        const deleted = { serial: 1, dryRun: false, family: "ipv4", owner: "global", map: "m" }
        const entries = [{ reason: "expired", entry: record }]
        response.write(": is alive\n\n")
        response.write(`event: deleted\ndata: ${JSON.stringify({ ...deleted, entries })}\n\n`)
        response.end(`event: lost\ndata: {"entries":5,"passes":0}\n\n`)
      })
      const events = yield* ask(at, (client) => Stream.runCollect(client.events({ reason: ["expired"] })))
      assert.deepStrictEqual(
        events.map(({ event }) => event),
        ["deleted", "lost"]
      )
      assert.include(seen[0]?.url ?? "", "reason=expired")
    })
  )
})

describe("an agent that is not there", () => {
  const failing = (at: string) => Effect.flip(ask(at, (client) => client.status))

  it.live("has no socket, and the client says to start it", () =>
    Effect.gen(function* () {
      const error = yield* failing("/nowhere/agent.sock")
      assert.strictEqual(error._tag, "AgentUnreachable")
      assert.include(error.message, "there is no such socket; start ctmap-agent")
    })
  )

  it.live("has left a socket that nobody listens on", () =>
    Effect.gen(function* () {
      const path = join(yield* folder, "agent.sock")
      // A socket stays where its process is killed.
      const script = `require("net").createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, 9))`
      assert.strictEqual(spawnSync(process.execPath, ["-e", script]).signal, "SIGKILL")
      const error = yield* failing(path)
      assert.include(error.message, "nobody listens on the socket any more; start ctmap-agent, which replaces it")
    })
  )

  it.live("is not in a place where no socket is, which no agent would replace", () =>
    Effect.gen(function* () {
      const directory = yield* folder
      assert.include((yield* failing(directory)).message, "that is a directory; name the socket in it")
      const path = join(directory, "agent.sock")
      writeFileSync(path, "")
      assert.include((yield* failing(path)).message, "that is no socket; name the one that ctmap-agent has")
    })
  )

  it.live("is at no URL of another kind", () =>
    Effect.gen(function* () {
      for (const at of ["ftp://host", "https+unix://x", "http://[/"]) {
        const { message } = yield* failing(at)
        assert.include(message, "neither the path of a socket nor a URL such as http://127.0.0.1:9964")
      }
    })
  )

  it.live("does not listen on TCP", () =>
    Effect.gen(function* () {
      const error = yield* failing("http://127.0.0.1:1")
      assert.include(error.message, "start ctmap-agent with --api-listen")
      assert.strictEqual(error._tag === "AgentUnreachable" ? error.code : "", "ECONNREFUSED")
    })
  )

  it("lets nobody else in, and the client says whom it would", () => {
    const path = join(mkdtempSync(join(tmpdir(), "ctmap-api-")), "agent.sock")
    const request = HttpClientRequest.get("http://agent/v1/status")
    const denied = new HttpClientError.TransportError({
      request,
      cause: Object.assign(new Error("no"), { code: "EACCES" })
    })
    try {
      writeFileSync(path, "")
      const told = unreachable(path, denied)
      const { gid } = statSync(path)
      assert.strictEqual(told?.code, "EACCES")
      if (gid === 0)
        assert.include(told?.why ?? "", "is for root only: run as root, or start ctmap-agent with --api-socket-group")
      else assert.match(told?.why ?? "", /is for the group .*: join it \(usermod -aG/)
      assert.strictEqual(unreachable("http://127.0.0.1:1", denied)?.why, "not permitted")
      assert.include(unreachable("/nowhere/at/all.sock", denied)?.why ?? "", "a member of the group")
    } finally {
      rmSync(dirname(path), { recursive: true })
    }
  })

  it.live("is no agent of this version", () =>
    Effect.gen(function* () {
      const { at } = yield* agent((_, response) => void response.writeHead(418).end("short and stout"))
      const strange = yield* failing(at)
      assert.strictEqual(strange._tag, "AgentAnswer")
      const { at: other } = yield* agent(json(200, { version: 1 }))
      const older = yield* failing(other)
      assert.strictEqual(older._tag, "AgentAnswer")
      assert.include(older.message, "probably of different versions")
    })
  )
})
