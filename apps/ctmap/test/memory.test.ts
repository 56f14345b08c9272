import { assert, describe, it } from "@effect/vitest"
import { BpfMemory } from "ctmap-kernel"
import { Recorded } from "ctmap-testing"
import * as Effect from "effect/Effect"
import { cases } from "./goldenCases.ts"
import { run } from "./harness.ts"

const roots = Recorded.setNames.map((set) => `/bpf/${set}`)
const golden = BpfMemory.make({ mounts: roots, time: 5_461_000_000_000n })

describe("every command on the recorded tables, in memory", () => {
  cases({ root: "/bpf", bpf: golden.calls })

  it("leaves no fd open", () => {
    assert.deepStrictEqual(golden.control.openFds(), [])
  })
})

const root = "/sys/fs/bpf"
const line = (map: string, n: number): string =>
  `${map}\t0a00${n.toString(16).padStart(4, "0")}01010101005086d80600\t${"00".repeat(56)}\n`

describe("errors", () => {
  it.effect("of a filter point at the column, before the kernel is asked for anything", () =>
    Effect.gen(function* () {
      const { calls, control } = BpfMemory.make()
      for (const command of ["list", "count", "stats", "top"]) {
        const { code, stderr } = yield* run([command, "--where", "tcp and dport 70000"], { bpf: calls })
        assert.strictEqual(code, 2)
        assert.include(
          stderr,
          "ctmap: column 15: port 70000 is above 65535\n  tcp and dport 70000\n                ^\n"
        )
      }
      assert.strictEqual(control.count(), 0)
    })
  )

  const places: ReadonlyArray<readonly [args: ReadonlyArray<string>, code: number, says: RegExp]> = [
    [["--bpffs-root", "/nowhere", "list"], 1, /\/nowhere does not exist: --bpffs-root/],
    [["--bpffs-root", "/", "list"], 1, /\/ is not a bpffs: mount one/],
    [
      ["--bpffs-root", "", "list"],
      2,
      /^ctmap: Missing value for flag --bpffs-root\. Expected: the directory that contains tc\/globals, not an empty name\n/
    ],
    [
      ["--bpffs-root", "/nowhere", "snapshot", "restore", "/no/such/file"],
      1,
      /^ctmap: \/nowhere does not exist: make it and mount a bpffs there \(`mkdir -p \/nowhere && mount -t bpf bpf \/nowhere`\), or/
    ],
    [["list"], 1, /no global CT map is pinned in \/sys\/fs\/bpf\/tc\/globals/],
    [["list", "--endpoint", "7", "--family", "ipv6"], 1, /no ipv6 CT map of endpoint 7 is pinned/],
    [["nat", "list"], 1, /no global NAT map is pinned/],
    [["list", "--cluster", "3", "--endpoint", "7"], 2, /two owners/],
    [["list", "--map", "cilium_ct4_global", "--endpoint", "7"], 2, /leave out/],
    [["list", "--map", "cilium_snat_v4_external"], 2, /not the name of a CT map but of a NAT map, .*`ctmap nat list`/],
    [["nat", "list", "--map", "cilium_ct4_global"], 2, /not the name of a NAT map but of a CT map, .*`ctmap list`/],
    [["list", "--map", "nope"], 2, /"nope" is not the name of a CT map; `ctmap maps` lists what is pinned\n$/],
    [["list", "--map", "cilium_ct4_global"], 1, /nothing is pinned there/],
    [["nat", "list", "--endpoint", "7"], 2, /no NAT maps of their own/],
    [["list", "--sort", "colour"], 2, /field of expires/],
    [["list", "--hz", "250"], 2, /--clock jiffies/],
    [["get", "--src", "1.2.3.4:1"], 2, /--dst/],
    [["get", "--src", "1.2.3.4:1", "--dst", "[::1]:1"], 2, /two families/],
    [["get", "--key", "0a"], 2, /28 hex digits/],
    [
      ["get", "--proto", "foo", "--src", "1.2.3.4:1", "--dst", "1.2.3.5:1"],
      2,
      /^ctmap: --proto "foo": expected the name or the number of an IP protocol, such as tcp, udp or 132\n$/
    ],
    [["snapshot", "restore", "/no/such/file"], 1, /cannot read \/no\/such\/file: no such file/],
    [["maps"], 1, /nothing is pinned there|no CT or NAT map is pinned/]
  ]
  for (const [args, code, says] of places) {
    it.effect(`say where it looked or what was wrong: ctmap ${args.join(" ")}`, () =>
      Effect.gen(function* () {
        const ran = yield* run(args, { bpf: BpfMemory.make().calls })
        assert.match(ran.stderr, says)
        assert.strictEqual(ran.code, code)
        assert.strictEqual(ran.stdout, "")
      })
    )
  }

  it.effect("of our own are one sentence too, and CTMAP_DEBUG=1 adds where", () =>
    Effect.gen(function* () {
      const { calls } = yield* withTable(1)
      const broken = {
        ...calls,
        mapInfo: (): never => {
          throw new Error("the moon is full\nand bright")
        }
      }
      const { code, stdout, stderr } = yield* run(["list"], { bpf: broken })
      assert.strictEqual(code, 1)
      assert.strictEqual(stdout, "")
      assert.match(stderr, /^ctmap: internal error: the moon is full: please report it.*\n$/)
      process.env["CTMAP_DEBUG"] = "1"
      const debugged = yield* run(["list"], { bpf: broken }).pipe(
        Effect.ensuring(Effect.sync(() => delete process.env["CTMAP_DEBUG"]))
      )
      assert.match(debugged.stderr, /^ctmap: internal error: the moon is full: [^]*\n {4}at /)
    })
  )

  it.effect("name the permission that is missing", () =>
    Effect.gen(function* () {
      const { calls, control } = yield* withTable(1)
      control.chmod(`${root}/tc/globals/cilium_ct4_global`, 0o600)
      const back = control.asUser(65_534)
      for (const command of ["list", "count", "stats", "top"]) {
        const { code, stderr } = yield* run([command], { bpf: calls })
        assert.strictEqual(code, 1)
        assert.match(stderr, /cilium_ct4_global: not permitted .* run as root, or with CAP_/)
      }
      back()
    })
  )
})

