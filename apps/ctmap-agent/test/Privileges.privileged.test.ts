/** What an ordinary user with a few capabilities may do, on real maps that are root's. */
import { spawnSync } from "node:child_process"
import { fileURLToPath } from "node:url"
import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import { MapName, MapSpec } from "ctmap-core"
import { Privileged, TempBpfFs } from "ctmap-testing"
import { asUser, clock, connections, fill, kernel, launch, look } from "./agentProcess.ts"

Privileged.suite(describe, "an agent that is not root", () => {
  const fs = TempBpfFs.make()
  beforeAll(fs.start)
  afterAll(fs.stop)

  const expired = connections(2000, 0)
  let number = 0

  /** Tables as Cilium leaves them: pins of mode 600 below a directory of mode 700, all of them root's. */
  const place = async () => {
    const root = `${fs.path}/${number++}`
    const alive = connections(100, clock() + 3600, expired.length)
    await fill(root, [...expired, ...alive])
    const signals = kernel.mapCreate(
      { type: MapSpec.mapType.perfEventArray, keySize: 4, valueSize: 4, maxEntries: kernel.possibleCpus(), flags: 0 },
      "cilium_signals"
    )
    assert.strictEqual(kernel.pin(signals, MapName.pinPath(root, MapName.SIGNALS)), 0)
    kernel.close(signals)
    assert.strictEqual(kernel.chmod(root, 0o700), 0)
    const isCollected = () => {
      const { left, there } = look(root, expired)
      return there === 0 && left === 0
    }
    const isWhole = () => assert.deepStrictEqual(look(root, alive), { there: 100, whole: 100, left: 0 })
    return { root, isCollected, isWhole }
  }

  it("collects without CAP_PERFMON, with signals off, and says which capability they need", async () => {
    const { isCollected, isWhole, root } = await place()
    const agent = launch({ root, capabilities: ["bpf", "dac_override"], args: ["--signals"] })
    await agent.until("collected", isCollected)
    await agent.until("told", () => /STATUS=degraded: privileges: .*CAP_PERFMON \(and 1 more\)/.test(agent.told()))
    isWhole()
    assert.strictEqual(await agent.stop("SIGTERM"), 0)
  })

  it("collects without CAP_PERFMON where it may only read, and says what that costs", async () => {
    const { isCollected, isWhole, root } = await place()
    const agent = launch({ root, capabilities: ["bpf", "dac_read_search"] })
    await agent.until("collected", isCollected)
    await agent.until("told", () =>
      /STATUS=degraded: privileges: .*refreshed in that moment: give the process CAP_PERFMON/.test(agent.told())
    )
    isWhole()
    assert.strictEqual(await agent.stop("SIGTERM"), 0)
  })

  it("says that signals need a pin that it may write, where it may only read", async () => {
    const { isCollected, root } = await place()
    const agent = launch({ root, capabilities: ["bpf", "perfmon", "dac_read_search"], args: ["--signals"] })
    await agent.until("collected", isCollected)
    await agent.until("told", () => /STATUS=degraded: signals: .*not permitted/.test(agent.told()))
    assert.strictEqual(await agent.stop("SIGTERM"), 0)
  })

  it("collects by single calls without CAP_BPF where it may write, and says what is missing", async () => {
    const { isCollected, isWhole, root } = await place()
    const agent = launch({ root, capabilities: ["dac_override"] })
    await agent.until("collected", isCollected)
    await agent.until("told", () =>
      /STATUS=degraded: privileges: programs may not be loaded.*CAP_BPF/.test(agent.told())
    )
    isWhole()
    assert.strictEqual(await agent.stop("SIGTERM"), 0)
  })

  it("deletes nothing without CAP_BPF where it may only read, and says what is missing", async () => {
    const { isWhole, root } = await place()
    const agent = launch({ root, capabilities: ["dac_read_search"] })
    await agent.until("told", () => /STATUS=degraded: privileges: .*CAP_BPF/.test(agent.told()))
    await agent.until("in the log", () => /ipv4 global: .*not permitted.*CAP_BPF/.test(agent.log()))
    assert.deepStrictEqual(look(root, expired), { there: expired.length, whole: expired.length, left: 0 })
    isWhole()
    assert.strictEqual(await agent.stop("SIGTERM"), 0)
  })

  it("prints its cells and its settings without any right on maps", () => {
    const program = fileURLToPath(new URL("../src/bin.ts", import.meta.url))
    // The sources may be where only root can read.
    const user = asUser(["dac_read_search"])
    for (const words of [["hive"], ["config", "--bpffs-root", "/nowhere"]]) {
      const args = [...user, process.execPath, "--conditions=ctmap-source", program, ...words]
      const { status, stderr, stdout } = spawnSync("setpriv", args, { encoding: "utf8" })
      assert.strictEqual(status, 0, stderr)
      assert.include(stdout, "bpffs-root")
    }
  })
})
