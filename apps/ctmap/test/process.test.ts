import { type ChildProcess, spawn, spawnSync } from "node:child_process"
import {
  chmodSync,
  closeSync,
  constants,
  cpSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  symlinkSync
} from "node:fs"
import { assert, describe, it } from "@effect/vitest"
import { fileURLToPath } from "node:url"
import { onTestFinished, vi } from "vitest"

const app = fileURLToPath(new URL("..", import.meta.url))
const env = { ...process.env, NODE_DISABLE_COMPILE_CACHE: "1" }

const temporary = (): string => {
  const directory = mkdtempSync("/tmp/ctmap-test-")
  chmodSync(directory, 0o755)
  onTestFinished(() => rmSync(directory, { recursive: true }))
  return directory
}

describe("an installation that is damaged", () => {
  /** Runs a copy of the program that lacks some files. */
  const without = (files: ReadonlyArray<string>, args: ReadonlyArray<string>, changes: NodeJS.ProcessEnv = {}) => {
    const copy = temporary()
    for (const name of ["src", "package.json"]) cpSync(`${app}/${name}`, `${copy}/${name}`, { recursive: true })
    symlinkSync(`${app}/node_modules`, `${copy}/node_modules`)
    for (const file of files) rmSync(`${copy}/${file}`)
    return spawnSync(process.execPath, ["--conditions=ctmap-source", `${copy}/src/bin.ts`, ...args], {
      env: { ...env, ...changes },
      encoding: "utf8"
    })
  }

  for (const [file, command] of [
    ["src/commands/macros.ts", "macros"],
    ["src/render/Report.ts", "features"],
    ["src/run.ts", "macros"],
    ["src/Output.ts", "macros"]
  ] as const) {
    it(`says in one sentence what cannot be loaded and what to do: ${file}`, () => {
      const { status, stdout, stderr } = without([file], [command])
      assert.strictEqual(status, 1)
      assert.strictEqual(stdout, "")
      assert.match(stderr, /^ctmap: .*cannot load its own code.*\n$/)
      assert.include(stderr, file)
      assert.match(stderr, /install ctmap again/)
    })
  }

  it("shows where it failed when asked with CTMAP_DEBUG=1", () => {
    const { status, stderr } = without(["src/commands/macros.ts"], ["macros"], { CTMAP_DEBUG: "1" })
    assert.strictEqual(status, 1)
    assert.match(stderr, /^ctmap: .*cannot load its own code.*\n[^]*\n {4}at /)
  })

  it("works without the file that only says its version", () => {
    const { status, stdout, stderr } = without(["package.json"], ["macros"])
    assert.strictEqual(stderr, "")
    assert.include(stdout, "#define CT_MAP_TCP4")
    assert.strictEqual(status, 0)
  })
})

describe("the end", () => {
  it("lets go of files, which koffi would flush to the disk, and of nothing else", () => {
    const file = `${temporary()}/out`
    const script = `
      import { readlinkSync, writeSync } from "node:fs"
      import { letGo } from ${JSON.stringify(`${app}/src/Output.ts`)}
      writeSync(1, "data\\n")
      const isWritten = letGo()
      writeSync(3, [isWritten, ...[0, 1, 2].map((fd) => readlinkSync("/proc/self/fd/" + fd))].join(" ").replace(/\\d+/g, ""))`
    const after = (...stdio: ReadonlyArray<number | "pipe" | "ignore">) =>
      spawnSync(process.execPath, ["--conditions=ctmap-source", "--input-type=module", "-e", script], {
        stdio: [...stdio, "pipe"],
        encoding: "utf8"
      })
    const out = openSync(file, "w")
    assert.strictEqual(after("ignore", out, out).output[3], "true /dev/null /dev/null /dev/null")
    assert.strictEqual(readFileSync(file, "utf8"), "data\n")
    assert.strictEqual(after("ignore", "pipe", out).output[3], "true /dev/null socket:[] /dev/null")
    closeSync(out)
  })
})

describe("a signal", () => {
  /** The program while it waits for a reader that does not read: 80 kB into a pipe of 64 kB. */
  const blocked = async (): Promise<{ readonly child: ChildProcess; readonly reader: number }> => {
    const pipe = `${temporary()}/pipe`
    assert.strictEqual(spawnSync("mkfifo", [pipe]).status, 0)
    const reader = openSync(pipe, constants.O_RDONLY | constants.O_NONBLOCK)
    onTestFinished(() => closeSync(reader))
    const writer = openSync(pipe, "w")
    const child = spawn(process.execPath, ["--conditions=ctmap-source", `${app}/src/run.ts`, "--completions", "fish"], {
      env,
      stdio: ["ignore", writer, "pipe"]
    })
    closeSync(writer)
    onTestFinished(() => void child.kill("SIGKILL"))
    // Once its first byte is there, it is inside the write that does not fit.
    await vi.waitUntil(() => takes(reader), { timeout: 120_000, interval: 5 })
    return { child, reader }
  }

  const takes = (reader: number): boolean => {
    try {
      return readSync(reader, new Uint8Array(1)) === 1
    } catch {
      return false
    }
  }

  for (const [signal, code] of [
    ["SIGINT", 130],
    ["SIGTERM", 143]
  ] as const) {
    it(`${signal} ends a program whose reader has stopped reading, and shells see ${code}`, async () => {
      const { child } = await blocked()
      const ended = new Promise((resolve) => child.once("exit", (status, by) => resolve(by ?? status)))
      child.kill(signal)
      const how = await ended
      assert.include([signal, code], how)
    })
  }
})
