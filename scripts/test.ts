/**
 * Runs every test, the examples of the documentation among them. Arguments go to vitest. The last line of output is
 * `N passed, N failed`, and the exit code is 0 only if something ran and nothing failed.
 */
import { existsSync, readFileSync, rmSync } from "node:fs"
import { join } from "node:path"
import { root, run } from "./workspace.ts"

interface Results {
  readonly numPassedTests: number
  readonly numFailedTests: number
  readonly numPendingTests: number
  readonly numTodoTests: number
  readonly testResults: ReadonlyArray<{
    readonly status: string
    readonly assertionResults: ReadonlyArray<{ readonly status: string }>
  }>
}

const report = "node_modules/.cache/ctmap/tests.json"
rmSync(join(root, report), { force: true })

const generated = run("node", "scripts/doc-examples.ts")
const reporters = ["--reporter=default", "--reporter=json", `--outputFile.json=${report}`]
const ended = run("vitest", "run", "--config", "vitest.workspace.ts", ...reporters, ...process.argv.slice(2))

const results: Results | undefined = existsSync(join(root, report))
  ? JSON.parse(readFileSync(join(root, report), "utf8"))
  : undefined
const passed = results?.numPassedTests ?? 0
const skipped = (results?.numPendingTests ?? 0) + (results?.numTodoTests ?? 0)
// A file that fails outside its tests, say on import, fails without a failing test: it counts as one.
const broken = results?.testResults.filter(
  ({ status, assertionResults }) => status === "failed" && assertionResults.every((test) => test.status !== "failed")
)
const failed = (results?.numFailedTests ?? 0) + (broken?.length ?? 0) + (generated === 0 ? 0 : 1)

if (generated !== 0) console.log("The examples of the documentation could not be extracted: see the top.")
if (passed + failed === 0) console.log("No test ran.")
console.log(`${passed} passed, ${failed} failed${skipped === 0 ? "" : `, ${skipped} skipped`}`)
process.exitCode = failed > 0 || passed === 0 ? 1 : ended
