import { assert, describe, it } from "@effect/vitest"
import { type Collection, Problem } from "ctmap-api"
import { GcPass, type NatPass } from "ctmap-gc"
import * as Effect from "effect/Effect"
import { type Script, serve } from "./agentServer.ts"
import { run } from "./harness.ts"

const mapPass: GcPass.MapPass = {
  map: "cilium_ct4_global",
  transport: "tcp",
  engine: "hybrid",
  capacity: 8192,
  seen: 3000,
  kept: 1000,
  wanted: 2000,
  deleted: 2000,
  refreshed: 0,
  restored: 0,
  vanished: 0,
  busy: 0,
  reasons: { expired: 2000, "matched-address": 0, "matched-filter": 0, flushed: 0 },
  nat: { ...GcPass.noNat, egress: 5, ingress: 5 },
  reads: 3,
  restarts: 0,
  fallbacks: 0,
  longestCallMillis: 1,
  millis: 12.5,
  completed: true
}
const pass: GcPass.GcPass = {
  serial: 9,
  family: "ipv4",
  owner: "global",
  dryRun: false,
  now: 5462,
  startedAtMillis: 0,
  millis: 13,
  completed: true,
  maps: [mapPass],
  requests: [{ wanted: 2000, deleted: 2000 }]
}
const about = { pair: "ipv4 global", family: "ipv4", owner: "global" } as const
const collected = (of: Partial<GcPass.GcPass> = {}): Collection.CtOutcome => ({
  ...about,
  outcome: "collected",
  wanted: 2000,
  deleted: 2000,
  pass: { ...pass, ...of }
})
const answer = (pairs: ReadonlyArray<Collection.CtOutcome>, dryRun = false): Collection.CtCollection => ({
  dryRun,
  wanted: 2000,
  deleted: dryRun ? 0 : 2000,
  pairs
})
const dryMaps = [{ ...mapPass, kept: 3000, deleted: 0 }]
const looked = answer([collected({ dryRun: true, maps: dryMaps })], true)
const stopped = new Problem.GuardStopped({
  detail: "the guard stopped the pass over map cilium_ct6_global: too much. Look at them with --dry-run",
  map: "cilium_ct6_global",
  wanted: 9,
  entries: 9,
  allowed: 0,
  limit: "max-deletions",
  deleted: 2000,
  pairs: [
    collected(),
    {
      pair: "ipv6 global",
      family: "ipv6",
      owner: "global",
      outcome: "stopped",
      why: "the guard stopped the pass over map cilium_ct6_global: too much. Look at them with --dry-run",
      wanted: 9,
      deleted: 0
    },
    {
      pair: "ipv6 cluster 3",
      family: "ipv6",
      owner: "cluster 3",
      outcome: "failed",
      why: "a bad day",
      wanted: 0,
      deleted: 0
    }
  ]
})

const agent = Effect.fnUntraced(function* (script: Script) {
  const { asked, at } = yield* serve(script)
  return { asked, at, ctmap: (...args: ReadonlyArray<string>) => run([...args, `--agent=${at}`]) }
})

const rowsOf = (text: string) => JSON.parse(text) as ReadonlyArray<Readonly<Record<string, unknown>>>

