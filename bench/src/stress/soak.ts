/**
 * The agent on tables of 524,288 entries that a datapath uses all the time. Run as root, by
 * `node --conditions=ctmap-source src/stress/soak.ts [--minutes 10] [--entries 524288] [--interval 5] [--program bundle]`.
 * Fails where anything is left behind, lost, complained of, or grows.
 */
import { parseArgs } from "node:util"
import * as LibBpf from "ctmap-kernel/LibBpf"
import * as Effect from "effect/Effect"
import { percentile } from "../common/agent.ts"
import { machine, markdown } from "../common/measure.ts"
import { guard } from "../common/options.ts"
import * as Rounds from "../common/rounds.ts"
import { MOST_DELAY, problems, run } from "../common/soak.ts"

const { values } = parseArgs({
  options: {
    minutes: { type: "string", default: "10" },
    entries: { type: "string", default: "524288" },
    interval: { type: "string", default: "5" },
    program: { type: "string", default: "source" }
  }
})
const numberOf = (name: "minutes" | "entries" | "interval"): number => {
  const number = Number(values[name].replaceAll("_", ""))
  if (!(number > 0)) throw new Error(`--${name} ${values[name]}: a number above 0`)
  return number
}
const { program } = values
if (program !== "source" && program !== "bundle") throw new Error(`--program ${program}: source or bundle`)
const plan = {
  entries: numberOf("entries"),
  seconds: numberOf("minutes") * 60,
  gcInterval: numberOf("interval"),
  orphanInterval: 20,
  program,
  tell: (words: string) => console.error(words)
} as const
guard()

console.log(`${machine()}; ${Rounds.load()}\n`)
const result = await Effect.runPromise(run(plan).pipe(Effect.provide(LibBpf.layer)))
const { cpu, datapath, delays, fds, heap, rss } = result
console.log(
  markdown(
    ["of the passes", "count"],
    [
      ["passes", result.passes],
      ["entries seen", result.seen],
      ["deleted", result.deleted],
      ["refreshed meanwhile, kept", result.refreshedInPasses],
      ["vanished meanwhile", result.vanished],
      ["NAT entries that went with them", result.natDeleted],
      ["expired entries left behind", result.leftBehind],
      ["entries unaccounted for", result.unaccounted],
      ["NAT entries too many or too few", result.natOff]
    ].map((row) => row.map(String))
  )
)
console.log()
console.log(
  markdown(
    ["of the datapath", "count"],
    [
      ["connections made in the roomy table", datapath.inserted],
      ["mappings made", datapath.mapped],
      ["packets of live connections", datapath.refreshed],
      ["of those, entry gone", datapath.cut],
      ["packets that found an expired entry", datapath.raced],
      ["of those, entry gone a second later", datapath.lost],
      ["signals sent", datapath.signals]
    ].map((row) => row.map(String))
  )
)
console.log()
const at = (of: ReadonlyArray<number>) => [0.5, 0.99, 0.999, 1].map((share) => percentile(of, share).toFixed(2))
console.log(
  markdown(
    ["turns of the event loop, ms", "turns", "p50", "p99", "p99.9", "max"],
    [
      ["in passes, without waiting for a CPU", `${delays.passingOwn.length}`, ...at(delays.passingOwn)],
      ["in passes, by the clock", `${delays.passing.length}`, ...at(delays.passing)],
      ["between passes, without waiting for a CPU", `${delays.restingOwn.length}`, ...at(delays.restingOwn)]
    ]
  )
)
console.log()
console.log(
  markdown(
    ["of the process, least", "third quarter", "last quarter", "most"],
    [
      ["memory, MB", rss.halfway.toFixed(1), rss.end.toFixed(1), rss.most.toFixed(1)],
      ["heap without garbage, MB", heap.halfway.toFixed(2), heap.end.toFixed(2), ""],
      ["fds", `${fds.halfway}`, `${fds.end}`, `${fds.most}`]
    ]
  )
)
console.log()
console.log(
  `- CPU: ${(cpu * 100).toFixed(1)} % of a core; stopped in ${result.stopMillis.toFixed(0)} ms with ${result.code}`
)
console.log(Rounds.target("event loop, p99 in passes, ms", { atMost: MOST_DELAY }, percentile(delays.passingOwn, 0.99)))
const wrong = problems(result)
for (const what of wrong) console.log(`- FAILED: ${what}`)
if (wrong.length === 0) console.log("- nothing left behind, lost, complained of, or growing")
console.log(`\n${Rounds.load()}`)
if (wrong.length > 0) process.exitCode = 1
