import { assert, describe, it } from "@effect/vitest"
import type { AgentStream, Request } from "ctmap-api"
import { CtColumns, CtJson, Rows } from "ctmap-core"
import type { GcPass } from "ctmap-gc"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Queue from "effect/Queue"
import * as Stream from "effect/Stream"
import { folder, serve, stoppable } from "./agentServer.ts"
import { run } from "./harness.ts"

const record = (source: string): CtJson.CtRecord => {
  const columns = new CtColumns.CtColumns({ family: "ipv4", release: "1.17" })
  columns.bind(
    Rows.separate(Uint8Array.from(Buffer.from(`${source}01010101005086d80600`, "hex")), new Uint8Array(56), {
      keySize: 14,
      valueSize: 56,
      count: 1
    })
  )
  return CtJson.ctRecord(columns, 0)
}
const deleted = (of: Partial<AgentStream.Deleted> = {}): AgentStream.Event => ({
  event: "deleted",
  data: {
    serial: 1,
    dryRun: false,
    family: "ipv4",
    owner: "global",
    map: "cilium_ct4_global",
    entries: [
      { reason: "expired", entry: record("0a000163") },
      { reason: "matched-filter", entry: record("0a000164") }
    ],
    ...of
  }
})
const pass: AgentStream.Event = {
  event: "pass",
  data: {
    serial: 1,
    family: "ipv4",
    owner: "global",
    dryRun: false,
    now: 1,
    startedAtMillis: 0,
    millis: 0,
    completed: true,
    maps: [],
    requests: []
  } satisfies GcPass.GcPass
}
const lines = (text: string) => text.trimEnd().split("\n")

/** An agent that says these things, then nothing. */
const says = (...events: ReadonlyArray<AgentStream.Event>) => ({
  events: () => Stream.concat(Stream.fromIterable(events), Stream.never)
})

