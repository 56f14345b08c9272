/**
 * The agent as a process on tables that a datapath uses all the time, for minutes: what it costs, and whether anything is
 * left behind, lost, or grows.
 */
import { readdirSync } from "node:fs"
import { CtEntry, MapName, MapSpec } from "ctmap-core"
import { GcPass } from "ctmap-gc"
import * as Bpf from "ctmap-kernel/Bpf"
import * as BpfMap from "ctmap-kernel/BpfMap"
import * as Scan from "ctmap-kernel/Scan"
import { Refresher } from "ctmap-testing"
import * as Effect from "effect/Effect"
import * as Agent from "./agent.ts"
import { addsUp } from "./churn.ts"
import { isMapped, lives, numberAt } from "./connections.ts"
import * as Datapath from "./datapath.ts"
import * as KernelTable from "./kernelTable.ts"
import * as Pair from "./pair.ts"
import { soak as at, spec as sharedSpec, watch } from "./sharedWords.ts"

export interface Plan {
  /** Entries of each table. */
  readonly entries: number
  readonly seconds: number
  /** Seconds between two passes, and between two purges of orphans. */
  readonly gcInterval: number
  readonly orphanInterval: number
  readonly program: Agent.Options["program"]
  /** Says what is being done. */
  readonly tell: (words: string) => void
}

/** What a run came to. */
export interface Result {
  readonly plan: Plan
  readonly passes: number
  readonly seen: number
  readonly deleted: number
  readonly refreshedInPasses: number
  readonly vanished: number
  readonly natDeleted: number
  /** Passes whose counts do not add up, or that did not end. */
  readonly unsound: number
  /** What the datapath did: see `sharedWords.ts`. */
  readonly datapath: Readonly<Record<Exclude<keyof typeof at, "ready" | "phase">, number>>
  /** Expired entries that were there throughout a pass, and after it. */
  readonly leftBehind: number
  /** Entries of the roomy table that nobody can have taken, or that nobody made. */
  readonly unaccounted: number
  /** Of NAT, at the end: halves without a connection, and connections without one (negative). */
  readonly natOff: number
  /** Deletions in the metrics, less those of the passes that were logged. */
  readonly metricsOff: number
  /** Of the API. */
  readonly answers: number
  readonly complaints: ReadonlyArray<string>
  readonly reloads: { readonly asked: number; readonly done: number }
  readonly code: number | NodeJS.Signals
  readonly stopMillis: number
  /** Pins that came or went. */
  readonly strayPins: ReadonlyArray<string>
  readonly fds: { readonly halfway: number; readonly end: number; readonly most: number }
  /** Megabytes, in the third quarter and in the last: of the heap what is left without garbage, of the process all it has. */
  readonly heap: { readonly halfway: number; readonly end: number }
  readonly rss: { readonly halfway: number; readonly end: number; readonly most: number }
  /** Share of one core over all the time. */
  readonly cpu: number
  readonly delays: Agent.Delays
}

/** Milliseconds that the event loop may stand still, for all but a hundredth of its turns in passes. */
export const MOST_DELAY = 10

/** Seconds from which on a run is long: a short one ends before everything is compiled and loaded that will be. */
const LONG = 300

/**
 * Growth of the heap and of memory in megabytes, and of fds; and milliseconds for which the loop may stand still, and that
 * stopping may take. A short run is a test among others, on a machine that may have no time for it.
 */
const limits = {
  long: { heap: 1.5, rss: 12, fds: 0, delay: MOST_DELAY, stop: 5000 },
  short: { heap: 8, rss: 150, fds: 12, delay: Number.POSITIVE_INFINITY, stop: Number.POSITIVE_INFINITY }
} as const

/** Seconds for which a run goes on that has not seen everything there is to see in its time. */
const PATIENCE = 120

const problem = (isOne: boolean, words: string): ReadonlyArray<string> => (isOne ? [words] : [])

/** What went wrong, in words. */
export const problems = (result: Result): ReadonlyArray<string> => {
  const { complaints, datapath, fds, heap, plan, rss } = result
  const p99 = Agent.percentile(result.delays.passingOwn, 0.99)
  const most = plan.seconds >= LONG ? limits.long : limits.short
  // What the race stress allows is for refreshes that are aimed at deletions: these are not.
  const lostAtMost = Math.ceil(datapath.raced * 50e-6)
  return [
    ...problem(result.passes < 3, `only ${result.passes} passes`),
    ...problem(result.unsound > 0, `${result.unsound} passes did not end, or their counts do not add up`),
    ...problem(result.leftBehind > 0, `${result.leftBehind} expired entries left behind`),
    ...problem(datapath.cut > 0, `${datapath.cut} entries cut that were never idle`),
    ...problem(datapath.lost > lostAtMost, `${datapath.lost} refreshed entries cut, of ${datapath.raced}`),
    ...problem(result.unaccounted !== 0, `${result.unaccounted} entries unaccounted for`),
    ...problem(result.natOff !== 0, `NAT is off by ${result.natOff} entries`),
    ...problem(result.metricsOff !== 0, `the metrics count ${result.metricsOff} deletions more than the passes`),
    ...problem(result.answers === 0, "no answer of the API"),
    ...complaints.slice(0, 5).map((line) => `the agent complained: ${line}`),
    ...problem(result.reloads.done === 0, `no reload, of ${result.reloads.asked} that were asked for`),
    ...problem(result.code !== 0, `the agent ended with ${result.code}`),
    ...problem(result.stopMillis > most.stop, `the agent took ${result.stopMillis.toFixed(0)} ms to stop`),
    ...problem(result.strayPins.length > 0, `pins are not as they were: ${result.strayPins.join(", ")}`),
    ...problem(fds.end > fds.halfway + most.fds, `${fds.halfway} fds in the third quarter, ${fds.end} in the last`),
    ...problem(!(heap.end - heap.halfway <= most.heap), `the heap grew from ${heap.halfway} to ${heap.end} MB`),
    ...problem(!(rss.end - rss.halfway <= most.rss), `memory grew from ${rss.halfway} to ${rss.end} MB`),
    ...problem(!(p99 <= most.delay), `in passes, a hundredth of the loop's turns took more than ${p99.toFixed(1)} ms`)
  ]
}

