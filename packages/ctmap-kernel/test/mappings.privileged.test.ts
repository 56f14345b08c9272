import { spawnSync } from "node:child_process"
import { fileURLToPath } from "node:url"
import { assert, describe, it } from "@effect/vitest"
import { Privileged } from "ctmap-testing"

/** What is left after something was made and closed many times. */

interface Left {
  /** Mappings of BPF maps, and open fds of BPF objects. */
  readonly bpf: number
  readonly handles: number
  /** By how much there are more mappings of any kind, and more of them in megabytes. */
  readonly all: number
  readonly megabytes: number
}

Privileged.suite(describe, "memory shared with the kernel", () => {
  const script = fileURLToPath(new URL("./mappingsChild.ts", import.meta.url))
  const left = (node: string, times: number): Readonly<Record<string, Left>> => {
    const flags = ["--expose-gc", "--conditions=ctmap-source"]
    const { stdout, stderr, status } = spawnSync(process.execPath, [...flags, script, node, `${times}`], {
      // Each thread that allocates for the first time would take 64 MB of addresses, whenever that is.
      env: { ...process.env, MALLOC_ARENA_MAX: "1" },
      encoding: "utf8"
    })
    assert.strictEqual(status, 0, stderr)
    return JSON.parse(stdout)
  }
  it.each([
    { title: "by a Node that empties buffers", node: "as-it-is", times: 200 },
    { title: "by a Node that cannot", node: "without-transfer", times: 50 }
  ])("is given back with every map, link, iterator and program, $title", ({ node, times }) => {
    const results = left(node, times)
    assert.deepStrictEqual(Object.keys(results), ["compare-and-delete", "iterator"])
    for (const [name, { bpf, handles, all, megabytes }] of Object.entries(results)) {
      assert.deepStrictEqual({ name, bpf, handles }, { name, bpf: 0, handles: 0 })
      assert.isBelow(all, 100, name)
      // 200 iterators map 157 MB; the heap of Node comes and goes by 50.
      assert.isBelow(megabytes, 100, name)
    }
  })
})
