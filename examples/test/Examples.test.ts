import { assert, describe, it } from "@effect/vitest"
import { execFileSync } from "node:child_process"
import { readdirSync, readFileSync } from "node:fs"
import { fileURLToPath } from "node:url"

const folder = (name: string) => fileURLToPath(new URL(`../${name}/`, import.meta.url))
const examples = readdirSync(folder("src")).filter((file) => file.endsWith(".ts"))

describe("every example prints what it says it prints", () => {
  it.each(examples)("%s", (file) => {
    const printed = execFileSync(process.execPath, ["--conditions=ctmap-source", `${folder("src")}${file}`], {
      encoding: "utf8"
    })
    assert.strictEqual(printed, readFileSync(`${folder("expected")}${file.replace(/\.ts$/, ".txt")}`, "utf8"))
  })

  it("and is listed in the README", () => {
    const readme = readFileSync(`${folder(".")}README.md`, "utf8")
    for (const file of examples) assert.include(readme, `(src/${file})`)
  })
})
