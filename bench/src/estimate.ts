/**
 * What an estimate of a table costs beside a count of it, and how far off it is. Run as root by
 * `node --conditions=ctmap-source src/estimate.ts [--sizes 65536,524288] [--rounds 9]`.
 *
 * Both look at the same map in the same rounds, in this process, and find the entries and those that have expired. The
 * places of each round are others.
 */
import { MapKind, MapSpec } from "ctmap-core"
import { TableEstimate } from "ctmap-gc"
import * as Bpf from "ctmap-kernel/Bpf"
import * as BpfMap from "ctmap-kernel/BpfMap"
import * as LibBpf from "ctmap-kernel/LibBpf"
import * as Effect from "effect/Effect"
import * as Random from "effect/Random"
import { machine, markdown, median } from "./common/measure.ts"
import { guard, options } from "./common/options.ts"
import * as Rounds from "./common/rounds.ts"
import { ctTable, makeRandom, now } from "./common/tables.ts"
import { noCalls, timed } from "./common/worker.ts"

/** Per cent of the slots. */
const FILLS = [0, 1, 10, 50, 90]
const CHUNK = 65_536

/** A map of so many slots, and the way to fill it up to a share of them. */
const table = Effect.fnUntraced(function* (slots: number) {
  const bpf = yield* Bpf.Bpf
  const map = yield* BpfMap.create({ ...MapSpec.ct(MapKind.globals[0]), maxEntries: slots }, "estimate")
  const random = makeRandom()
  let written = 0
  const fill = (entries: number): void => {
    for (; written < entries; written += Math.min(CHUNK, entries - written)) {
      const rows = ctTable("ipv4", Math.min(CHUNK, entries - written), random)
      const count = Uint32Array.of(rows.count)
      const rc = bpf.updateBatch(map.fd, new Uint8Array(rows.keys.buffer), new Uint8Array(rows.values.buffer), count)
      if (rc < 0) throw new Error(`filling the map: errno ${-rc}`)
    }
  }
  return { map, fill }
})

interface Look {
  readonly found: TableEstimate.TableEstimate
  readonly longestCall: number
}

const look = Effect.fnUntraced(function* (of: typeof TableEstimate.estimate, map: BpfMap.BpfMap) {
  const calls = noCalls()
  const bpf = timed(yield* Bpf.Bpf, calls)
  // The trial of the cursor is made once per process: not here.
  yield* Effect.provideService(TableEstimate.obstacle, Bpf.Bpf, bpf)
  calls.longest = 0
  const found = yield* Effect.provideService(of(map, { expiredBefore: now }), Bpf.Bpf, bpf)
  return { found, longestCall: calls.longest } satisfies Look
})

const middle = (numbers: ReadonlyArray<number>): number => median(numbers.toSorted((a, b) => a - b))
const most = (numbers: ReadonlyArray<number>): number => Math.max(...numbers)
const percent = (share: number): string => `${(100 * share).toFixed(2)} %`

const measured = Effect.fnUntraced(function* (map: BpfMap.BpfMap, rounds: number) {
  const pairs: Array<{ readonly estimated: Look; readonly counted: Look }> = []
  for (let round = -2; round < rounds; round++) {
    const estimated = yield* look(TableEstimate.estimate, map).pipe(Random.withSeed(round))
    const counted = yield* look(TableEstimate.count, map)
    if (round >= 0) pairs.push({ estimated, counted })
  }
  const truth = pairs[0]?.counted.found.entries ?? 0
  const off = pairs.map(({ estimated, counted }) => Math.abs(estimated.found.entries - counted.found.entries))
  const expired = pairs.map(({ estimated, counted }) =>
    Math.abs((estimated.found.expiredRatio ?? 0) - (counted.found.expiredRatio ?? 0))
  )
  const share = (entries: number): string => (truth === 0 ? "0" : percent(entries / truth))
  return [
    `${truth}`,
    pairs.at(-1)?.estimated.found.method ?? "",
    middle(pairs.map(({ estimated }) => estimated.found.millis)).toFixed(2),
    middle(pairs.map(({ counted }) => counted.found.millis)).toFixed(2),
    middle(pairs.map(({ estimated, counted }) => counted.found.millis / estimated.found.millis)).toFixed(1),
    share(off.reduce((sum, each) => sum + each, 0) / off.length),
    share(most(off)),
    share(middle(pairs.map(({ estimated }) => estimated.found.error))),
    percent(most(expired)),
    most(pairs.map(({ estimated }) => estimated.longestCall)).toFixed(2),
    most(pairs.map(({ counted }) => counted.longestCall)).toFixed(2)
  ]
})

const bench = Effect.gen(function* () {
  const { sizes, rounds } = options()
  console.log(`${machine()}; ${Rounds.load()}\n`)
  const rows: Array<ReadonlyArray<string>> = []
  for (const slots of sizes) {
    const all = Effect.gen(function* () {
      const { map, fill } = yield* table(slots)
      for (const share of FILLS) {
        fill(Math.floor((slots * share) / 100))
        rows.push([`${slots}`, ...(yield* measured(map, rounds))])
      }
    })
    yield* Effect.scoped(all)
  }
  const head = [
    "slots",
    "entries",
    "method",
    "ms",
    "ms, counted",
    "× faster",
    "off, mean",
    "off, worst",
    "error it states",
    "expired off, worst",
    "longest call, ms",
    "counted, ms"
  ]
  console.log(`${markdown(head, rows)}\n\n${Rounds.load()}`)
})

guard()
await Effect.runPromise(bench.pipe(Effect.provide(LibBpf.layer)))
