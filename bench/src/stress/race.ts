/**
 * How many live entries each engine loses, per million refreshes that race it, beside the loops of others. Run as root,
 * with two CPUs, by `node --conditions=ctmap-source src/stress/race.ts [--seconds 60]`. Fails where a target is missed.
 */
import { parseArgs } from "node:util"
import * as LibBpf from "ctmap-kernel/LibBpf"
import * as Effect from "effect/Effect"
import { machine, markdown } from "../common/measure.ts"
import { guard } from "../common/options.ts"
import { name, race, type Result } from "../common/race.ts"
import * as Rounds from "../common/rounds.ts"

const { values } = parseArgs({ options: { seconds: { type: "string", default: "60" } } })
const seconds = Number(values.seconds)
if (!(seconds > 0)) throw new Error(`--seconds ${values.seconds}: a number above 0`)
guard()

const perMillion = ({ lost, refreshes }: Result): number => (lost / refreshes) * 1e6

console.log(`${machine()}; ${Rounds.load()}\n`)
const results = await Effect.runPromise(Effect.scoped(race(seconds, { pins: true })).pipe(Effect.provide(LibBpf.layer)))
const head = [
  "collected by",
  "passes",
  "refreshes",
  "lost",
  "per million",
  "put back",
  "neither old nor fresh",
  "deleted"
]
const rows = results.map((result) => [
  result.name,
  ...[result.rounds, result.refreshes, result.lost].map(String),
  perMillion(result).toFixed(1),
  ...[result.restored, result.wrong, result.deleted].map(String)
])
console.log(markdown(head, rows))

const find = (which: string): Result => results.find((result) => result.name === which)!
const [hybrid, list, kernel, plain] = [name.hybrid, name.list, name.kernel, name.kernelPlain].map((which) =>
  perMillion(find(which))
) as [number, number, number, number]
const batches = Math.min(perMillion(find(name.each)), perMillion(find(name.batch)))
const nextKey = find(name.nextKey).lost
/** What a way lost, of what next key lost in as many passes; three standard deviations are noise. */
const ofNextKey = (which: string): number => {
  const { lost } = find(which)
  return lost / (nextKey + 3 * Math.sqrt(lost + nextKey))
}
/** Of fewer refreshes, none lost does not show that not more than so many per million are. */
const sample = (atMost: number): number => 3e6 / atMost
const small = [name.hybrid, name.list, name.kernel, name.kernelPlain].filter(
  (which) => find(which).refreshes < sample(which === name.hybrid || which === name.list ? 50 : 100)
)
const targets: ReadonlyArray<readonly [what: string, limit: number, is: number]> = [
  ["hybrid: lost per million", 50, hybrid],
  ["hybrid, by list: lost per million", 50, list],
  ["kernel: lost per million", 100, kernel],
  ["kernel, CAP_BPF only: lost per million", 100, plain],
  ["hybrid: 4,000 × what it loses, of what the better batch loop does", 1, (hybrid * 4000) / batches],
  ["kernel: 4,000 × what it loses, of what the better batch loop does", 1, (kernel * 4000) / batches],
  ["the worst of these ways: the same", 1, (Math.max(hybrid, list, kernel, plain) * 4000) / batches],
  ["portable: lost, of what next key lost in as many passes, with noise", 1, ofNextKey(name.portable)],
  ["auto, CAP_BPF only: the same", 1, ofNextKey(name.plain)],
  ["rows with too few refreshes to show it", 0, small.length],
  ["entries that came back wrong", 0, results.reduce((sum, { wrong }) => sum + wrong, 0)]
]
console.log()
for (const [what, atMost, is] of targets) console.log(Rounds.target(what, { atMost }, is))
console.log(`\n${Rounds.load()}`)
if (targets.some(([, atMost, is]) => !(is <= atMost))) process.exitCode = 1
