/** The life of the agent as a process on real maps: every way in which it ends, and what it lives through. */
import { spawnSync } from "node:child_process"
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import { MapName } from "ctmap-core"
import { Privileged, TempBpfFs } from "ctmap-testing"
import { onTestFinished } from "vitest"
import { clock, connections, countThere, fill, kernel, launch, look } from "./agentProcess.ts"

/** So slow that a pass over the table takes minutes, and looks at the time after every read. */
const slowly = ["--budget", "0.01", "--engine", "hybrid"]

/** Whether a process has a directory locked, by a line such as `1: FLOCK  ADVISORY  WRITE 8278 00:28:1 0 EOF`. */
const isLocked = (path: string, pid: number): boolean => {
  const { dev, ino } = statSync(path)
  const minor = ((dev & 0xff) | ((dev >>> 12) & 0xfff00)).toString(16).padStart(2, "0")
  return new RegExp(`FLOCK +ADVISORY +WRITE +${pid} +00:${minor}:${ino} `).test(readFileSync("/proc/locks", "latin1"))
}

Privileged.suite(describe, "the agent as a process", () => {
  const fs = TempBpfFs.make()
  beforeAll(fs.start)
  afterAll(fs.stop)

  const expired = connections(20_000, 0)
  let number = 0
  const place = async (held: Parameters<typeof fill>[1]) => {
    const root = `${fs.path}/${number++}`
    await fill(root, held)
    return root
  }

  /** A running agent that has deleted a part of what it is going to. */
  const inTheMiddle = async (alive: ReturnType<typeof connections>) => {
    const root = await place([...expired, ...alive])
    const agent = launch({ root, args: slowly })
    const sample = expired.slice(0, 200)
    await agent.until("in the middle of a pass", () => countThere(root, sample) < sample.length)
    return { agent, root }
  }

  it("stops on SIGTERM in the middle of a pass, in time, with nothing torn and the pass in the log", async () => {
    const alive = connections(500, clock() + 3600, expired.length)
    const { agent, root } = await inTheMiddle(alive)
    assert.strictEqual(await agent.stop("SIGTERM"), 0, agent.log())
    const { left, there, whole } = look(root, expired)
    assert.isAbove(there, 0)
    assert.deepStrictEqual([left, whole], [0, there])
    assert.deepStrictEqual(look(root, alive), { there: 500, whole: 500, left: 0 })
    const [, deleted] =
      /pass \d+ over ipv4 global is incomplete \(interrupted\): \d+ seen, (\d+) deleted/.exec(agent.log()) ?? []
    assert.strictEqual(Number(deleted), expired.length - there)
    assert.match(agent.log(), /ctmap-agent stops/)
    assert.notInclude(agent.log(), "did not stop cleanly")
    assert.include(agent.told(), "STOPPING=1")
  })

  it("killed in the middle of a pass it leaves no connection without its mapping, and no lock", async () => {
    const alive = connections(500, clock() + 3600, expired.length)
    const { agent, root } = await inTheMiddle(alive)
    assert.strictEqual(await agent.stop("SIGKILL"), "SIGKILL")
    const middle = look(root, expired)
    assert.isAbove(middle.there, 0)
    assert.strictEqual(middle.whole, middle.there)
    // What one call had deleted, and nobody cleaned up after: the orphan purge will.
    assert.isAtMost(middle.left, 1024)
    const next = launch({ root })
    await next.until("collected", () => look(root, expired).there === 0)
    assert.deepStrictEqual(look(root, alive), { there: 500, whole: 500, left: 0 })
    assert.strictEqual(look(root, expired).left, middle.left)
    assert.strictEqual(await next.stop("SIGINT"), 0)
  })

  it("does not start a second time on a bpffs, and says who is in the way", async () => {
    const root = await place(connections(10, 0))
    const first = launch({ root })
    await first.until("ready", () => first.told().includes("READY=1"))
    const second = launch({ root })
    assert.strictEqual(await second.ended, 1)
    assert.include(second.log(), `another agent works on the bpffs at ${root}: process ${first.child.pid} (`)
    assert.strictEqual(await first.stop("SIGTERM"), 0)
  })

  it("reads its settings again on SIGHUP, and tells systemd so", async () => {
    const directory = mkdtempSync(join(tmpdir(), "ctmap-agent-"))
    onTestFinished(() => rmSync(directory, { recursive: true }))
    const file = join(directory, "agent.yaml")
    const set = (text: string) => writeFileSync(file, text)
    set("log-level: info\n")
    const agent = launch({ root: await place(connections(10, 0)), args: ["--config", file] })
    await agent.until("ready", () => agent.told().includes("READY=1"))
    set("log-level: debug\n")
    agent.child.kill("SIGHUP")
    await agent.until("reloaded", () => agent.log().includes("in force now: log-level"))
    await agent.until("ready again", () => /RELOADING=1\nMONOTONIC_USEC=\d+\n(.*\n)*READY=1/.test(agent.told()))
    set("log-level: loud\n")
    agent.child.kill("SIGHUP")
    await agent.until("refused", () => /stay as they were: .*log-level/.test(agent.log()))
    assert.strictEqual(await agent.stop("SIGTERM"), 0)
  })

  it("collects maps that take the place of those it knew", async () => {
    const held = connections(100, 0)
    const root = await place(held)
    const agent = launch({ root, args: ["--presence-interval", "500ms"] })
    await agent.until("collected", () => look(root, held).there === 0)
    for (const name of ["cilium_ct4_global", "cilium_ct_any4_global", "cilium_snat_v4_external"]) {
      assert.strictEqual(kernel.unpin(MapName.pinPath(root, name)), 0)
    }
    await fill(root, held)
    await agent.until("collected again", () => look(root, held).there === 0)
    assert.strictEqual(await agent.stop("SIGTERM"), 0)
  })

  it("waits for a bpffs that was unmounted, and collects what is pinned on the next one", async () => {
    const other = TempBpfFs.make()
    onTestFinished(other.stop)
    other.start()
    const held = connections(100, 0)
    await fill(other.path, held)
    const agent = launch({ root: other.path, args: ["--presence-interval", "500ms"] })
    await agent.until("collected", () => look(other.path, held).there === 0)
    assert.strictEqual(spawnSync("umount", ["-l", other.path]).status, 0)
    await agent.until("waiting", () => /STATUS=degraded: .*no bpffs is mounted|waiting for tables/.test(agent.told()))
    assert.strictEqual(spawnSync("mount", ["-t", "bpf", "bpf", other.path]).status, 0)
    await fill(other.path, held)
    await agent.until("collected again", () => look(other.path, held).there === 0)
    // Not by trying to take it: the agent ends where somebody else has it.
    await agent.until("in possession of the lock", () => isLocked(other.path, agent.child.pid!))
    assert.strictEqual(await agent.stop("SIGTERM"), 0)
  })
})
