import { type ChildProcess, spawn, spawnSync } from "node:child_process"
import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import { Privileged, TempBpfFs } from "ctmap-testing"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import { fileURLToPath } from "node:url"
import { vi } from "vitest"
import { run } from "./harness.ts"
import { linesOf, withFile } from "./tableFile.ts"

const agentProgram = fileURLToPath(new URL("../../ctmap-agent/src/bin.ts", import.meta.url))
const program = fileURLToPath(new URL("../src/run.ts", import.meta.url))
const fs = TempBpfFs.make()

const u32 = (value: number): string => Buffer.from(Uint32Array.of(value).buffer).toString("hex")
const now = Math.floor(Number(process.hrtime.bigint() / 1_000_000_000n))

/** Connections of one pod, which end at a time of the clock, with both halves of their mappings. */
const connections = (pod: string, count: number, endsAt: number): ReadonlyArray<string> =>
  Array.from({ length: count }, (_, i) => {
    const peer = (0x0b00_0000 + i).toString(16).padStart(8, "0")
    const nat = (key: string, address: string, port: string) =>
      `cilium_snat_v4_external\t${key}\t01${"00".repeat(31)}${address}${port}0000`
    return [
      `cilium_ct4_global\t${pod}${peer}005003e80600\t${"00".repeat(32)}${u32(endsAt)}${"00".repeat(20)}`,
      nat(`${peer}${pod}005003e80600`, "c0a80001", `9c4${pod.at(-1)}`),
      nat(`c0a80001${peer}9c4${pod.at(-1)}00500601`, pod, "03e8")
    ]
  }).flat()

const alive = connections("0a000001", 40, now + 10_000)
const other = `cilium_ct_any4_global\t0a0000010a000002003500351100\t${"00".repeat(32)}${u32(now + 10_000)}${"00".repeat(20)}`

