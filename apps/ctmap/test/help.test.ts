import { assert, describe, expect, it } from "@effect/vitest"
import { FilterParser } from "ctmap-core"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
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
  ["nat", "list"],
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
      }
    })
  )

  it.effect("says the version of the package", () =>
    Effect.gen(function* () {
      assert.match((yield* run(["--version"])).stdout, /^ctmap \d+\.\d+\.\d+.*\n$/)
    })
  )
})

describe("wrong usage ends with 2, a sentence on the standard error and nothing on the standard output", () => {
  const cases: ReadonlyArray<readonly [args: ReadonlyArray<string>, says: RegExp]> = [
    [["lisst"], /Unknown subcommand "lisst"[^]*list/],
    [["list", "--wher", "tcp"], /--wher[^]*--where/],
    [["list", "-o", "yaml"], /"yaml"[^]*cilium-json/],
    [["list", "--limit", "0"], /at least 1/],
    [["list", "--now", "-1"], /time between 0 and 4294967295/],
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
