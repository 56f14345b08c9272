/**
 * What the scripts know about the tree: where it is, its packages, its files.
 */
import { spawnSync } from "node:child_process"
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"

export const root = fileURLToPath(new URL("..", import.meta.url))

export interface Manifest {
  readonly name: string
  readonly private?: boolean
  readonly files?: ReadonlyArray<string>
  readonly exports?: Readonly<Record<string, unknown>>
  readonly dependencies?: Readonly<Record<string, string>>
  readonly peerDependencies?: Readonly<Record<string, string>>
}

export interface Package {
  /** Relative to the root. */
  readonly folder: string
  readonly manifest: Manifest
}

const members = (parent: string): ReadonlyArray<Package> =>
  names(parent)
    .map((name) => `${parent}/${name}`)
    .filter((folder) => existsSync(join(root, folder, "package.json")))
    .map((folder) => ({ folder, manifest: JSON.parse(read(`${folder}/package.json`)) }))

/** Entries of a folder, none where it does not exist. */
export const names = (folder: string): ReadonlyArray<string> =>
  existsSync(join(root, folder)) ? readdirSync(join(root, folder)).toSorted() : []

export const read = (file: string): string => readFileSync(join(root, file), "utf8")

/** The folders of `packages`, in the order of the alphabet. */
export const packages: ReadonlyArray<Package> = members("packages")

/** Packages and apps that go to npm. */
export const publishable: ReadonlyArray<Package> = [...packages, ...members("apps")].filter(
  ({ manifest }) => manifest.private !== true
)

/** Names in .gitignore are plain names or `*.ext`; nothing here needs more. */
const ignored = read(".gitignore").split("\n").filter(Boolean)
const isIgnored = (name: string) =>
  name === ".git" ||
  ignored.some((pattern) =>
    pattern.startsWith("*") ? name.endsWith(pattern.slice(1)) : name === pattern.replace("/", "")
  )

/** Every file below a folder that is not ignored, relative to the root. Needs no git: a source archive has none. */
export const filesOf = (folder = ""): ReadonlyArray<string> =>
  readdirSync(join(root, folder), { withFileTypes: true })
    .filter((entry) => !isIgnored(entry.name))
    .flatMap((entry) => {
      const path = folder === "" ? entry.name : `${folder}/${entry.name}`
      return entry.isDirectory() ? filesOf(path) : [path]
    })
    .toSorted()

/** Writes a file unless it holds the text already, so that what depends on its age is not rebuilt for nothing. */
export const write = (file: string, text: string): void => {
  const path = join(root, file)
  if (existsSync(path) && readFileSync(path, "utf8") === text) return
  mkdirSync(dirname(path), { recursive: true })
  writeFileSync(path, text)
}

/** Runs a program at the root with its output shown; its exit code. */
export const run = (program: string, ...args: ReadonlyArray<string>): number =>
  spawnSync(program, args, { cwd: root, stdio: "inherit" }).status ?? 1
