import { assert, describe, it } from "@effect/vitest"
import { spawn } from "node:child_process"
import { once } from "node:events"
import { existsSync } from "node:fs"
import { fileURLToPath } from "node:url"
import { Privileged } from "ctmap-testing"

const script = fileURLToPath(new URL("../../scripts/start.ts", import.meta.url))

const start = (...args: ReadonlyArray<string>) => {
  const child = spawn(process.execPath, ["--conditions=ctmap-source", script, ...args])
  const output = { text: "" }
  for (const stream of [child.stdout, child.stderr])
    stream.on("data", (data: Buffer) => (output.text += data.toString()))
  // Not before its last line has been read.
  return { child, output, ended: once(child, "close") }
}

/** Presses ctrl-C as soon as something was printed, and once: whoever does it twice does not want to wait. */
const interruptOnce = (child: ReturnType<typeof start>["child"], isSo: () => boolean): void => {
  let isKilled = false
  child.stdout.on("data", () => {
    if (!isKilled && isSo()) isKilled = child.kill("SIGINT")
  })
}

describe("npm start", () => {
  it("collects recorded tables in memory, says so first, and finds everything as expected", async () => {
    const { output, ended } = start("--memory", "--for", "7")
    assert.deepStrictEqual(await ended, [0, null], output.text)
    assert.match(output.text, /^ctmap-agent in memory, not on this kernel: --memory asks for it\./)
    assert.match(output.text, /pass +1 {2}ipv4 {2}2967 seen, \d+ deleted \(expired \d+\), \d+ NAT entries with them/)
    assert.match(output.text, /gone: expired: TCP OUT /)
    assert.include(output.text, "as expected: every live entry is there, every expired one is gone")
  })

  it("leaves nothing behind when it is stopped", async () => {
    const { child, output, ended } = start("--memory", "--for", "60")
    interruptOnce(child, () => output.text.includes("pass   2"))
    assert.deepStrictEqual(await ended, [130, null], output.text)
    assert.include(output.text, "stopped; nothing is left behind")
  })

  it("goes on with --keep once it has checked itself, until it is stopped", async () => {
    const { child, output, ended } = start("--memory", "--for", "2", "--keep")
    interruptOnce(child, () => output.text.includes("The agent goes on until you stop it"))
    assert.deepStrictEqual(await ended, [130, null], output.text)
    assert.include(output.text, "as expected: every live entry is there")
  })

  it("says what --for takes", async () => {
    const { output, ended } = start("--for", "never")
    assert.deepStrictEqual(await ended, [2, null])
    assert.include(output.text, "--for never: expected seconds from 1 to 86400")
  })
})

Privileged.suite(describe, "npm start on this kernel", () => {
  it("collects recorded tables in a bpffs of its own, and takes it away", async () => {
    const { output, ended } = start("--for", "3")
    assert.deepStrictEqual(await ended, [0, null], output.text)
    const root = /^ctmap-agent on this kernel, in a bpffs of its own \((\S+)\)\./.exec(output.text)?.[1]
    assert.isDefined(root, output.text)
    assert.isFalse(existsSync(root))
    assert.include(output.text, "as expected: every live entry is there, every expired one is gone")
  })
})