describe("gc through an agent", () => {
  it.live("asks for the global tables, as the direct command means them, and reports in the same shape", () =>
    Effect.gen(function* () {
      const { asked, ctmap } = yield* agent({ gc: () => Effect.succeed(answer([collected()])) })
      const { code, stderr, stdout } = yield* ctmap("gc")
      assert.deepStrictEqual([code, stderr], [0, ""])
      assert.match(stdout, /^MAP +ENGINE +SEEN +KEPT +DELETED .*\ncilium_ct4_global +hybrid +3,000 +1,000 +2,000/)
      assert.deepStrictEqual(asked, [{ endpoint: "gc", request: { owner: "global", dryRun: false } }])
      const [row] = rowsOf((yield* ctmap("gc", "-o", "json")).stdout)
      assert.include(row, { map: "cilium_ct4_global", deleted: 2000, expired: 2000, natDeleted: 10, incomplete: null })
    })
  )

  it.live("narrows down there", () =>
    Effect.gen(function* () {
      const { asked, ctmap } = yield* agent({ gc: () => Effect.succeed(looked) })
      yield* ctmap("gc", "--family", "ipv6", "--cluster", "3", "--where", "udp", "--dry-run")
      yield* ctmap("gc", "--endpoint", "7")
      assert.deepStrictEqual(
        asked.map(({ request }) => request).filter((request) => request !== undefined),
        [
          { families: ["ipv6"], where: "udp", owner: "cluster 3", dryRun: true },
          { owner: "endpoint 7", dryRun: false }
        ]
      )
    })
  )

  it.live("a dry run says what would go, and where the agent's own guard would stop it", () =>
    Effect.gen(function* () {
      const { ctmap } = yield* agent({
        gc: () => Effect.succeed(looked),
        settings: { "max-delete-ratio": "0.1", "max-delete-floor": "0", "max-deletions": "50" }
      })
      const { code, stderr, stdout } = yield* ctmap("gc", "--dry-run")
      assert.strictEqual(code, 0)
      assert.match(stdout, /^MAP +SEEN +WOULD DELETE +SHARE/)
      assert.match(stderr, /the guard would stop this at cilium_ct4_global: 2,000 of its 3,000 .* at most 50 may/)
    })
  )

  it.live("expiry is not limited by share, and the agent's settings are what counts", () =>
    Effect.gen(function* () {
      const { ctmap } = yield* agent({
        gc: () => Effect.succeed(looked),
        settings: { "max-delete-ratio": "0.1", "max-delete-floor": "0", "max-deletions": "0" }
      })
      assert.strictEqual((yield* ctmap("gc", "--dry-run")).stderr, "")
    })
  )

  it.live("a guard that stops it is exit code 3, after a report of what was done; other reasons are remarks", () =>
    Effect.gen(function* () {
      const { at, ctmap } = yield* agent({ gc: () => Effect.fail(stopped) })
      const { code, stderr, stdout } = yield* ctmap("gc", "-o", "json")
      assert.strictEqual(code, 3)
      assert.strictEqual(rowsOf(stdout).length, 1)
      assert.strictEqual(
        stderr,
        `ctmap: ipv6 cluster 3: a bad day\nctmap: ${stopped.detail}, says the agent at ${at}\n`
      )
    })
  )

  it.live("a pass that others share says how much of it was for us", () =>
    Effect.gen(function* () {
      const requests = [
        { wanted: 3, deleted: 3 },
        { wanted: 1997, deleted: 1997 }
      ]
      const { ctmap } = yield* agent({ gc: () => Effect.succeed(answer([{ ...collected({ requests }), deleted: 3 }])) })
      const { stderr } = yield* ctmap("gc")
      assert.match(stderr, /the pass over ipv4 global was shared with others: 3 went for this/)
    })
  )

  it.live("tables that are not there are exit code 1", () =>
    Effect.gen(function* () {
      const { at, ctmap } = yield* agent({ gc: () => new Problem.NotFound({ detail: "nothing is pinned." }) })
      const { code, stderr } = yield* ctmap("gc")
      assert.deepStrictEqual([code, stderr], [1, `ctmap: nothing is pinned, says the agent at ${at}\n`])
    })
  )
})

describe("purge through an agent", () => {
  const purges = {
    purge: ({ dryRun }: { readonly dryRun?: boolean }) =>
      Effect.succeed(dryRun === true ? looked : answer([collected()]))
  }

  it.live("asks before, and does nothing where nobody can be asked", () =>
    Effect.gen(function* () {
      const { asked, at, ctmap } = yield* agent(purges)
      const { code, stderr, stdout } = yield* ctmap("purge", "--ip", "10.0.1.99")
      assert.deepStrictEqual([code, stdout, asked], [3, "", []])
      assert.match(stderr, /deletes every entry that matches "host 10\.0\.1\.99" of the global tables of the agent at/)
      assert.include(stderr, at)
      assert.match(stderr, /add --yes\n$/)
    })
  )

  it.live("sends what is selected, and --yes answers", () =>
    Effect.gen(function* () {
      const { asked, ctmap } = yield* agent(purges)
      const words = ["--ip", "10.0.1.99,10.0.2.0/24", "--ip", "fd00::1", "--port", "53,8000-8100", "--proto", "udp"]
      const { code } = yield* ctmap("purge", ...words, "--where", "dir out", "--yes")
      assert.strictEqual(code, 0)
      const selectors = { ips: ["10.0.1.99", "10.0.2.0/24", "fd00::1"], ports: ["53", "8000-8100"], protocol: "udp" }
      const request = { ...selectors, where: "dir out", owner: "global", dryRun: false }
      assert.deepStrictEqual(asked, [{ endpoint: "purge", request }])
    })
  )

  it.live("means the tables that the direct command means: the global ones, or those of an owner and a family", () =>
    Effect.gen(function* () {
      const { asked, at, ctmap } = yield* agent(purges)
      const ip = ["--proto", "tcp"]
      const { stderr } = yield* ctmap("purge", ...ip, "--cluster", "3", "--family", "ipv6", "--yes")
      assert.include(stderr, `matches "tcp" of the IPv6 tables of cluster 3, agent at ${at}`)
      yield* ctmap("purge", ...ip, "--endpoint", "7", "--dry-run")
      assert.deepStrictEqual(
        asked.flatMap(({ request }) => (request === undefined ? [] : [request])),
        [
          { protocol: "tcp", families: ["ipv6"], owner: "cluster 3", dryRun: false },
          { protocol: "tcp", owner: "endpoint 7", dryRun: true }
        ]
      )
    })
  )

  it.live("says several protocols in a filter", () =>
    Effect.gen(function* () {
      const { asked, ctmap } = yield* agent(purges)
      yield* ctmap("purge", "--ip", "10.0.1.99", "--proto", "tcp,udp", "--dry-run")
      assert.deepStrictEqual(asked[0]?.request, {
        where: "host 10.0.1.99 and (tcp or udp)",
        owner: "global",
        dryRun: true
      })
    })
  )

  it.live("a dry run deletes nothing and needs no answer", () =>
    Effect.gen(function* () {
      const { ctmap } = yield* agent(purges)
      const { code, stderr, stdout } = yield* ctmap("purge", "--proto", "tcp", "--dry-run", "-o", "json")
      assert.deepStrictEqual([code, rowsOf(stdout)[0]?.["dryRun"]], [0, true])
      assert.match(
        stderr,
        /2,000 of its 3,000 entries would go, where at most 1,500 may: more with the agent's setting max-delete-ratio/
      )
    })
  )
})

