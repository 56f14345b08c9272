import { assert, describe, it } from "@effect/vitest"
import { BpfMemory, CompareAndDelete, KernelSweep } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import { TestClock } from "effect/testing"
import * as PassProgress from "../src/PassProgress.ts"
import { run } from "./harness.ts"
import { linesOf, withFile } from "./tableFile.ts"

const root = "/sys/fs/bpf"
const objects = { [CompareAndDelete.object]: CompareAndDelete.twin, [KernelSweep.object]: KernelSweep.twin }
const sizes = ["--bpf-ct-global-tcp-max", "1024", "--bpf-ct-global-any-max", "1024", "--bpf-nat-global-max", "1024"]

/** Egress connections n, each with both halves of its mapping. The originator is 10.0.0.n, as Cilium stores it. */
const connection = (n: number): ReadonlyArray<string> => {
  const port = (1000 + n).toString(16).padStart(4, "0")
  const created = "01".padEnd(16, "0")
  const translated = `c0a80001${port}${"00".repeat(2)}`
  const nat = (key: string, to: string) => `cilium_snat_v4_external\t${key}\t${created}${"00".repeat(24)}${to}`
  return [
    `cilium_ct4_global\t0101010a0a000001${port}00500600\t${"00".repeat(56)}`,
    nat(`0a0000010101010a${port}00500600`, translated)
  ]
}
const lines = [
  ...Array.from({ length: 12 }, (_, n) => connection(n)).flat(),
  `cilium_ct_any4_global\t0101010a0a000001005000501100\t${"00".repeat(56)}`
]

const withTables = Effect.gen(function* () {
  const memory = BpfMemory.make({ objects })
  const { code, stderr } = yield* withFile(lines, (file) =>
    run(["snapshot", "restore", file, ...sizes], { bpf: memory.calls })
  )
  assert.strictEqual(code, 0, stderr)
  return memory
})

describe("wrong usage of the commands that delete", () => {
  const wrong: ReadonlyArray<readonly [args: ReadonlyArray<string>, says: RegExp]> = [
    [["purge"], /say what to purge with --ip, --port, --proto or --where; `ctmap flush` deletes everything/],
    [["purge", "--ip", "10.0.0.1,pod-7"], /--ip "pod-7": expected addresses or networks, such as/],
    [["purge", "--ip", "10.0.0.0/33"], /--ip "10\.0\.0\.0\/33": expected/],
    [["purge", "--ip", "10.0.0.1,"], /--ip "": expected/],
    [["purge", "--ip", "10.0.0.1 or tcp"], /--ip "10\.0\.0\.1 or tcp": expected/],
    [["purge", "--ip", "10.0.0.1} or port {1"], /--ip "10\.0\.0\.1} or port {1": expected/],
    [["purge", "--port", "70000"], /--port "70000": expected ports from 0 to 65535/],
    [["purge", "--port", "90-80"], /--port "90-80": expected/],
    [["purge", "--proto", "tcp or udp"], /--proto "tcp or udp": expected the name or the number/],
    [["purge", "--proto", "300"], /--proto "300": expected/],
    [["purge", "--where", "port"], /^ctmap: column 5: /],
    [["gc", "--where", "port"], /^ctmap: column 5: /],
    [
      ["gc", "--max-delete-ratio", "1.5"],
      /Invalid value for flag --max-delete-ratio: "1\.5"\. Expected: a share from 0 to 1\n/
    ],
    [["gc", "--budget", "0"], /Invalid value for flag --budget: "0"\. Expected: a share above 0 and up to 1\n/],
    [["gc", "--cluster", "3", "--endpoint", "7"], /two owners/],
    [["gc", "--hz", "250"], /--clock jiffies/],
    [["nat", "flush", "--endpoint", "7"], /no NAT maps of their own/],
    [["nat", "purge-orphans", "--map", "cilium_ct4_global"], /not the name of a NAT map/]
  ]
  for (const [args, says] of wrong) {
    it.effect(`is said in a sentence, and nothing is touched: ctmap ${args.join(" ")}`, () =>
      Effect.gen(function* () {
        const { calls, control } = BpfMemory.make()
        const { code, stdout, stderr } = yield* run(
          [...args, "--yes"].filter((arg) => arg !== "--yes" || args[0] === "purge"),
          { bpf: calls }
        )
        assert.match(stderr, says)
        assert.deepStrictEqual([code, stdout], [2, ""])
        assert.strictEqual(control.map(`${root}/tc/globals/cilium_ct4_global`), undefined)
      })
    )
  }

  it.effect("a term that CT tables do not know is said once, not once for each family", () =>
    Effect.gen(function* () {
      const { calls } = BpfMemory.make({ objects })
      const both = [
        connection(1)[0]!,
        connection(1)[0]!
          .replace("ct4", "ct6")
          .replace(/\t\w{28}/, `\t${"00".repeat(38)}`)
      ]
      const all = [...both, ...both.map((line) => line.replace("cilium_ct", "cilium_ct_any"))]
      yield* withFile(all, (file) => run(["snapshot", "restore", file, ...sizes], { bpf: calls }))
      const { code, stdout, stderr } = yield* run(["purge", "--where", "xport 1", "--yes"], { bpf: calls })
      assert.strictEqual(code, 2)
      assert.strictEqual(stdout, "")
      assert.strictEqual(stderr.split("cannot be used on a CT table").length, 2, stderr)
    })
  )
})

