import { spawn, spawnSync } from "node:child_process"
import {
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync
} from "node:fs"
import { gzipSync } from "node:zlib"
import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import { Privileged, TempBpfFs } from "ctmap-testing"
import { fileURLToPath } from "node:url"
import { onTestFinished, vi } from "vitest"

const source = fileURLToPath(new URL("../src/run.ts", import.meta.url))
const fs = TempBpfFs.make()

const line = (n: number): string => {
  const key = `${(n + 1).toString(16).padStart(8, "0")}${"00".repeat(8)}0600`
  return `cilium_ct4_global\t${key}\t${"00".repeat(56)}\n`
}
const lines = (count: number, from = 0): string => Array.from({ length: count }, (_, i) => line(from + i)).join("")
const sorted = (text: string): ReadonlyArray<string> => text.split("\n").toSorted()

Privileged.suite(describe, "restoring what comes through a pipe, into a table of the kernel", () => {
  beforeAll(() => fs.start())
  afterAll(() => fs.stop())

  /** A table of 300 entries, a directory for temporary files, and the program on both. */
  const place = (name: string) => {
    const directory = mkdtempSync("/tmp/ctmap-test-")
    onTestFinished(() => rmSync(directory, { recursive: true }))
    const spool = `${directory}/spool`
    mkdirSync(spool)
    const args = ["--conditions=ctmap-source", source, "--bpffs-root", `${fs.path}/${name}`, "snapshot"]
    const env = { ...process.env, TMPDIR: spool }
    const ctmap = (input: string | Uint8Array, ...rest: ReadonlyArray<string>) =>
      spawnSync(process.execPath, [...args, ...rest], { env, input, encoding: "latin1", maxBuffer: 1 << 26 })
    const made = ctmap(lines(300), "restore", "-", "--bpf-ct-global-tcp-max", "8192")
    assert.strictEqual(made.status, 0, made.stderr)
    const start = (...rest: ReadonlyArray<string>) => {
      const child = spawn(process.execPath, [...args, ...rest], { env, stdio: ["pipe", "ignore", "pipe"] })
      onTestFinished(() => void child.kill("SIGKILL"))
      return child
    }
    const isWhole = () => assert.deepStrictEqual(sorted(ctmap("", "save", "-").stdout), sorted(lines(300)))
    return { directory, spool, args, ctmap, start, isWhole }
  }

  it("restores all of it", () => {
    const { ctmap, spool } = place("whole")
    const { status, stderr } = ctmap(lines(5000, 100), "restore", "-", "--replace", "--yes")
    assert.strictEqual(
      stderr,
      "ctmap: cilium_ct4_global: 5000 entries restored, 200 over others of the same key, 100 others deleted, 5000 now\n"
    )
    assert.strictEqual(status, 0)
    assert.deepStrictEqual(sorted(ctmap("", "save", "-").stdout), sorted(lines(5000, 100)))
    assert.deepStrictEqual(readdirSync(spool), [])
  })

  it("touches nothing for text that is cut, damaged at its end or compressed", () => {
    const { ctmap, spool, isWhole } = place("cut")
    const text = lines(5000, 100)
    for (const input of [text.slice(0, -7), `${text}oops\n`, gzipSync(text)]) {
      const { status, stderr } = ctmap(input, "restore", "-", "--replace", "--yes")
      assert.strictEqual(status, 1)
      assert.match(stderr, /^ctmap: line \d+ of the snapshot /)
    }
    isWhole()
    assert.deepStrictEqual(readdirSync(spool), [])
  })

  it("reads a named pipe as often as it must", () => {
    const { ctmap, directory, isWhole } = place("fifo")
    const pipe = `${directory}/pipe.tsv.gz`
    const file = `${directory}/file.tsv.gz`
    assert.strictEqual(spawnSync("mkfifo", [pipe]).status, 0)
    const feed = (bytes: Uint8Array) => {
      writeFileSync(file, bytes)
      const cat = spawn("sh", ["-c", 'cat "$1" >"$2"', "sh", file, pipe], { stdio: "ignore" })
      onTestFinished(() => void cat.kill("SIGKILL"))
    }
    feed(gzipSync(lines(5000, 100)).subarray(0, 9000))
    const cut = ctmap("", "restore", pipe, "--replace", "--yes")
    assert.match(cut.stderr, /pipe\.tsv\.gz is no complete gzip file/)
    isWhole()
    feed(gzipSync(lines(5000, 100)))
    const done = ctmap("", "restore", pipe, "--replace", "--yes")
    assert.include(done.stderr, " 5000 now\n")
  })

  it("writes to what is no file, and through links", () => {
    const { ctmap, args, directory } = place("links")
    const all = sorted(lines(300))
    const link = `${directory}/link`
    const file = `${directory}/file`
    writeFileSync(file, "old")
    symlinkSync(file, link)
    assert.strictEqual(ctmap("", "save", link).status, 0)
    assert.isTrue(lstatSync(link).isSymbolicLink())
    assert.deepStrictEqual(sorted(readFileSync(file, "latin1")), all)
    const piped = spawnSync("sh", ["-c", '"$@" | cat', "sh", process.execPath, ...args, "save", "/proc/self/fd/1"], {
      encoding: "latin1"
    })
    assert.deepStrictEqual(sorted(piped.stdout), all, piped.stderr)
  })

  for (const signal of ["SIGINT", "SIGKILL"] as const) {
    it(`${signal} while the pipe is read leaves the table as it was, and no file`, async () => {
      const { start, spool, isWhole } = place(signal)
      const child = start("restore", "-", "--replace", "--yes")
      // It is not read to its end.
      child.stdin.on("error", () => undefined)
      child.stdin.write(lines(3000, 100))
      // The file has lost its name already, and the directory it was made in is gone: one follows the other.
      await vi.waitUntil(
        () =>
          openFiles(child.pid!).some((path) => path.startsWith(`${spool}/`) && path.endsWith(" (deleted)")) &&
          readdirSync(spool).length === 0,
        { timeout: 120_000, interval: 5 }
      )
      const ended = new Promise((resolve) => child.once("exit", resolve))
      child.kill(signal)
      await ended
      assert.deepStrictEqual(readdirSync(spool), [])
      isWhole()
    })
  }

  it("says where it cannot keep what it read, and the way out", () => {
    const { spool, ctmap, isWhole } = place("tmpfs")
    assert.strictEqual(spawnSync("mount", ["-t", "tmpfs", "-o", "size=64k", "none", spool]).status, 0)
    onTestFinished(() => void spawnSync("umount", [spool]))
    const { status, stderr } = ctmap(lines(5000), "restore", "-", "--replace", "--yes")
    assert.strictEqual(status, 1)
    assert.match(stderr, /^ctmap: the snapshot cannot be kept in \S+spool while it is checked \(ENOSPC: .*TMPDIR\n$/)
    assert.deepStrictEqual(readdirSync(spool), [])
    isWhole()
  })

  it("asks at a terminal, and does what it is told", () => {
    const { directory, isWhole } = place("asked")
    writeFileSync(`${directory}/table.tsv`, lines(10))
    const command = `${process.execPath} --conditions=ctmap-source ${source} --bpffs-root ${fs.path}/asked snapshot restore ${directory}/table.tsv --replace`
    const answer = (input: string) =>
      spawnSync("script", ["-qec", command, "/dev/null"], { input, encoding: "utf8", timeout: 120_000 })
    const no = answer("n")
    assert.include(no.stdout, "cilium_ct4_global: 300 entries are there, 10 are in the snapshot")
    assert.include(no.stdout, "Replace what a map that is not empty holds?")
    assert.strictEqual(no.status, 3)
    isWhole()
    const yes = answer("y")
    assert.include(yes.stdout, "10 now")
    assert.strictEqual(yes.status, 0)
  })
})

/** What a process has open. */
const openFiles = (pid: number): ReadonlyArray<string> => {
  try {
    return readdirSync(`/proc/${pid}/fd`).map((fd) => {
      try {
        return readlinkSync(`/proc/${pid}/fd/${fd}`)
      } catch {
        return ""
      }
    })
  } catch {
    return []
  }
}