describe("watch through an agent", () => {
  it.live("shows what went, from which map and why", () =>
    Effect.gen(function* () {
      const { at } = yield* serve(says(deleted(), pass))
      const { code, stderr, stdout } = yield* run(["watch", `--agent=${at}`, "--passes", "1"])
      assert.deepStrictEqual([code, stderr], [0, ""])
      const [first, second, ...more] = lines(stdout)
      assert.match(first ?? "", /^cilium_ct4_global: expired: TCP OUT 10\.0\.1\.99:34520 -> 1\.1\.1\.1:80 expires=0 /)
      assert.match(second ?? "", /^cilium_ct4_global: matched-filter: TCP OUT 10\.0\.1\.100:34520/)
      assert.deepStrictEqual(more, [])
    })
  )

  it.live("as ndjson adds event and reason to the record; a dry run deletes nothing", () =>
    Effect.gen(function* () {
      const { at } = yield* serve(says(deleted(), deleted({ dryRun: true }), pass))
      const { stdout } = yield* run(["watch", `--agent=${at}`, "--passes", "1", "-o", "ndjson"])
      const shown = lines(stdout).map((line) => JSON.parse(line) as Readonly<Record<string, unknown>>)
      assert.deepStrictEqual(
        shown.map(({ event, reason }) => [event, reason]),
        [
          ["deleted", "expired"],
          ["deleted", "matched-filter"],
          ["due", "expired"],
          ["due", "matched-filter"]
        ]
      )
      const { event: _, reason: __, ...entry } = shown[0] ?? {}
      assert.deepStrictEqual(entry, { ...record("0a000163"), map: "cilium_ct4_global" })
    })
  )

  it.live("tells the agent what is wanted, and leaves out other maps and owners itself", () =>
    Effect.gen(function* () {
      const queries: Array<Request.EventsQuery> = []
      const events = [
        deleted({ map: "cilium_ct_any4_global" }),
        deleted({ owner: "cluster 3", map: "cilium_per_cluster_ct_tcp4_3" }),
        pass
      ]
      const { at } = yield* serve({
        events: (query) => {
          queries.push(query)
          return says(...events).events()
        }
      })
      const watch = (...args: ReadonlyArray<string>) =>
        Effect.map(run(["watch", `--agent=${at}`, "--passes", "1", ...args]), ({ stdout }) => [
          ...new Set(stdout.matchAll(/^(\S+):/gm).map(([, map]) => map))
        ])
      const all = ["cilium_ct_any4_global", "cilium_per_cluster_ct_tcp4_3"]
      assert.deepStrictEqual(yield* watch("--where", "tcp", "--family", "ipv4"), all)
      assert.deepStrictEqual(yield* watch("--map", "cilium_ct4_global,cilium_ct_any4_global"), all.slice(0, 1))
      assert.deepStrictEqual(yield* watch("--cluster", "3"), all.slice(1))
      assert.deepStrictEqual(yield* watch("--endpoint", "3"), [])
      assert.deepStrictEqual(queries.slice(0, 2), [{ family: "ipv4", where: "tcp" }, {}])
    })
  )

  it.live("says how much was lost", () =>
    Effect.gen(function* () {
      const lost = (entries: number, passes: number): AgentStream.Event => ({
        event: "lost",
        data: { entries, passes }
      })
      const { at } = yield* serve(says(lost(1234, 0), lost(1, 2), pass))
      const { code, stderr, stdout } = yield* run(["watch", `--agent=${at}`, "--passes", "1"])
      assert.deepStrictEqual([code, stdout], [0, ""])
      assert.deepStrictEqual(lines(stderr), [
        "ctmap: too slow for the agent: 1,234 entries not shown",
        "ctmap: too slow for the agent: 1 entry and 2 passes not shown"
      ])
    })
  )

  it.live("waits for an agent that stops, and goes on", () =>
    Effect.gen(function* () {
      const at = `${yield* folder}/agent.sock`
      const first = yield* stoppable(says(deleted()), { at })
      const notes = yield* Queue.unbounded<string>()
      const watching = yield* Effect.forkChild(
        run(["watch", `--agent=${at}`, "--passes", "1"], {
          onNote: (line) => void Queue.offerUnsafe(notes, line),
          onData: () => void Queue.offerUnsafe(notes, "data")
        }),
        { startImmediately: true }
      )
      assert.strictEqual(yield* Queue.take(notes), "data")
      yield* first.stop
      assert.match(yield* Queue.take(notes), /^ctmap: the agent at .* is gone: .*\. Waiting for it$/)
      yield* serve(says(deleted({ map: "cilium_ct6_global" }), pass), { at })
      assert.match(yield* Queue.take(notes), /^ctmap: the agent at .* is back$/)
      const { code, stdout } = yield* Fiber.join(watching)
      assert.strictEqual(code, 0)
      assert.deepStrictEqual(
        lines(stdout).map((line) => line.split(":")[0]),
        ["cilium_ct4_global", "cilium_ct4_global", "cilium_ct6_global", "cilium_ct6_global"]
      )
    })
  )

  it.live("ends with 1 where it is told not to wait", () =>
    Effect.gen(function* () {
      const { at } = yield* serve({ events: () => Stream.fromIterable([deleted()]) })
      const { code, stderr, stdout } = yield* run(["watch", `--agent=${at}`, "--no-reconnect"])
      assert.deepStrictEqual([code, lines(stdout).length], [1, 2])
      assert.match(stderr, /^ctmap: the agent at .* cannot be reached: it ended the stream of events\n$/)
    })
  )

  it.live("does not wait for an agent that never was", () =>
    Effect.gen(function* () {
      const { code, stderr } = yield* run(["watch", "--agent=/nowhere/agent.sock"])
      assert.strictEqual(code, 1)
      assert.match(stderr, /the agent at \/nowhere\/agent\.sock cannot be reached: there is no such socket/)
    })
  )

  for (const [args, wrong] of [
    [["--interval", "3"], /--interval: not with --agent, whose own passes are watched/],
    [["--backlog", "--budget", "0.5"], /--backlog, --budget: not with --agent/],
    [["--now", "3"], /--now: not with --agent/],
    [["--cluster", "3", "--endpoint", "7"], /name two owners/],
    [["--where", "dport"], /dport/]
  ] as const) {
    it.live(`${args.join(" ")} is wrong usage`, () =>
      Effect.gen(function* () {
        const { asked, at } = yield* serve({})
        const { code, stderr } = yield* run(["watch", `--agent=${at}`, ...args])
        assert.deepStrictEqual([code, asked], [2, []])
        assert.match(stderr, wrong)
      })
    )
  }
})
