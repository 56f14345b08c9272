/**
 * Passes over tables that a second process changes meanwhile: it inserts, deletes and replaces entries, and fills the
 * table so that the LRU evicts. What must hold is counted, not timed.
 */
import type { Family } from "ctmap-core"
import { GcEngine, type GcEvents, GcPass, GcRequest } from "ctmap-gc"
import * as Bpf from "ctmap-kernel/Bpf"
import * as BpfMap from "ctmap-kernel/BpfMap"
import * as KernelClock from "ctmap-kernel/KernelClock"
import * as MapIterator from "ctmap-kernel/MapIterator"
import * as Scan from "ctmap-kernel/Scan"
import * as Effect from "effect/Effect"
import * as Datapath from "./datapath.ts"
import { capacity, EXPIRED, Flow, FRESH, NOW, numberOf, numbers } from "./flows.ts"
import * as Pair from "./pair.ts"
import { churn as at, spec as sharedSpec, watch } from "./sharedWords.ts"

type Mode = keyof typeof capacity

/** One kind of run. */
export interface Case {
  readonly engine: GcPass.Engine
  /** How it finds what has expired. */
  readonly by: "walk" | "iterator" | "batches"
  readonly family: Family.Family
  /** `roomy`: nothing is ever evicted. `full`: the LRU evicts all the time. */
  readonly mode: Mode
}

const engines = [
  { engine: "hybrid", by: "walk" },
  { engine: "hybrid", by: "iterator" },
  { engine: "hybrid", by: "batches" },
  { engine: "kernel", by: "walk" },
  { engine: "portable", by: "batches" }
] as const

/** Every engine, family and mode. */
export const cases: ReadonlyArray<Case> = (["roomy", "full"] as const).flatMap((mode) =>
  (["ipv4", "ipv6"] as const).flatMap((family) => engines.map(({ engine, by }) => ({ engine, by, family, mode })))
)

/** What the passes of a case came to. */
export interface Result extends Case {
  readonly passes: number
  readonly seen: number
  readonly deleted: number
  readonly refreshed: number
  readonly vanished: number
  readonly busy: number
  /** New entries of this process and of the datapath. */
  readonly inserted: number
  /** Entries that the datapath deleted. */
  readonly removed: number
  readonly replaced: number
  /** Entries at the end. */
  readonly left: number
  /** `inserted - removed - deleted - left`: nobody else can have taken them. */
  readonly evicted: number
  /** Expired entries that were there throughout a pass, and after it. */
  readonly leftBehind: number
  /** Live entries that nobody touched, and that were gone from a roomy table, or told of as deleted from any. */
  readonly lost: number
  /** Passes whose counts do not add up, or that told of another number of entries than they deleted. */
  readonly unsound: number
}

/** What went wrong, in words. */
export const problems = ({ mode, evicted, leftBehind, lost, unsound }: Result): ReadonlyArray<string> => [
  ...(leftBehind > 0 ? [`${leftBehind} expired entries left behind`] : []),
  ...(lost > 0 ? [`${lost} live entries lost`] : []),
  ...(unsound > 0 ? [`the counts of ${unsound} passes do not add up`] : []),
  ...(mode === "roomy" && evicted !== 0 ? [`${evicted} entries unaccounted for`] : []),
  ...(mode === "full" && evicted <= 0 ? [`evictions come to ${evicted}`] : [])
]

/** Makes passes of one kind for so many seconds, at least two. */
export const run = (of: Case, seconds: number) => Effect.scoped(churn(of, seconds))

