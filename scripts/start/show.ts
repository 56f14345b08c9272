/** What `npm start` shows: tables, passes as they end, entries as they go, and a summary that checks itself. */
import { readFileSync } from "node:fs"
import { gunzipSync } from "node:zlib"
import { Health, Hive, Settings } from "ctmap-cell"
import { CtText, type Family, MapName } from "ctmap-core"
import { Collector, GcEvents, type GcPass, GcReason, GcRequest, GcRunner } from "ctmap-gc"
import { BpfMap, KernelClock, Pins, Scan, Snapshot } from "ctmap-kernel"
import { Recorded } from "ctmap-testing"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import { Configuration } from "../../apps/ctmap-agent/src/Configuration.ts"
import * as Logs from "../../apps/ctmap-agent/src/Logs.ts"
import * as Flows from "./flows.ts"
import type { Place } from "./place.ts"

/** Connections that go on: their entries are refreshed every second, as packets would. */
const KEPT = 150
/** Entries of a batch of events that are shown. */
const SHOWN = 2

const limits = { ctTcp: 8192, ctAny: 8192, nat: 8192 }
const names = [...Recorded.tables("pods-ktime", "before").keys()]

/** What was seen of the agent's work. */
interface Seen {
  readonly ended: Array<GcPass.GcPass>
  /** Entries that each pass told of. */
  readonly told: Map<string, number>
  lost: number
}

/** Runs for so many seconds, and with `keep` until it is told to stop; whether everything ended as it should. */
export const show = (place: Place, seconds: number, keep: boolean) =>
  Effect.gen(function* () {
    const { now } = yield* KernelClock.KernelClock
    const began = yield* now
    for (const { name, at } of Flows.sets) {
      const text = gunzipSync(readFileSync(Recorded.path(name, "before.tsv.gz")))
      yield* Snapshot.restore(Stream.make(text), { limits, shift: began - at })
    }
    const flows = yield* Flows.read(began, KEPT)
    yield* flows.refresh
    const before = yield* counts
    console.log(`\nTables that Cilium's own datapath wrote, times moved to now:`)
    for (const name of names) console.log(`  ${name.padEnd(26)} ${bar(before.get(name)!)}`)
    console.log(
      `\n${KEPT} connections go on, the others end one after the other. The agent collects every 5 s, and looks for NAT ` +
        `entries without a connection every 12 s, for ${seconds} s.` +
        (place.isReal
          ? " Calls are timed by the clock: that includes waiting for a CPU, on a busy machine most of it."
          : "") +
        "\n"
    )
    return yield* Effect.provide(watch(flows, before, seconds, keep, place), yield* agent(place))
  })

const flagsOf = ({ folder, isReal, root }: Place): ReadonlyArray<string> => [
  ...(isReal ? ["--bpffs-root", root] : []),
  `--api-socket=${folder}/agent.sock`,
  "--conntrack-gc-interval=5s",
  "--orphan-purge-interval=12s",
  "--pressure-interval=5s",
  // What goes wrong is seen in the summary; a log would run through the passes.
  "--log-level=none"
]

/** The agent as a host runs it, but for what the place replaces. */
const agent = (place: Place) =>
  Effect.map(Settings.load(place.hive, { flags: flagsOf(place) }), (settings) =>
    Hive.layer(place.hive, { settings }).pipe(
      Layer.provideMerge(
        Layer.merge(Logs.layer("logfmt"), Layer.succeed(Configuration, { load: Effect.succeed(settings) }))
      )
    )
  )

type Flows = Effect.Success<ReturnType<typeof Flows.read>>

