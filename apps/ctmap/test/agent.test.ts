import { writeFileSync } from "node:fs"
import { assert, describe, it } from "@effect/vitest"
import { Problem, type Status } from "ctmap-api"
import { BpfMemory } from "ctmap-kernel"
import * as ConfigProvider from "effect/ConfigProvider"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import { joinAgent } from "../src/Arguments.ts"
import { folder, serve, status } from "./agentServer.ts"
import { run } from "./harness.ts"

/** Two passes that ended two minutes ago. */
const passesAt = (startedAtMillis: number): Status.Status["passes"] => [
  {
    serial: 1234,
    family: "ipv4",
    owner: "global",
    dryRun: false,
    startedAtMillis,
    millis: 12.34,
    completed: true,
    seen: 4096,
    deleted: 1024
  },
  {
    serial: 1235,
    family: "ipv6",
    owner: "cluster 3",
    dryRun: true,
    startedAtMillis,
    millis: 1,
    completed: false,
    why: "the clock does not fit",
    seen: 1,
    deleted: 0
  }
]
const direct = () =>
  Effect.succeed({
    code: 0,
    stderr: "",
    stdout: JSON.stringify([
      {
        map: "cilium_ct4_global",
        path: "/x",
        owner: "global",
        type: "lru-hash",
        keySize: 14,
        valueSize: 56,
        maxEntries: 8192,
        flags: 0,
        entries: 2048,
        fill: 0.25,
        layout: "1.17"
      }
    ])
  })

/** The time of day stands still; whatever else goes by a clock goes on. */
const atTime = <A, E, R>(millis: number, effect: Effect.Effect<A, E, R>) =>
  Effect.clockWith((clock) => {
    const still = { currentTimeMillis: Effect.succeed(millis), currentTimeMillisUnsafe: () => millis }
    return Effect.provideService(effect, Clock.Clock, Object.assign(Object.create(clock) as Clock.Clock, still))
  })

describe("status", () => {
  it.live("shows schedule, passes, tables and health, and that the agent is ready", () =>
    Effect.gen(function* () {
      const now = Date.now()
      const { at } = yield* serve({
        direct,
        status: {
          passes: passesAt(now - 120_000),
          gc: {
            ...status.gc,
            next: {
              atMillis: now + 90_000,
              trigger: "interval",
              families: ["ipv4", "ipv6"],
              reason: "kept",
              why: "12 s after the last one"
            },
            last: {
              trigger: "initial",
              families: ["ipv4"],
              startedAtMillis: now - 61_500,
              endedAtMillis: now - 60_000,
              success: true,
              ratio: 0.1,
              deleted: 1024,
              orphansDeleted: 3,
              problems: ["cilium_ct_any4_global is not pinned"]
            }
          }
        }
      })
      const { code, stderr, stdout } = yield* atTime(now, run(["status", `--agent=${at}`]))
      assert.deepStrictEqual([code, stderr], [0, ""])
      for (const line of [
        /^agent +ctmap-agent 1\.2\.3, pid 42, at \/tmp/m,
        /^ready +yes, up 1h2m, ok$/m,
        /^clock +ktime, now 5462$/m,
        /^next +in 1m30s: 12 s after the last one$/m,
        /^last +1m ago, initial: 1,024 deleted, 3 NAT orphans in 1\.5 s$/m,
        /^ {7}cilium_ct_any4_global is not pinned$/m,
        /^ipv4 global +1234 +2m +12\.3 +4,096 +1,024 +ok$/m,
        /^ipv6 cluster 3 \(dry run\) +1235 .* the clock does not fit$/m,
        /^cilium_ct4_global +8,192 +2,048 +25\.0 % +25\.0 % +ok$/m,
        /^ {2}gc: ok$/m
      ]) {
        assert.match(stdout, line)
      }
    })
  )

  it.live("as json is what the API says, with where that is from", () =>
    Effect.gen(function* () {
      const { at } = yield* serve({ direct })
      const { code, stdout } = yield* run(["status", `--agent=${at}`, "-o", "json"])
      const document = JSON.parse(stdout)
      assert.strictEqual(code, 0)
      assert.deepStrictEqual({ ...document, maps: document.maps.length }, { agent: at, ...status, maps: 1 })
    })
  )

  it.live("of an agent that is not ready is told, and exit code 1", () =>
    Effect.gen(function* () {
      const cells = [
        { cell: "kernel", state: "started" },
        { cell: "maps", state: "starting" }
      ] as const
      const { at } = yield* serve({ status: { ready: false, cells, gc: { ...status.gc, active: false } } })
      const { code, stderr, stdout } = yield* run(["status", `--agent=${at}`])
      assert.strictEqual(code, 1)
      assert.match(stdout, /^ready +no, /m)
      assert.match(stdout, /^next +never: the collector does not run$/m)
      assert.strictEqual(stderr, `ctmap: the agent at ${at} is not ready: maps is starting\n`)
    })
  )

  it.live("goes on where the agent cannot say what is pinned", () =>
    Effect.gen(function* () {
      const { at } = yield* serve({ direct: () => Effect.die("no maps") })
      const { code, stderr, stdout } = yield* run(["status", `--agent=${at}`])
      assert.strictEqual(code, 0)
      assert.match(stdout, /^ready +yes/m)
      assert.match(stderr, /^ctmap: .*\n$/)
    })
  )
})

