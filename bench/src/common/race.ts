/**
 * How many live entries each way of collecting loses, in a test built to hit the window: see `packages/ctmap-gc/docs/race.md`.
 *
 * One CPU makes passes over a table whose entries have all expired. At the moment of its first deletion, or a little
 * later, a program on another CPU refreshes all of them in random order, as a datapath does. Lost is what was there when
 * it was refreshed, and is gone after the pass.
 */
import { hrtime } from "node:process"
import { CtEntry } from "ctmap-core"
import { GcEngine, GcPass, GcRequest } from "ctmap-gc"
import * as Bpf from "ctmap-kernel/Bpf"
import * as BpfMap from "ctmap-kernel/BpfMap"
import * as CompareAndDelete from "ctmap-kernel/CompareAndDelete"
import type * as CtPair from "ctmap-kernel/CtPair"
import * as KernelClock from "ctmap-kernel/KernelClock"
import { Refresher } from "ctmap-testing"
import * as Effect from "effect/Effect"
import * as Datapath from "./datapath.ts"
import { median } from "./measure.ts"
import * as Pair from "./pair.ts"
import { race as at, spec as sharedSpec, watch, wordsOf } from "./sharedWords.ts"
import * as UserSpace from "./userSpace.ts"

/** All expired at the start of a round. */
const ENTRIES = 256
const KEY = 14
const EXPIRED = 100
const NOW = 1000
const FRESH = 5000

/** What became of the entries of a way, over all its rounds. */
export interface Result {
  readonly name: string
  readonly rounds: number
  /** Of entries that were there, by the datapath. */
  readonly refreshes: number
  /** Of those, gone after the pass. */
  readonly lost: number
  /** Of those, there with another lifetime than the datapath wrote. */
  readonly wrong: number
  readonly deleted: number
  /** Saved after their deletion, as the pass counts them. */
  readonly restored: number
}

/** One way of collecting. */
interface Way {
  readonly name: string
  /** Collects once, through calls that tell when the first deletion begins. */
  readonly run: Effect.Effect<{ readonly deleted: number; readonly restored: number }, unknown>
}

/** Names of the ways, for those who compare them. */
export const name = {
  hybrid: "ctmap hybrid",
  list: "ctmap hybrid, by list",
  plain: "ctmap auto, CAP_BPF only",
  kernel: "ctmap kernel",
  kernelPlain: "ctmap kernel, CAP_BPF only",
  portable: "ctmap portable",
  nextKey: "next key, look-up, deletion",
  each: "batch look-up, deletion each",
  batch: "batch look-up, batch deletion"
} as const

/** Each entry in system calls of its own. */
const ONE_BY_ONE: ReadonlySet<string> = new Set([name.plain, name.portable, name.nextKey])