const watch = (flows: Flows, before: Counts, seconds: number, keep: boolean, place: Place) =>
  Effect.gen(function* () {
    const runner = yield* GcRunner.GcRunner
    const { passes } = yield* Collector.Collector
    const seen: Seen = { ended: [], told: new Map(), lost: 0 }
    const events = Stream.merge(runner.observe4, runner.observe6)
    yield* Effect.forkScoped(
      Stream.runForEach(events, (event) => Effect.sync(() => hear(seen, event))),
      { startImmediately: true }
    )
    yield* Effect.forkScoped(
      Stream.runForEach(passes, (pass) =>
        Effect.sync(() => {
          seen.ended.push(pass)
          console.log(line(pass, place.isReal))
        })
      ),
      { startImmediately: true }
    )
    const refreshing = Effect.forever(Effect.andThen(flows.refresh, Effect.sleep("1 second")))
    yield* Effect.forkScoped(refreshing)
    yield* Effect.forkScoped(showNat(before))
    yield* Effect.sleep(Duration.seconds(seconds))

    // The last pass is ours, so that it is known what time it decided by.
    yield* flows.refresh
    const last = yield* runner.run(GcRequest.expired)
    const orphans = yield* runner.purgeOrphans()
    // Observers hear a moment later.
    for (let looks = 0; looks < 100 && sums(seen).length > 0; looks++) yield* Effect.sleep("100 millis")
    const failures = [...last.pairs, ...orphans.pairs].filter(({ exit }) => exit._tag === "Failure")
    const lastPasses = yield* runner.lastPasses
    const decidedBy = (family: Family.Family): number =>
      Math.max(...lastPasses.filter((pass) => pass.family === family).map(({ now }) => now))
    const decidedAt = { ipv4: decidedBy("ipv4"), ipv6: decidedBy("ipv6") }
    const { tree } = yield* Health.Health
    const health = yield* tree
    const problems = [
      ...failures.map(({ pair }) => `the last pass over ${pair} failed`),
      ...(yield* flows.check(decidedAt)),
      ...sums(seen),
      ...(Health.overall(health) === "ok" ? [] : [`the agent is not well:\n${Health.render(health)}`])
    ]
    summary(seen, before, yield* counts)
    for (const problem of problems) console.log(`  NOT AS EXPECTED: ${problem}`)
    if (problems.length === 0) {
      console.log(
        `  as expected: every live entry is there, every expired one is gone with its NAT entries, each was told of once`
      )
    }
    if (keep) {
      const through = `apps/ctmap/dist/ctmap.js`
      console.log(
        `\nThe agent goes on until you stop it (ctrl-C). Ask it from another terminal, after \`npm run build\`:`
      )
      console.log(`  ${through} status --agent=${place.folder}/agent.sock`)
      console.log(`  ${through} list --agent=${place.folder}/agent.sock --where 'tcp and dir out' --limit 5`)
      if (place.isReal) console.log(`  ${through} stats --bpffs-root ${place.root}    # without the agent`)
      return yield* Effect.never
    }
    return problems.length === 0
  }).pipe(Effect.scoped)

const hear = (seen: Seen, event: GcEvents.GcEvent): void => {
  if (event._tag === "Lost") {
    seen.lost += event.entries
    return
  }
  seen.told.set(passOf(event), (seen.told.get(passOf(event)) ?? 0) + event.count)
  const columns = GcEvents.columns(event)
  for (let row = 0; row < Math.min(SHOWN, event.count); row++) {
    const { key, entry } = columns.record(row)
    const text = CtText.line(key, entry)?.trimEnd() ?? ""
    console.log(`      gone: ${GcReason.names[event.reasons[row]!]}: ${text.slice(0, 90)}`)
  }
  if (event.count > SHOWN) console.log(`            and ${event.count - SHOWN} more of ${event.map}`)
}

type Counts = ReadonlyMap<string, number>

/** Entries of each table. */
const counts = Effect.gen(function* () {
  const root = yield* Pins.BpfFsRoot
  const found = new Map<string, number>()
  for (const name of names) {
    const path = MapName.pinPath(root, name)
    found.set(name, yield* Effect.scoped(Effect.flatMap(BpfMap.open(path), (map) => Scan.count(map))))
  }
  return found
})

