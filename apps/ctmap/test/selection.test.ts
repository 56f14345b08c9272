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

describe("a map that is named", () => {
  it.effect("is purged of addresses of either family: only the names say which maps", () =>
    Effect.gen(function* () {
      const { done, saved } = yield* stage(pods)
      yield* done("purge", "--ip", "10.0.1.99", "--map", "cilium_ct6_global", "--yes")
      assert.deepStrictEqual(yield* saved, pods)
    })
  )
})