Privileged.suite(describe, "the commands through the agent, as a process on real maps", () => {
  const root = `${fs.path}/agent`
  const socket = `/tmp/ctmap-test-${process.pid}.sock`
  let agent: ChildProcess | undefined

  const direct = (...args: ReadonlyArray<string>) => Effect.runPromise(run(["--bpffs-root", root, ...args]))
  const via = (...args: ReadonlyArray<string>) => Effect.runPromise(run([...args, "--agent", socket]))
  const sizes = ["tcp", "any"]
    .flatMap((of) => [`--bpf-ct-global-${of}-max`, "8192"])
    .concat("--bpf-nat-global-max", "8192")
  const fill = async (lines: ReadonlyArray<string>) => {
    const { code, stderr } = await Effect.runPromise(
      withFile(lines, (file) => run(["--bpffs-root", root, "snapshot", "restore", file, ...sizes]))
    )
    assert.strictEqual(code, 0, stderr)
  }
  const saved = async () => linesOf((await direct("snapshot", "save", "-")).stdout)

  const start = async () => {
    const args = ["--conditions=ctmap-source", agentProgram, "--bpffs-root", root, "--api-socket", socket]
    const child = spawn(process.execPath, [...args, "--orphan-purge-interval", "0", "--conntrack-gc-interval", "1h"], {
      env: { PATH: process.env["PATH"], CTMAP_CONFIG: "/dev/null" },
      stdio: "ignore"
    })
    agent = child
    await vi.waitUntil(
      async () => {
        const { code, stdout } = await via("status", "-o", "json")
        return code === 0 && (JSON.parse(stdout) as { gc: { initialScanDone: boolean } }).gc.initialScanDone
      },
      { timeout: 120_000, interval: 200 }
    )
  }
  const stop = async (signal: NodeJS.Signals) => {
    const child = agent
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return
    const ended = new Promise((resolve) => child.once("close", resolve))
    child.kill(signal)
    await ended
  }

  /** `watch`, and a way to wait until it shows something: dry passes are told of, too. */
  const watch = (...args: ReadonlyArray<string>) => {
    const heard = { text: "" }
    const notes: Array<string> = []
    const fiber = Effect.runFork(
      run(["watch", "--agent", socket, ...args], {
        onData: (text) => (heard.text += text),
        onNote: (line) => notes.push(line)
      })
    )
    const shows = (what: string) =>
      vi.waitUntil(
        async () => {
          await via("gc", "--dry-run")
          return heard.text.includes(what)
        },
        { timeout: 120_000, interval: 100 }
      )
    const end = async () => {
      fiber.interruptUnsafe()
      const exit = await Effect.runPromise(Fiber.await(fiber))
      return Exit.isSuccess(exit) ? exit.value.code : 130
    }
    return { heard, notes, shows, stop: end }
  }

  beforeAll(async () => {
    fs.start()
    await fill([...alive, other])
    await start()
  })
  afterAll(async () => {
    await stop("SIGKILL")
    fs.stop()
  })

  const timeless = (text: string) => text.replaceAll(/"(remaining|age)Seconds":-?\d+,/g, "")

  it.each([
    ["list"],
    ["list -o cilium-json"],
    ["list --where udp"],
    ["nat list -o cilium-json"],
    ["list -o json"],
    ["nat list -o ndjson"],
    ["list --sort dport -o ndjson"]
  ])("%s what the direct command does", async (command) => {
    const args = command.split(" ")
    const [ours, theirs] = [await direct(...args), await via(...args)]
    assert.deepStrictEqual([theirs.code, theirs.stderr], [0, ""])
    assert.isAbove(theirs.stdout.length, 50)
    assert.strictEqual(timeless(theirs.stdout), timeless(ours.stdout))
  })

  it("say how the agent is, and what is pinned", async () => {
    const { code, stdout } = await via("status")
    assert.strictEqual(code, 0)
    assert.match(stdout, /^ready +yes/m)
    assert.match(stdout, /^cilium_ct4_global +8,192/m)
    const rows = (text: string) =>
      (JSON.parse(text) as ReadonlyArray<Readonly<Record<string, unknown>>>).map(
        ({ keySize, layout, map, maxEntries, memoryBytes, owner, path, type }) =>
          [map, path, owner, type, keySize, maxEntries, memoryBytes, layout] as const
      )
    assert.deepStrictEqual(
      rows((await via("maps", "-o", "json")).stdout),
      rows((await direct("maps", "-o", "json")).stdout)
    )
  })

  it("tell an ordinary user whom the socket lets in", () => {
    const user = ["--reuid", "65534", "--regid", "65534", "--clear-groups"]
    const command = [process.execPath, "--conditions=ctmap-source", program, "status", "--agent", socket]
    const { status, stderr, stdout } = spawnSync("setpriv", [...user, ...command], {
      env: { PATH: process.env["PATH"], NODE_DISABLE_COMPILE_CACHE: "1" },
      encoding: "utf8"
    })
    assert.deepStrictEqual([status, stdout], [1, ""])
    assert.match(stderr, /^ctmap: the agent at .* cannot be reached: not permitted; .* is for root only: run as root/)
  })

  it("collect what has expired, and who watches sees it go", async () => {
    await fill(connections("0a000002", 30, 0))
    const before = (await saved()).length
    const look = await via("gc", "--dry-run", "-o", "json")
    const sum = (text: string, name: string) =>
      (JSON.parse(text) as ReadonlyArray<Readonly<Record<string, number>>>).reduce(
        (all, row) => all + (row[name] ?? 0),
        0
      )
    assert.deepStrictEqual([sum(look.stdout, "wanted"), sum(look.stdout, "deleted")], [30, 0])
    assert.strictEqual((await saved()).length, before)
    const { heard, shows, stop: end } = watch("--where", "src 10.0.0.2", "-o", "ndjson")
    await shows("due")
    const done = await via("gc", "--family", "ipv4", "-o", "json")
    assert.deepStrictEqual([done.code, sum(done.stdout, "deleted"), sum(done.stdout, "natDeleted")], [0, 30, 60])
    assert.deepStrictEqual(await saved(), [...alive, other].toSorted())
    const seen = () =>
      heard.text
        .trimEnd()
        .split("\n")
        .map((line) => JSON.parse(line) as { event: string; reason: string; map: string })
        .filter(({ event }) => event === "deleted")
    await vi.waitUntil(() => seen().length >= 30, { timeout: 120_000 })
    assert.strictEqual(await end(), 130)
    assert.strictEqual(seen().length, 30)
    for (const { map, reason } of seen()) assert.deepStrictEqual([reason, map], ["expired", "cilium_ct4_global"])
  })

  it("purge a pod, and NAT entries without a connection", async () => {
    await fill(connections("0a000003", 5, now + 10_000))
    const looked = await via("purge", "--ip", "10.0.0.3", "--dry-run")
    assert.match(looked.stdout, /^cilium_ct4_global +45 +5 /m)
    assert.strictEqual((await via("purge", "--ip", "10.0.0.3")).code, 3)
    assert.strictEqual((await via("purge", "--ip", "10.0.0.3", "--yes")).code, 0)
    assert.deepStrictEqual(await saved(), [...alive, other].toSorted())
    await fill(connections("0a000004", 5, now).filter((line) => line.startsWith("cilium_snat")))
    const orphans = await via("nat", "purge-orphans", "-o", "json")
    assert.strictEqual(orphans.code, 0, orphans.stderr)
    assert.strictEqual((JSON.parse(orphans.stdout) as ReadonlyArray<{ deleted: number }>)[0]?.deleted, 10)
    assert.deepStrictEqual(await saved(), [...alive, other].toSorted())
  })

  it("keep watching when the agent is started again, however it ended", async () => {
    const { heard, notes, shows, stop: end } = watch()
    await fill(connections("0a000002", 3, 0))
    await shows("expired: TCP OUT 10.0.0.2:")
    const again = async (times: number, signal: NodeJS.Signals) => {
      await stop(signal)
      await vi.waitUntil(() => notes.filter((line) => line.includes("is gone")).length === times, { timeout: 120_000 })
      await start()
      await vi.waitUntil(() => notes.filter((line) => line.endsWith("is back")).length === times, { timeout: 120_000 })
      heard.text = ""
      await fill(connections("0a000002", 3, 0))
      await shows("expired: TCP OUT 10.0.0.2:")
    }
    await again(1, "SIGTERM")
    await again(2, "SIGKILL")
    assert.strictEqual(await end(), 130)
  })

  it("end with 1 and a sentence where it is gone", async () => {
    await stop("SIGTERM")
    const { code, stderr } = await via("list")
    assert.strictEqual(code, 1)
    assert.match(stderr, /^ctmap: the agent at .* cannot be reached: .*start ctmap-agent/)
  })
})
