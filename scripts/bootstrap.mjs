// Makes a fresh clone ready and runs one of the commands below. Plain JavaScript for any Node from 20 on: everything
// it starts runs on the Node that the lockfile pins, everything it installs comes from npm.
import { spawn, spawnSync } from "node:child_process"
import { createHash } from "node:crypto"
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs"
import { constants } from "node:os"
import { delimiter, join } from "node:path"
import { fileURLToPath } from "node:url"

const commands = ["start", "test", "check", "bench", "stress", "build", "fix"]

const root = fileURLToPath(new URL("..", import.meta.url))
const bin = join(root, "node_modules", ".bin")
const node = join(bin, "node")
const stamp = join(root, "node_modules", ".ctmap-installed")

const fail = (message) => {
  process.stderr.write(`ctmap: ${message}\n`)
  process.exit(1)
}

/** Changes when, and only when, an install may have something to do. */
const fingerprint = () => {
  const hash = createHash("sha256").update(`${process.platform} ${process.arch}`)
  const members = ["packages", "apps"].flatMap((parent) => children(parent).map((name) => join(parent, name)))
  const manifests = ["", "bench", "examples", ...members].map((folder) => join(folder, "package.json"))
  for (const file of ["pnpm-lock.yaml", "pnpm-workspace.yaml", ...manifests]) {
    if (existsSync(join(root, file))) hash.update(`\0${file}\0`).update(readFileSync(join(root, file)))
  }
  return hash.digest("hex")
}

const children = (folder) => (existsSync(join(root, folder)) ? readdirSync(join(root, folder)).toSorted() : [])

/** Installs what the lockfile names. Only `fix` may change the lockfile: everything else leaves the tree as it is. */
const install = (mayChange) => {
  if (existsSync(node) && existsSync(stamp) && readFileSync(stamp, "utf8") === fingerprint()) return
  const { devDependencies } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"))
  process.stderr.write("ctmap: installing what the lockfile names (first run, or it changed)\n")
  // Progress goes to stderr: stdout belongs to the command.
  const options = { cwd: root, stdio: ["ignore", 2, 2] }
  const { error, status } = spawnSync(
    "npx",
    [
      "-y",
      `pnpm@${devDependencies.pnpm}`,
      "install",
      mayChange ? "--no-frozen-lockfile" : "--frozen-lockfile",
      `--config.node-version=${devDependencies.node}`
    ],
    options
  )
  if (error?.code === "ENOENT") fail("npm is not installed (there is no npx): install Node.js together with npm.")
  if (error !== undefined) fail(`npx could not be started: ${error.message}.`)
  if (status !== 0)
    fail(
      "the install failed, for the reason above: the npm registry must be reachable, this folder writable, and the lockfile up to date (`npm run fix` updates it)."
    )
  const version = spawnSync(node, ["--version"], { encoding: "utf8" }).stdout?.trim()
  if (version !== `v${devDependencies.node}`) {
    fail(
      `npm has no Node ${devDependencies.node} that runs here: ${process.platform} on ${process.arch} is not supported.`
    )
  }
  // Only now: pnpm may have rewritten the lockfile, and an interrupted install must be repeated.
  writeFileSync(stamp, fingerprint())
}

/** How each system installs libbpf, which is what reaches the kernel. */
const packageManagers = [
  [
    ["apt-get", "update"],
    ["apt-get", "install", "-y", "--no-install-recommends", "libbpf1"]
  ],
  [["dnf", "install", "-y", "libbpf"]],
  [["apk", "add", "libbpf"]]
]

/** Brings libbpf where it is missing and this user may; elsewhere says what to do, and what works without it goes on. */
const bringLibbpf = () => {
  if (process.platform !== "linux" || hasLibbpf()) return
  if (process.getuid() === 0) {
    for (const steps of packageManagers) {
      if (spawnSync(steps[0][0], ["--version"]).error !== undefined) continue
      process.stderr.write("ctmap: installing the system's libbpf\n")
      for (const [program, ...args] of steps) spawnSync(program, args, { stdio: ["ignore", 2, 2] })
      if (hasLibbpf()) return
    }
  }
  process.stderr.write(
    "ctmap: libbpf.so.1 is missing, so nothing reaches the kernel here: as root, `apt install libbpf1`, `dnf install libbpf` or `apk add libbpf`\n"
  )
}

/** Asks the dynamic linker the way the program will: its cache, then the usual folders. */
const hasLibbpf = () => {
  const { stdout = "" } = spawnSync("ldconfig", ["-p"], { encoding: "utf8" })
  const folders = [
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    `/usr/lib/${process.arch === "x64" ? "x86_64" : "aarch64"}-linux-gnu`
  ]
  return (stdout ?? "").includes("libbpf.so.1") || folders.some((folder) => existsSync(join(folder, "libbpf.so.1")))
}

/** What `bench` and `stress` run, each by its name. */
const programs = {
  bench: { folder: join("bench", "src"), one: "benchmark", all: "Benchmarks" },
  stress: { folder: join("bench", "src", "stress"), one: "stress test", all: "Stress tests" }
}

/** The program with a name, relative to the root; without one, or with a wrong one, says which there are. */
const program = (kind, name) => {
  const { folder, one, all } = programs[kind]
  const file = join(folder, `${name}.ts`)
  if (existsSync(join(root, file))) return file
  const existing = children(folder).filter((entry) => entry.endsWith(".ts"))
  const list = existing.map((entry) => entry.slice(0, -3)).join(", ") || "none yet"
  if (name !== undefined) fail(`there is no ${one} "${name}". There are: ${list}.`)
  process.stdout.write(`${all} (npm run ${kind} NAME): ${list}\n`)
  process.exit()
}

const run = (file, args) => {
  const child = spawn(node, ["--conditions=ctmap-source", join(root, file), ...args], {
    cwd: root,
    stdio: "inherit",
    env: { ...process.env, PATH: [bin, process.env.PATH].join(delimiter) }
  })
  // The child decides how to stop. A terminal sends Ctrl-C to it as well; whoever stops this process by id does not.
  process.on("SIGINT", () => {})
  for (const signal of ["SIGTERM", "SIGHUP"]) process.on(signal, () => child.kill(signal))
  child.on("error", (error) => fail(`Node could not be started: ${error.message}.`))
  child.on("exit", (code, signal) => process.exit(code ?? 128 + constants.signals[signal]))
}

const [command, ...args] = process.argv.slice(2)
if (Number.parseInt(process.versions.node) < 20) fail(`Node 20 or newer is needed, this is ${process.versions.node}.`)
if (process.platform === "win32") fail("Windows is not supported: use Linux, or macOS for what needs no kernel.")
if (!commands.includes(command)) fail(`say one of: ${commands.join(", ")}.`)
install(command === "fix")
if (["start", "test", "bench", "stress"].includes(command)) bringLibbpf()
run(command in programs ? program(command, args.shift()) : join("scripts", `${command}.ts`), args)
