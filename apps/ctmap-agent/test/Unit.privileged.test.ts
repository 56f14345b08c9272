/** What the unit and the manifest in `deploy/` leave to the agent, tried on real maps: it is enough, each time. */
import { spawnSync } from "node:child_process"
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import { MapName, MapSpec } from "ctmap-core"
import { Privileged, TempBpfFs } from "ctmap-testing"
import { onTestFinished } from "vitest"
import { clock, connections, fill, kernel, launch, look } from "./agentProcess.ts"

const read = (name: string): string => readFileSync(new URL(`../../../deploy/systemd/${name}`, import.meta.url), "utf8")

/** The values of a setting, in all its lines. */
const valuesOf = (text: string, name: string): ReadonlyArray<string> =>
  [...text.matchAll(new RegExp(`^${name}=(.*)$`, "gm"))].map(([, value = ""]) => value)

/** Capabilities of the unit with drop-ins, as setpriv(1) calls them. */
const granted = (...dropIns: ReadonlyArray<string>): ReadonlyArray<string> =>
  ["ctmap-agent.service", ...dropIns]
    .flatMap((name) => valuesOf(read(name), "AmbientCapabilities"))
    .flatMap((value) => value.split(" "))
    .map((name) => name.replace("CAP_", "").toLowerCase())

const tools = ["/usr/bin/strace", "/usr/bin/systemd-analyze"].filter((path) => !existsSync(path))
if (tools.length > 0)
  process.stderr.write(`skipped: the unit's filter of system calls: ${tools.join(", ")}: no such file\n`)

/** What the filter of the unit lets through, its sets as systemd has them. */
const allowed = (): ReadonlySet<string> => {
  const { stdout } = spawnSync("systemd-analyze", ["--no-pager", "syscall-filter"], { encoding: "utf8" })
  const sets = new Map<string, Array<string>>()
  let current: Array<string> = []
  for (const line of stdout.split("\n")) {
    const word = line.trim()
    if (line.startsWith("@")) sets.set(word, (current = []))
    else if (word !== "" && !word.startsWith("#")) current.push(word)
  }
  const expand = (name: string): ReadonlyArray<string> =>
    name.startsWith("@") ? (sets.get(name) ?? []).flatMap(expand) : [name]
  const through = new Set<string>()
  for (const line of valuesOf(read("ctmap-agent.service"), "SystemCallFilter")) {
    const names = line.replace(/^~/, "").split(" ").flatMap(expand)
    for (const name of names) {
      if (line.startsWith("~")) through.delete(name)
      else through.add(name)
    }
  }
  return through
}

/** What setpriv(1) calls before the agent is there, in the place of systemd. */
const SETPRIV = new Set(["setgroups", "setresuid", "setresgid", "capset"])

Privileged.suite(describe, "what is left to the agent", () => {
  const fs = TempBpfFs.make()
  beforeAll(fs.start)
  afterAll(fs.stop)

  const expired = connections(2000, 0)
  let number = 0

  /** Tables and signals as Cilium leaves them: all of it root's. */
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
    return {
      root,
      isCollected: () => {
        const { left, there } = look(root, expired)
        return there === 0 && left === 0
      },
      isWhole: () => assert.deepStrictEqual(look(root, alive), { there: 100, whole: 100, left: 0 })
    }
  }

  it("the capabilities of the unit suffice to collect", async () => {
    const { isCollected, isWhole, root } = await place()
    const agent = launch({ root, capabilities: granted() })
    await agent.until("collected", isCollected)
    await agent.until("well", () => agent.told().includes("STATUS=running; 2 conntrack and 1 NAT maps are pinned"))
    isWhole()
    assert.notInclude(agent.log(), "level=WARN")
    assert.strictEqual(await agent.stop("SIGTERM"), 0)
  })

  it("those of signals.conf, to hear signals as well", async () => {
    const { isCollected, isWhole, root } = await place()
    const agent = launch({ root, capabilities: granted("signals.conf"), args: ["--signals"] })
    await agent.until("collected", isCollected)
    await agent.until("reading signals", () => agent.told().includes("STATUS=running; reading; "))
    isWhole()
    assert.strictEqual(await agent.stop("SIGTERM"), 0)
  })

  it("those of clusters.conf, to make the outer maps of clusters", async () => {
    const { isCollected, root } = await place()
    const agent = launch({ root, capabilities: granted("clusters.conf"), args: ["--cluster-maps", "keep"] })
    await agent.until("collected", isCollected)
    const names = kernel.listDirectory(MapName.pinPath(root, "").replace(/\/$/, ""))
    assert.isAtLeast(String(names).match(/cilium_per_cluster/g)?.length ?? 0, 4)
    assert.strictEqual(await agent.stop("SIGTERM"), 0)
  })

  it.skipIf(tools.length > 0)("its filter lets every system call through that the agent makes", async () => {
    const { isCollected, root } = await place()
    const directory = mkdtempSync(join(tmpdir(), "ctmap-strace-"))
    onTestFinished(() => rmSync(directory, { recursive: true }))
    const file = join(directory, "calls")
    const agent = launch({
      root,
      capabilities: granted("signals.conf"),
      args: ["--signals"],
      inside: ["strace", "--follow-forks", "--summary-only", "--summary-columns=calls,name", `--output=${file}`]
    })
    await agent.until("collected", isCollected)
    await agent.until("reading signals", () => agent.told().includes("STATUS=running; reading; "))
    // strace(1) hands the signal on, and writes its table when the agent has ended.
    spawnSync("pkill", ["-TERM", "-P", String(agent.child.pid)])
    await agent.ended
    const calls = [...readFileSync(file, "utf8").matchAll(/^ *\d+ (\w+)$/gm)].map(([, name = ""]) => name)
    assert.includeMembers(calls, ["bpf", "perf_event_open", "flock", "sendto"])
    const through = allowed()
    assert.deepStrictEqual(
      calls.filter((name) => name !== "total" && !SETPRIV.has(name) && !through.has(name)),
      []
    )
  })

  it("CAP_BPF and CAP_PERFMON suffice for root, with a bpffs that is mounted read-only: as the manifest has it", async () => {
    const { isCollected, isWhole, root } = await place()
    const script = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
    const bounded = ["setpriv", "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all,+bpf,+perfmon"]
    const agent = launch({ root, inside: ["unshare", "--mount", "sh", "-c", script, root, ...bounded] })
    await agent.until("collected", isCollected)
    await agent.until("well", () => agent.told().includes("STATUS=running; 2 conntrack and 1 NAT maps are pinned"))
    isWhole()
    assert.strictEqual(await agent.stop("SIGTERM"), 0)
  })
})
