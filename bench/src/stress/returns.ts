/**
 * Connections that come back while the orphan purge deletes their mappings. Run as root by
 * `node --conditions=ctmap-source src/stress/returns.ts [--seconds 20]`. Fails where a mapping that a packet had found is
 * lost, half a mapping is left, or a count does not add up.
 */
import { parseArgs } from "node:util"
import * as LibBpf from "ctmap-kernel/LibBpf"
import * as Effect from "effect/Effect"
import { machine, markdown } from "../common/measure.ts"
import { guard } from "../common/options.ts"
import { problems, run } from "../common/returns.ts"
import * as Rounds from "../common/rounds.ts"

const { values } = parseArgs({ options: { seconds: { type: "string", default: "20" } } })
const seconds = Number(values.seconds)
if (!(seconds > 0)) throw new Error(`--seconds ${values.seconds}: a number above 0`)
guard()

console.log(`${machine()}; ${Rounds.load()}\n`)
const engines = ["program", "portable"] as const
const results = await Effect.runPromise(
  Effect.forEach(engines, (engine) => run(engine, seconds / engines.length)).pipe(Effect.provide(LibBpf.layer))
)
const counts = ["passes", "found", "lost", "missed", "broken", "deleted", "reprieved", "restored", "unsound"] as const
console.log(
  markdown(
    ["purges by", ...counts],
    results.map((result) => [result.engine, ...counts.map((count) => `${result[count]}`)])
  )
)
console.log()
for (const result of results) for (const what of problems(result)) console.log(`- ${result.engine}: ${what}`)
const failed = results.filter((result) => problems(result).length > 0).length
console.log(failed === 0 ? "- no connection lost the mapping that it had found" : `- ${failed} of 2 failed`)
console.log(`\n${Rounds.load()}`)
if (failed > 0) process.exitCode = 1
