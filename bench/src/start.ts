/**
 * How long the command line takes to start: the built `ctmap count` on an empty map as a whole process, beside
 * `node -e 0`, which does nothing on the same Node. Run as root, after `npm run build`, by
 * `node --conditions=ctmap-source src/start.ts [--rounds 15]`.
 *
 * Ratios are taken within a round; CPU is what all threads of a process used, which a busy machine disturbs less, as a mean:
 * the kernel tells it in hundredths of a second. What Node keeps compiled between runs is there before the first one that counts.
 */
import { spawnSync } from "node:child_process"
import { existsSync, readFileSync } from "node:fs"
import { hrtime } from "node:process"
import { fileURLToPath } from "node:url"
import { MapKind, MapName, MapSpec } from "ctmap-core"
import * as BpfMap from "ctmap-kernel/BpfMap"
import * as LibBpf from "ctmap-kernel/LibBpf"
import * as Effect from "effect/Effect"
import * as KernelTable from "./common/kernelTable.ts"
import { machine, markdown, median } from "./common/measure.ts"
import { guard, options } from "./common/options.ts"
import * as Rounds from "./common/rounds.ts"

const PROGRAM = fileURLToPath(new URL("../../apps/ctmap/dist/ctmap.js", import.meta.url))
const NOTHING = "node -e 0"
const COUNT = "ctmap count"
const TARGET = 4
const SLOTS = 65_536

/** Nanoseconds of CPU of the processes that have ended, in user space and in the kernel. */
const cpuOfChildren = (): number => {
  const fields = readFileSync("/proc/self/stat", "latin1").split(") ")[1]?.split(" ") ?? []
  return (Number(fields[13]) + Number(fields[14])) * 1e7
}

/** A whole process, which must end well and print this. */
const timed = (args: ReadonlyArray<string>, prints: RegExp) => (): Rounds.Sample => {
  const cpuBefore = cpuOfChildren()
  const begin = hrtime.bigint()
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { encoding: "utf8" })
  const nanoseconds = Number(hrtime.bigint() - begin)
  if (status !== 0 || !prints.test(stdout)) throw new Error(`node ${args.join(" ")}: ${status}: ${stdout}${stderr}`)
  return { entries: 1, nanoseconds, cpu: cpuOfChildren() - cpuBefore }
}

const milliseconds = ({ samples }: Rounds.Result): ReadonlyArray<number> =>
  samples.map(({ nanoseconds }) => nanoseconds / 1e6).toSorted((a, b) => a - b)

const meanCpu = ({ samples }: Rounds.Result): number =>
  samples.reduce((sum, { cpu = 0 }) => sum + cpu, 0) / samples.length / 1e6

const report = Effect.gen(function* () {
  const { rounds } = options()
  const root = yield* KernelTable.bpfFs
  const name = MapName.TCP4_GLOBAL
  const pin = MapName.pinPath(root, name)
  yield* Effect.acquireRelease(BpfMap.createPinned({ ...MapSpec.ct(MapKind.globals[0]), maxEntries: SLOTS }, pin), () =>
    Effect.orDie(BpfMap.unpin(pin))
  )
  const subjects: ReadonlyArray<Rounds.Subject> = [
    { name: NOTHING, run: timed(["-e", "0"], /^$/) },
    { name: "ctmap --version", run: timed([PROGRAM, "--version"], /^ctmap \S+\n$/) },
    { name: COUNT, run: timed([PROGRAM, "count", "--bpffs-root", root, "--map", name], /^0 cilium_ct4_global\n$/) }
  ]
  yield* Rounds.interleave(subjects, { rounds: 2, entries: 1 })
  const results = yield* Rounds.interleave(subjects, { rounds, entries: 1 })
  const [nothing, count] = [results[0]!, results.at(-1)!]
  const rows = results.map((result) => {
    const times = milliseconds(result)
    return [
      result.name,
      median(times).toFixed(1),
      `${times[0]!.toFixed(1)}..${times.at(-1)!.toFixed(1)}`,
      Rounds.ratio(result, nothing).toFixed(2),
      Rounds.fastestRatio(result, nothing).toFixed(2),
      meanCpu(result).toFixed(1),
      (meanCpu(result) / meanCpu(nothing)).toFixed(2)
    ]
  })
  console.log(
    markdown(["whole process", "ms", "fastest..slowest", `× ${NOTHING}`, "× of the fastest", "CPU, ms", "× CPU"], rows)
  )
  console.log(`\n${Rounds.target(`${COUNT} × ${NOTHING}`, { atMost: TARGET }, Rounds.ratio(count, nothing))}`)
})

guard()
if (!existsSync(PROGRAM)) {
  console.error("This benchmark runs the command line as it is built: `npm run build` comes first.")
  process.exit(1)
}
console.log(`${machine()}; ${Rounds.load()}\n`)
await Effect.runPromise(Effect.scoped(report).pipe(Effect.provide(LibBpf.layer)))