/** A kernel with one table of `n` entries, whose times are all 0. */
const withTable = (n: number, options: BpfMemory.Options = {}) =>
  Effect.gen(function* () {
    const memory = BpfMemory.make(options)
    const { writeFileSync, mkdtempSync, rmSync } = yield* Effect.promise(() => import("node:fs"))
    const directory = mkdtempSync("/tmp/ctmap-test-")
    const file = `${directory}/table.tsv`
    writeFileSync(file, Array.from({ length: n }, (_, i) => line("cilium_ct4_global", i)).join(""))
    const { code, stderr } = yield* run(["snapshot", "restore", file, "--bpf-ct-global-tcp-max", "1024"], {
      bpf: memory.calls
    })
    rmSync(directory, { recursive: true })
    assert.strictEqual(code, 0, stderr)
    return memory
  })

describe("health", () => {
  it.effect("calls an LRU nearly full by what it holds before it evicts, not by what it was made for", () =>
    Effect.gen(function* () {
      const healthOf = (entries: number) =>
        Effect.gen(function* () {
          const { calls } = yield* withTable(entries, { possibleCpus: 2 })
          return (yield* run(["maps", "-o", "json"], { bpf: calls })).stdout
        })
      // 1024 entries, of which two CPUs keep 128 free each: 768.
      assert.notInclude(yield* healthOf(690), "nearly full")
      assert.include(yield* healthOf(700), "nearly full")
    })
  )
})

describe("a scan that gives up", () => {
  for (const command of [
    ["list"],
    ["list", "--sort", "bytes"],
    ["count"],
    ["count", "--where", "tcp"],
    ["stats"],
    ["top"]
  ]) {
    it.effect(`is a failure that says so: ctmap ${command.join(" ")}`, () =>
      Effect.gen(function* () {
        const { calls, control } = yield* withTable(40, { features: { batch: "unknown command" } })
        const table = control.map(`${root}/tc/globals/cilium_ct4_global`)
        const isKey = (key: unknown): key is Uint8Array => key instanceof Uint8Array
        // The datapath deletes each key right before the walk goes on from it, and writes it again right after.
        control.onCall((call, [, key]) => call === "nextKey" && isKey(key) && table?.delete(key))
        control.onCall(
          (call, [, key]) => call === "nextKey" && isKey(key) && table?.update(key, new Uint8Array(56)),
          "after"
        )
        const { code, stderr } = yield* run(command, { bpf: calls })
        assert.strictEqual(code, 1)
        assert.match(stderr, /^ctmap: iteration aborted: map cilium_ct4_global .*try again.*\n$/)
        assert.deepStrictEqual(control.openFds(), [])
      })
    )
  }
})

describe("sorting", () => {
  it.effect("keeps no more than --limit, and says what it left out", () =>
    Effect.gen(function* () {
      const { calls } = yield* withTable(50)
      const { stdout, stderr } = yield* run(["list", "--sort", "expires", "--limit", "10"], { bpf: calls })
      assert.strictEqual(stdout.trimEnd().split("\n").length, 10)
      assert.include(stderr, "the first 10 of 50 entries")
    })
  )
})

describe("faults", () => {
  const commands = [
    ["list"],
    ["list", "--sort", "bytes"],
    ["list", "-o", "json", "--where", "tcp"],
    ["count"],
    ["count", "--where", "expired"],
    ["stats"],
    ["top"],
    ["maps"],
    ["get", "--key", "0a00000001010101005086d80600"],
    ["snapshot", "save", "-"],
    ["upgrade", "--dry-run"]
  ]
  for (const command of commands) {
    it.effect(`one after the other, each is a sentence and leaves nothing open: ctmap ${command.join(" ")}`, () =>
      Effect.gen(function* () {
        const { calls, control } = yield* withTable(40)
        const before = control.count()
        assert.strictEqual((yield* run(command, { bpf: calls })).code, 0)
        const made = control.count() - before
        assert.isAbove(made, 1)
        for (let skip = 0; skip < made; skip++) {
          control.failNext("any", 5, { skip })
          const { code, stderr } = yield* run(command, { bpf: calls })
          control.clearFaults()
          assert.notInclude(stderr, "internal error", `call ${skip}`)
          // A map that cannot be described is a row of `maps`; closing cannot fail.
          if (code !== 0) assert.match(stderr, /^ctmap: .+errno 5/)
          assert.deepStrictEqual(control.openFds(), [], `call ${skip}`)
        }
      })
    )
  }
})