const churn = Effect.fnUntraced(function* (of: Case, seconds: number) {
  const { engine: which, by, family, mode } = of
  const kernel = yield* Bpf.Bpf
  const tcp = yield* BpfMap.create(Pair.ctSpec(family, capacity[mode]), "churn_ct")
  const any = yield* BpfMap.create(Pair.ctSpec(family, 64), "churn_any")
  const shared = yield* BpfMap.create(sharedSpec, "churn_shared")
  const pair = yield* Pair.of(family, tcp, any)
  const words = watch(kernel, shared.fd)
  const walkMinEntries = by === "walk" ? 0 : Number.POSITIVE_INFINITY
  const make = GcEngine.make({ engine: which, walkMinEntries }).pipe(
    Effect.provideService(KernelClock.KernelClock, Pair.clock(NOW))
  )
  const engine = yield* by === "iterator" ? Effect.provide(make, MapIterator.layer) : make

  const flow = new Flow(family)
  let inserted = 0
  const fill = (role: { readonly first: number; readonly count: number }, lifetime: number): void => {
    for (let n = role.first; n < role.first + role.count; n++) {
      flow.set(n, lifetime)
      if (kernel.update(tcp.fd, flow.key, flow.value, Bpf.NOEXIST) === 0) inserted++
    }
  }
  /** Entries of a role that are there with that lifetime. */
  const present = (role: { readonly first: number; readonly count: number }, lifetime: number): number => {
    let found = 0
    for (let n = role.first; n < role.first + role.count; n++) {
      if (kernel.lookup(tcp.fd, flow.set(n).key, flow.value) === 0 && flow.lifetime === lifetime) found++
    }
    return found
  }

  const datapath = yield* Datapath.start("churn", [family, mode], {
    fds: [tcp.fd, shared.fd],
    isReady: () => Atomics.load(words, at.ready) === 1,
    stop: () => Atomics.store(words, at.stop, 1)
  })
  const sums = { passes: 0, seen: 0, deleted: 0, refreshed: 0, vanished: 0, busy: 0 }
  let [leftBehind, lost, unsound] = [0, 0, 0]
  const end = performance.now() + seconds * 1000
  for (; sums.passes < 2 || performance.now() < end; sums.passes++) {
    fill(numbers.stale, EXPIRED)
    fill(numbers.live, FRESH)
    const told = new Told(family)
    const pass = yield* engine.sweep(pair, {
      serial: sums.passes + 1,
      requests: [GcRequest.expired],
      transports: ["tcp"],
      publish: told.hear
    })
    for (const name of ["seen", "deleted", "refreshed", "vanished", "busy"] as const) {
      sums[name] += GcPass.total(pass, name)
    }
    if (!addsUp(pass) || told.count !== GcPass.total(pass, "deleted")) unsound++
    leftBehind += present(numbers.stale, EXPIRED)
    lost += told.live
    if (mode === "roomy") lost += numbers.live.count - present(numbers.live, FRESH)
  }
  Atomics.store(words, at.stop, 1)
  yield* Effect.promise(() => Datapath.ended(datapath))
  const [byDatapath, removed, replaced] = [at.inserted, at.removed, at.replaced].map((word) => words[word]!) as [
    number,
    number,
    number
  ]
  inserted += byDatapath
  const left = yield* Scan.count(tcp)
  const evicted = inserted - removed - sums.deleted - left
  return { ...of, ...sums, inserted, removed, replaced, left, evicted, leftBehind, lost, unsound } satisfies Result
})

export const addsUp = ({ maps, completed }: GcPass.GcPass): boolean =>
  completed &&
  maps.every(
    ({ seen, kept, deleted, refreshed, vanished, busy, restored, wanted, reasons }) =>
      kept >= 0 &&
      seen === kept + deleted + refreshed + vanished + busy &&
      wanted === deleted + refreshed + vanished + busy &&
      restored <= refreshed &&
      reasons.expired === deleted
  )

/** What a pass tells of: how many entries, and how many of them nobody should have touched. */
class Told {
  count = 0
  live = 0
  readonly #family: Family.Family
  constructor(family: Family.Family) {
    this.#family = family
  }
  readonly hear = ({ count, keys }: GcEvents.Deleted): void => {
    const words = new DataView(keys.buffer, keys.byteOffset, keys.byteLength)
    const size = keys.byteLength / count
    this.count += count
    for (let i = 0; i < count; i++) {
      const number = numberOf(this.#family, words, i * size)
      if (number >= numbers.live.first && number < numbers.live.first + numbers.live.count) this.live++
    }
  }
}
