/**
 * Passes over tables that change meanwhile: each engine, in IPv4 and IPv6, with room and with evictions. Run as root by
 * `node --conditions=ctmap-source src/stress/churn.ts [--seconds 64]`. Fails where an entry is left behind or lost, or a
 * count does not add up.
 */
import { parseArgs } from "node:util"
import * as LibBpf from "ctmap-kernel/LibBpf"
import * as Effect from "effect/Effect"
import { cases, problems, type Result, run } from "../common/churn.ts"
import { machine, markdown } from "../common/measure.ts"
import { guard } from "../common/options.ts"
import * as Rounds from "../common/rounds.ts"

const { values } = parseArgs({ options: { seconds: { type: "string", default: "64" } } })
const seconds = Number(values.seconds)
if (!(seconds > 0)) throw new Error(`--seconds ${values.seconds}: a number above 0`)
guard()

console.log(`${machine()}; ${Rounds.load()}\n`)
const results: ReadonlyArray<Result> = await Effect.runPromise(
  Effect.forEach(cases, (one) => run(one, seconds / cases.length)).pipe(Effect.provide(LibBpf.layer))
)
const counts = [
  "passes",
  "seen",
  "deleted",
  "refreshed",
  "vanished",
  "busy",
  "inserted",
  "removed",
  "replaced",
  "left",
  "evicted",
  "leftBehind",
  "lost",
  "unsound"
] as const
const nameOf = ({ engine, by, family, mode }: Result): string => `${engine}, ${by}, ${family}, ${mode}`
console.log(
  markdown(
    ["passes of", ...counts.map((count) => (count === "leftBehind" ? "left behind" : count))],
    results.map((result) => [nameOf(result), ...counts.map((count) => `${result[count]}`)])
  )
)
console.log()
for (const result of results) for (const what of problems(result)) console.log(`- ${nameOf(result)}: ${what}`)
const failed = results.filter((result) => problems(result).length > 0).length
console.log(failed === 0 ? "- every entry is accounted for" : `- ${failed} of ${results.length} failed`)
console.log(`\n${Rounds.load()}`)
if (failed > 0) process.exitCode = 1
