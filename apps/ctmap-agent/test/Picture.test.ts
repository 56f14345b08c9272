/** The picture of the agent in ARCHITECTURE.md is the one that the agent draws of itself. */
import { readFileSync, writeFileSync } from "node:fs"
import { assert, describe, it } from "@effect/vitest"
import { Graph, Inspect, Settings } from "ctmap-cell"
import { hive } from "../src/Agent.ts"

const file = new URL("../../../ARCHITECTURE.md", import.meta.url)
const fence = /(<!-- the agent, as `ctmap-agent hive --mermaid` draws it -->\n\n```mermaid\n)([^`]*)(\n```)/

describe("the picture in ARCHITECTURE.md", () => {
  it("shows the cells as they are (CTMAP_GOLDEN=1 draws it anew)", () => {
    const text = readFileSync(file, "utf8")
    if (process.env["CTMAP_GOLDEN"] === "1") {
      writeFileSync(
        file,
        text.replace(fence, (_, open: string, _old, close: string) => open + Inspect.mermaid(hive) + close)
      )
    }
    assert.strictEqual(fence.exec(readFileSync(file, "utf8"))?.[2], Inspect.mermaid(hive))
  })
})

describe("the hive", () => {
  it("lacks nothing, and starts what others need first", () => {
    const { order, problems } = Graph.make(hive)
    assert.deepStrictEqual(problems, [])
    const isBefore = (first: string, second: string) => order.indexOf(first) < order.indexOf(second)
    assert.isTrue(isBefore("kernel", "clock") && isBefore("clock", "gc") && isBefore("gc", "presence"))
  })

  it("says of every setting what it is for", () => {
    const silent = Settings.definitions(hive).filter(({ description }) => description === undefined)
    assert.deepStrictEqual(silent, [])
  })

  it("keeps the names and defaults that users of Cilium know", () => {
    const known = new Map(Settings.definitions(hive).map(({ flag, fallback }) => [flag, fallback]))
    assert.strictEqual(known.get("--conntrack-gc-interval"), "0s")
    assert.strictEqual(known.get("--conntrack-gc-max-interval"), "0s")
    assert.strictEqual(known.get("--bpf-ct-global-tcp-max"), "524288")
    assert.strictEqual(known.get("--bpf-ct-global-any-max"), "262144")
    assert.strictEqual(known.get("--bpf-nat-global-max"), "524288")
    assert.strictEqual(known.get("--bpffs-root"), "/sys/fs/bpf")
  })
})
