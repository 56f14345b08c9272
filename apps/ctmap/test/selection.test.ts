import { assert, describe, it } from "@effect/vitest"
import { Bpf, BpfMemory, CompareAndDelete, KernelSweep } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { serve } from "./agentServer.ts"
import { CT4, pods, stages } from "./collectStage.ts"
import { run } from "./harness.ts"

const objects = { [CompareAndDelete.object]: CompareAndDelete.twin, [KernelSweep.object]: KernelSweep.twin }
const memory = BpfMemory.make({ mounts: ["/bpf"], objects })
const stage = stages({ root: "/bpf", bpf: memory.calls, layer: Layer.succeed(Bpf.Bpf, memory.calls) })

const NAT4 = "cilium_snat_v4_external"

/** Every command that takes `--map`, with a map of the kind it works on. */
const commands: ReadonlyArray<readonly [command: ReadonlyArray<string>, map: string]> = [
  [["list"], CT4],
  [["count"], CT4],
  [["count", "--where", "tcp"], CT4],
  [["count", "--nat"], NAT4],
  [["maps"], CT4],
  [["stats"], CT4],
  [["top"], CT4],
  [["watch", "--passes", "1"], CT4],
  [["snapshot", "save", "-"], CT4],
  [["gc", "--now", "5462"], CT4],
  [["flush", "--yes"], CT4],
  [["purge", "--ip", "10.0.1.99", "--yes"], CT4],
  [["nat", "list"], NAT4],
  [["nat", "flush", "--yes"], NAT4],
  [["nat", "purge-orphans"], NAT4]
]

const others = [
  ["--family", "ipv6"],
  ["--cluster", "3"],
  ["--endpoint", "7"]
] as const

describe("--map beside another flag that selects maps is wrong usage, on every command, and nothing is touched", () => {
  for (const [command, map] of commands) {
    it.effect(`ctmap ${command.join(" ")}`, () =>
      Effect.gen(function* () {
        const { ctmap, saved } = yield* stage(pods)
        for (const [flag, value] of others) {
          const { code, stderr, stdout } = yield* ctmap(...command, "--map", map, flag, value)
          assert.deepStrictEqual([code, stdout], [2, ""], flag)
          assert.strictEqual(stderr, `ctmap: --map names whole maps: leave out ${flag}\n`)
        }
        assert.deepStrictEqual(yield* saved, pods)
        assert.strictEqual((yield* ctmap(...command, "--map", map, "--family", "all")).code, 0)
      })
    )
  }

  for (const [command, map] of [
    [["list"], CT4],
    [["nat", "list"], NAT4],
    [["maps"], CT4],
    [["watch", "--passes", "1"], CT4]
  ] as const) {
    it.live(`ctmap ${command.join(" ")} --agent, which is not asked`, () =>
      Effect.gen(function* () {
        const { asked, at } = yield* serve({})
        for (const [flag, value] of others) {
          const { code, stderr, stdout } = yield* run([...command, `--agent=${at}`, "--map", map, flag, value])
          assert.deepStrictEqual([code, stdout, asked], [2, "", []], flag)
          assert.strictEqual(stderr, `ctmap: --map names whole maps: leave out ${flag}\n`)
        }
      })
    )
  }
})

describe("maps", () => {
  const inner = pods.slice(0, 1).map((line) => line.replace(/^\w+/, "cilium_per_cluster_ct_tcp4_3"))
  const local = pods.slice(0, 1).map((line) => line.replace(/^\w+/, "cilium_ct4_00007"))
  const namesOf = (stdout: string) =>
    (JSON.parse(stdout) as ReadonlyArray<{ readonly map: string }>).map(({ map }) => map)
  const cases: ReadonlyArray<readonly [flags: ReadonlyArray<string>, isShown: (map: string) => boolean]> = [
    [[], () => true],
    [["--family", "ipv6"], (map) => /6_|v6/.test(map)],
    [["--map", `${CT4},${NAT4}`], (map) => [CT4, NAT4].includes(map)],
    [["--cluster", "3"], (map) => map.endsWith("_3")],
    [["--endpoint", "7"], (map) => map.endsWith("_00007")]
  ]
  for (const [flags, isShown] of cases) {
    it.live(`are those that are selected, through an agent, too: ctmap maps ${flags.join(" ")}`, () =>
      Effect.gen(function* () {
        const { ctmap, done } = yield* stage([...pods, ...inner, ...local])
        const all = namesOf(yield* done("maps", "-o", "json"))
        const shown = all.filter(isShown)
        assert.isAbove(shown.length, 0)
        assert.deepStrictEqual(namesOf(yield* done("maps", ...flags, "-o", "json")), shown)
        const { at } = yield* serve({ direct: ctmap })
        const { stderr, stdout } = yield* run(["maps", ...flags, "-o", "json", `--agent=${at}`])
        assert.strictEqual(stderr, "")
        assert.deepStrictEqual(namesOf(stdout), shown)
      })
    )
  }

  it.live("that are not there, or are none, are told", () =>
    Effect.gen(function* () {
      const { ctmap } = yield* stage(pods)
      const { asked, at } = yield* serve({ direct: ctmap })
      const agent = `--agent=${at}`
      for (const [flags, code, says] of [
        [["--cluster", "9"], 1, /^ctmap: no CT or NAT map of the selection is pinned in .*\/tc\/globals/],
        [["--map", `${CT4},cilium_ct4_00009`], 1, /^ctmap: cilium_ct4_00009 is not pinned in .*\/tc\/globals/],
        [["--map", "nope"], 2, /^ctmap: "nope" is not the name of a CT or NAT map/]
      ] as const) {
        for (const how of [[], [agent]]) {
          asked.length = 0
          const ran = how.length === 0 ? yield* ctmap("maps", ...flags) : yield* run(["maps", ...flags, ...how])
          assert.match(ran.stderr, says)
          assert.deepStrictEqual([ran.code, ran.stdout], [code, ""])
          if (code === 2) assert.deepStrictEqual(asked, [])
        }
      }
    })
  )

  it.effect("of which none can be read are shown, and a failure", () =>
    Effect.gen(function* () {
      const { calls, control } = BpfMemory.make()
      const alone = stages({ root: "/sys/fs/bpf", bpf: calls, layer: Layer.succeed(Bpf.Bpf, calls) })
      const { ctmap } = yield* alone(pods)
      const pins = control.pins()
      for (const [i, pin] of pins.entries()) {
        assert.strictEqual((yield* ctmap("maps")).code, 0, `${i} cannot be opened`)
        control.chmod(pin, 0o000)
      }
      const back = control.asUser(65_534)
      const { code, stderr, stdout } = yield* ctmap("maps", "-o", "json")
      back()
      assert.strictEqual(namesOf(stdout).length, pins.length)
      assert.match(stderr, /^ctmap: none of the 6 maps can be read: .*cilium_ct4_global: not permitted.*\n$/)
      assert.strictEqual(code, 1)
    })
  )
})

describe("a map that is named", () => {
  it.effect("is purged of addresses of either family: only the names say which maps", () =>
    Effect.gen(function* () {
      const { done, saved } = yield* stage(pods)
      yield* done("purge", "--ip", "10.0.1.99", "--map", "cilium_ct6_global", "--yes")
      assert.deepStrictEqual(yield* saved, pods)
    })
  )
})
