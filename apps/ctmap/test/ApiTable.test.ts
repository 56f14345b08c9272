import { assert, describe, it } from "@effect/vitest"
import * as cluster from "ctmap-cluster"
import * as core from "ctmap-core"
import * as gc from "ctmap-gc"
import * as kernel from "ctmap-kernel"
import { readFileSync } from "node:fs"

/** Rows of the API table of ctmap-core's README: Cilium's symbol, the package, what is ours. */
const rows = readFileSync(new URL("../../../packages/ctmap-core/README.md", import.meta.url), "utf8")
  .split("\n")
  .map((line) => /^\| `([A-Za-z0-9_.]+)` \| (ctmap-[a-z]+) \|(.*)\|$/.exec(line))
  .filter((row) => row !== null)
  .map(([, symbol = "", owner = "", ours = ""]) => ({ symbol, owner, ours }))

/** Packages that have landed: their rows must name what takes the symbol's place. */
const landed = new Set(["ctmap-core", "ctmap-kernel", "ctmap-gc", "ctmap-cluster"])

/** `Module.name` references of a cell. */
const references = (cell: string): Array<readonly [module: string, name: string]> =>
  [...cell.matchAll(/`([A-Z][A-Za-z0-9]*)\.([A-Za-z0-9_]+)`/g)].map(([, module = "", name = ""]) => [module, name])

const modules = { ...core, ...kernel, ...gc, ...cluster } as unknown as Readonly<
  Record<string, Readonly<Record<string, unknown>>>
>

describe("the API table", () => {
  it.each(rows.filter(({ owner }) => landed.has(owner)))("$symbol is $ours", ({ ours }) => {
    assert.isNotEmpty(references(ours), "a row of a package that has landed names what takes the symbol's place")
  })

  it("names nothing of ours that does not exist", () => {
    for (const { ours } of rows) {
      for (const [module, name] of references(ours)) assert.isDefined(modules[module]?.[name], `${module}.${name}`)
    }
  })

  it("means one module by a name, whichever package it is of", () => {
    const names = [core, kernel, gc].flatMap((modulesOf) => Object.keys(modulesOf))
    assert.strictEqual(new Set(names).size, names.length)
  })

  it("has every symbol of the API list once", () => {
    const symbols = readFileSync(
      new URL("../../../packages/ctmap-testing/data/api-symbols.txt", import.meta.url),
      "utf8"
    )
      .trim()
      .split("\n")
    assert.deepStrictEqual(rows.map(({ symbol }) => symbol).toSorted(), symbols.toSorted())
  })
})
