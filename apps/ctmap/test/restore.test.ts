import { mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs"
import { gzipSync } from "node:zlib"
import { assert, describe, it } from "@effect/vitest"
import { BpfMemory } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import { onTestFinished } from "vitest"
import { type Ran, run } from "./harness.ts"

const CT4 = "cilium_ct4_global"
const line = (n: number, lifetime = 0, map = CT4): string => {
  const value = Buffer.alloc(56)
  value.writeUInt32LE(lifetime, 32)
  return `${map}\t0a00${n.toString(16).padStart(4, "0")}01010101005086d80600\t${value.toString("hex")}\n`
}
const lines = (count: number, from = 0): string => Array.from({ length: count }, (_, i) => line(from + i)).join("")

const small = ["--bpf-ct-global-tcp-max", "1024"]

/** A kernel, a directory, and the program on both. */
const place = () => {
  const directory = mkdtempSync("/tmp/ctmap-test-")
  onTestFinished(() => rmSync(directory, { recursive: true }))
  const { calls, control } = BpfMemory.make()
  const restore = (text: string, ...args: ReadonlyArray<string>): Effect.Effect<Ran> => {
    const file = `${directory}/table.tsv`
    writeFileSync(file, text)
    return run(["snapshot", "restore", file, ...small, ...args], { bpf: calls })
  }
  const ctmap = (...args: ReadonlyArray<string>) => run(args, { bpf: calls })
  const saved = Effect.map(ctmap("snapshot", "save", "-"), ({ stdout }) => stdout.split("\n").toSorted().join("\n"))
  return { directory, control, restore, ctmap, saved }
}

const sorted = (text: string): string => text.split("\n").toSorted().join("\n")

describe("snapshot restore", () => {
  it.effect("adds what is missing and says what it kept", () =>
    Effect.gen(function* () {
      const { restore, saved } = place()
      yield* restore(line(1, 900) + line(2, 900))
      const { code, stderr } = yield* restore(line(2, 100) + line(3, 100))
      assert.strictEqual(code, 0)
      assert.strictEqual(stderr, `ctmap: ${CT4}: 1 entries restored, 1 kept as they were in the table, 3 now\n`)
      assert.strictEqual(yield* saved, sorted(line(1, 900) + line(2, 900) + line(3, 100)))
      const over = yield* restore(line(2, 100) + line(3, 100), "--overwrite")
      assert.strictEqual(over.stderr, `ctmap: ${CT4}: 2 entries restored, 2 over others of the same key, 3 now\n`)
      assert.strictEqual(yield* saved, sorted(line(1, 900) + line(2, 100) + line(3, 100)))
    })
  )

  it.effect("refuses, with 3, what an LRU might evict entries for", () =>
    Effect.gen(function* () {
      const { restore, saved } = place()
      yield* restore(lines(700))
      const { code, stderr } = yield* restore(lines(100, 700))
      assert.strictEqual(code, 3)
      assert.match(stderr, /^ctmap: map cilium_ct4_global at \S+ holds 700 of 1024 entries and takes 68 more/)
      assert.match(stderr, /nothing was changed: .*ctmap upgrade --migrate.*--replace.*--allow-eviction/)
      assert.strictEqual(yield* saved, sorted(lines(700)))
      assert.strictEqual((yield* restore(lines(100, 700), "--allow-eviction")).code, 0)
    })
  )

  it.effect("--replace asks before it deletes, and refuses, with 3, where nobody is there", () =>
    Effect.gen(function* () {
      const { restore, saved } = place()
      assert.strictEqual((yield* restore(lines(10), "--replace")).code, 0, "nothing is there to be deleted")
      const { code, stderr } = yield* restore(lines(10, 5), "--replace")
      assert.strictEqual(code, 3)
      assert.strictEqual(
        stderr,
        `ctmap: ${CT4}: 10 entries are there, 10 are in the snapshot\n` +
          `ctmap: --replace deletes entries of a map that is not empty and nobody is there to be asked: add --yes\n`
      )
      assert.strictEqual(yield* saved, sorted(lines(10)))
      const done = yield* restore(lines(10, 5), "--replace", "--yes")
      assert.strictEqual(
        done.stderr,
        `ctmap: ${CT4}: 10 entries restored, 5 over others of the same key, 5 others deleted, 10 now\n`
      )
      assert.strictEqual(yield* saved, sorted(lines(10, 5)))
    })
  )

  it.effect("says which times --taken-at moved out of their scale", () =>
    Effect.gen(function* () {
      const { restore } = place()
      const { code, stderr } = yield* restore(line(1, 100) + line(2, 5000), "--taken-at", "2000", "--now", "1000")
      assert.strictEqual(code, 0)
      assert.include(stderr, `ctmap: ${CT4}: 1 times would have left their scale and were cut: check --taken-at\n`)
    })
  )

  it.effect("says that a snapshot without entries changes nothing", () =>
    Effect.gen(function* () {
      const { restore, saved } = place()
      yield* restore(lines(3))
      const { code, stderr } = yield* restore("", "--replace", "--yes")
      assert.strictEqual(code, 0)
      assert.strictEqual(stderr, "ctmap: the snapshot has no entries: nothing was changed\n")
      assert.strictEqual(yield* saved, sorted(lines(3)))
    })
  )

  it.effect("says how far it came when the kernel refuses half-way", () =>
    Effect.gen(function* () {
      const { restore, control } = place()
      yield* restore(lines(10))
      control.failNext("update", 5, { skip: 4 })
      const { code, stderr } = yield* restore(lines(20))
      assert.strictEqual(code, 1)
      assert.match(stderr, /^ctmap: update .*\(errno 5\); the restore stopped half-way: .* has 4 of 20 entries written/)
    })
  )
})

describe("files that cannot be used are named, with what to do", () => {
  const cases: ReadonlyArray<
    readonly [what: string, args: (directory: string) => ReadonlyArray<string>, says: RegExp]
  > = [
    ["save onto a directory", (at) => ["save", at], /^ctmap: cannot write \/tmp\S+: it is a directory: name a file\n$/],
    [
      "save into none",
      (at) => ["save", `${at}/no/x`],
      /^ctmap: cannot write \/tmp\S+: its directory does not exist: make/
    ],
    [
      "save below a file",
      (at) => ["save", `${at}/table.tsv/x`],
      /: a part of the path is no directory: check the path\n$/
    ],
    [
      "save without space",
      () => ["save", "/dev/full"],
      /^ctmap: cannot write \/dev\/full: no space is left on the device/
    ],
    [
      "save compressed without space",
      (at) => ["save", `${at}/full.gz`],
      /full\.gz: no space is left on the device: free/
    ],
    ["restore a directory", (at) => ["restore", at], /^ctmap: cannot read \/tmp\S+: it is a directory: name a file\n$/],
    [
      "restore nothing",
      (at) => ["restore", `${at}/no.tsv`],
      /^ctmap: cannot read \S+: no such file or directory: check/
    ],
    [
      "restore text as .gz",
      (at) => ["restore", `${at}/text.gz`],
      /text\.gz is no complete gzip file .*must not be named/
    ],
    [
      "restore half of a .gz",
      (at) => ["restore", `${at}/half.gz`],
      /half\.gz is no complete gzip file .*take it again/
    ],
    [
      "restore gzip as text",
      (at) => ["restore", `${at}/zipped`],
      /is compressed: name the file \.gz, or pipe it through/
    ]
  ]
  for (const [what, args, says] of cases) {
    it.effect(what, () =>
      Effect.gen(function* () {
        const { directory, restore, ctmap } = place()
        yield* restore(lines(1000))
        symlinkSync("/dev/full", `${directory}/full.gz`)
        writeFileSync(`${directory}/text.gz`, lines(3))
        writeFileSync(`${directory}/half.gz`, gzipSync(lines(300)).subarray(0, 500))
        writeFileSync(`${directory}/zipped`, gzipSync(lines(300)))
        const { code, stdout, stderr } = yield* ctmap("snapshot", ...args(directory))
        assert.match(stderr, says)
        assert.strictEqual(stderr.split("\n").length, 2, stderr)
        assert.strictEqual(code, 1)
        assert.strictEqual(stdout, "")
      })
    )
  }
})
