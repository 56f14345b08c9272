import { type ChildProcess, spawn } from "node:child_process"
import { rmSync } from "node:fs"
import { request } from "node:http"
import { fileURLToPath } from "node:url"
import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import { Privileged, TempBpfFs } from "ctmap-testing"
import * as Effect from "effect/Effect"
import { onTestFinished, vi } from "vitest"
import { run } from "./harness.ts"
import { linesOf, withFile } from "./tableFile.ts"

const agentProgram = fileURLToPath(new URL("../../ctmap-agent/src/bin.ts", import.meta.url))
const program = fileURLToPath(new URL("../src/run.ts", import.meta.url))
const fs = TempBpfFs.make()

/** Connections that never end, half of them of each port, with both halves of their mappings. */
const connections = Array.from({ length: 20_000 }, (_, n) => {
  const peer = (0x0b00_0000 + n).toString(16).padStart(8, "0")
  const port = n % 2 === 0 ? "0050" : "0051"
  const nat = (key: string, address: string, of: string) =>
    `cilium_snat_v4_external\t${key}\t${"01".padEnd(16, "0")}${"00".repeat(24)}${address}${of}${"00".repeat(2)}`
  return {
    port,
    ct: `cilium_ct4_global\t0a000001${peer}${port}03e80600\t${"00".repeat(32)}${"ff".repeat(4)}${"00".repeat(20)}`,
    out: nat(`${peer}0a000001${port}03e80600`, "c0a80001", "9c40"),
    in: nat(`c0a80001${peer}9c40${port}0601`, "0a000001", "03e8")
  }
})
const never = `cilium_ct_any4_global\t${"ff".repeat(12)}1100\t${"00".repeat(32)}${"ff".repeat(4)}${"00".repeat(20)}`

interface Passes {
  readonly ct: ReadonlyArray<{ completed: boolean; why?: string; maps: ReadonlyArray<{ deleted: number }> }>
}

Privileged.suite(describe, "a command through the agent that is interrupted", () => {
  const root = `${fs.path}/interrupt`
  const socket = `/tmp/ctmap-test-interrupt-${process.pid}.sock`
  let agent: ChildProcess | undefined
  const via = (...args: ReadonlyArray<string>) => Effect.runPromise(run([...args, "--agent", socket]))
  const here = (...args: ReadonlyArray<string>) => Effect.runPromise(run(["--bpffs-root", root, ...args]))
  const saved = async () => new Set(linesOf((await here("snapshot", "save", "-")).stdout))
  const left = async (port: string): Promise<number> => {
    const { stdout } = await here("count", "--where", `port ${Number.parseInt(port, 16)}`, "-o", "json")
    return (JSON.parse(stdout) as { readonly total: number }).total
  }
  const passes = (): Promise<Passes["ct"]> =>
    new Promise((resolve, reject) => {
      const asked = request({ socketPath: socket, path: "/v1/passes" }, (response) => {
        let text = ""
        response.on("data", (data: Buffer) => (text += data.toString()))
        response.once("end", () => resolve((JSON.parse(text) as Passes).ct))
      })
      asked.once("error", reject)
      asked.end()
    })

  beforeAll(async () => {
    fs.start()
    const lines = [...connections.flatMap(({ ct, in: ingress, out }) => [ct, out, ingress]), never]
    const sizes = ["ct-global-tcp", "ct-global-any", "nat-global"].flatMap((of) => [`--bpf-${of}-max`, "65536"])
    const restored = withFile(lines, (file) => run(["--bpffs-root", root, "snapshot", "restore", file, ...sizes]))
    assert.strictEqual((await Effect.runPromise(restored)).code, 0)
    const settings = ["--orphan-purge-interval", "0", "--budget", "0.01", "--max-delete-ratio", "1"]
    const args = ["--conditions=ctmap-source", agentProgram, "--bpffs-root", root, "--api-socket", socket, ...settings]
    agent = spawn(process.execPath, args, {
      env: { PATH: process.env["PATH"], CTMAP_CONFIG: "/dev/null" },
      stdio: "ignore"
    })
    const isReady = async () => {
      const { code, stdout } = await via("status", "-o", "json")
      return code === 0 && (JSON.parse(stdout) as { gc: { initialScanDone: boolean } }).gc.initialScanDone
    }
    await vi.waitUntil(isReady, { timeout: 120_000, interval: 200 })
  })
  afterAll(async () => {
    if (agent !== undefined && agent.exitCode === null && agent.signalCode === null) {
      const ended = new Promise((resolve) => agent!.once("close", resolve))
      agent.kill("SIGKILL")
      await ended
    }
    // Whoever is killed leaves it behind.
    rmSync(socket, { force: true })
    fs.stop()
  })

  it("deletes nothing more, tears nothing, is on record, and is nothing to who asks for something else", async () => {
    const args = ["--conditions=ctmap-source", program, "purge", "--port", "80", "--yes", "--agent", socket]
    const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "pipe"] })
    onTestFinished(() => void child.kill("SIGKILL"))
    let said = ""
    child.stderr.on("data", (data: Buffer) => (said += data.toString()))
    const ended = new Promise((resolve) => child.once("close", resolve))
    await vi.waitUntil(async () => (await left("0050")) < 10_000, { timeout: 120_000, interval: 20 })
    const other = via("purge", "--port", "81", "--yes", "-o", "json")
    child.kill("SIGINT")
    assert.strictEqual(await ended, 130)
    assert.match(said, /interrupted: the agent deletes nothing more for this/)
    await vi.waitUntil(async () => (await passes()).some(({ why }) => why === "interrupted"), { timeout: 120_000 })
    const stopped = (await passes()).find(({ why }) => why === "interrupted")
    const deleted = stopped!.maps.reduce((sum, map) => sum + map.deleted, 0)
    const { code, stderr } = await other
    assert.strictEqual(code, 0, stderr)
    const there = await saved()
    const torn = connections.filter(({ ct, in: ingress, out }) => {
      const isThere = there.has(ct)
      return isThere !== there.has(out) || isThere !== there.has(ingress)
    })
    assert.deepStrictEqual(torn.slice(0, 3), [])
    const gone = (port: string) => connections.filter((each) => each.port === port && !there.has(each.ct)).length
    assert.strictEqual(gone("0050"), deleted)
    assert.isBelow(deleted, 10_000)
    assert.strictEqual(gone("0051"), 10_000)
  })
})