/** Says when NAT entries have gone. */
const showNat = Effect.fnUntraced(function* (before: Counts) {
  let last = before
  for (;;) {
    yield* Effect.sleep("2 seconds")
    const now = yield* counts
    const changed = names.filter((name) => name.includes("snat") && now.get(name) !== last.get(name))
    if (changed.length > 0) {
      console.log(`  NAT tables: ${changed.map((name) => `${name} ${last.get(name)} -> ${now.get(name)}`).join(", ")}`)
    }
    last = now
  }
})

const WIDTH = 24

/** `1266 entries  ███▍`, of the size that all of them have here. */
const bar = (entries: number): string => {
  const eighths = Math.round((entries / limits.nat) * WIDTH * 8)
  const rest = eighths % 8 === 0 ? "" : "▏▎▍▌▋▊▉"[(eighths % 8) - 1]
  return `${String(entries).padStart(5)} entries  ${"█".repeat(Math.floor(eighths / 8))}${rest}`
}

/** A pass; the twin in memory makes no calls that say anything about a kernel's. */
const line = ({ completed, dryRun, family, maps, serial }: GcPass.GcPass, isReal: boolean): string => {
  const sum = (of: (map: GcPass.MapPass) => number) => maps.reduce((all, map) => all + of(map), 0)
  const reasons = GcReason.names
    .map((name) => [name, sum((map) => map.reasons[name])] as const)
    .filter(([, count]) => count > 0)
    .map(([name, count]) => `${name} ${count}`)
  const nat = sum((map) => map.nat.egress + map.nat.ingress)
  const what = `${sum((map) => map.seen)} seen, ${sum((map) => map.deleted)} deleted`
  const why = reasons.length > 0 ? ` (${reasons.join(", ")})` : ""
  const with_ = nat > 0 ? `, ${nat} NAT entries with them` : ""
  const longest = Math.max(0, ...maps.map(({ longestCallMillis }) => longestCallMillis)).toFixed(1)
  const call = isReal ? `; longest call ${longest} ms` : ""
  const end = completed && !dryRun ? "" : "  INCOMPLETE"
  return `  pass ${String(serial).padStart(3)}  ${family}  ${what}${why}${with_}${call}${end}`
}

const passOf = ({ family, serial }: Pick<GcPass.GcPass, "family" | "serial">): string => `${family} ${serial}`

/** Of passes that have ended: one may be under way. */
const heardOf = ({ ended, told }: Seen): number => ended.reduce((sum, pass) => sum + (told.get(passOf(pass)) ?? 0), 0)

const summary = (seen: Seen, before: Counts, after: Counts): void => {
  const { ended, lost } = seen
  const sum = (of: (map: GcPass.MapPass) => number) =>
    ended.reduce((all, { maps }) => all + maps.reduce((some, map) => some + of(map), 0), 0)
  console.log(
    `\n${ended.length} passes deleted ${sum(({ deleted }) => deleted)} entries and, with them, ` +
      `${sum(({ nat }) => nat.egress + nat.ingress)} NAT entries;\nobservers were told of ${heardOf(seen)}, and missed ${lost}; ` +
      `${sum(({ refreshed }) => refreshed)} were kept because they were refreshed meanwhile`
  )
  for (const name of names) {
    console.log(`  ${name.padEnd(26)} ${String(before.get(name)).padStart(5)} -> ${bar(after.get(name)!)}`)
  }
}

/** Every pass accounts for what it saw, and observers heard of exactly what went. */
const sums = (all: Seen): ReadonlyArray<string> => {
  const { ended, lost } = all
  const told = heardOf(all)
  const maps = ended.flatMap((pass) => pass.maps)
  const wrong = maps.filter(
    ({ seen, kept, deleted, refreshed, vanished, busy }) => seen !== kept + deleted + refreshed + vanished + busy
  )
  const deleted = maps.reduce((sum, map) => sum + map.deleted, 0)
  return [
    ...wrong.map(({ map }) => `the counts of a pass over ${map} do not add up`),
    ...(deleted === told + lost ? [] : [`${deleted} entries were deleted, observers heard of ${told}`])
  ]
}
