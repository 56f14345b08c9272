import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import { execFileSync } from "node:child_process"
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { fileURLToPath } from "node:url"

const root = fileURLToPath(new URL("../../", import.meta.url))

/** The fences of a section, by what they are marked with. */
const fences = (section: string, mark: string): ReadonlyArray<string> => {
  const readme = readFileSync(join(root, "README.md"), "utf8")
  const [, text = ""] = readme.split(`\n## ${section}\n`)
  const [own = ""] = text.split("\n## ")
  return [...own.matchAll(/^```(\w*)\n(.*?)^```$/gms)].flatMap(([, of, code = ""]) => (of === mark ? [code] : []))
}

describe("the agent of the README", () => {
  const section = "An agent of your own, in three cells"
  let clone: string

  /** Where somebody stands who has just cloned and set up: modules, and no file of their own. */
  beforeAll(() => {
    mkdirSync(join(root, ".cache"), { recursive: true })
    clone = mkdtempSync(join(root, ".cache", "newcomer-"))
    symlinkSync(join(root, "node_modules"), join(clone, "node_modules"))
  })
  afterAll(() => rmSync(clone, { recursive: true, force: true }))

  it("runs by the command on the page, saved under the name in it, and prints what stands there", () => {
    const [program = "", ...more] = fences(section, "ts")
    assert.deepStrictEqual(more, [])
    const [command = "no command", ...others] = fences(section, "sh")
    assert.deepStrictEqual(others, [])
    const file = /\S+\.ts$/.exec(command.trimEnd())?.[0] ?? assert.fail(`no file is named by: ${command}`)
    writeFileSync(join(clone, file), program)
    const printed = execFileSync("sh", ["-ec", command], { cwd: clone, encoding: "utf8", stdio: "pipe" })
    assert.isNotEmpty(printed)
    assert.deepStrictEqual(fences(section, "text"), [printed])
  })
})