describe("where the agent is", () => {
  const within = <A>(environment: Readonly<Record<string, string>>, ran: Effect.Effect<A>) =>
    Effect.provide(ran, ConfigProvider.layer(ConfigProvider.fromUnknown(environment)))

  it.live("is what --agent says in any of its forms, or the environment", () =>
    Effect.gen(function* () {
      const { at } = yield* serve({})
      const forms = [
        ["status", `--agent=${at}`],
        ["status", "--agent", at],
        ["--agent", at, "status"],
        ["status", "--agent", `unix:${at}`],
        [`--agent=unix://${at}`, "status"]
      ]
      for (const form of forms) assert.strictEqual((yield* run(form)).code, 0, form.join(" "))
      for (const bare of [["status"], ["status", "--agent"], ["--agent", "status"]]) {
        assert.strictEqual((yield* within({ CTMAP_AGENT_SOCKET: at }, run(bare))).code, 0, bare.join(" "))
      }
    })
  )

  it("takes the next word only where that can be nothing but a place", () => {
    assert.deepStrictEqual(joinAgent(["--agent", "/a/b", "list"]), ["--agent=/a/b", "list"])
    assert.deepStrictEqual(joinAgent(["list", "--agent", "http://x:1"]), ["list", "--agent=http://x:1"])
    assert.deepStrictEqual(joinAgent(["--agent", "unix:a.sock", "list"]), ["--agent=unix:a.sock", "list"])
    for (const same of [
      ["--agent", "list"],
      ["list", "--agent"],
      ["--agent", "--output=a/b"],
      ["--", "--agent", "/a"]
    ]) {
      assert.deepStrictEqual(joinAgent(same), same)
    }
  })

  it.live("may be over TCP, with a token that is never shown", () =>
    Effect.gen(function* () {
      const { at } = yield* serve({ token: "hush" }, { port: 0 })
      assert.strictEqual((yield* run(["status", `--agent=${at}`, "--token", "hush"])).code, 0)
      assert.strictEqual((yield* within({ CTMAP_AGENT_TOKEN: "hush" }, run(["status", `--agent=${at}`]))).code, 0)
      const wrong = yield* run(["list", `--agent=${at}`, "--token=loud"])
      assert.strictEqual(wrong.code, 1)
      assert.match(
        wrong.stderr,
        /^ctmap: the token is not the one of this agent \(environment CTMAP_AGENT_TOKEN, or --token\), says the agent/
      )
      assert.notInclude(wrong.stderr, "loud")
    })
  )

  it.effect("without --agent a token is wrong usage, and an empty place always", () =>
    Effect.gen(function* () {
      const bpf = BpfMemory.make().calls
      const tokenOnly = yield* run(["list", "--token", "hush"], { bpf })
      assert.deepStrictEqual([tokenOnly.code, tokenOnly.stdout], [2, ""])
      assert.match(tokenOnly.stderr, /--token is for an agent/)
      assert.notInclude(tokenOnly.stderr, "hush")
      const empty = yield* run(["list", "--agent="])
      assert.strictEqual(empty.code, 2)
      assert.match(empty.stderr, /the path of a socket or a URL, or --agent without a value/)
      const reconnect = yield* run(["watch", "--no-reconnect"], { bpf })
      assert.deepStrictEqual([reconnect.code, reconnect.stderr], [2, "ctmap: --no-reconnect is for --agent\n"])
    })
  )
})

describe("an agent that does not answer is exit code 1 and a sentence that says what to do", () => {
  const asked = (at: string, command = "list") =>
    Effect.map(run([command, "--agent", at]), ({ code, stderr, stdout }) => {
      assert.deepStrictEqual([code, stdout], [1, ""])
      assert.match(stderr, /^ctmap: the agent at .* cannot be reached: .*\n$/)
      return stderr
    })

  it.live("no socket", () =>
    Effect.gen(function* () {
      for (const command of ["status", "list", "gc", "maps"]) {
        assert.include(yield* asked("/nowhere/agent.sock", command), "there is no such socket; start ctmap-agent")
      }
    })
  )

  it.live("nobody behind the socket", () =>
    Effect.gen(function* () {
      const file = `${yield* folder}/agent.sock`
      writeFileSync(file, "")
      assert.include(yield* asked(file), "that is no socket; name the one that ctmap-agent has")
      assert.include(yield* asked("http://127.0.0.1:1"), "--api-listen")
    })
  )

  it.live("a place that is none", () =>
    Effect.map(asked("http://[/"), (said) => assert.include(said, "neither the path of a socket nor a URL"))
  )
})

describe("what an agent refuses becomes a sentence", () => {
  it.live("which names the part of a request that it does not take, as wrong usage", () =>
    Effect.gen(function* () {
      const gc = () =>
        Effect.fail(
          new Problem.InvalidRequest({
            errors: [{ path: ["payload", "where"], message: "not of CT entries" }]
          }) as never
        )
      const { at } = yield* serve({ gc })
      const { code, stderr } = yield* run(["gc", `--agent=${at}`])
      assert.deepStrictEqual([code, stderr], [2, `ctmap: where: not of CT entries, says the agent at ${at}\n`])
    })
  )
})
