/** The API over real sockets: who may connect, what is refused, and what those cost who are slow or many. */
import { spawn } from "node:child_process"
import { existsSync, linkSync, mkdirSync, statSync, writeFileSync } from "node:fs"
import { createServer, connect } from "node:net"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { AgentClient } from "ctmap-api"
import { Lifecycle } from "ctmap-cell"
import { CtEntry, MapName } from "ctmap-core"
import { GcEvents, GcRunner } from "ctmap-gc"
import { Bpf, Owner } from "ctmap-kernel"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as References from "effect/References"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import * as Streams from "../src/api/Streams.ts"
import { Reload } from "../src/Reload.ts"
import { type Answer, ask, folder, freePort, problemOf, quiet, serving, settled, stream, until } from "./apiStage.ts"
import { agent, makeKernel, restore, ROOT, type Twin } from "./stage.ts"

const why = (exit: Exit.Exit<unknown, unknown>): string =>
  Exit.isFailure(exit)
    ? String(Exit.findErrorOption(exit).pipe((found) => (found._tag === "Some" ? found.value : exit.cause)))
    : "started"

/** Bytes on a socket, and what comes back. */
const sent = (path: string, text: string): Effect.Effect<string> =>
  Effect.callback<string>((resume) => {
    const socket = connect(path)
    let answer = ""
    socket.setEncoding("utf8")
    socket.on("data", (chunk: string) => (answer += chunk))
    socket.once("error", () => {})
    socket.once("close", () => resume(Effect.succeed(answer)))
    socket.write(text)
    return Effect.sync(() => socket.destroy())
  })

describe("the unix socket", () => {
  it.live("is there with mode 0660, in a folder that is made, and gone when the agent has stopped", () =>
    Effect.gen(function* () {
      const at = yield* Effect.scoped(
        Effect.gen(function* () {
          const { at: path } = yield* serving(makeKernel())
          const found = statSync(path)
          assert.isTrue(found.isSocket())
          assert.strictEqual((found.mode & 0o777).toString(8), "660")
          assert.strictEqual((yield* ask({ at: path, path: "/healthz" })).text, "ok\n")
          assert.strictEqual((yield* ask({ at: path, path: "/readyz" })).status, 200)
          return path
        })
      )
      assert.isFalse(existsSync(at))
    })
  )

  it.live.skipIf(process.getuid?.() !== 0)("belongs to the group that is named", () =>
    Effect.gen(function* () {
      const { at } = yield* serving(makeKernel(), ["--api-socket-group=12345"])
      assert.strictEqual(statSync(at).gid, 12_345)
      const path = join(yield* folder, "agent.sock")
      const flags = [`--api-socket=${path}`, "--api-socket-group=no-such-group"]
      const exit = yield* Effect.exit(Effect.scoped(Layer.build(agent(makeKernel(), () => flags))))
      assert.include(why(exit), 'there is no group "no-such-group"')
      assert.isFalse(existsSync(path))
    })
  )

  it.live("that somebody left behind is replaced; one that somebody answers on is not", () =>
    Effect.gen(function* () {
      const { at } = yield* serving(makeKernel())
      const second = yield* Effect.exit(Effect.scoped(Layer.build(agent(makeKernel(), () => [`--api-socket=${at}`]))))
      assert.include(why(second), "another agent answers there")
      assert.strictEqual((yield* ask({ at, path: "/healthz" })).status, 200)

      const left = join(yield* folder, "left.sock")
      yield* Effect.callback<void>((resume) => {
        // Whoever is killed leaves its socket behind: it is linked before its server can remove it.
        const server = createServer().listen(`${left}.old`, () => {
          linkSync(`${left}.old`, left)
          server.close(() => resume(Effect.void))
        })
      })
      assert.isTrue(statSync(left).isSocket())
      yield* Layer.build(agent(makeKernel(), () => [`--api-socket=${left}`]))
      assert.strictEqual((yield* ask({ at: left, path: "/healthz" })).status, 200)
    })
  )

  it.live("is not taken from an agent that is too busy to accept", () =>
    Effect.gen(function* () {
      const path = join(yield* folder, "busy.sock")
      const stuck = `require("net").createServer().listen({ path: "${path}", backlog: 1 }, () => {
        process.stdout.write("listens")
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)
      })`
      const child = yield* Effect.acquireRelease(
        Effect.sync(() => spawn(process.execPath, ["-e", stuck], { stdio: ["ignore", "pipe", "inherit"] })),
        (process) => Effect.sync(() => process.kill("SIGKILL"))
      )
      yield* Effect.callback<void>((resume) => void child.stdout.once("data", () => resume(Effect.void)))
      // Until there is no room for those that wait: then the next is turned away, though the socket is served.
      const turnedAway = Effect.callback<boolean>((resume) => {
        const socket = connect(path, () => resume(Effect.succeed(false)))
        socket.once("error", () => resume(Effect.succeed(true)))
      })
      yield* Effect.repeat(turnedAway, { until: (full) => full })
      const exit = yield* Effect.exit(Effect.scoped(Layer.build(agent(makeKernel(), () => [`--api-socket=${path}`]))))
      assert.include(why(exit), "whether somebody serves there cannot be told (EAGAIN)")
      assert.isTrue(statSync(path).isSocket())
    })
  )

  it.live("is not put in the place of a file", () =>
    Effect.gen(function* () {
      const path = join(yield* folder, "precious")
      writeFileSync(path, "data")
      const exit = yield* Effect.exit(Effect.scoped(Layer.build(agent(makeKernel(), () => [`--api-socket=${path}`]))))
      assert.include(why(exit), "something that is no socket is in its place")
      assert.isTrue(statSync(path).isFile())
    })
  )

  it.live("has a path that is short enough, or an error that says so", () =>
    Effect.gen(function* () {
      const long = join(yield* folder, "x".repeat(100))
      mkdirSync(long)
      const flags = () => [`--api-socket=${join(long, "agent.sock")}`]
      const exit = yield* Effect.exit(Effect.scoped(Layer.build(agent(makeKernel(), flags))))
      assert.include(why(exit), "longer than the 107 bytes")
    })
  )
})

