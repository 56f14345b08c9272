import { assert, describe, expect, it } from "@effect/vitest"
import { FilterParser } from "ctmap-core"
import { BpfMemory } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import { vi } from "vitest"
import { BrokenPipe, FileFailed } from "../src/Failure.ts"
import { run } from "./harness.ts"

const commands = [
  [],
  ["list"],
  ["get"],
  ["count"],
  ["maps"],
  ["stats"],
  ["top"],
  ["nat"],
  ["watch"],
  ["status"],
  ["gc"],
  ["purge"],
  ["nat", "list"],
  ["nat", "purge-orphans"],
  ["cluster"],
  ["cluster", "list"],
  ["cluster", "create"],
  ["cluster", "delete"],
  ["cluster", "cleanup"],
  ["cluster", "check"],
  ["snapshot"],
  ["snapshot", "save"],
  ["snapshot", "restore"],
  ["macros"],
  ["upgrade"],
  ["features"]
]

describe("help", () => {
  for (const command of commands) {
    it(`of ctmap ${command.join(" ")}`, async () => {
      const { code, stdout, stderr } = await Effect.runPromise(run([...command, "--help"]))
      assert.strictEqual(code, 0)
      assert.strictEqual(stderr, "")
      expect(stdout).toMatchSnapshot()
    })
  }

  it.effect("has examples whose filters are filters", () =>
    Effect.gen(function* () {
      const pages = yield* Effect.forEach(commands, (command) => run([...command, "--help"]))
      const filters = Array.from(
        pages
          .map(({ stdout }) => stdout)
          .join("")
          .matchAll(/ctmap .*--where (?:'([^']+)'|(\S+))/g)
      )
      assert.isAbove(filters.length, 4)
      for (const [, quoted, bare] of filters) Result.getOrThrow(FilterParser.parse(quoted ?? bare ?? ""))
    })
  )

  it.effect("is what the bare program prints", () =>
    Effect.gen(function* () {
      const { code, stdout } = yield* run([])
      assert.strictEqual(code, 0)
      assert.strictEqual(stdout, (yield* run(["--help"])).stdout)
    })
  )

  it.effect("has completions for every shell", () =>
    Effect.gen(function* () {
      for (const shell of ["bash", "zsh", "fish"]) {
        const { code, stdout } = yield* run(["--completions", shell])
        assert.strictEqual(code, 0)
        assert.include(stdout, "snapshot")
        assert.include(stdout, "agent")
      }
    })
  )

  it.effect("says the version of the package", () =>
    Effect.gen(function* () {
      assert.match((yield* run(["--version"])).stdout, /^ctmap \d+\.\d+\.\d+.*\n$/)
    })
  )
})

describe("what was asked for and cannot be written", () => {
  const full = new FileFailed({ path: "the standard output", action: "write", why: "ENOSPC" })
  for (const args of [["--help"], ["list", "--help"], ["--version"], ["--completions", "bash"], []]) {
    it.effect(`is a failure, said once: ctmap ${args.join(" ")}`, () =>
      Effect.gen(function* () {
        const { code, stdout, stderr } = yield* run(args, { unwritable: () => full })
        assert.deepStrictEqual([code, stdout, stderr], [1, "", "ctmap: cannot write the standard output: ENOSPC\n"])
        const enough = yield* run(args, { unwritable: () => new BrokenPipe() })
        assert.deepStrictEqual([enough.code, enough.stderr], [0, ""])
      })
    )
  }
})

describe("colours of help", () => {
  const isColoured = (terminal: boolean, env: Readonly<Record<string, string | undefined>>) =>
    Effect.gen(function* () {
      for (const [name, value] of Object.entries({ NO_COLOR: undefined, TERM: "xterm", ...env }))
        vi.stubEnv(name, value)
      const { stdout } = yield* run(["count", "--help"], { isSeen: terminal })
      return stdout.includes("\u001B[")
    }).pipe(Effect.ensuring(Effect.sync(() => vi.unstubAllEnvs())))

  it.effect("are there on a terminal only, and not where NO_COLOR or a terminal that knows none says so", () =>
    Effect.gen(function* () {
      assert.isTrue(yield* isColoured(true, {}))
      assert.isTrue(yield* isColoured(true, { NO_COLOR: "" }))
      assert.isFalse(yield* isColoured(false, {}))
      assert.isFalse(yield* isColoured(true, { NO_COLOR: "1" }))
      assert.isFalse(yield* isColoured(true, { TERM: "dumb" }))
    })
  )
})

