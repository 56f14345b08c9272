/**
 * What it costs to collect a CT map of which a quarter has expired, by each engine, beside C over libbpf and Go over
 * cilium/ebpf, which collect as Cilium does. Run as root by
 * `node --conditions=ctmap-source src/gc.ts [--entries 65536,524288] [--rounds 7] [--only SUBJECT]...`.
 *
 * All collect the same table, which is made whole again before every run. Engines make whole passes: checks, the loading
 * of programs, counts and records are in their time; the start of a process is in nobody's.
 */
import { hrtime } from "node:process"
import { fileURLToPath } from "node:url"
import { MapLimits } from "ctmap-core"
import { GcEngine, GcPass, GcRequest } from "ctmap-gc"
import * as Bpf from "ctmap-kernel/Bpf"
import * as BpfMap from "ctmap-kernel/BpfMap"
import type * as CtPair from "ctmap-kernel/CtPair"
import * as KernelClock from "ctmap-kernel/KernelClock"
import * as LibBpf from "ctmap-kernel/LibBpf"
import * as MapIterator from "ctmap-kernel/MapIterator"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as KernelTable from "./common/kernelTable.ts"
import { machine } from "./common/measure.ts"
import { guard, options, type Options, roundsFor } from "./common/options.ts"
import * as Pair from "./common/pair.ts"
import * as Peers from "./common/peers.ts"
import * as Rounds from "./common/rounds.ts"
import { ctTable, now } from "./common/tables.ts"
import * as Worker from "./common/worker.ts"

/** Above this, NAT is left out. */
const NAT_UP_TO = 524_288

const name = {
  goEach: "Go, batches, delete each",
  goNextKey: "Go, next key",
  cEachNat: "C, batches, delete each, NAT",
  goEachNat: "Go, batches, delete each, NAT",
  hybrid: "ctmap hybrid",
  kernel: "ctmap kernel",
  kernelNat: "ctmap kernel, NAT"
} as const

interface Way {
  readonly engine: GcPass.Engine
  /** By list, which is what a filter, a small table or a kernel of old makes of `hybrid`: how it reads. */
  readonly list?: "iterator" | "batches"
  readonly nat?: boolean
}

const ways: Readonly<Record<string, Way>> = {
  [name.hybrid]: { engine: "hybrid" },
  "ctmap hybrid, by list, iterator": { engine: "hybrid", list: "iterator" },
  "ctmap hybrid, by list, batches": { engine: "hybrid", list: "batches" },
  [name.kernel]: { engine: "kernel" },
  "ctmap portable": { engine: "portable" },
  "ctmap hybrid, NAT": { engine: "hybrid", nat: true },
  "ctmap hybrid, by list, NAT": { engine: "hybrid", list: "iterator", nat: true },
  [name.kernelNat]: { engine: "kernel", nat: true }
}

/** Entries of the table that a worker compiles its code on. */
const WARM = 16_384

/** The process of one engine. */
const worker = (which: string, root: string) =>
  Effect.gen(function* () {
    const way = ways[which]
    if (way === undefined) return yield* Effect.die(new Error(`there is no engine ${which}`))
    const kernel = yield* Bpf.Bpf
    const calls = Worker.noCalls()
    const bpf = Layer.succeed(Bpf.Bpf, Worker.timed(kernel, calls))
    const pair = yield* Pair.open(Pair.pinsIn(root), way.nat === true)
    const sizes = {
      kernelMaxEntries: Number.POSITIVE_INFINITY,
      ...(way.list === undefined ? {} : { walkMinEntries: Number.POSITIVE_INFINITY })
    }
    const engine = yield* GcEngine.make({ engine: way.engine, ...sizes }).pipe(
      Effect.provideService(KernelClock.KernelClock, Pair.clock(now)),
      Effect.provide(yield* Layer.build(way.list === "iterator" ? Layer.provideMerge(MapIterator.layer, bpf) : bpf))
    )
    const sweep = (of: CtPair.CtPair) =>
      Effect.suspend(() => {
        const begin = hrtime.bigint()
        const plan = { serial: 1, requests: [GcRequest.expired], transports: ["tcp"] } as const
        return Effect.map(engine.sweep(of, plan), (pass) => ({
          entries: GcPass.total(pass, "seen"),
          deleted: GcPass.total(pass, "deleted"),
          natDeleted: pass.maps.reduce((sum, { nat }) => sum + nat.egress + nat.ingress, 0),
          nanoseconds: Number(hrtime.bigint() - begin)
        }))
      })
    const tcp = yield* BpfMap.create(Pair.ctSpec("ipv4", 65_536), "bench_warm")
    const any = yield* BpfMap.create(Pair.ctSpec("ipv4", 1024), "bench_warm_any")
    const warm = yield* Pair.of("ipv4", tcp, any)
    const rows = ctTable("ipv4", WARM)
    const { keySize, valueSize } = tcp.info
    const [keys, values] = [rows.keys, rows.values].map(({ buffer }) => new Uint8Array(buffer)) as [
      Uint8Array,
      Uint8Array
    ]
    const warmUp = Effect.suspend(() => {
      Pair.write(kernel, tcp.fd, { keys, values, keySize, valueSize, count: WARM })
      return sweep(warm)
    })
    yield* Worker.serve(sweep(pair), calls, warmUp)
  })

