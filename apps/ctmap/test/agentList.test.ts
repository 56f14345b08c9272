import { assert, describe, it } from "@effect/vitest"
import { Bpf, BpfMemory, CompareAndDelete, KernelSweep } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { NOW, type Script, serve } from "./agentServer.ts"
import { CT4, ct, pods, stages } from "./collectStage.ts"
import { run } from "./harness.ts"

const objects = { [CompareAndDelete.object]: CompareAndDelete.twin, [KernelSweep.object]: KernelSweep.twin }
const memory = BpfMemory.make({ mounts: ["/bpf"], time: 5_461_000_000_000n, objects })
const stage = stages({ root: "/bpf", bpf: memory.calls, layer: Layer.succeed(Bpf.Bpf, memory.calls) })

/** For tests that change nothing. */
let recorded: ReturnType<typeof Effect.runPromise<Effect.Success<ReturnType<typeof stage>>, never>> | undefined

/** Tables, the commands on them, and the same commands through an agent. */
const both = Effect.fnUntraced(function* (lines: ReadonlyArray<string> = pods, script: Script = {}) {
  const { ctmap: direct } =
    lines === pods ? yield* Effect.promise(() => (recorded ??= Effect.runPromise(stage(pods)))) : yield* stage(lines)
  const { asked, at } = yield* serve({ direct, ...script })
  return { asked, at, direct, via: (...args: ReadonlyArray<string>) => run([...args, `--agent=${at}`]) }
})

/** Where a command takes the time from the command line, an agent has its own. */
const now = ["--now", String(NOW)]
const local = ct(pods).map((line) => line.replace("_global", "_00007"))

describe("a listing through an agent is the direct one, byte for byte", () => {
  const cases: ReadonlyArray<ReadonlyArray<string>> = [
    ["list"],
    ["list", "-d"],
    ["list", "-o", "table"],
    ["list", "-o", "json"],
    ["list", "-o", "ndjson"],
    ["list", "-o", "cilium-json"],
    ["list", "--family", "ipv6"],
    ["list", "--map", CT4],
    ["list", "--map", `cilium_ct_any6_global,${CT4}`, "-o", "ndjson"],
    ["list", "--limit", "1500"],
    ["list", "--limit", "1500", "-o", "json"],
    ["list", "--where", "tcp and dport 80", "-d"],
    ["list", "--where", "sport 1", "-o", "json"],
    ["list", "--where", "sport 1"],
    ["list", "--sort", "bytes:desc", "--limit", "20"],
    ["list", "--sort", "expires", "--limit", "7", "-o", "json"],
    ["nat", "list"],
    ["nat", "list", "-o", "table", "--where", "tcp"],
    ["nat", "list", "-o", "json"],
    ["nat", "list", "-o", "cilium-json"],
    ["nat", "list", "--sort", "xport:desc", "--limit", "5"],
    ["nat", "list", "--family", "ipv4", "--limit", "3"]
  ]
  for (const args of cases) {
    it.live(args.join(" "), () =>
      Effect.gen(function* () {
        const { direct, via } = yield* both()
        const expected = yield* direct(...args, ...now)
        const found = yield* via(...args)
        assert.deepStrictEqual([found.code, found.stderr], [expected.code, expected.stderr])
        // Columns of a table are as wide as what has come by then.
        const text = (printed: string) => (args.includes("table") ? printed.replaceAll(/ +/g, " ") : printed)
        assert.strictEqual(text(found.stdout), text(expected.stdout))
      })
    )
  }

  it.live("of an endpoint's maps, which name the peer only", () =>
    Effect.gen(function* () {
      const { direct, via } = yield* both([...local, ...ct(pods)])
      const args = ["list", "--endpoint", "7"]
      assert.strictEqual((yield* via(...args)).stdout, (yield* direct(...args)).stdout)
      const named = ["list", "--map", "cilium_ct4_00007", "-o", "cilium-json"]
      assert.strictEqual((yield* via(...named)).stdout, (yield* direct(...named)).stdout)
    })
  )

  it.live("of empty tables, too", () =>
    Effect.gen(function* () {
      const { direct, via } = yield* both(pods.filter((line) => line.startsWith("cilium_ct_any")))
      for (const args of [["list"], ["list", "-o", "ndjson"]]) {
        assert.strictEqual((yield* via(...args)).stdout, (yield* direct(...args, ...now)).stdout)
      }
    })
  )
})

