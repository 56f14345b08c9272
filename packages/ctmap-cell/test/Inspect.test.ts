import { assert, describe, it } from "@effect/vitest"
import { Cell, Graph, Hive, Inspect, Lifecycle, Settings } from "ctmap-cell"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import { readFileSync, writeFileSync } from "node:fs"
import { A, B, C, key } from "./rig.ts"

const inner = Cell.make("inner", { description: 'says "hello"', needs: [A, B], layer: Layer.empty })
const maker = Cell.make("maker", { description: "makes what inner needs", provides: [B], layer: Layer.succeed(B, "") })
const box = Cell.make("box", { description: "keeps B inside", private: [B], cells: [inner, maker] })
const store = Cell.make("store", {
  description: "remembers",
  needs: [C],
  provides: [A],
  config: Schema.Struct({
    storePath: Schema.String.annotate({ description: "where" }).pipe(
      Schema.withDecodingDefaultKey(Effect.succeed("/var"))
    ),
    storeKey: Schema.RedactedFromValue(Schema.String)
  }),
  layer: Layer.effect(A, C)
})
const end = Cell.make("end", {
  description: "needs two of one cell, and what the hive knows",
  needs: [A, Lifecycle.Lifecycle],
  layer: Layer.empty
})
const hive = Hive.make("app", { cells: [box, store, end], given: [C] })

/** The text as it was written down last; `CTMAP_GOLDEN=1` writes it down anew. */
const asWritten = (name: string, text: string) => {
  const file = new URL(`golden/${name}`, import.meta.url)
  if (process.env["CTMAP_GOLDEN"] === "1") writeFileSync(file, `${text}\n`)
  return readFileSync(file, "utf8").slice(0, -1)
}

describe("the picture of a hive", () => {
  it("as text", () => {
    const text = Inspect.text(hive)
    assert.strictEqual(text, asWritten("hive.txt", text))
  })
  it("as a graph for Graphviz", () => {
    const text = Inspect.dot(hive)
    assert.strictEqual(text, asWritten("hive.dot", text))
  })
  it("as a graph for Mermaid", () => {
    const text = Inspect.mermaid(hive)
    assert.strictEqual(text, asWritten("hive.mmd", text))
  })

  it.effect("as text with the settings that are in force", () =>
    Effect.gen(function* () {
      const { effective } = yield* Settings.load(hive, { env: { APP_STORE_KEY: "hush" }, flags: ["--store-path=/tmp"] })
      const text = Inspect.text(hive, { effective })
      assert.strictEqual(text, asWritten("hive-effective.txt", text))
    })
  )

  it("of a hive that cannot be composed says what is missing", () => {
    const broken = Hive.make("app", { cells: [inner] })
    assert.include(Inspect.text(broken), "needs     test/A (missing)")
    assert.strictEqual(Graph.make(broken).problems.length, 2)
  })

  it("names every cell and every link, whatever they are called", () => {
    const odd = key('odd "name"')
    const cells = [
      Cell.make("end", { description: "", provides: [odd], layer: Layer.succeed(odd, "") }),
      Cell.make("graph", { description: "", needs: [odd], layer: Layer.empty })
    ]
    const named = Hive.make("app", { cells })
    assert.include(Inspect.dot(named), '"graph" -> "end" [label="odd \\"name\\""]')
    assert.include(Inspect.mermaid(named), 'c1 -->|"odd #quot;name#quot;"| c0')
  })
})