const subjects = Effect.fnUntraced(function* (
  size: number,
  root: string,
  table: Pair.Table,
  peers: Peers.Peers,
  only: ReadonlyArray<string>
) {
  const { collect, go } = peers
  const { pins } = table
  const chunk = `${MapLimits.startingBatchSize(2 * size)}`
  const isSmall = size <= NAT_UP_TO
  const all: Array<Rounds.Subject> = []
  const isWanted = (subject: string): boolean => only.length === 0 || only.includes(subject)
  const add = (subject: string, run: () => Promise<Peers.Collected> | Peers.Collected) =>
    all.push({
      name: subject,
      run: async () => {
        table.refill()
        const sample = await run()
        const wanted = [table.expired, subject.endsWith("NAT") ? table.natExpired : 0]
        if (sample.deleted !== wanted[0] || sample.natDeleted !== wanted[1]) {
          throw new Error(`${subject} deleted ${sample.deleted} and ${sample.natDeleted} of ${wanted.join(" and ")}`)
        }
        return sample
      }
    })
  const peer = (subject: string, command: ReadonlyArray<string> | undefined, ...args: ReadonlyArray<string>) => {
    if (command !== undefined && isWanted(subject)) add(subject, () => Peers.collected([...command, pins.tcp, ...args]))
  }
  peer(name.goEach, go, "collect-each", `${now}`, chunk)
  peer("Go, batches, delete by batch", go, "collect-batch", `${now}`, chunk)
  peer(name.goNextKey, go, "collect-next-key", `${now}`)
  peer("C, batches, delete each", collect, "each", `${now}`, chunk)
  peer("C, batches, delete by batch", collect, "batch", `${now}`, chunk)
  peer("C, next key", collect, "next-key", `${now}`)
  if (isSmall) {
    peer(name.goEachNat, go, "collect-each", `${now}`, chunk, pins.nat)
    peer(name.cEachNat, collect, "each", `${now}`, chunk, pins.nat)
  }
  for (const [which, { nat }] of Object.entries(ways)) {
    if ((nat === true && !isSmall) || !isWanted(which)) continue
    const args = ["--worker", which, "--pin", root]
    const { run } = yield* Worker.start<Peers.Collected>(fileURLToPath(import.meta.url), args)
    add(which, run)
  }
  const missing = only.find((wanted) => !all.some((subject) => subject.name === wanted))
  if (missing !== undefined) {
    return yield* Effect.die(
      new Error(`--only ${missing}: nothing of this name can be measured here with ${size} entries`)
    )
  }
  return all
})

const report = (size: number, results: ReadonlyArray<Rounds.Result>): void => {
  const find = (which: string) => Rounds.find(results, which)
  const base = find(name.goEach) ?? results[0]!
  console.log(`\n${Rounds.table(`${size} entries`, results, base)}\n`)
  const faster = (one: string, than: string, atLeast: number): void => {
    const [fast, slow] = [find(one), find(than)]
    if (fast !== undefined && slow !== undefined) {
      const best = Rounds.fastestRatio(slow, fast).toFixed(2)
      const target = Rounds.target(`${one}: × faster than ${than}`, { atLeast }, Rounds.ratio(slow, fast))
      console.log(`${target} (fastest rounds: ${best})`)
    }
  }
  faster(name.hybrid, name.goEach, 1.5)
  faster(name.kernel, name.goEach, 3.5)
  faster(name.hybrid, name.goNextKey, 6)
  faster(name.kernel, name.goNextKey, 12)
  faster(name.kernelNat, name.goEachNat, 3)
  faster(name.kernelNat, name.cEachNat, 3)
  const hybrid = find(name.hybrid)
  if (hybrid === undefined) return
  const limits = [
    ["longestCall", "CPU of the longest call", size > 1_000_000 ? 4 : 2],
    ["longestWalk", "longest walk by the clock of the kernel", size > 1_000_000 ? 4 : 2],
    ["longestByClock", "longest call by the clock, with what others did meanwhile", size > 1_000_000 ? 4 : 2],
    ["longestStall", "longest stall of the event loop", 10]
  ] as const
  for (const [field, what, atMost] of limits) {
    const worst = (Rounds.largest(hybrid, field) ?? Number.NaN) / 1e6
    const target = Rounds.target(`${name.hybrid}: ${what}, ms`, { atMost }, worst)
    console.log(`${target} (quietest round: ${(Rounds.least(hybrid, field) / 1e6).toFixed(2)})`)
  }
}

const bench = Effect.fnUntraced(function* ({ sizes, rounds, only }: Options) {
  const peers = Peers.prepare(["collect", "go"])
  const bpfFs = yield* KernelTable.bpfFs
  console.log(`${machine()}; ${Rounds.load()}`)
  for (const size of sizes) {
    const measured = Effect.gen(function* () {
      const root = `${bpfFs}/${size}`
      const table = yield* Pair.make(root, size, size <= NAT_UP_TO)
      const all = yield* subjects(size, root, table, peers, only)
      report(size, yield* Rounds.interleave(all, { rounds: roundsFor(rounds, size), entries: size }))
    })
    yield* Effect.scoped(measured)
  }
  console.log(`\n${Rounds.load()}`)
})

const given = options({ takesOnly: true })
if (given.worker === undefined) guard()
await Effect.runPromise(
  Effect.scoped(given.worker === undefined ? bench(given) : worker(given.worker, given.pin)).pipe(
    Effect.provide(LibBpf.layer)
  )
)
