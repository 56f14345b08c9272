import { spawnSync } from "node:child_process"
import { fileURLToPath } from "node:url"
import { assert, describe, it } from "@effect/vitest"
import { Privileged } from "ctmap-testing"

/** What is left after something was made and closed 200 times. */
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
  const left = (...words: ReadonlyArray<string>): Readonly<Record<string, Left>> => {
    const flags = ["--expose-gc", "--conditions=ctmap-source"]
    const { stdout, stderr, status } = spawnSync(process.execPath, [...flags, script, ...words], { encoding: "utf8" })
    assert.strictEqual(status, 0, stderr)
    return JSON.parse(stdout)
  }
  it.each([
    { title: "by a Node that empties buffers", words: [] },
    { title: "by a Node that cannot", words: ["without-transfer"] }
  ])("is given back with every map, link, iterator and program, $title", ({ words }) => {
    const results = left(...words)
    assert.deepStrictEqual(Object.keys(results), ["compare-and-delete", "iterator"])
    for (const [name, { bpf, handles, all, megabytes }] of Object.entries(results)) {
      assert.deepStrictEqual({ name, bpf, handles }, { name, bpf: 0, handles: 0 })
      assert.isBelow(all, 100, name)
      // 200 iterators map 157 MB; the heap of Node comes and goes by 50.
      assert.isBelow(megabytes, 100, name)
    }
  })
})