describe("requests that are none", () => {
  it.live("are answered with problems", () =>
    Effect.gen(function* () {
      const { at } = yield* serving(makeKernel())
      const cases: ReadonlyArray<readonly [Parameters<typeof ask>[0], number, string]> = [
        [{ at, path: "/nope" }, 404, "not-found"],
        [{ at, path: "/v1/status/" }, 404, "not-found"],
        [{ at, path: "/v1/%" }, 404, "not-found"],
        [{ at, path: "/v1/status", method: "POST" }, 405, "method-not-allowed"],
        [{ at, path: "/v1/gc", method: "OPTIONS" }, 405, "method-not-allowed"],
        [{ at, path: "/v1/entries?wehre=tcp" }, 400, "invalid-request"],
        [{ at, path: "/v1/gc", method: "POST", body: "{" }, 400, "invalid-request"],
        [{ at, path: "/v1/gc", method: "POST", body: '{"dryrun":true}' }, 400, "invalid-request"],
        [{ at, path: "/v1/purge", method: "POST", body: "{}" }, 400, "invalid-request"],
        [{ at, path: "/v1/gc", method: "POST", body: "x".repeat(200_000) }, 413, "payload-too-large"],
        [
          {
            at,
            path: "/v1/gc",
            method: "POST",
            body: "x".repeat(200_000),
            headers: { "transfer-encoding": "chunked" }
          },
          413,
          "payload-too-large"
        ],
        [
          { at, path: "/v1/gc", method: "POST", body: "{}", headers: { "content-type": "text/plain" } },
          415,
          "unsupported-media-type"
        ],
        [{ at, path: `/v1/entries?where=${"x".repeat(120_000)}` }, 431, "headers-too-large"]
      ]
      for (const [asking, status, type] of cases) {
        const answer = yield* ask(asking)
        assert.strictEqual(answer.status, status, asking.path.slice(0, 80))
        assert.strictEqual(problemOf(answer).type, `urn:ctmap:problem:${type}`)
      }
      const { headers } = yield* ask({ at, path: "/v1/log-level", method: "DELETE" })
      assert.strictEqual(headers.allow, "GET, PUT, HEAD")
      assert.match(
        yield* sent(at, "EHLO example\r\n\r\n"),
        /^HTTP\/1.1 400 [^]*application\/problem\+json[^]*this is not HTTP/
      )
      assert.strictEqual((yield* ask({ at, path: "/healthz" })).status, 200)
    })
  )

  it.live("by HEAD have a head and no body, and hold nothing open", () =>
    Effect.gen(function* () {
      const twin = makeKernel()
      yield* restore(twin)
      const { at, context } = yield* serving(twin, ["--api-max-event-streams=1"])
      yield* settled(context, twin)
      const fds = twin.control.openFds().length
      for (let i = 0; i < 3; i++) {
        for (const path of ["/v1/status", "/v1/entries", "/v1/events", "/v1/nope"]) {
          const answer = yield* ask({ at, path, method: "HEAD" })
          assert.strictEqual(answer.status, path === "/v1/nope" ? 404 : 200, path)
          assert.strictEqual(answer.text, "")
        }
      }
      yield* until(() => twin.control.openFds().length === fds)
    })
  )
})