describe("nat purge-orphans through an agent", () => {
  const natPass: NatPass.NatPass = {
    serial: 1,
    kind: "orphans",
    family: "ipv4",
    owner: "global",
    map: "cilium_snat_v4_external",
    capacity: 8192,
    dryRun: false,
    seen: 10,
    wanted: 4,
    ingressAlive: 3,
    ingressDeleted: 2,
    egressAlive: 3,
    egressDeleted: 2,
    refreshed: 0,
    vanished: 0,
    busy: 0,
    reprieved: 0,
    restored: 0,
    startedAtMillis: 0,
    millis: 2,
    completed: true
  }

  it.live("reports a row for each NAT map", () =>
    Effect.gen(function* () {
      const pairs = [{ ...about, outcome: "collected", wanted: 4, deleted: 4, pass: natPass } as const]
      const { asked, ctmap } = yield* agent({
        purgeOrphans: ({ dryRun = false }) => Effect.succeed({ dryRun, wanted: 4, deleted: 4, pairs })
      })
      const { code, stdout } = yield* ctmap("nat", "purge-orphans", "--family", "ipv4")
      assert.strictEqual(code, 0)
      assert.match(stdout, /^MAP +SEEN +IN ALIVE.*\ncilium_snat_v4_external +10 +3 +2 +3 +2/)
      assert.deepStrictEqual(asked[0]?.request, { families: ["ipv4"], owner: "global", dryRun: false })
    })
  )
})

describe("flags that an agent does not go by are wrong usage, and it is not asked", () => {
  const cases: ReadonlyArray<readonly [args: ReadonlyArray<string>, says: RegExp]> = [
    [["gc", "--now", "5"], /--now: not with --agent, which goes by settings of its own/],
    [["gc", "--engine", "kernel", "--budget", "0.1"], /--engine, --budget: not with/],
    [["gc", "--max-delete-ratio", "1", "--max-deletions", "5"], /--max-delete-ratio, --max-deletions: not with/],
    [["gc", "--map", "cilium_ct4_global"], /--map: not with --agent, which collects TCP and non-TCP tables together/],
    [["gc", "--cluster", "1", "--endpoint", "1"], /name two owners/],
    [["gc", "--where", "dport"], /dport/],
    [["purge", "--ip", "10.0.0.1", "--map", "cilium_ct4_global"], /--map: not with --agent, which collects TCP and/],
    [["purge", "--ip", "10.0.0.1", "--cluster", "3", "--endpoint", "1"], /name two owners/],
    [["purge"], /say what to purge/],
    [["purge", "--ip", "10.0.0"], /--ip "10.0.0"/],
    [
      ["nat", "purge-orphans", "--endpoint", "3"],
      /--endpoint: not with --agent, for endpoints have no NAT maps of their own/
    ],
    [["nat", "purge-orphans", "--max-deletions", "3"], /--max-deletions: not with/],
    [["flush"], /works on the maps themselves/],
    [["nat", "flush"], /works on the maps themselves/],
    [["count"], /works on the maps themselves: leave out --agent/],
    [["--bpffs-root", "/bpf", "gc"], /an agent has a --bpffs-root of its own/]
  ]
  for (const [args, says] of cases) {
    it.live(args.join(" "), () =>
      Effect.gen(function* () {
        const { asked, ctmap } = yield* agent({})
        const { code, stderr, stdout } = yield* ctmap(...args)
        assert.deepStrictEqual([code, stdout, asked], [2, "", []])
        assert.match(stderr, says)
      })
    )
  }
})
