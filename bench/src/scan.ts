/**
 * What it costs to read a whole CT map, in each way there is, beside C over libbpf, Go over cilium/ebpf and bpftool. Run
 * as root by `node --conditions=ctmap-source src/scan.ts [--sizes 65536,524288] [--rounds 7]`.
 *
 * Nobody looks at the entries: this is the price of getting them. C and Go measure themselves, without their start;
 * bpftool is measured as a whole process, and writes text that nobody reads. CPU time is that of all threads: one of
 * ctmap's ways uses two.
 */
import { cpuUsage, hrtime } from "node:process"
import { fileURLToPath } from "node:url"
import { MapLimits } from "ctmap-core"
import * as Bpf from "ctmap-kernel/Bpf"
import * as BpfMap from "ctmap-kernel/BpfMap"
import * as LibBpf from "ctmap-kernel/LibBpf"
import * as MapIterator from "ctmap-kernel/MapIterator"
import * as RowScan from "ctmap-kernel/RowScan"
import * as Scan from "ctmap-kernel/Scan"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as KernelTable from "./common/kernelTable.ts"
import { machine } from "./common/measure.ts"
import { guard, options, type Options, roundsFor } from "./common/options.ts"
import * as Peers from "./common/peers.ts"
import * as Rounds from "./common/rounds.ts"
import * as Worker from "./common/worker.ts"

/** Above this, reading key by key takes longer than anybody waits, and bpftool too. */
const SLOW_UP_TO = 524_288
/** The size for which there are targets. */
const TARGET_SIZE = 524_288

const BASE = "C, batches of 4096"
const ITERATOR = "ctmap RowScan, iterator"
const BATCH = "ctmap Scan, batches"

const readers: Readonly<Record<string, (map: BpfMap.BpfMap) => Effect.Effect<number, unknown, Bpf.Bpf>>> = {
  [BATCH]: (map) =>
    Effect.map(
      Scan.forEach(map, () => Effect.void, { method: "batch" }),
      ({ entries }) => entries
    ),
  [ITERATOR]: (map) =>
    Effect.map(
      RowScan.forEach(map, () => Effect.void, { method: "iterator" }),
      ({ entries }) => entries
    ),
  "ctmap Scan.count": (map) => Scan.count(map),
  "ctmap Scan, next key": (map) =>
    Effect.map(
      Scan.forEach(map, () => Effect.void, { method: "next-key" }),
      ({ entries }) => entries
    )
}

/** The process of one reader. */
const worker = (name: string, pin: string) =>
  Effect.gen(function* () {
    const calls = Worker.noCalls()
    const bpf = Worker.timed(yield* Bpf.Bpf, calls)
    const map = yield* BpfMap.open(pin)
    const read = readers[name]
    if (read === undefined) return yield* Effect.die(new Error(`there is no reader ${name}`))
    const work = Effect.suspend(() => {
      const [begin, before] = [hrtime.bigint(), cpuUsage()]
      return Effect.map(read(map), (entries) => {
        const nanoseconds = Number(hrtime.bigint() - begin)
        const { user, system } = cpuUsage(before)
        return { entries, nanoseconds, cpu: (user + system) * 1e3 }
      })
    })
    yield* Worker.serve(Effect.provideService(work, Bpf.Bpf, bpf), calls)
  })

const subjects = (size: number, pin: string, peers: Peers.Peers) =>
  Effect.gen(function* () {
    const { c, go, bpftool, peak } = peers
    const chunk = `${MapLimits.startingBatchSize(2 * size)}`
    const isSmall = size <= SLOW_UP_TO
    const all: Array<Rounds.Subject> = []
    const ownTime = (name: string, ...command: ReadonlyArray<string>) =>
      all.push({ name, run: () => Peers.ownTime(command) })
    if (c !== undefined) {
      ownTime(BASE, ...c, pin, "batch", "4096")
      ownTime("C, batches of 1024", ...c, pin, "batch", "1024")
      if (isSmall) ownTime("C, next key and look-up", ...c, pin, "next-key")
    }
    for (const name of Object.keys(readers)) {
      if (!isSmall && name.includes("next key")) continue
      const { run } = yield* Worker.start(fileURLToPath(import.meta.url), ["--worker", name, "--pin", pin])
      all.push({ name, run })
    }
    if (go !== undefined) {
      ownTime(`Go, batches of ${chunk}, copied`, ...go, pin, "batch", chunk)
      ownTime(`Go, batches of ${chunk}, as of 0.9.1`, ...go, pin, "structs", chunk)
      if (isSmall) ownTime("Go, next key and look-up", ...go, pin, "next-key")
    }
    if (bpftool !== undefined && peak !== undefined && isSmall) {
      for (const json of [[], ["-j"]]) {
        const command = [...bpftool, ...json, "map", "dump", "pinned", pin]
        all.push({
          name: ["bpftool", ...json].join(" "),
          rounds: 2,
          run: () => Peers.wholeProcess(peak, command, { output: "/dev/null", entries: size })
        })
      }
    }
    return all
  })

const report = (size: number, results: ReadonlyArray<Rounds.Result>): void => {
  const base = Rounds.find(results, BASE) ?? results[0]!
  console.log(`\n${Rounds.table(`scan of ${size} entries`, results, base)}\n`)
  const best = Rounds.find(results, ITERATOR)
  const batch = Rounds.find(results, BATCH)
  if (size !== TARGET_SIZE || base.name !== BASE || best === undefined || batch === undefined) return
  console.log(Rounds.target("best reader × C's batches", { atMost: 0.8 }, Rounds.ratio(best, base)))
  console.log(Rounds.target("batch reader × C's batches", { atMost: 1.15 }, Rounds.ratio(batch, base)))
}

const bench = ({ sizes, rounds }: Options) =>
  Effect.gen(function* () {
    const peers = Peers.prepare()
    const root = yield* KernelTable.bpfFs
    console.log(`${machine()}; ${Rounds.load()}`)
    for (const size of sizes) {
      const measured = Effect.gen(function* () {
        const pin = yield* KernelTable.make(`${root}/${size}`, size)
        const all = yield* subjects(size, pin, peers)
        const plan = { rounds: roundsFor(rounds, size), entries: size }
        report(size, yield* Rounds.interleave(all, plan))
      })
      yield* Effect.scoped(measured)
    }
    console.log(`\n${Rounds.load()}`)
  })

const given = options()
if (given.worker === undefined) guard()
await Effect.runPromise(
  Effect.scoped(given.worker === undefined ? bench(given) : worker(given.worker, given.pin)).pipe(
    Effect.provide(Layer.provideMerge(MapIterator.layer, LibBpf.layer))
  )
)