describe("the log", () => {
  it.live("has requests at the level debug only, and never what was asked for", () =>
    Effect.gen(function* () {
      const linesAt = (level: "Info" | "Debug") =>
        Effect.scoped(
          Effect.gen(function* () {
            const lines: Array<string> = []
            const logger = Logger.make<unknown, void>(({ message }) => void lines.push(String(message)))
            const { at } = yield* serving(makeKernel()).pipe(
              Effect.provide(Logger.layer([logger])),
              Effect.provideService(References.MinimumLogLevel, level)
            )
            yield* ask({ at, path: "/v1/entries?where=host+10.0.0.1" })
            return lines.filter((line) => line.includes("/v1/entries"))
          })
        )
      assert.deepStrictEqual(yield* linesAt("Info"), [])
      const [line] = yield* linesAt("Debug")
      assert.include(line ?? "", "GET /v1/entries 404")
      assert.notInclude(line ?? "", "10.0.0.1")
    })
  )
})

describe("over TCP", () => {
  it.live("reading is for programs of this host, changing for nobody", () =>
    Effect.gen(function* () {
      const port = yield* freePort
      const { at: socket } = yield* serving(makeKernel(), [`--api-listen=${port}`])
      const at = { port }
      assert.strictEqual((yield* ask({ at, path: "/v1/status" })).status, 200)
      const body = '{"level":"none"}'
      const change = { path: "/v1/log-level", method: "PUT", body } as const
      assert.strictEqual(problemOf(yield* ask({ at, ...change })).type, "urn:ctmap:problem:read-only")
      const rebound = yield* ask({ at, path: "/v1/status", headers: { host: "evil.example:80" } })
      assert.strictEqual(rebound.status, 403)
      assert.strictEqual(problemOf(rebound).type, "urn:ctmap:problem:foreign-host")
      const metrics = yield* ask({ at, path: "/metrics", headers: { host: "evil.example" } })
      assert.strictEqual(metrics.status, 403)
      assert.strictEqual((yield* ask({ at: socket, ...change })).status, 200)
    })
  )

  it.live("with a token everything but the probes needs it", () =>
    Effect.gen(function* () {
      const port = yield* freePort
      yield* serving(makeKernel(), [`--api-listen=127.0.0.1:${port}`, "--api-token=hush"])
      const at = { port }
      const tokens: ReadonlyArray<string | undefined> = [
        undefined,
        "",
        "Bearer",
        "Bearer hus",
        "Bearer hushh",
        "Basic hush"
      ]
      for (const path of ["/v1/status", "/metrics", "/v1/openapi.json"]) {
        for (const token of tokens) {
          const answer = yield* ask({ at, path, headers: token === undefined ? {} : { authorization: token } })
          assert.strictEqual(answer.status, 401, `${path} ${token}`)
          assert.strictEqual(problemOf(answer).type, "urn:ctmap:problem:unauthorized")
          assert.strictEqual(answer.headers["www-authenticate"], "Bearer")
        }
        assert.strictEqual((yield* ask({ at, path, headers: { authorization: "Bearer hush" } })).status, 200)
      }
      for (const path of ["/healthz", "/readyz"]) assert.strictEqual((yield* ask({ at, path })).status, 200)
      const body = '{"level":"warn"}'
      const headers = { authorization: "bearer hush" }
      assert.strictEqual((yield* ask({ at, path: "/v1/log-level", method: "PUT", body, headers })).status, 200)
    })
  )

  it.live("takes another token when settings are read again, and the old one no more", () =>
    Effect.gen(function* () {
      const port = yield* freePort
      let token: ReadonlyArray<string> = ["--api-token=old"]
      const context = yield* Layer.build(agent(makeKernel(), () => [`--api-listen=${port}`, ...token]))
      const { reload } = Context.get(context, Reload)
      const statusWith = (word: string) =>
        Effect.map(
          ask({ at: { port }, path: "/v1/status", headers: { authorization: `Bearer ${word}` } }),
          ({ status }) => status
        )
      assert.deepStrictEqual(yield* Effect.all([statusWith("old"), statusWith("new")]), [200, 401])
      token = ["--api-token=new"]
      assert.deepStrictEqual(yield* reload, { applied: ["api-token"], needRestart: [] })
      assert.deepStrictEqual(yield* Effect.all([statusWith("old"), statusWith("new")]), [401, 200])
      // Without one it only answers questions.
      token = []
      yield* reload
      const change = ask({ at: { port }, path: "/v1/log-level", method: "PUT", body: '{"level":"warn"}' })
      assert.deepStrictEqual([yield* statusWith("new"), (yield* change).status], [200, 403])
    })
  )

  it.live("an address that is taken, or is none, is an error that names it", () =>
    Effect.gen(function* () {
      const port = yield* freePort
      yield* serving(makeKernel(), [`--api-listen=${port}`])
      const taken = yield* Effect.exit(
        Effect.scoped(Layer.build(agent(makeKernel(), () => [`--api-listen=127.0.0.1:${port}`])))
      )
      assert.include(why(taken), `cannot serve on 127.0.0.1:${port}`)
      assert.match(
        why(taken),
        /EADDRINUSE.*; another process listens there: stop it, or choose another port \(api-listen/
      )
      for (const [address, says] of [
        [
          "192.0.2.1:1",
          /EADDRNOTAVAIL.*; no interface of this host has that address: choose one that it has \(api-listen/
        ],
        ["nowhere.invalid:1", /(ENOTFOUND|EAI_AGAIN).*; the name has no address here: write an address \(api-listen/]
      ] as const) {
        const foreign = yield* Effect.exit(
          Effect.scoped(Layer.build(agent(makeKernel(), () => [`--api-listen=${address}`, "--api-token=hush"])))
        )
        assert.match(why(foreign), says)
      }
      const none = yield* Effect.exit(Effect.scoped(Layer.build(agent(makeKernel(), () => ["--api-listen=nowhere"]))))
      assert.include(why(none), "expected HOST:PORT")
    })
  )
})

describe("many requests at once", () => {
  it.live("are all answered, and leave nothing open", () =>
    Effect.gen(function* () {
      const twin = makeKernel()
      yield* restore(twin)
      const { at, context } = yield* serving(twin)
      yield* settled(context, twin)
      yield* ask({ at, path: "/v1/gc", method: "POST", body: "{}" })
      const fds = twin.control.openFds().length
      const paths = [
        "/v1/status",
        "/v1/maps",
        "/v1/passes",
        "/v1/entries?limit=3",
        "/v1/gc",
        "/metrics",
        "/v1/config",
        "/nope"
      ]
      const answers = yield* Effect.forEach(
        Array.from({ length: 1000 }, (_, i) => paths[i % paths.length]!),
        (path) =>
          Effect.map(ask(path === "/v1/gc" ? { at, path, method: "POST", body: "{}" } : { at, path }), (answer) => ({
            path,
            answer
          })),
        { concurrency: "unbounded" }
      )
      const wrong = answers.filter(({ answer, path }) => answer.status !== (path === "/nope" ? 404 : 200))
      assert.deepStrictEqual(wrong, [])
      assert.strictEqual(answers.length, 1000)
      assert.strictEqual((yield* ask({ at, path: "/v1/health" })).status, 200)
      yield* until(() => twin.control.openFds().length === fds)
    }).pipe(Effect.provideService(Streams.Patience, Duration.infinity))
  )
})

/** Thousands of live connections. */
const fill = (twin: Twin): void => {
  const map = twin.control.map(MapName.pinPath(ROOT, MapName.TCP4_GLOBAL))!
  for (let i = 0; i < 8000; i++) {
    const key = new Uint8Array(14)
    new DataView(key.buffer).setUint32(0, i)
    const value = new Uint8Array(CtEntry.SIZE)
    new DataView(value.buffer).setUint32(CtEntry.offset.lifetime, 6000, true)
    map.update(key, value, Bpf.ANY)
  }
}

/** An agent whose passes take seconds from now on. */
const slow = (twin: Twin) =>
  Effect.gen(function* () {
    const flags: Array<string> = []
    const served = yield* serving(twin, flags)
    yield* settled(served.context, twin)
    fill(twin)
    flags.push("--budget=0.01")
    const reloaded = yield* ask({ at: served.at, path: "/v1/reload", method: "POST" })
    assert.deepStrictEqual(JSON.parse(reloaded.text), { applied: ["budget"], needRestart: [] })
    return served
  })

/** Asks a slow agent for a pass over IPv4, which is under way now. */
const passBegun = (twin: Twin, at: string) =>
  Effect.gen(function* () {
    const reads = () => twin.control.count("lookupBatch")
    const before = reads()
    const gc = ask({ at, path: "/v1/gc", method: "POST", body: '{"families":["ipv4"]}' })
    const asked = yield* Effect.forkDetach(gc, { startImmediately: true })
    yield* until(() => reads() > before)
    return asked
  })

/** A batch as a pass publishes it, of `count` entries. */
const batch = (serial: number, count: number): GcEvents.Deleted => ({
  _tag: "Deleted",
  serial,
  dryRun: false,
  family: "ipv4",
  owner: Owner.global,
  map: MapName.TCP4_GLOBAL,
  release: "1.17",
  count,
  keys: new Uint8Array(14 * count),
  values: new Uint8Array(CtEntry.SIZE * count),
  reasons: new Uint8Array(count)
})

describe("a reader that stops reading", () => {
  it.live("of events slows nobody and is told what it lost", () =>
    Effect.gen(function* () {
      const { at, context } = yield* serving(makeKernel())
      const events = Context.get(context, GcEvents.GcEvents)
      const response = yield* stream({ at, path: "/v1/events" })
      assert.strictEqual(response.statusCode, 200)
      const before = process.memoryUsage().heapUsed + process.memoryUsage().external
      const each = 1000
      const rounds = 200
      const times: Array<number> = []
      for (let i = 0; i < rounds; i++) {
        const began = performance.now()
        events.publish(batch(i, each))
        times.push(performance.now() - began)
        if (i % 10 === 0) yield* Effect.sleep(1)
      }
      // To write a batch as text takes longer. Of many, as this process may be made to wait now and then.
      assert.isBelow(times.toSorted((a, b) => a - b)[rounds / 2]!, 5)
      assert.isAbove(events.lost(), 0)
      const grown = process.memoryUsage().heapUsed + process.memoryUsage().external - before
      // As text it would be as much again.
      assert.isBelow(grown, 100e6)
      let text = ""
      let deleted = 0
      let lost = 0
      response.setEncoding("utf8")
      const done = Effect.callback<void>((resume) => {
        response.on("data", (chunk: string) => {
          text += chunk
          const parts = text.split("\n\n")
          text = parts.pop() ?? ""
          for (const part of parts) {
            const data = /^data: (.*)$/m.exec(part)?.[1]
            if (part.startsWith("event: deleted")) deleted += JSON.parse(data ?? "").entries.length
            if (part.startsWith("event: lost")) lost += JSON.parse(data ?? "").entries
          }
          if (deleted + lost === each * rounds) resume(Effect.void)
        })
        response.resume()
      })
      yield* done
      assert.isAbove(lost, 0)
      assert.isAbove(deleted, 0)
      assert.strictEqual(lost, events.lost())
    })
  )

  it.live("of a listing holds a batch in memory, not the table, and lets go when it leaves", () =>
    Effect.gen(function* () {
      const twin = makeKernel()
      yield* restore(twin)
      const { at, context } = yield* serving(twin)
      yield* settled(context, twin)
      fill(twin)
      const fds = twin.control.openFds().length
      yield* Effect.scoped(
        Effect.gen(function* () {
          yield* stream({ at, path: "/v1/entries?map=cilium_ct4_global" })
          yield* quiet(twin)
          // The map is open still: there is more to read.
          assert.isAbove(twin.control.openFds().length, fds)
        })
      )
      yield* until(() => twin.control.openFds().length === fds)
      const all: Answer = yield* ask({ at, path: "/v1/entries?map=cilium_ct4_global" })
      assert.isAbove(all.text.split("\n").length, 7000)
    })
  )

  it.live("is cut off when it has taken nothing for a while, and what it held is let go", () =>
    Effect.gen(function* () {
      const twin = makeKernel()
      yield* restore(twin)
      const { at, context } = yield* serving(twin)
      yield* settled(context, twin)
      fill(twin)
      const fds = twin.control.openFds().length
      const opened = () => twin.control.count("openPin")
      const before = opened()
      const response = yield* stream({ at, path: "/v1/entries?map=cilium_ct4_global" })
      const broken = yield* Effect.forkChild(
        Effect.callback<boolean>((resume) => {
          response.once("close", () => resume(Effect.succeed(response.complete)))
          response.once("error", () => {})
        }),
        { startImmediately: true }
      )
      assert.isAbove(opened(), before)
      yield* until(() => twin.control.openFds().length === fds)
      response.resume()
      assert.isFalse(yield* Fiber.join(broken))
    }).pipe(Effect.provideService(Streams.Stall, Duration.millis(300)))
  )

  it.live("does not keep the agent from stopping", () =>
    Effect.gen(function* () {
      const { lifecycle, reader } = yield* Effect.scoped(
        Effect.gen(function* () {
          const { at, context } = yield* serving(makeKernel())
          const stream_ = Stream.unwrap(Effect.map(AgentClient.AgentClient, (client) => client.events({})))
          let heard = 0
          const reading = yield* Effect.forkDetach(
            Stream.runForEach(stream_, () => Effect.sync(() => heard++)).pipe(
              Effect.provide(AgentClient.layer({ at }))
            ),
            { startImmediately: true }
          )
          yield* stream({ at, path: "/v1/events" })
          const { publish } = Context.get(context, GcEvents.GcEvents)
          let serial = 0
          yield* until(() => {
            publish(batch(serial++, 1))
            return heard > 0
          })
          return { reader: reading, lifecycle: Context.get(context, Lifecycle.Lifecycle) }
        })
      )
      // Who did read sees a stream that has ended.
      assert.isTrue(Exit.isSuccess(yield* Fiber.await(reader)))
      yield* stoppedInTime(lifecycle)
    })
  )
})

/** No cell had to be left alone because it did not stop. */
const stoppedInTime = ({ times }: Lifecycle.Lifecycle["Service"]) =>
  Effect.map(times, (cells) =>
    assert.deepStrictEqual(
      cells.filter(({ state }) => state !== "stopped"),
      []
    )
  )

describe("an agent that stops", () => {
  it.live("waits for nobody who has sent half a request, and breaks off what takes long", () =>
    Effect.gen(function* () {
      const twin = makeKernel()
      yield* restore(twin)
      const { asked, lifecycle } = yield* Effect.scoped(
        Effect.gen(function* () {
          const { at, context } = yield* slow(twin)
          yield* Effect.acquireRelease(
            Effect.sync(() => connect(at).on("error", () => {})),
            (socket) => Effect.sync(() => socket.destroy())
          )
          // Left open: whoever stops waits for none of these.
          const half = connect(at).on("error", () => {})
          half.write("GET /v1/status HTTP/1.1\r\nhost: age")
          return { asked: yield* passBegun(twin, at), lifecycle: Context.get(context, Lifecycle.Lifecycle) }
        })
      )
      const answer = yield* Fiber.await(asked)
      assert.isTrue(Exit.isSuccess(answer))
      if (Exit.isSuccess(answer)) assert.strictEqual(problemOf(answer.value).type, "urn:ctmap:problem:stopping")
      yield* stoppedInTime(lifecycle)
    })
  )
})

describe("a caller that leaves", () => {
  it.live("withdraws what it asked for: a pass that nobody waits for ends between two batches", () =>
    Effect.gen(function* () {
      const twin = makeKernel()
      yield* restore(twin)
      const { at, context } = yield* slow(twin)
      const { lastPasses } = Context.get(context, GcRunner.GcRunner)
      yield* Fiber.interrupt(yield* passBegun(twin, at))
      const last = yield* Effect.repeat(
        Effect.map(lastPasses, (passes) => passes.find(({ family }) => family === "ipv4")),
        { until: (pass) => pass?.completed === false, schedule: Schedule.spaced("5 millis") }
      )
      assert.include(last?.why ?? "", "interrupted")
    })
  )
})
