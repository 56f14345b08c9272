/**
 * The bundled programs start, and load what they consist of, on every Node there is: the one of the workspace, and those of PATH
 * that are new enough, as a user's is older as a rule.
 */
import { spawnSync } from "node:child_process"
import { realpathSync } from "node:fs"
import { delimiter, join } from "node:path"
import { root } from "./workspace.ts"

/** What `engines` of the programs asks for. */
const OLDEST = 20

interface Question {
  readonly program: string
  readonly args: ReadonlyArray<string>
  /** Default 0; what fails speaks on the standard error. */
  readonly ends?: number
  readonly says: RegExp
}

/** A program, what it is asked, what it must end with and say. Nothing here needs a privilege, a kernel or libbpf. */
const questions: ReadonlyArray<Question> = [
  { program: "apps/ctmap/dist/ctmap.js", args: ["--version"], says: /^ctmap \d/ },
  { program: "apps/ctmap/dist/ctmap.js", args: ["macros"], says: /#define CT_MAP_TCP4/ },
  { program: "apps/ctmap/dist/ctmap.js", args: ["gc", "--help"], says: /--max-delete-ratio/ },
  // Loads koffi, with pipes for output; what comes of it is the host's affair, but not that the program is incomplete.
  {
    program: "apps/ctmap/dist/ctmap.js",
    args: ["count", "--bpffs-root", "/nowhere"],
    ends: 1,
    says: /^(?!.*own code)/
  },
  { program: "apps/ctmap-agent/dist/ctmap-agent.js", args: ["--version"], says: /\d/ },
  { program: "apps/ctmap-agent/dist/ctmap-agent.js", args: ["hive"], says: /\bgc\b/ }
]

const found = (process.env["PATH"] ?? "").split(delimiter).flatMap((directory) => {
  try {
    return [realpathSync(join(directory, "node"))]
  } catch {
    return []
  }
})

const versions: Array<string> = []
for (const node of new Set([realpathSync(process.execPath), ...found])) {
  const { stdout: version, status } = spawnSync(node, ["-p", "process.versions.node"], { encoding: "utf8" })
  if (status !== 0 || Number.parseInt(version, 10) < OLDEST) continue
  versions.push(version.trim())
  for (const { program, args, ends = 0, says } of questions) {
    const { status: code, stdout, stderr } = spawnSync(node, [join(root, program), ...args], { encoding: "utf8" })
    if (code === ends && says.test(ends === 0 ? stdout : stderr)) continue
    console.error(`Node ${version.trim()}: ${program} ${args.join(" ")} ended with ${code}:\n${stderr}${stdout}`)
    process.exitCode = 1
  }
}
console.log(`programs ran on Node ${versions.join(", ")}`)