describe("a call into the kernel that fails, whichever it is", () => {
  const commands = [
    ["gc"],
    ["gc", "--engine", "kernel"],
    ["gc", "--engine", "portable"],
    ["flush", "--yes"],
    ["purge", "--ip", "10.0.0.1", "--yes"],
    ["nat", "flush", "--yes"],
    ["nat", "purge-orphans"]
  ]
  for (const command of commands) {
    it.effect(
      `ends in a sentence, with a report whose counts add up, and leaves nothing open: ctmap ${command.join(" ")}`,
      () =>
        Effect.gen(function* () {
          const whole = yield* withTables
          const before = whole.control.count()
          assert.strictEqual((yield* run(command, { bpf: whole.calls })).code, 0)
          const made = whole.control.count() - before
          assert.isAbove(made, 10)
          for (let skip = 0; skip < made; skip++) {
            const { calls, control } = yield* withTables
            control.failNext("any", 5, { skip })
            const { code, stdout, stderr } = yield* run([...command, "-o", "json"], { bpf: calls })
            control.clearFaults()
            assert.notInclude(stderr, "internal error", `call ${skip}`)
            if (code !== 0) assert.match(stderr, /ctmap: .+errno 5/, `call ${skip}`)
            assert.deepStrictEqual(control.openFds(), [], `call ${skip}`)
            const rows = (stdout === "" ? [] : JSON.parse(stdout)) as ReadonlyArray<Record<string, number>>
            if (command[0] === "nat") continue
            const gone = rows.reduce((sum, row) => sum + row["deleted"]!, 0)
            const saved = yield* run(["count", "-o", "json"], { bpf: calls })
            const { total } = JSON.parse(saved.stdout) as { readonly total: number }
            assert.strictEqual(total + gone, 13, `call ${skip}: what is reported as deleted is gone`)
          }
        })
    )
  }
})

/** Waits until nobody has called the kernel in so many turns of the event loop: whoever does now waits for the clock. */
const quiet = (control: BpfMemory.Controls) =>
  Effect.promise(() => {
    let [calls, turns] = [-1, 0]
    const isQuiet = (): boolean => {
      turns = control.count() === calls ? turns + 1 : 0
      calls = control.count()
      return turns > 100
    }
    const look = (): Promise<void> =>
      isQuiet() ? Promise.resolve() : new Promise((resolve) => setTimeout(resolve, 2)).then(look)
    return look()
  })

describe("watch", () => {
  it.effect("goes on where a table cannot be read for once, and tells of what it missed then", () =>
    Effect.gen(function* () {
      const { calls, control } = yield* withTables
      const args = ["watch", "--now", "1", "--backlog", "--interval", "5", "-o", "ndjson"]
      const alone = yield* run([...args, "--passes", "1"], { bpf: calls })
      const told = linesOf(alone.stdout)
      assert.strictEqual(told.length, 13)
      // The second of three passes fails: it has nothing to tell, and says so.
      let passes = 0
      const fiber = yield* Effect.forkChild(run([...args, "--passes", "3"], { bpf: calls, onNote: () => passes++ }), {
        startImmediately: true
      })
      yield* quiet(control)
      control.failNext("any", 5)
      yield* TestClock.adjust("5 seconds")
      yield* quiet(control)
      assert.strictEqual(passes, 1)
      yield* TestClock.adjust("5 seconds")
      const { code, stdout, stderr } = yield* Fiber.join(fiber)
      assert.strictEqual(code, 0)
      assert.match(stderr, /^ctmap: .*errno 5.*; looking again\n$/)
      assert.deepStrictEqual(linesOf(stdout), told)
      assert.deepStrictEqual(control.openFds(), [])
    })
  )

  it.effect("fails where its first or its last pass fails", () =>
    Effect.gen(function* () {
      const { calls, control } = yield* withTables
      control.failNext("any", 5)
      assert.strictEqual((yield* run(["watch", "--now", "1"], { bpf: calls })).code, 1)
      assert.strictEqual((yield* run(["watch", "--now", "1"], { bpf: BpfMemory.make().calls })).code, 1)
    })
  )
})

describe("the line of progress", () => {
  it("shows the share that was seen, never more than there is, within 80 columns", () => {
    assert.strictEqual(
      PassProgress.line("cilium_ct4_global", 131_072, 524_288),
      "cilium_ct4_global [###...........]  25 %  131,072 of 524,288"
    )
    assert.strictEqual(PassProgress.line("m", 0, 0), "m [..............]   0 %  0 of 0")
    assert.strictEqual(PassProgress.line("m", 1200, 1000), "m [#############.]  99 %  1,200 of 1,200")
    assert.strictEqual(PassProgress.line("m", 1200, ", room for 8,192"), "m 1,200 entries, room for 8,192")
    assert.isAtMost(PassProgress.line("cilium_per_cluster_ct_any4_511", 16_777_216, 16_777_216).length, 80)
  })
})
