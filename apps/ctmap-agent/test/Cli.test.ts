/** The command line of the agent, as whoever types it sees it: nothing of it starts an agent. */
import { spawnSync } from "node:child_process"
import { closeSync, openSync } from "node:fs"
import { fileURLToPath } from "node:url"
import { assert, describe, it } from "@effect/vitest"
import { onTestFinished } from "vitest"

const program = fileURLToPath(new URL("../src/bin.ts", import.meta.url))

const agent = (args: ReadonlyArray<string>, stdout: "pipe" | number = "pipe") =>
  spawnSync(process.execPath, ["--conditions=ctmap-source", program, ...args], {
    env: { PATH: process.env["PATH"], CTMAP_CONFIG: "/dev/null" },
    stdio: ["ignore", stdout, "pipe"],
    encoding: "utf8"
  })

describe("what was asked for and cannot be written", () => {
  for (const args of [
    ["hive"],
    ["config"],
    ["config", "-o", "json"],
    ["--help"],
    ["--version"],
    ["--completions", "bash"]
  ]) {
    it(`is a failure with a sentence: ctmap-agent ${args.join(" ")}`, () => {
      const full = openSync("/dev/full", "w")
      onTestFinished(() => closeSync(full))
      const { status, stderr } = agent(args, full)
      assert.match(stderr, /^ctmap-agent: cannot write the standard output: ENOSPC: no space left on device[^\n]*\n$/)
      assert.strictEqual(status, 1)
    })
  }
})

describe("what was asked for", () => {
  it("is all that is written, with 0", () => {
    for (const [args, says] of [
      [["hive", "--dot"], /^digraph/],
      [["config", "-o", "json"], /^\[\n/],
      [["--help"], /--bpffs-root/],
      [["--version"], /^ctmap-agent \d+\.\d+\.\d+\S*\n$/]
    ] as const) {
      const { status, stderr, stdout } = agent(args)
      assert.deepStrictEqual([status, stderr], [0, ""], args.join(" "))
      assert.match(stdout, says)
    }
  })
})

describe("wrong usage ends with 2, a sentence on the standard error and nothing on the standard output", () => {
  const cases: ReadonlyArray<readonly [args: ReadonlyArray<string>, says: RegExp]> = [
    [["--nope"], /^ctmap-agent: Unrecognized flag: --nope[^\n]*\nTry `ctmap-agent --help`\n$/],
    [["hive", "--nope"], /^ctmap-agent: Unrecognized flag: --nope[^\n]*\nTry `ctmap-agent hive --help`\n$/],
    [["config", "-o", "yaml"], /^ctmap-agent: [^\n]*"yaml"[^\n]*json[^\n]*\nTry `ctmap-agent config --help`\n$/],
    [["hive", "--dot", "--mermaid"], /^ctmap-agent: --dot and --mermaid are two pictures: give one of them\n$/],
    [
      ["--config", "/nope"],
      /^ctmap-agent: cannot read settings from \/nope: there is no such file: --config, else CTMAP_CONFIG, names it\n$/
    ]
  ]
  for (const [args, says] of cases) {
    it(`ctmap-agent ${args.join(" ")}`, () => {
      const { status, stderr, stdout } = agent(args)
      assert.match(stderr, says)
      assert.deepStrictEqual([status, stdout], [2, ""])
    })
  }
})
