import { type ChildProcess, spawn, spawnSync } from "node:child_process"
import { chmodSync, chownSync, readdirSync } from "node:fs"
import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import { Privileged, TempBpfFs } from "ctmap-testing"
import * as Effect from "effect/Effect"
import { fileURLToPath } from "node:url"
import { onTestFinished, vi } from "vitest"
import { run } from "./harness.ts"
import { linesOf, recorded, withFile } from "./tableFile.ts"

const source = fileURLToPath(new URL("../src/run.ts", import.meta.url))
const node = [process.execPath, "--conditions=ctmap-source", source]
const fs = TempBpfFs.make()
const pods = recorded("pods-ktime", "before")

const sizes = (n: number) =>
  ["--bpf-ct-global-tcp-max", "--bpf-ct-global-any-max", "--bpf-nat-global-max"].flatMap((flag) => [flag, String(n)])

/** 20,000 expired connections with both halves of their mappings. */
const many = 20_000
const connections = Array.from({ length: many }, (_, n) => {
  const peer = (0x0b00_0000 + n).toString(16).padStart(8, "0")
  const nat = (key: string, address: string, port: string) =>
    `cilium_snat_v4_external\t${key}\t${"01".padEnd(16, "0")}${"00".repeat(24)}${address}${port}${"00".repeat(2)}`
  return {
    ct: `cilium_ct4_global\t0a000001${peer}005003e80600\t${"00".repeat(56)}`,
    out: nat(`${peer}0a000001005003e80600`, "c0a80001", "9c40"),
    in: nat(`c0a80001${peer}9c4000500601`, "0a000001", "03e8")
  }
})
const never = `cilium_ct_any4_global\t${"ff".repeat(12)}1100\t${"00".repeat(32)}${"ff".repeat(4)}${"00".repeat(20)}`

