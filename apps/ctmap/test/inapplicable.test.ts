import { assert, describe, it } from "@effect/vitest"
import { Bpf, BpfMemory, CompareAndDelete, KernelSweep } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { serve } from "./agentServer.ts"
import { pods, stages } from "./collectStage.ts"
import { run } from "./harness.ts"

const objects = { [CompareAndDelete.object]: CompareAndDelete.twin, [KernelSweep.object]: KernelSweep.twin }
const memory = BpfMemory.make({ mounts: ["/bpf"], objects })
const stage = stages({ root: "/bpf", bpf: memory.calls, layer: Layer.succeed(Bpf.Bpf, memory.calls) })

const notOfCt = /^ctmap: the filter term "xport 5" cannot be used on a CT table: [^\n]*\n$/

describe("a filter that cannot apply to the tables is wrong usage before anybody is asked, and nothing is touched", () => {
  const cases: ReadonlyArray<readonly [args: ReadonlyArray<string>, says: RegExp]> = [
    [["flush", "--where", "xport 5"], notOfCt],
    [["purge", "--where", "xport 5"], notOfCt],
    [["purge", "--ip", "10.0.1.99", "--where", "not xport 5"], notOfCt],
    [["gc", "--where", "xport 5"], notOfCt],
    // The recorded tables are of 1.17.
    [["flush", "--where", "natport 5"], /^ctmap: the filter term "natport 5" cannot be used on a CT table: [^\n]*\n$/],
    [
      ["nat", "flush", "--where", "expired"],
      /^ctmap: the filter term "expired" cannot be used on a NAT table: [^\n]*\n$/
    ]
  ]
  for (const [args, says] of cases) {
    it.effect(`ctmap ${args.join(" ")}`, () =>
      Effect.gen(function* () {
        const { ctmap, saved } = yield* stage(pods)
        for (const how of [[], ["--dry-run"], ...(args[0] === "gc" ? [] : [["--yes"]])]) {
          const { code, stderr, stdout } = yield* ctmap(...args, ...how)
          assert.match(stderr, says, how.join())
          assert.deepStrictEqual([code, stdout], [2, ""], how.join())
        }
        assert.deepStrictEqual(yield* saved, pods)
      })
    )
  }

  for (const args of [
    ["gc", "--where", "xport 5"],
    ["purge", "--where", "xport 5"],
    ["purge", "--where", "xport 5", "--yes"]
  ]) {
    it.live(`ctmap ${args.join(" ")} --agent, which is not asked either`, () =>
      Effect.gen(function* () {
        const { asked, at } = yield* serve({})
        const { code, stderr, stdout } = yield* run([...args, `--agent=${at}`])
        assert.match(stderr, notOfCt)
        assert.deepStrictEqual([code, stdout, asked], [2, "", []])
      })
    )
  }
})
