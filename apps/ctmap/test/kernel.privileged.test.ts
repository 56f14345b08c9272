import { spawn, spawnSync } from "node:child_process"
import { chmodSync, chownSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync } from "node:fs"
import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import { Bpf, LibBpf } from "ctmap-kernel"
import { FdLeak, Privileged, Recorded, TempBpfFs } from "ctmap-testing"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { fileURLToPath } from "node:url"
import { onTestFinished } from "vitest"
import { cases } from "./goldenCases.ts"

const source = fileURLToPath(new URL("../src/run.ts", import.meta.url))
const node = ["--conditions=ctmap-source", source]

const fs = TempBpfFs.make()

Privileged.suite(describe, "every command on the recorded tables, in the kernel", () => {
  beforeAll(() => fs.start())
  afterAll(() => fs.stop())

  cases({ root: fs.path, bpf: undefined })

  it("leaves no map open", () => {
    // Other test files may share this process and its fds: which maps are ours is known by their pins.
    const { close, mapInfo, openPin } = Context.get(Effect.runSync(Effect.scoped(Layer.build(LibBpf.layer))), Bpf.Bpf)
    const ours = Recorded.setNames.flatMap((set) =>
      readdirSync(`${fs.path}/${set}/tc/globals`).map((name) => {
        const fd = openPin(`${fs.path}/${set}/tc/globals/${name}`)
        const info = mapInfo(fd)
        close(fd)
        return typeof info === "number" ? assert.fail(`${name}: ${info}`) : info.id
      })
    )
    assert.isAbove(ours.length, 0)
    assert.deepStrictEqual(
      FdLeak.since([], ({ id, kind }) => kind === "map" && ours.includes(id)),
      []
    )
  })

  const root = `${fs.path}/pods-ktime`
  const ctmap = (...args: ReadonlyArray<string>) =>
    spawnSync(process.execPath, [...node, ...args], {
      env: { ...process.env, CTMAP_BPFFS_ROOT: root },
      encoding: "latin1",
      maxBuffer: 1 << 26
    })

  it("runs as a program: data on the standard output, the exit code of its end", () => {
    const listed = ctmap("list")
    assert.strictEqual(listed.status, 0)
    assert.strictEqual(listed.stderr, "")
    const expected = [...Recorded.listings("pods-ktime").values()].flat().join("")
    assert.deepStrictEqual(
      listed.stdout.replaceAll("\n\n", "\n").split("\n").toSorted(),
      expected.split("\n").toSorted()
    )
    const wrong = ctmap("list", "--where", "tcp and")
    assert.strictEqual(wrong.status, 2)
    assert.include(wrong.stderr, "  tcp and\n         ^")
    assert.strictEqual(ctmap("upgrade").status, 3)
  })

  it("ends quietly when its reader has enough", async () => {
    const child = spawn(process.execPath, [...node, "--bpffs-root", root, "list"], {
      stdio: ["ignore", "pipe", "pipe"]
    })
    const stderr: Array<Buffer> = []
    child.stderr.on("data", (chunk: Buffer) => stderr.push(chunk))
    child.stdout.once("data", () => child.stdout.destroy())
    const code = await new Promise((resolve) => child.once("close", resolve))
    assert.strictEqual(Buffer.concat(stderr).toString(), "")
    assert.strictEqual(code, 0)
  })

  it("waits for a reader that is slow", () => {
    const script = `"$0" ${node.join(" ")} --bpffs-root ${root} list | (sleep 1; wc -l)`
    const { stdout } = spawnSync("sh", ["-c", script, process.execPath], { encoding: "latin1" })
    const entries = [...Recorded.listings("pods-ktime").values()].flat().length
    assert.strictEqual(Number(stdout), entries + 4)
  })

  it("reads pins that it may read with CAP_BPF alone, and says what it takes where it may not", () => {
    const globals = `${root}/tc/globals`
    const pins = readdirSync(globals).map((name) => `${globals}/${name}`)
    const own = (uid: number, mode: number): void => {
      for (const pin of pins) {
        chownSync(pin, uid, uid)
        chmodSync(pin, mode)
      }
    }
    onTestFinished(() => own(0, 0o600))
    // Root with one capability, and not another user, as below.
    const onlyBpf = ["--bounding-set=-all,+bpf", "--inh-caps=-all", process.execPath, ...node, "--bpffs-root", root]
    const limited = (...args: ReadonlyArray<string>) =>
      spawnSync("setpriv", [...onlyBpf, ...args], { encoding: "latin1", maxBuffer: 1 << 26 })
    own(65_534, 0o644)
    for (const command of [["list"], ["count"], ["nat", "list", "-o", "ndjson", "--now", "5461"]]) {
      const { status, stdout, stderr } = limited(...command)
      assert.strictEqual(status, 0, stderr)
      assert.strictEqual(stdout, ctmap(...command).stdout)
    }
    own(65_534, 0o600)
    const { status, stdout, stderr } = limited("count")
    assert.deepStrictEqual([status, stdout], [1, ""])
    assert.match(stderr, /cilium_ct.*not permitted .*run as root, or with CAP_DAC_READ_SEARCH/)
  })

  it("reads for another user, with CAP_BPF or without, pins that the user may read, and says what it takes for others", (context) => {
    const globals = `${root}/tc/globals`
    const pins = readdirSync(globals).map((name) => `${globals}/${name}`)
    const mode = (bits: number): void => {
      for (const pin of pins) chmodSync(pin, bits)
    }
    const as = (capabilities: string, command: ReadonlyArray<string>) => {
      const caps = [`--bounding-set=-all${capabilities}`, `--inh-caps=-all${capabilities}`]
      const user = ["--reuid=65534", "--regid=65534", "--clear-groups", ...caps, `--ambient-caps=-all${capabilities}`]
      return spawnSync("setpriv", [...user, ...command], { encoding: "latin1", maxBuffer: 1 << 26 })
    }
    if (as("", [process.execPath, "--check", source]).status !== 0) {
      context.skip("another user cannot read this checkout, so nobody but root can run it")
    }
    onTestFinished(() => {
      mode(0o600)
      chmodSync(fs.path, 0o700)
    })
    chmodSync(fs.path, 0o755)
    mode(0o644)
    const count = [process.execPath, ...node, "--bpffs-root", root, "count"]
    const expected = ctmap("count").stdout
    const able = as(",+bpf", count)
    assert.deepStrictEqual([able.status, able.stderr, able.stdout], [0, "", expected])
    const unable = as("", count)
    // Linux 5.19 and later ask for nothing but access to the pin to read a map; before that, CAP_BPF is needed.
    if (unable.status === 0) assert.strictEqual(unable.stdout, expected)
    else assert.match(unable.stderr, /not permitted .*CAP_BPF/)
    mode(0o600)
    for (const capabilities of ["", ",+bpf"]) {
      const { status, stdout, stderr } = as(capabilities, count)
      assert.deepStrictEqual([status, stdout], [1, ""])
      assert.match(stderr, /cilium_ct.*not permitted .*run as root, or with CAP_/)
      assert.notInclude(stderr, "    at ")
    }
  })

  it("says that a file as root is no directory", () => {
    for (const command of ["list", "count", "maps", "stats"]) {
      const { status, stderr } = ctmap("--bpffs-root", source, command)
      assert.strictEqual(status, 1)
      assert.match(stderr, /run\.ts is not a directory: --bpffs-root names the directory that contains tc\/globals\n$/)
    }
  })

  it("tells an ordinary user which permission is missing, and how to get it", () => {
    chmodSync(fs.path, 0o700)
    chownSync(fs.path, 65_534, 65_534)
    // Root without a capability, and not another user: a checkout below `mktemp -d` can be read by nobody else.
    const unable = ["--bounding-set=-all", "--inh-caps=-all", process.execPath, ...node]
    const { status, stderr } = spawnSync("setpriv", [...unable, "--bpffs-root", root, "list"], { encoding: "latin1" })
    chownSync(fs.path, 0, 0)
    assert.strictEqual(status, 1)
    assert.match(stderr, /not permitted .*run as root, or with CAP_DAC_READ_SEARCH/)
    assert.notInclude(stderr, "    at ")
  })

  it("says that a device is full, and fails", () => {
    const full = openSync("/dev/full", "w")
    const { status, stderr } = spawnSync(process.execPath, [...node, "--bpffs-root", root, "list"], {
      encoding: "latin1",
      stdio: ["ignore", full, "pipe"]
    })
    assert.strictEqual(status, 1)
    assert.match(stderr, /cannot write the standard output: ENOSPC/)
  })

  it("saves a file that restores to the same tables", () => {
    const directory = mkdtempSync("/tmp/ctmap-test-")
    onTestFinished(() => rmSync(directory, { recursive: true }))
    const file = `${directory}/saved.tsv.gz`
    assert.strictEqual(ctmap("snapshot", "save", file).status, 0)
    assert.isAbove(readFileSync(file).byteLength, 1000)
    const small = ["--bpf-ct-global-tcp-max", "8192", "--bpf-ct-global-any-max", "8192", "--bpf-nat-global-max", "8192"]
    const copied = ctmap("--bpffs-root", `${fs.path}/copy`, "snapshot", "restore", file, ...small)
    assert.strictEqual(copied.status, 0, copied.stderr)
    const lines = (text: string) => text.split("\n").toSorted()
    assert.deepStrictEqual(lines(ctmap("list", "--bpffs-root", `${fs.path}/copy`).stdout), lines(ctmap("list").stdout))
  })
})
