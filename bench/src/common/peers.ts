/**
 * The programs that ctmap is compared with: C over libbpf, Go over cilium/ebpf, bpftool.
 *
 * They are built from `bench/peers` into a temporary folder. What they need comes from Debian's packages, which are
 * installed where this is root on such a system; a peer that cannot be had is left out, with a reason.
 */
import { spawnSync } from "node:child_process"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import type { Sample } from "./rounds.ts"

export interface Peers {
  /** Runs of `scan.c`, `main.go` and bpftool, where there are such programs: arguments in front of those of a run. */
  readonly c?: ReadonlyArray<string>
  /** `collect.c`. */
  readonly collect?: ReadonlyArray<string>
  readonly go?: ReadonlyArray<string>
  readonly bpftool?: ReadonlyArray<string>
  /** `peak.c`: measures a whole process. */
  readonly peak?: ReadonlyArray<string>
}

interface Recipe {
  readonly name: keyof Peers
  readonly packages: ReadonlyArray<string>
  /** What fails where a package is missing. */
  readonly build: ReadonlyArray<string>
  readonly run: ReadonlyArray<string>
}

const source = (name: string): string => fileURLToPath(new URL(`../../peers/${name}`, import.meta.url))

/** Debian's place for sources of Go libraries. */
const GOPATH = "/usr/share/gocode"

const recipes = (folder: string): ReadonlyArray<Recipe> => [
  {
    name: "c",
    packages: ["gcc", "libc6-dev", "libbpf-dev"],
    build: ["gcc", "-O2", "-Wall", "-o", join(folder, "scan"), source("scan.c"), "-lbpf"],
    run: [join(folder, "scan")]
  },
  {
    name: "collect",
    packages: ["gcc", "libc6-dev", "libbpf-dev"],
    build: ["gcc", "-O2", "-Wall", "-o", join(folder, "collect"), source("collect.c"), "-lbpf"],
    run: [join(folder, "collect")]
  },
  {
    name: "peak",
    packages: ["gcc", "libc6-dev"],
    build: ["gcc", "-O2", "-Wall", "-o", join(folder, "peak"), source("peak.c")],
    run: [join(folder, "peak")]
  },
  {
    name: "go",
    packages: ["golang-go", "golang-github-cilium-ebpf-dev"],
    build: ["go", "build", "-o", join(folder, "peer"), source("main.go"), source("collect.go")],
    run: [join(folder, "peer")]
  },
  { name: "bpftool", packages: ["bpftool"], build: ["bpftool", "version"], run: ["bpftool"] }
]

/** A folder that goes with the process, if not before. */
export const temporaryFolder = (parent: string): string => {
  const folder = mkdtempSync(join(parent, "ctmap-bench-"))
  process.once("exit", () => rmSync(folder, { recursive: true, force: true }))
  return folder
}

/** Builds what can be built of these, and says what cannot. */
export const prepare = (names: ReadonlyArray<keyof Peers> = ["c", "peak", "go", "bpftool"]): Peers => {
  const folder = temporaryFolder(tmpdir())
  const environment = {
    ...process.env,
    PATH: `${process.env["PATH"]}:/usr/sbin:/sbin`,
    CGO_ENABLED: "0",
    GO111MODULE: "off",
    GOPATH,
    GOFLAGS: "",
    GOCACHE: join(folder, "go-cache")
  }
  const problem = (command: ReadonlyArray<string>): string | undefined => {
    const [program = "", ...args] = command
    const { error, status, stderr } = spawnSync(program, args, { encoding: "utf8", env: environment })
    return error !== undefined ? error.message : status === 0 ? undefined : stderr.trim()
  }
  const install = (packages: ReadonlyArray<string>): void => {
    const command = ["apt-get", "install", "-y", "--no-install-recommends", ...packages]
    console.error(`installing ${packages.join(", ")}`)
    if (problem(command) !== undefined && problem(["apt-get", "update"]) === undefined) problem(command)
  }
  const all = recipes(folder).filter(({ name }) => names.includes(name))
  const unbuilt = all.filter(({ build }) => problem(build) !== undefined)
  if (unbuilt.length > 0 && process.geteuid?.() === 0 && problem(["apt-get", "--version"]) === undefined) {
    install([...new Set(unbuilt.flatMap(({ packages }) => packages))])
  }
  const peers: { -readonly [Name in keyof Peers]: Peers[Name] } = {}
  for (const { name, packages, build, run } of all) {
    const why = unbuilt.some((one) => one.name === name) ? problem(build) : undefined
    if (why === undefined) peers[name] = run
    else console.log(`left out: ${name}, which needs ${packages.join(", ")} (${why.split("\n")[0]})`)
  }
  return peers
}

/** Runs a peer that measures itself and prints entries, nanoseconds, the longest call, and those in C their CPU time. */
export const ownTime = (command: ReadonlyArray<string>): Sample => {
  const [entries = Number.NaN, nanoseconds = Number.NaN, longestCall = 0, cpu = 0] = numbersOf(command)
  return { entries, nanoseconds, ...(longestCall > 0 ? { longestCall } : {}), ...(cpu > 0 ? { cpu } : {}) }
}

/** What a collector did, besides what it took. */
export interface Collected extends Sample {
  readonly deleted: number
  readonly natDeleted: number
}

/** Runs a peer that collects: it prints entries seen, deleted, NAT entries deleted, nanoseconds and the longest call. */
export const collected = (command: ReadonlyArray<string>): Collected => {
  const [entries, deleted, natDeleted, nanoseconds, longestCall = 0] = numbersOf(command)
  return {
    entries: entries ?? Number.NaN,
    deleted: deleted ?? Number.NaN,
    natDeleted: natDeleted ?? Number.NaN,
    nanoseconds: nanoseconds ?? Number.NaN,
    ...(longestCall > 0 ? { longestCall } : {})
  }
}

/** Runs a command as a whole process, through `peak.c`, with its output in a file. */
export const wholeProcess = (
  peak: ReadonlyArray<string>,
  command: ReadonlyArray<string>,
  { output, entries }: { readonly output: string; readonly entries: number }
): Sample => {
  const [nanoseconds = Number.NaN, bytes = Number.NaN, status] = numbersOf([...peak, output, ...command])
  if (status !== 0) throw new Error(`${command.join(" ")}: ended with ${status}`)
  return { entries, nanoseconds, peak: bytes }
}

const numbersOf = ([program = "", ...args]: ReadonlyArray<string>): ReadonlyArray<number> => {
  const { error, status, stdout, stderr } = spawnSync(program, args, {
    encoding: "utf8",
    env: { ...process.env, PATH: `${process.env["PATH"]}:/usr/sbin:/sbin` }
  })
  if (error !== undefined) throw error
  if (status !== 0) throw new Error(`${program} ${args.join(" ")}: ${stderr.trim()}`)
  return stdout.trim().split(/\s+/).map(Number)
}