describe("wrong usage ends with 2, a sentence on the standard error and nothing on the standard output", () => {
  const cases: ReadonlyArray<readonly [args: ReadonlyArray<string>, says: RegExp]> = [
    [["lisst"], /Unknown subcommand "lisst"[^]*list/],
    [["list", "--wher", "tcp"], /--wher[^]*--where/],
    [["list", "-o", "yaml"], /"yaml"[^]*cilium-json/],
    [["list", "--limit", "0"], /at least 1/],
    [["snapshot", "save"], /file/],
    [["macros", "--bpf-ct-global-tcp-max", "7"], /must exceed minimum 1024/]
  ]
  for (const [args, says] of cases) {
    it.effect(args.join(" "), () =>
      Effect.gen(function* () {
        const { code, stdout, stderr } = yield* run(args)
        assert.strictEqual(code, 2)
        assert.strictEqual(stdout, "")
        assert.match(stderr, says)
        assert.isTrue(stderr.startsWith("ctmap: "))
      })
    )
  }
})

describe("numbers", () => {
  const most: ReadonlyArray<readonly [command: ReadonlyArray<string>, flag: string, least: number, most: number]> = [
    [["list"], "--endpoint", 1, 65_535],
    [["get"], "--endpoint", 1, 65_535],
    [["macros"], "--endpoint", 1, 65_535],
    [["upgrade"], "--endpoint", 1, 65_535],
    [["nat", "list"], "--cluster", 1, 511],
    [["count"], "--cluster", 1, 511],
    [["maps"], "--now", 0, 4_294_967_295],
    [["stats"], "--hz", 1, 65_535],
    [["top"], "--limit", 1, 10_000_000],
    [["top"], "--counters", 1, 10_000_000],
    [["list"], "--limit", 1, Infinity]
  ]
  for (const [command, flag, least, greatest] of most) {
    const wrong = [String(least - 1), "-70000", "1.5", "NaN", "Infinity", "0x10", "12 ", "ten", "99999999999999999999"]
    if (greatest < Infinity) wrong.push(String(greatest + 1))
    it.effect(
      `${command.join(" ")} ${flag} takes ${least} to ${greatest}: all else is wrong usage, never another number`,
      () =>
        Effect.gen(function* () {
          for (const value of wrong) {
            const { code, stdout, stderr } = yield* run([...command, `${flag}=${value}`])
            assert.strictEqual(code, 2, value)
            assert.strictEqual(stdout, "")
            assert.include(stderr, `ctmap: Invalid value for flag ${flag}: "${value}"`)
          }
          for (const value of [least, Math.min(greatest, Number.MAX_SAFE_INTEGER)]) {
            const { stderr } = yield* run([...command, `${flag}=${value}`], { bpf: BpfMemory.make().calls })
            assert.notInclude(stderr, "Invalid value")
          }
        })
    )
  }

  it.effect("that select maps are taken as they are", () =>
    Effect.gen(function* () {
      assert.include((yield* run(["macros", "--endpoint", "65535"])).stdout, "cilium_ct4_65535\n")
      const { stderr } = yield* run(["list", "--cluster", "511"], { bpf: BpfMemory.make().calls })
      assert.include(stderr, "of cluster 511")
    })
  )

  for (const value of ["-1", "1023", "16777217", "4294968320", "NaN"]) {
    for (const [command, flag] of [
      ["macros", "--bpf-ct-global-tcp-max"],
      ["macros", "--bpf-ct-global-any-max"],
      ["macros", "--bpf-nat-global-max"],
      ["upgrade", "--bpf-ct-global-tcp-max"]
    ] as const) {
      it.effect(`${command} ${flag}=${value} is no size of a map`, () =>
        Effect.gen(function* () {
          const { code, stdout, stderr } = yield* run([command, `${flag}=${value}`], { bpf: BpfMemory.make().calls })
          assert.strictEqual(code, 2, stdout)
          assert.match(stderr, /minimum 1024|maximum 16777216|finite number/)
        })
      )
    }
  }
})

describe("macros", () => {
  it.effect("prints Cilium's header", () =>
    Effect.gen(function* () {
      const { stdout } = yield* run(["macros", "--endpoint", "1234"])
      assert.strictEqual(
        stdout,
        [
          "#define CT_MAP_TCP4 cilium_ct4_01234",
          "#define CT_MAP_ANY4 cilium_ct_any4_01234",
          "#define CT_MAP_TCP6 cilium_ct6_01234",
          "#define CT_MAP_ANY6 cilium_ct_any6_01234",
          "#define CT_MAP_SIZE_TCP 64000",
          "#define CT_MAP_SIZE_ANY 64000",
          ""
        ].join("\n")
      )
    })
  )
})