/** One run, in a bpffs of its own. */
export const run = (plan: Plan) => Effect.scoped(soak(plan))

const pinned = (spec: MapSpec.Properties, path: string) =>
  Effect.acquireRelease(BpfMap.createPinned(spec, path), () => Effect.ignore(BpfMap.unpin(path)))

const soak = Effect.fnUntraced(function* (plan: Plan) {
  const { entries, gcInterval, orphanInterval, seconds, tell } = plan
  const kernel = yield* Bpf.Bpf
  const root = yield* KernelTable.bpfFs
  const pins = Pair.pinsIn(root)
  const full = yield* pinned(Pair.ctSpec("ipv4", entries), pins.tcp)
  const roomy = yield* pinned(Pair.ctSpec("ipv4", entries), pins.any)
  const nat = yield* pinned(Pair.natSpec(entries), pins.nat)
  const signals = yield* pinned(MapSpec.signals(kernel.possibleCpus()), MapName.pinPath(root, MapName.SIGNALS))
  const list = yield* BpfMap.create(Refresher.list, "soak_list")
  const shared = yield* BpfMap.create(sharedSpec, "soak_shared")
  const words = watch(kernel, shared.fd)
  const before = readdirSync(`${root}/tc/globals`)

  tell("the datapath fills its tables")
  yield* Datapath.start("soak", [`${entries}`, `${gcInterval}`], {
    fds: [full, roomy, nat, list, signals, shared].map(({ fd }) => fd),
    isReady: () => Atomics.load(words, at.ready) === 1,
    stop: () => Atomics.store(words, at.phase, 2)
  })
  tell("the agent starts")
  const agent = yield* Agent.start({
    root,
    program: plan.program,
    gcSeconds: Math.max(1, seconds / 30),
    flags: [
      "--signals",
      `--conntrack-gc-interval=${gcInterval}s`,
      `--orphan-purge-interval=${orphanInterval}s`,
      "--pressure-interval=5s",
      "--presence-interval=2s"
    ]
  })

  const passes = () => agent.passes.filter(({ maps }) => maps.length > 0)
  /** Entries that had expired when the last pass began that has ended by now. */
  const leftBehind = Effect.gen(function* () {
    const { now } = passes().findLast(({ completed }) => completed) ?? { now: 0 }
    let found = 0
    for (const map of [full, roomy]) {
      yield* Scan.forEachSync(map, ({ count, values }) => {
        const view = new DataView(values.buffer, values.byteOffset, values.byteLength)
        for (let i = 0; i < count; i++) {
          if (view.getUint32(i * CtEntry.SIZE + CtEntry.offset.lifetime, true) < now) found++
        }
      })
    }
    return found
  })
  const isOver = () => agent.child.exitCode !== null || agent.child.signalCode !== null
  const sums = { left: 0, asked: 0 }
  // A start takes its time on a machine that does other work.
  const begun = performance.now() + 120_000
  while (passes().length === 0 && performance.now() < begun && !isOver()) yield* Effect.sleep(50)
  const start = performance.now()
  const isOn = (): boolean => {
    const elapsed = (performance.now() - start) / 1000
    const seen = [passes().length > 2, agent.counts.reloads, words[at.raced], words[at.signals]]
    return !isOver() && (elapsed < seconds || (elapsed < seconds + PATIENCE && !seen.every(Boolean)))
  }
  for (let second = 1; isOn(); second++) {
    yield* Effect.sleep(Math.max(0, start + second * 1000 - performance.now()))
    Agent.look(agent)
    if (second % Math.max(2, Math.round(seconds / 20)) === 0) sums.left += yield* leftBehind
    if (second % 5 === 0) yield* Effect.promise(() => Agent.scrape(agent))
    if (second % 7 === 0) {
      sums.asked++
      agent.child.kill("SIGHUP")
    }
    if (second % 30 === 0) tell(`${second} s, ${passes().length} passes`)
  }
  const watched = { ...agent, passes: passes(), reports: agent.reports.slice(), samples: agent.samples.slice() }

  tell("the datapath makes no more connections; what was made expires")
  Atomics.store(words, at.phase, 1)
  const told = Date.now() + PATIENCE * 1000
  while (Atomics.load(words, at.ready) !== 2 && Date.now() < told) yield* Effect.sleep(20)
  const expired = Date.now() + (Math.max(lives.racing, lives.brief.to) + 2) * 1000
  const patience = expired + (orphanInterval * 2 + gcInterval * 2 + 60) * 1000
  const waits = () => Date.now() < patience && !isOver()
  // From then on passes find nothing to delete.
  while (waits() && !passes().some((pass) => pass.completed && pass.startedAtMillis > expired)) yield* Effect.sleep(200)
  /** NAT entries, less those of connections. */
  const natOff = Effect.gen(function* () {
    let wanted = 0
    for (const map of [full, roomy]) {
      yield* Scan.forEachSync(map, ({ count, keys }) => {
        const view = new DataView(keys.buffer, keys.byteOffset, keys.byteLength)
        for (let i = 0; i < count; i++) if (isMapped(numberAt(view, i * map.info.keySize))) wanted += 2
      })
    }
    return (yield* Scan.count(nat)) - wanted
  })
  let off = yield* natOff
  for (; off !== 0 && waits(); off = yield* natOff) yield* Effect.sleep(500)
  sums.left += yield* leftBehind
  const left = yield* Scan.count(roomy)
  const taken = agent.passes
    .flatMap(({ maps }) => maps)
    .filter(({ transport }) => transport === "any")
    .reduce((sum, { deleted }) => sum + deleted, 0)

  const counted = yield* Effect.promise(() => Agent.deletedByMetrics(agent))
  const recorded = agent.passes.reduce((sum, pass) => sum + GcPass.total(pass, "deleted"), 0)

  tell("the agent is told to stop, in the middle of a pass if it can be")
  const last = passes().at(-1)
  if (last !== undefined) {
    const next = last.startedAtMillis + last.millis + gcInterval * 1000 + last.millis / 2
    yield* Effect.sleep(Math.max(0, Math.min(gcInterval * 2000, next - Date.now())))
  }
  const asked = performance.now()
  agent.child.kill("SIGTERM")
  const code = yield* Effect.promise(() => agent.ended)
  const stopMillis = performance.now() - asked
  const after = readdirSync(`${root}/tc/globals`)

  const all = passes()
  const total = (name: Parameters<typeof GcPass.total>[1]) =>
    all.reduce((sum, pass) => sum + GcPass.total(pass, name), 0)
  const of = (word: number): number => words[word]!
  const made = { inserted: of(at.inserted), removed: of(at.removed), mapped: of(at.mapped), signals: of(at.signals) }
  // The last one may have been in the middle of something.
  const whole = all.slice(0, -1)
  return {
    plan,
    passes: all.length,
    seen: total("seen"),
    deleted: total("deleted"),
    refreshedInPasses: total("refreshed"),
    vanished: total("vanished"),
    natDeleted: all
      .flatMap(({ maps }) => maps)
      .reduce((sum, { nat: { egress, ingress } }) => sum + egress + ingress, 0),
    unsound: whole.filter((pass) => !addsUp(pass)).length,
    datapath: { lost: of(at.lost), raced: of(at.raced), cut: of(at.cut), refreshed: of(at.refreshed), ...made },
    leftBehind: sums.left,
    unaccounted: made.inserted - made.removed - taken - left,
    natOff: off,
    complaints: agent.complaints,
    metricsOff: counted - recorded,
    answers: agent.counts.asked,
    reloads: { asked: sums.asked, done: agent.counts.reloads },
    code,
    stopMillis,
    strayPins: [...new Set(before).symmetricDifference(new Set(after))],
    ...resources(watched, seconds),
    delays: Agent.delays(watched)
  } satisfies Result
})