/** The moment at which deleting begins, and how long it takes. */
class Trigger {
  #isArmed = false
  #began = 0n
  #last = 0n
  readonly #go: () => void
  constructor(go: () => void) {
    this.#go = go
  }
  arm(): void {
    this.#isArmed = true
  }
  begin(): void {
    if (!this.#isArmed) return
    this.#isArmed = false
    this.#began = this.#last = hrtime.bigint()
    this.#go()
  }
  /** One call has deleted all there is; where nobody says so, deleting lasts until the end of the pass. */
  ended<A>(answer: A): A {
    this.#last = hrtime.bigint()
    return answer
  }
  /** Nanoseconds that the deleting took; asked for when the pass has ended. */
  get took(): number {
    return Number((this.#last > this.#began ? this.#last : hrtime.bigint()) - this.#began)
  }
}

/** The same kernel: what deletes, or looks at an entry to delete it, pulls the trigger. */
const triggering = (kernel: Bpf.Calls, trigger: Trigger): Bpf.Calls => ({
  ...kernel,
  lookup: (fd, key, value) => {
    trigger.begin()
    return kernel.lookup(fd, key, value)
  },
  delete: (fd, key) => {
    trigger.begin()
    return kernel.delete(fd, key)
  },
  deleteBatch: (fd, keys, count) => {
    trigger.begin()
    return trigger.ended(kernel.deleteBatch(fd, keys, count))
  },
  runProgram: (fd, context, cpu) => {
    // A trial run has no candidates; that of a sweep has a time, and is over at once.
    if (!isList(context)) return kernel.runProgram(fd, context, cpu)
    trigger.begin()
    return trigger.ended(kernel.runProgram(fd, context, cpu))
  },
  runProgramAsync: (fd, context, done) => {
    trigger.begin()
    kernel.runProgramAsync(fd, context, (rc) => done(trigger.ended(rc)))
  }
})

/** Bytes of the context of compare-and-delete, whose first word is the number of candidates. */
const LIST_CONTEXT = 40
const isList = (context: Uint8Array): boolean =>
  context.byteLength === LIST_CONTEXT && new DataView(context.buffer, context.byteOffset).getUint32(0, true) > 0

/** A kernel that does not let this process read kernel memory: tables are not walked, and lists put nothing back. */
const withoutPerfmon = (kernel: Bpf.Calls): Bpf.Calls => {
  const refused = { errno: 1, log: "" }
  const needsPerfmon = ({ programs }: Bpf.ObjectSpec): boolean =>
    programs.some((program) => program === "compare_delete_restore" || program.startsWith("walk"))
  return {
    ...kernel,
    loadObject: (object) => (needsPerfmon(object) ? refused : kernel.loadObject(object)),
    loadObjectAsync: (object, done) =>
      needsPerfmon(object) ? void setImmediate(() => done(refused)) : kernel.loadObjectAsync(object, done)
  }
}

/** Of tables of any size. */
const WALKS = { engine: "hybrid", walkMinEntries: 0 } as const

const engineWay = (label: string, kernel: Bpf.Calls, pair: CtPair.CtPair, options: GcEngine.Options) =>
  Effect.map(
    GcEngine.make(options).pipe(
      Effect.provideService(KernelClock.KernelClock, Pair.clock(NOW)),
      Effect.provideService(Bpf.Bpf, kernel)
    ),
    (made): Way => ({
      name: label,
      run: Effect.map(made.sweep(pair, { serial: 1, requests: [GcRequest.expired], transports: ["tcp"] }), (pass) => ({
        deleted: GcPass.total(pass, "deleted"),
        restored: GcPass.total(pass, "restored")
      }))
    })
  )

const peerWay = (label: string, collect: () => number): Way => ({
  name: label,
  run: Effect.sync(() => ({ deleted: collect(), restored: 0 }))
})

const makeWays = Effect.fnUntraced(function* (kernel: Bpf.Calls, pair: CtPair.CtPair) {
  const { fd } = pair.tcp.map
  const about = { fd, keySize: KEY, expiredBefore: NOW, chunk: 1024 }
  return [
    yield* engineWay(name.hybrid, kernel, pair, WALKS),
    yield* engineWay(name.list, kernel, pair, { engine: "hybrid" }),
    yield* engineWay(name.plain, withoutPerfmon(kernel), pair, { engine: "auto" }),
    yield* engineWay(name.kernel, kernel, pair, { engine: "kernel" }),
    yield* engineWay(name.kernelPlain, withoutPerfmon(kernel), pair, { engine: "kernel" }),
    yield* engineWay(name.portable, kernel, pair, { engine: "portable" }),
    peerWay(name.nextKey, () => UserSpace.nextKey(kernel, about)),
    peerWay(name.each, () => UserSpace.each(kernel, about)),
    peerWay(name.batch, () => UserSpace.batch(kernel, about))
  ] satisfies ReadonlyArray<Way>
})

/**
 * Rounds of all ways in turn, for so many seconds, and for a minute more until it is `enough`. With `pins`, this process
 * keeps to the first CPU from here on.
 */
export const race = Effect.fnUntraced(function* (
  seconds: number,
  {
    enough = () => true,
    pins
  }: { readonly enough?: (results: ReadonlyArray<Result>) => boolean; readonly pins: boolean }
) {
  const kernel = yield* Bpf.Bpf
  const tcp = yield* BpfMap.create(Pair.ctSpec("ipv4", 4096), "race_ct")
  const any = yield* BpfMap.create(Pair.ctSpec("ipv4", 64), "race_any")
  const list = yield* BpfMap.create(Refresher.list, "race_list")
  const shared = yield* BpfMap.create(sharedSpec, "race_shared")
  const pair = yield* Pair.of("ipv4", tcp, any)
  const words = watch(kernel, shared.fd)
  const slots = wordsOf(kernel, list.fd, Refresher.slot.size * Refresher.list.maxEntries)
  Atomics.store(words, at.entries, ENTRIES)
  yield* Datapath.start("refresh", [], {
    fds: [tcp.fd, list.fd, shared.fd],
    isReady: () => Atomics.load(words, at.ready) === 1,
    stop: () => Atomics.store(words, at.round, -1)
  })
  if (pins) Datapath.pinTo(0, process.pid)

  let round = 0
  const trigger = new Trigger(() => Atomics.store(words, at.round, ++round))
  yield* CompareAndDelete.make({ fd: tcp.fd, keySize: KEY, valueSize: CtEntry.SIZE, name: tcp.name })
  const ways = yield* makeWays(triggering(kernel, trigger), pair)
  // Ways that look at one entry after the other are compared pass by pass, so all get the longest one's time.
  const slow = new Spread()
  const spreadOf = (way: string) => (ONE_BY_ONE.has(way) ? slow : new Spread())
  const rounds = ways.map((way) => new Rounds(way, spreadOf(way.name), kernel, tcp.fd, slots))
  const end = performance.now() + seconds * 1000
  const latest = end + 60_000
  const results = () => rounds.map((of) => of.result())
  while (performance.now() < end || (performance.now() < latest && !enough(results()))) {
    for (const of of rounds) {
      of.prepare()
      Atomics.store(words, at.delay, of.spread.delay())
      trigger.arm()
      const { deleted, restored } = yield* of.way.run
      of.spread.took(of.way.name, trigger.took)
      while (Atomics.load(words, at.done) !== round);
      of.count(deleted, restored)
    }
    // The event loop, and with it whoever wants to interrupt.
    yield* Effect.sleep(0)
  }
  return results()
})

/** How late the datapath begins: at most as long as the deleting takes, of several ways the slowest. */
class Spread {
  readonly #times = new Map<string, Array<number>>()
  took(way: string, nanoseconds: number): void {
    const times = this.#times.get(way) ?? []
    this.#times.set(way, times)
    if (times.push(nanoseconds) > 31) times.shift()
  }
  /** Nanoseconds, another number each time. */
  delay(): number {
    const medians = this.#times.values().map((times) => median(times.toSorted((a, b) => a - b)))
    return Math.floor(Math.random() * Math.max(0, ...medians))
  }
}

/** The rounds of one way. */
class Rounds {
  readonly way: Way
  readonly spread: Spread
  readonly #kernel: Bpf.Calls
  readonly #fd: number
  readonly #slots: Int32Array
  readonly #slotBytes: Uint8Array
  readonly #value = new Uint8Array(CtEntry.SIZE)
  #order: ReadonlyArray<number> = []
  #totals = { rounds: 0, refreshes: 0, lost: 0, wrong: 0, deleted: 0, restored: 0 }

  constructor(way: Way, spread: Spread, kernel: Bpf.Calls, fd: number, slots: Int32Array) {
    this.way = way
    this.spread = spread
    this.#kernel = kernel
    this.#fd = fd
    this.#slots = slots
    this.#slotBytes = new Uint8Array(slots.buffer, slots.byteOffset, slots.byteLength)
  }

  /** Writes the entries, expired, and the list of the datapath in a new order. */
  prepare(): void {
    Pair.write(this.#kernel, this.#fd, { keys, values, keySize: KEY, valueSize: CtEntry.SIZE, count: ENTRIES })
    this.#order = shuffled(ENTRIES)
    for (const [slot, i] of this.#order.entries()) {
      this.#slotBytes.set(keyOf(i), slot * Refresher.slot.size + Refresher.slot.key)
      this.#slots[(slot * Refresher.slot.size + Refresher.slot.lifetime) / 4] = FRESH
    }
  }

  count(deleted: number, restored: number): void {
    const totals = this.#totals
    totals.rounds++
    totals.deleted += deleted
    totals.restored += restored
    for (const [slot, i] of this.#order.entries()) {
      if (this.#slots[(slot * Refresher.slot.size + Refresher.slot.hit) / 4] !== 1) continue
      totals.refreshes++
      if (this.#kernel.lookup(this.#fd, keyOf(i), this.#value) < 0) totals.lost++
      else if (new DataView(this.#value.buffer).getUint32(CtEntry.offset.lifetime, true) !== FRESH) totals.wrong++
    }
  }

  result(): Result {
    return { name: this.way.name, ...this.#totals }
  }
}

const keys = new Uint8Array(ENTRIES * KEY)
const values = new Uint8Array(ENTRIES * CtEntry.SIZE)
for (let i = 0; i < ENTRIES; i++) {
  new DataView(keys.buffer).setUint32(i * KEY, Math.imul(i, 2_654_435_761))
  new DataView(values.buffer).setUint32(i * CtEntry.SIZE + CtEntry.offset.lifetime, EXPIRED, true)
}
const keyOf = (i: number): Uint8Array => keys.subarray(i * KEY, (i + 1) * KEY)

const shuffled = (count: number): ReadonlyArray<number> => {
  const order = Array.from({ length: count }, (_, i) => i)
  for (let i = count - 1; i > 0; i--) {
    const j = Math.floor(Math.random() * (i + 1))
    const swapped = order[i] ?? 0
    order[i] = order[j] ?? 0
    order[j] = swapped
  }
  return order
}
