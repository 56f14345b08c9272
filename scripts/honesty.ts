/**
 * Tree honesty: what the tree says of itself is true, and it says nothing of the machine it was written on.
 */
import { dirname, join } from "node:path/posix"
import { filesOf, packages, publishable, read } from "./workspace.ts"

const findings: Array<string> = []
const report = (where: string, what: string) => findings.push(`${where}: ${what}`)

const files = filesOf()
const exists = new Set(files.flatMap((file) => [file, ...parents(file)]))

// --- text that must not be in any file --------------------------------------------------------------------------

const forbidden: ReadonlyArray<readonly [pattern: RegExp, what: string]> = [
  [/(?<![\w.-])\/(work|root|home\/[a-z]+)\//, "a path of one machine"],
  [/https?:\/\/[^\s/"']*(registry|artifactory|verdaccio|nexus)[^\s"']*/i, "the address of a package registry"],
  [/\b(it|test|describe|layer)(\.\w+)*\.only\b/, "a focused test: the others do not run"],
  [/@ts-ignore\b|@ts-nocheck\b/, "a silenced type error: @ts-expect-error fails when it is no longer needed"],
  [/\b(TODO|FIXME|XXX)\b/, "unfinished work: finish it or describe the limit"]
]

const isText = (file: string): boolean => !/\.(gz|o|png|ico)$/.test(file)
const self = "scripts/honesty.ts"

for (const file of files.filter((name) => isText(name) && name !== self)) {
  for (const [index, line] of read(file).split("\n").entries()) {
    for (const [pattern, what] of forbidden) if (pattern.test(line)) report(`${file}:${index + 1}`, what)
  }
}

// --- tests that never run ---------------------------------------------------------------------------------------

for (const file of files.filter((name) => name.endsWith(".test.ts"))) {
  if (!/^((packages|apps)\/[^/]+|bench|examples)\/test\//.test(file)) {
    report(file, "vitest.workspace.ts does not look for tests here")
  }
}

// --- links ------------------------------------------------------------------------------------------------------

for (const file of files.filter((name) => name.endsWith(".md") && !name.startsWith(".changeset/"))) {
  for (const [index, line] of prose(file).entries()) {
    for (const [, target = ""] of line.matchAll(/\]\(([^()\s]+)\)/g)) {
      if (/^[a-z]+:/.test(target)) continue
      const [path = "", anchor] = decodeURI(target).split("#")
      const linked = path === "" ? file : join(dirname(file), path).replace(/\/$/, "")
      if (!exists.has(linked)) report(`${file}:${index + 1}`, `the link ${target} leads nowhere`)
      else if (anchor !== undefined && linked.endsWith(".md") && !anchors(linked).has(anchor)) {
        report(`${file}:${index + 1}`, `${linked} has no heading #${anchor}`)
      }
    }
  }
}

/** The lines of a document with code blanked out. */
function prose(file: string): ReadonlyArray<string> {
  return read(file)
    .replace(/^(```|~~~)[\s\S]*?^\1/gm, blank)
    .replace(/`[^`\n]*`/g, blank)
    .split("\n")
}

function blank(code: string): string {
  return code.replace(/[^\n]/g, "")
}

/** The names that GitHub gives to the headings of a document. */
function anchors(file: string): ReadonlySet<string> {
  const seen = new Map<string, number>()
  const headings = read(file)
    .replace(/^```[\s\S]*?^```/gm, "")
    .matchAll(/^#+ +(.*)$/gm)
  return new Set(
    [...headings].map(([, text = ""]) => {
      const slug = text
        .trim()
        .toLowerCase()
        .replace(/[^\p{L}\p{N}\s_-]/gu, "")
        .replace(/\s/g, "-")
      const count = seen.get(slug) ?? 0
      seen.set(slug, count + 1)
      return count === 0 ? slug : `${slug}-${count}`
    })
  )
}

function parents(file: string): ReadonlyArray<string> {
  const folder = dirname(file)
  return folder === "." ? [folder] : [folder, ...parents(folder)]
}

// --- packages ---------------------------------------------------------------------------------------------------

/** What a package may import at run time. Tests may import ctmap-testing as well. */
const mayImport: Readonly<Record<string, ReadonlyArray<string>>> = {
  "ctmap-core": [],
  "ctmap-kernel": ["ctmap-core"],
  "ctmap-gc": ["ctmap-core", "ctmap-kernel"],
  "ctmap-cluster": ["ctmap-core", "ctmap-kernel", "ctmap-gc"],
  "ctmap-cell": [],
  "ctmap-api": ["ctmap-core", "ctmap-gc", "ctmap-cell"],
  "ctmap-datapath": ["ctmap-core", "ctmap-kernel"],
  "ctmap-testing": ["ctmap-core", "ctmap-kernel"]
}

for (const { folder, manifest } of packages) {
  const allowed = mayImport[manifest.name]
  if (allowed === undefined) {
    report(`${folder}/package.json`, "a new package: say in scripts/honesty.ts what it may import")
    continue
  }
  const declared = Object.keys({ ...manifest.dependencies, ...manifest.peerDependencies })
  for (const name of declared.filter((dependency) => dependency.startsWith("ctmap-"))) {
    if (!allowed.includes(name)) report(`${folder}/package.json`, `${manifest.name} must not depend on ${name}`)
  }
  for (const file of files.filter((name) => name.startsWith(`${folder}/src/`) && name.endsWith(".ts"))) {
    const text = read(file)
    for (const [, name = ""] of text.matchAll(/^(?![ \t]*\*).*\b(?:from|import) ?\(?"(ctmap-[a-z]+)/gm)) {
      if (!allowed.includes(name)) report(file, `${manifest.name} must not import ${name}`)
    }
    const isPublic = dirname(file) === `${folder}/src` && !file.endsWith("/index.ts")
    if (isPublic && !text.startsWith("/**"))
      report(file, "a public module starts with a comment that says what it owns")
  }
}

for (const { folder, manifest } of publishable) {
  for (const field of ["description", "license", "files", "exports", "engines"]) {
    if (!(field in manifest)) report(`${folder}/package.json`, `a package that is published needs "${field}"`)
  }
  if (!exists.has(`${folder}/README.md`)) report(folder, "a package that is published needs a README.md")
}
if (!exists.has("LICENSE")) report("LICENSE", "is missing")

for (const finding of findings) console.log(finding)
if (findings.length > 0) process.exitCode = 1
