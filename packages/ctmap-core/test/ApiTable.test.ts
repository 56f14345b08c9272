import { assert, describe, it } from "@effect/vitest"
import * as core from "ctmap-core"
import { readFileSync } from "node:fs"

/** Rows of the README's API table: Cilium's symbol, the package, what is ours. */
const rows = readFileSync(new URL("../README.md", import.meta.url), "utf8")
  .split("\n")
  .map((line) => /^\| `([A-Za-z0-9_.]+)` \| (ctmap-[a-z]+) \|(.*)\|$/.exec(line))
  .filter((row) => row !== null)
  .map(([, symbol = "", owner = "", ours = ""]) => ({ symbol, owner, ours }))

/** `Module.name` references of a cell. */
const references = (cell: string): Array<readonly [module: string, name: string]> =>
  [...cell.matchAll(/`([A-Z][A-Za-z0-9]*)\.([A-Za-z0-9_]+)`/g)].map(([, module = "", name = ""]) => [module, name])

const modules = core as unknown as Readonly<Record<string, Readonly<Record<string, unknown>>>>

describe("the API table of the README", () => {
  it.each(rows.filter(({ owner }) => owner === "ctmap-core"))("$symbol is $ours", ({ ours }) => {
    const named = references(ours)
    assert.isNotEmpty(named, "a row of this package names what takes the symbol's place")
    for (const [module, name] of named) assert.isDefined(modules[module]?.[name], `${module}.${name} is exported`)
  })

  it("names nothing of ours that does not exist", () => {
    for (const { ours } of rows) {
      for (const [module, name] of references(ours)) assert.isDefined(modules[module]?.[name], `${module}.${name}`)
    }
  })

  it("has every symbol of the API list once", () => {
    const symbols = readFileSync(new URL("../../ctmap-testing/data/api-symbols.txt", import.meta.url), "utf8")
      .trim()
      .split("\n")
    assert.deepStrictEqual(rows.map(({ symbol }) => symbol).toSorted(), symbols.toSorted())
  })
})