describe("a listing through an agent", () => {
  it.live("asks for no more than is wanted, and narrows down there", () =>
    Effect.gen(function* () {
      const { asked, via } = yield* both()
      yield* via("list", "--map", CT4, "--limit", "3", "--where", "tcp", "-o", "ndjson")
      const queries = asked.filter(({ endpoint }) => endpoint === "entries").map(({ request }) => request)
      assert.deepStrictEqual(queries, [{ map: [CT4], where: "tcp", limit: 3 }])
    })
  )

  it.live("that ends early is a failure, after what came", () =>
    Effect.gen(function* () {
      const { via } = yield* both(pods, { breaksOff: "the map is gone" })
      for (const output of ["text", "ndjson"]) {
        const { code, stderr, stdout } = yield* via("list", "-o", output)
        assert.strictEqual(code, 1)
        assert.match(stderr, /^ctmap: the agent at .* could not finish its listing after 7 entries: the map is gone\n$/)
        assert.isAbove(stdout.length, 1000)
      }
    })
  )

  it.live("says where the agent looked when there is nothing", () =>
    Effect.gen(function* () {
      const { via } = yield* both()
      const none = yield* via("list", "--cluster", "3")
      assert.strictEqual(none.code, 1)
      assert.match(none.stderr, /cilium_per_cluster_ct_tcp4_3, .* are not pinned in \/agents\/bpf\/tc\/globals, says/)
      const named = yield* via("list", "--map", `${CT4},cilium_ct4_00009`)
      assert.match(named.stderr, /^ctmap: cilium_ct4_00009 is not pinned/)
    })
  )

  for (const [args, says] of [
    [["list", "--now", "5"], /--now: not with --agent, which goes by settings of its own/],
    [["list", "--clock", "jiffies", "--hz", "250", "--release", "1.20"], /--clock, --hz, --release: not with --agent/],
    [["list", "--map", "cilium_snat_v4_external"], /is not the name of a CT map but of a NAT map, .*`ctmap nat list`/],
    [["nat", "list", "--map", CT4], /is not the name of a NAT map but of a CT map, .*`ctmap list`/],
    [["nat", "list", "--endpoint", "7"], /endpoints have no NAT maps/],
    [["list", "--cluster", "3", "--endpoint", "7"], /name two owners/],
    [["list", "--map", CT4, "--endpoint", "7"], /leave out --endpoint/],
    [["list", "--where", "dport"], /dport/],
    [["list", "--sort", "size"], /--sort "size"/]
  ] as const) {
    it.live(`${args.join(" ")} is wrong usage, and nobody is asked`, () =>
      Effect.gen(function* () {
        const { asked, via } = yield* both([])
        const { code, stderr, stdout } = yield* via(...args)
        assert.deepStrictEqual([code, stdout, asked], [2, "", []])
        assert.match(stderr, says)
      })
    )
  }
})

describe("maps through an agent", () => {
  it.live("are rows of the direct listing, without the clock that it does not tell", () =>
    Effect.gen(function* () {
      const { direct, via } = yield* both()
      const rows = (text: string) => JSON.parse(text) as ReadonlyArray<Readonly<Record<string, unknown>>>
      const expected = rows((yield* direct("maps", "-o", "json", ...now)).stdout)
      const found = yield* via("maps", "-o", "json")
      assert.deepStrictEqual(
        rows(found.stdout),
        expected.map((row) => Object.assign(row, { clock: "-" }))
      )
      assert.include((yield* via("maps")).stdout, CT4)
      const uncounted = rows((yield* via("maps", "--no-entries", "-o", "json")).stdout)
      assert.deepStrictEqual(new Set(uncounted.map(({ entries }) => entries)), new Set([null]))
    })
  )

  it.live("are shown with a failure where the agent can read none of them, as directly", () =>
    Effect.gen(function* () {
      const { calls, control } = BpfMemory.make({ mounts: ["/bpf"] })
      const alone = stages({ root: "/bpf", bpf: calls, layer: Layer.succeed(Bpf.Bpf, calls) })
      const { ctmap: direct } = yield* alone(pods)
      const { at } = yield* serve({ direct })
      const via = run(["maps", `--agent=${at}`])
      const pins = control.pins()
      for (const [i, pin] of pins.entries()) {
        assert.strictEqual((yield* via).code, 0, `${i} cannot be opened`)
        control.chmod(pin, 0o000)
      }
      const back = control.asUser(65_534)
      const { code, stderr, stdout } = yield* via
      back()
      assert.include(stdout, CT4)
      assert.match(stderr, /^ctmap: none of the 6 maps can be read: .*cilium_ct4_global: not permitted.*\n$/)
      assert.strictEqual(code, 1)
    })
  )

  it.live("are none where none are pinned", () =>
    Effect.gen(function* () {
      const { at } = yield* serve({})
      const { code, stderr } = yield* run(["maps", `--agent=${at}`])
      assert.strictEqual(code, 1)
      assert.match(stderr, /no CT or NAT map is pinned in \/agents\/bpf\/tc\/globals, says the agent at/)
    })
  )
})
