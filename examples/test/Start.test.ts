import { assert, describe, it } from "@effect/vitest"
import { spawn } from "node:child_process"
import { once } from "node:events"
import { existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { CtEntry, MapName, NatColumns, NatDerivation, NatText, Protocol, Tuple, TupleFlags } from "ctmap-core"
import { Bpf, BpfMap, LibBpf, Scan } from "ctmap-kernel"
import { Privileged } from "ctmap-testing"
import * as Effect from "effect/Effect"

const script = fileURLToPath(new URL("../../scripts/start.ts", import.meta.url))

const start = (...args: ReadonlyArray<string>) => startIn({}, ...args)

const startIn = (env: NodeJS.ProcessEnv, ...args: ReadonlyArray<string>) => {
  const options = { env: { ...process.env, ...env } }
  const child = spawn(process.execPath, ["--conditions=ctmap-source", script, ...args], options)
  const output = { text: "" }
  for (const stream of [child.stdout, child.stderr])
    stream.on("data", (data: Buffer) => (output.text += data.toString()))
  // Not before its last line has been read.
  return { child, output, ended: once(child, "close") }
}

/** Presses ctrl-C, or sends another signal, as soon as something was printed, and once: whoever does it twice does not want to wait. */
const interruptOnce = (
  child: ReturnType<typeof start>["child"],
  isSo: () => boolean,
  signal: NodeJS.Signals = "SIGINT"
): void => {
  let isKilled = false
  child.stdout.on("data", () => {
    if (!isKilled && isSo()) isKilled = child.kill(signal)
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
    assert.notInclude(output.text, "longest call")
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

  it("stops where nobody reads on, without a word and with nothing left behind", async () => {
    const folder = mkdtempSync(join(tmpdir(), "ctmap-start-test-"))
    try {
      const { child, output, ended } = startIn({ TMPDIR: folder }, "--memory", "--for", "60")
      child.stdout.once("data", () => child.stdout.destroy())
      assert.deepStrictEqual(await ended, [0, null], output.text)
      assert.notInclude(output.text, "EPIPE")
      assert.deepStrictEqual(readdirSync(folder), [])
    } finally {
      rmSync(folder, { recursive: true })
    }
  })

  it.each([
    ["SIGTERM", 143],
    ["SIGHUP", 129]
  ] as const)("ends with the code of its signal: %s, %i", async (signal, code) => {
    const { child, output, ended } = start("--memory", "--for", "60")
    interruptOnce(child, () => output.text.includes("pass   1"), signal)
    assert.deepStrictEqual(await ended, [code, null], output.text)
  })

  it.each([
    [["--for", "never"], "--for never: expected seconds from 1 to 86400"],
    [["--for", "-1"], "--for -1: expected seconds from 1 to 86400"],
    [["--for", ""], "--for : expected seconds from 1 to 86400"],
    [["--for"], "--for: expected seconds from 1 to 86400"],
    [["--keep=1"], "--keep=1: --keep takes no value"],
    [["--nope"], "--nope: there is no such option"],
    [["extra"], "extra: no argument is expected"]
  ])("refuses %j, with what it takes", async (args, message) => {
    const { output, ended } = start(...args)
    assert.deepStrictEqual(await ended, [2, null])
    assert.match(output.text, /^npm start: .*\nnpm start -- \[--for SECONDS\]/)
    assert.include(output.text, message)
    assert.notInclude(output.text, "    at ")
  })

  it("has help", async () => {
    const { output, ended } = start("--help")
    assert.deepStrictEqual(await ended, [0, null])
    assert.match(output.text, /^npm start -- \[--for SECONDS\] \[--keep\] \[--memory\]\n/)
  })
})

/** Deletes one NAT entry below a connection that lives for at least half a minute, and tells how it is called. */
const cutMapping = (root: string) =>
  Effect.gen(function* () {
    const bpf = yield* Bpf.Bpf
    const nat = yield* BpfMap.open(MapName.pinPath(root, MapName.nat("ipv6")))
    const tcp = yield* BpfMap.open(MapName.pinPath(root, MapName.TCP6_GLOBAL))
    const columns = new NatColumns.NatColumns({ family: "ipv6", release: "1.17" })
    const [ctKey, entry] = [new Uint8Array(Tuple.v6.size), new Uint8Array(CtEntry.SIZE)]
    const soon = Number(process.hrtime.bigint() / 1_000_000_000n) + 30
    let found: Uint8Array | undefined
    let name: string | undefined
    yield* Scan.forEachSync(nat, ({ rows }) => {
      columns.bind(rows)
      for (let row = 0; row < columns.count && found === undefined; row++) {
        if (columns.nexthdr(row) !== Protocol.TCP || (columns.tupleFlags(row) & TupleFlags.IN) === 0) continue
        NatDerivation.ctOfNatIn(Tuple.v6, { key: columns.keyBytes(row), value: columns.valueBytes(row) }, ctKey)
        if (bpf.lookup(tcp.fd, ctKey, entry) < 0) continue
        if (new DataView(entry.buffer).getUint32(CtEntry.offset.lifetime, true) < soon) continue
        found = columns.keyBytes(row).slice()
        name = NatText.keyDump(columns.key(row).toHost(), { reverse: false })
      }
    })
    if (found === undefined) return yield* Effect.die(new Error("no mapping of a live connection"))
    assert.strictEqual(bpf.delete(nat.fd, found), 0)
    return name
  }).pipe(Effect.scoped, Effect.provide(LibBpf.layer), Effect.runPromise)

Privileged.suite(describe, "npm start on this kernel", () => {
  it("collects recorded tables in a bpffs of its own, and takes it away", async () => {
    const { output, ended } = start("--for", "3")
    assert.deepStrictEqual(await ended, [0, null], output.text)
    const root = /^ctmap-agent on this kernel, in a bpffs of its own \((\S+)\)\./.exec(output.text)?.[1]
    assert.isDefined(root, output.text)
    assert.isFalse(existsSync(root))
    assert.include(output.text, "as expected: every live entry is there, every expired one is gone")
    assert.include(output.text, "Calls are timed by the clock: that includes waiting for a CPU")
  })

  it("says how it gets there, where another user starts it", async (context) => {
    const nobody = { uid: 65_534, gid: 65_534 }
    const child = spawn(process.execPath, ["--conditions=ctmap-source", script, "--for", "60"], nobody)
    const text = await new Promise<string>((resolve) => {
      child.stdout.once("data", (data: Buffer) => resolve(data.toString()))
      child.stderr.once("data", (data: Buffer) => resolve(data.toString()))
      child.once("error", ({ message }) => resolve(message))
    })
    const ended = once(child, "close")
    child.kill()
    await ended
    context.skip(/EACCES|Cannot find module/.test(text), "another user cannot read this folder")
    assert.match(
      text,
      /^ctmap-agent in memory, not on this kernel: not root \(`sudo npm start` runs it on the kernel\)\./
    )
  })

  it("names a mapping of a live connection that was cut while it ran, and fails", async () => {
    const { child, output, ended } = start("--for", "4")
    await new Promise<void>((resolve) =>
      child.stdout.on("data", () => {
        if (output.text.includes("pass   2")) resolve()
      })
    )
    const name = await cutMapping(/in a bpffs of its own \((\S+)\)/.exec(output.text)![1]!)
    assert.deepStrictEqual(await ended, [1, null], output.text)
    assert.match(output.text, /NOT AS EXPECTED: 1 NAT entry of a live connection is gone:/)
    assert.include(output.text, `cilium_snat_v6_external  ${name}`)
    assert.notInclude(output.text, "  as expected")
  })
})