const MB = 1e6
const least = (numbers: ReadonlyArray<number>): number => Math.min(...numbers)
const inMegabytes = (bytes: number): number => Math.round(bytes / (MB / 100)) / 100

/** What the process had from half-time on and in the end: the least in a quarter of the time each, as passes open maps. */
const resources = ({ reports, samples }: Agent.Watched, seconds: number) => {
  const quarter = <A>(of: ReadonlyArray<A>, from: number): ReadonlyArray<A> =>
    of.slice(Math.floor(of.length * from), Math.ceil(of.length * (from + 0.25)))
  const collected = reports.flatMap(({ live }) => live ?? [])
  const halves = <A>(of: ReadonlyArray<A>, number: (one: A) => number) => ({
    halfway: least(quarter(of, 0.5).map(number)),
    end: least(quarter(of, 0.75).map(number)),
    most: Math.max(...of.map(number))
  })
  const heap = halves(collected, inMegabytes)
  return {
    fds: halves(samples, ({ fds }) => fds),
    heap: { halfway: heap.halfway, end: heap.end },
    rss: halves(reports, ({ rss }) => inMegabytes(rss)),
    cpu: ((samples.at(-1)?.cpuMillis ?? 0) - (samples[0]?.cpuMillis ?? 0)) / (seconds * 1000)
  }
}
