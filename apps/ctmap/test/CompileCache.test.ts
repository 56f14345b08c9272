import { chmodSync, lstatSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs"
import { assert, describe, it } from "@effect/vitest"
import { onTestFinished } from "vitest"
import { directoryOf } from "../src/CompileCache.ts"

const uid = process.getuid!()

const home = (): string => {
  const directory = mkdtempSync("/tmp/ctmap-test-")
  onTestFinished(() => rmSync(directory, { recursive: true }))
  return directory
}

describe("the directory of compiled code", () => {
  it("is made below the home, for its user alone", () => {
    const homedir = home()
    const directory = directoryOf({ homedir, uid })
    assert.strictEqual(directory, `${homedir}/.cache/ctmap`)
    assert.strictEqual(lstatSync(directory!).mode & 0o777, 0o700)
    assert.strictEqual(directoryOf({ homedir, uid }), directory)
  })

  for (const path of ["", "/.cache", "/.cache/ctmap"]) {
    for (const [who, mode] of [
      ["the group", 0o770],
      ["everybody", 0o702]
    ] as const) {
      it(`is not used where ${who} can write to ~${path}`, () => {
        const homedir = home()
        mkdirSync(`${homedir}/.cache/ctmap`, { recursive: true, mode: 0o700 })
        chmodSync(`${homedir}${path}`, mode)
        assert.isUndefined(directoryOf({ homedir, uid }))
      })
    }
  }

  it("is not used where it is another user's", () => {
    assert.isUndefined(directoryOf({ homedir: home(), uid: uid + 1 }))
  })

  it("is not used where it leads elsewhere, or cannot be made", () => {
    const [homedir, elsewhere] = [home(), home()]
    mkdirSync(`${homedir}/.cache`, { mode: 0o700 })
    symlinkSync(elsewhere, `${homedir}/.cache/ctmap`)
    assert.isUndefined(directoryOf({ homedir, uid }))
    const other = home()
    writeFileSync(`${other}/.cache`, "")
    assert.isUndefined(directoryOf({ homedir: other, uid }))
  })
})
