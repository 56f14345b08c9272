/**
 * Every check that is not a test. All run, even after one failed; a check speaks only when it fails. Arguments select
 * checks by name: `npm run check -- lint types`.
 */
import { spawnSync } from "node:child_process"
import { join } from "node:path"
import { publishable, root } from "./workspace.ts"

interface Check {
  readonly name: string
  readonly command: string
  /** Relative to the root, which is the default. */
  readonly folder?: string
}

const checks: ReadonlyArray<Check> = [
  { name: "barrels", command: "node scripts/barrels.ts --check" },
  { name: "json schema", command: "node --conditions=ctmap-source scripts/json-schema.ts --check" },
  { name: "examples", command: "node scripts/doc-examples.ts" },
  { name: "format", command: "oxfmt --check ." },
  { name: "lint", command: "oxlint --format agent --type-aware --deny-warnings --report-unused-disable-directives" },
  { name: "types", command: "tsc -b" },
  { name: "effect", command: "effect-tsgo diagnostics --project tsconfig.json --severity error,warning --strict" },
  { name: "unused", command: "knip --no-progress" },
  { name: "build", command: "node scripts/build.ts" },
  { name: "programs", command: "node scripts/programs.ts" },
  ...publishable
    .filter(({ folder }) => folder.startsWith("packages/"))
    .flatMap(({ folder, manifest }) => [
      { name: `import ${manifest.name}`, command: `node --input-type=module -e "import '${manifest.name}'"`, folder },
      { name: `publint ${manifest.name}`, command: "publint --strict", folder },
      { name: `attw ${manifest.name}`, command: "attw --pack . --profile esm-only", folder }
    ]),
  { name: "bpf objects", command: "node scripts/bpf.ts --check" },
  { name: "honesty", command: "node scripts/honesty.ts" }
]

const seconds = (since: number): string => `${((performance.now() - since) / 1000).toFixed(1)} s`

const selected = process.argv.slice(2)
const unknown = selected.filter((word) => !checks.some(({ name }) => name.startsWith(word)))
if (unknown.length > 0) {
  console.error(`There is no check "${unknown.join(", ")}". There are: ${checks.map(({ name }) => name).join(", ")}`)
  process.exit(2)
}

const start = performance.now()
const failed: Array<string> = []
let ran = 0

for (const { name, command, folder = "." } of checks) {
  if (selected.length > 0 && !selected.some((word) => name.startsWith(word))) continue
  const began = performance.now()
  const { error, status, stdout, stderr } = spawnSync(command, {
    cwd: join(root, folder),
    encoding: "utf8",
    shell: true,
    stdio: ["ignore", "pipe", "pipe"],
    maxBuffer: 1 << 28
  })
  ran += 1
  console.log(`${status === 0 ? "ok    " : "FAILED"}  ${name} (${seconds(began)})`)
  if (status === 0) continue
  failed.push(name)
  console.log(`${error?.message ?? ""}${stdout}${stderr}`.trim().replace(/^(?=.)/gm, "        "))
}

const summary =
  failed.length === 0 ? `${ran} checks passed` : `${failed.length} of ${ran} checks failed: ${failed.join(", ")}`
console.log(`${summary} (${seconds(start)})`)
process.exitCode = failed.length === 0 ? 0 : 1