Privileged.suite(describe, "the commands that delete, as a process", () => {
  beforeAll(() => fs.start())
  afterAll(() => fs.stop())

  /** Tables, filled and looked at from this process, and the arguments of another one that works on them. */
  const place = async (name: string, lines: ReadonlyArray<string>, size: number) => {
    const root = `${fs.path}/${name}`
    const args = [...node.slice(1), "--bpffs-root", root]
    const here = (...rest: ReadonlyArray<string>) => Effect.runPromise(run(["--bpffs-root", root, ...rest]))
    const fill = withFile(lines, (file) => run(["--bpffs-root", root, "snapshot", "restore", file, ...sizes(size)]))
    const { code, stderr } = await Effect.runPromise(fill)
    assert.strictEqual(code, 0, stderr)
    const saved = async () => linesOf((await here("snapshot", "save", "-")).stdout)
    return { root, args, here, saved }
  }

  /** What a process has said so far, and how it ends. */
  const follow = (child: ChildProcess) => {
    onTestFinished(() => void child.kill("SIGKILL"))
    const heard = { text: "" }
    for (const stream of [child.stdout, child.stderr]) {
      stream?.on("data", (data: Buffer) => (heard.text += data.toString("latin1")))
    }
    const ended = new Promise<number | string | null>((resolve) =>
      child.once("close", (code, signal) => resolve(code ?? signal))
    )
    return { heard, ended }
  }

  /** On a terminal of its own. */
  const onTerminal = (args: ReadonlyArray<string>) => {
    const command = [process.execPath, ...args].map((word) => `'${word}'`).join(" ")
    const child = spawn("script", ["-qec", command, "/dev/null"], { stdio: ["pipe", "pipe", "pipe"] })
    return { child, ...follow(child) }
  }

  const isConsistent = (left: ReadonlyArray<string>) => {
    const there = new Set(left)
    const torn = connections.filter(
      ({ ct, in: ingress, out }) => there.has(ct) !== there.has(out) || there.has(ct) !== there.has(ingress)
    )
    assert.deepStrictEqual(torn.slice(0, 3), [])
    assert.isTrue(there.has(never))
    return connections.filter(({ ct }) => !there.has(ct)).length
  }

  const slow = ["gc", "--family", "ipv4", "--budget", "0.01"]
  const large = [...connections.flatMap(({ ct, in: ingress, out }) => [ct, out, ingress]), never]

  it("a long pass shows how far it is, and ctrl-C ends it with 130, a report, and no torn mapping", async () => {
    const { args, saved } = await place("terminal", large, 65_536)
    const { child, ended, heard } = onTerminal([...args, ...slow, "--now", "1000"])
    await vi.waitUntil(() => /cilium_ct4_global \[#*\.*\] +\d+ %  [\d,]+ of [\d,]+/.test(heard.text), {
      timeout: 120_000
    })
    child.stdin?.write("\u0003")
    assert.strictEqual(await ended, 130)
    const row = /\ncilium_ct4_global +\w+ +[\d,]+ +[\d,]+ +([\d,]+) .* interrupted\r\n/.exec(heard.text)
    assert.isNotNull(row, heard.text.slice(-500))
    const gone = isConsistent(await saved())
    assert.strictEqual(Number(row[1]!.replaceAll(",", "")), gone)
    assert.isAbove(gone, 0)
    assert.isBelow(gone, many)
  })

  it("SIGTERM ends a long pass with 143, and a report in JSON that is whole", async () => {
    const { args, here, saved } = await place("signal", large, 65_536)
    const child = spawn(process.execPath, [...args, ...slow, "--now", "1000", "-o", "json"], {
      stdio: ["ignore", "pipe", "pipe"]
    })
    const { ended, heard } = follow(child)
    const left = async () =>
      (JSON.parse((await here("count", "-o", "json")).stdout) as { readonly total: number }).total
    await vi.waitUntil(async () => (await left()) < many, { timeout: 120_000 })
    child.kill("SIGTERM")
    assert.strictEqual(await ended, 143)
    const [row] = JSON.parse(heard.text) as ReadonlyArray<Record<string, unknown>>
    assert.deepStrictEqual([row!["completed"], row!["incomplete"]], [false, "interrupted"])
    assert.strictEqual(isConsistent(await saved()), row!["deleted"])
  })

  for (const [name, answer, code] of [
    ["no", "n", 3],
    ["a bare Enter", "\r", 3],
    ["ctrl-C", "\u0003", 130],
    ["yes", "y", 0]
  ] as const) {
    it(`asks on a terminal how many entries may go: ${name} ${code === 0 ? "deletes them" : "changes nothing"}`, async () => {
      const { args, saved } = await place(`asks-${code}-${answer.codePointAt(0)}`, pods, 8192)
      const { child, ended, heard } = onTerminal([...args, "purge", "--proto", "tcp", "--port", "80"])
      await vi.waitUntil(() => heard.text.includes("Delete "), { timeout: 120_000 })
      child.stdin?.write(answer)
      assert.strictEqual(await ended, code, heard.text)
      const asked =
        /ctmap: (\d+) of the 4,889 entries of the global IPv4 and IPv6 tables match .* and would go: with them go/
      const [, wanted] = asked.exec(heard.text) ?? []
      assert.isAbove(Number(wanted), 0, heard.text)
      assert.include(heard.text, "live connections are cut")
      assert.strictEqual(heard.text.includes("ctmap: nothing was changed"), code === 3)
      const isCt = (line: string) => line.startsWith("cilium_ct")
      const gone = pods.filter(isCt).length - (await saved()).filter(isCt).length
      assert.strictEqual(gone, code === 0 ? Number(wanted) : 0)
    })
  }

  it("asks nothing where nothing matches", async () => {
    const { args } = await place("nothing", pods, 8192)
    const { ended, heard } = onTerminal([...args, "purge", "--ip", "203.0.113.9"])
    assert.strictEqual(await ended, 0)
    assert.include(
      heard.text,
      'none of the 2,588 entries of the global IPv4 tables matches "host 203.0.113.9": nothing to delete'
    )
    assert.notInclude(heard.text, "Delete ")
  })

  describe("with fewer permissions", () => {
    /** Root without a capability, and not another user: a checkout below `mktemp -d` can be read by nobody else. */
    const limited = (capabilities: string, args: ReadonlyArray<string>) =>
      spawnSync("setpriv", [`--bounding-set=-all${capabilities}`, "--inh-caps=-all", process.execPath, ...args], {
        encoding: "latin1",
        maxBuffer: 1 << 26
      })
    const collected = recorded("pods-ktime", "after-gc")
    const purged = recorded("pods-ktime", "after-purge")
    const now = ["gc", "--now", "5462", "-o", "json"]
    const enginesOf = (stdout: string) =>
      new Set((JSON.parse(stdout) as ReadonlyArray<Record<string, unknown>>).map(({ engine }) => engine))

    for (const engine of ["auto", "hybrid", "kernel", "portable"]) {
      it(`CAP_BPF and the pins suffice: engine ${engine}`, async () => {
        const { args, saved } = await place(`bpf-${engine}`, pods, 8192)
        const { status, stdout, stderr } = limited(",+bpf", [...args, ...now, "--engine", engine])
        assert.deepStrictEqual([status, stderr], [0, ""])
        // Without CAP_PERFMON no program puts back: single calls lose less.
        assert.deepStrictEqual(enginesOf(stdout), new Set([engine === "auto" ? "portable" : engine]))
        assert.deepStrictEqual(await saved(), collected)
        assert.strictEqual(limited(",+bpf", [...args, "nat", "purge-orphans", "--engine", engine]).status, 0)
        assert.deepStrictEqual(await saved(), purged)
      })
    }

    for (const engine of ["hybrid", "kernel"]) {
      it(`without CAP_BPF an engine that needs it says what is missing, and deletes nothing: ${engine}`, async () => {
        const { args, saved } = await place(`none-${engine}`, pods, 8192)
        const { status, stderr } = limited("", [...args, ...now, "--engine", engine])
        assert.strictEqual(status, 1)
        assert.include(
          stderr,
          `ctmap: --engine ${engine} loads a BPF program, which takes CAP_BPF; --engine auto does without`
        )
        assert.match(stderr, /not permitted .*CAP_BPF/)
        assert.deepStrictEqual(await saved(), pods)
      })
    }

    it("without CAP_BPF auto collects without programs", async () => {
      const { args, saved } = await place("none", pods, 8192)
      const { status, stdout, stderr } = limited("", [...args, ...now])
      assert.deepStrictEqual([status, stderr], [0, ""])
      assert.deepStrictEqual(enginesOf(stdout), new Set(["portable"]))
      assert.deepStrictEqual(await saved(), collected)
    })

    for (const engine of ["auto", "kernel"]) {
      it(`pins that can only be read suffice with CAP_BPF, as a program may write what it is given: engine ${engine}`, async () => {
        const { args, saved } = await readable(`readable-${engine}`)
        const { status, stderr } = limited(",+bpf", [...args, ...now, "--engine", engine])
        assert.deepStrictEqual([status, stderr], [0, ""])
        assert.deepStrictEqual(await saved(), collected)
      })
    }

    it("pins that can only be read do not suffice without programs: it says so, and nothing is deleted", async () => {
      const { args, saved } = await readable("readable")
      assert.strictEqual(limited("", [...args, ...now, "--dry-run"]).status, 0)
      const { status, stderr } = limited("", [...args, ...now])
      assert.strictEqual(status, 1)
      assert.match(stderr, /cilium_ct4_global.*not permitted/)
      assert.deepStrictEqual(await saved(), pods)
    })

    const readable = async (name: string) => {
      const { args, root, saved } = await place(name, pods, 8192)
      for (const pin of readdirSync(`${root}/tc/globals`).map((map) => `${root}/tc/globals/${map}`)) {
        chownSync(pin, 65_534, 65_534)
        chmodSync(pin, 0o644)
      }
      return { args, saved }
    }
  })
})
