/** The half minute of `npm start`: tables, passes as they end, and a summary that checks itself. */
import { readFileSync } from "node:fs"
import { gunzipSync } from "node:zlib"
import { MapName } from "ctmap-core"
import {
  Collector,
  CtMapSources,
  GcConfig,
  GcEngine,
  GcEvents,
  type GcPass,
  GcReason,
  GcRequest,
  GcRunner
} from "ctmap-gc"
import { type Bpf, CtMaps, KernelClock, NatMaps, Pins, Scan, BpfMap, Snapshot } from "ctmap-kernel"
import { Recorded } from "ctmap-testing"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as Stream from "effect/Stream"
import * as Flows from "./flows.ts"

const SET = "pods-ktime"
/** The clock's reading when the tables were recorded. */
const RECORDED_AT = 5461
/** Connections that go on: their entries are refreshed every second, as packets would. */
const KEPT = 150

const limits = { ctTcp: 8192, ctAny: 8192, nat: 8192 }

/** Runs for so many seconds; whether everything ended as it should. */
export const show = (seconds: number) =>
  Effect.gen(function* () {
    const { now } = yield* KernelClock.KernelClock
    const began = yield* now
    const text = gunzipSync(readFileSync(Recorded.path(SET, "before.tsv.gz")))
    const restored = yield* Snapshot.restore(Stream.make(text), { limits, shift: began - RECORDED_AT })
    const flows = yield* Flows.read(began, KEPT)
    console.log(`\nTables that Cilium's own datapath wrote, times moved to now:`)
    for (const { map, now: count } of restored) console.log(`  ${map.padEnd(26)} ${String(count).padStart(5)} entries`)
    console.log(
      `\n${KEPT} connections go on, the others end one after the other. Passes every 5 s, for ${seconds} s:\n`
    )

    const told = { entries: 0, lost: 0 }
    const collector = yield* GcRunner.GcRunner
    const watch = (events: GcRunner.GcRunner["Service"]["observe4"]) =>
      Stream.runForEach(events, (event) =>
        Effect.sync(() => {
          if (event._tag === "Deleted") told.entries += event.count
          else told.lost += event.entries
        })
      )
    yield* Effect.forkScoped(Effect.all([watch(collector.observe4), watch(collector.observe6)], { concurrency: 2 }), {
      startImmediately: true
    })
    const { passes } = yield* Collector.Collector
    const ended: Array<GcPass.GcPass> = []
    yield* Effect.forkScoped(
      Stream.runForEach(passes, (pass) =>
        Effect.sync(() => {
          ended.push(pass)
          console.log(line(pass))
        })
      ),
      { startImmediately: true }
    )
    yield* flows.refresh
    yield* Effect.forkScoped(Effect.forever(Effect.andThen(Effect.sleep(Duration.seconds(1)), flows.refresh)))
    yield* collector.enable
    yield* Effect.sleep(Duration.seconds(seconds))

    // The last pass is ours, so that it is known what time it decided by.
    yield* flows.refresh
    const last = yield* collector.run(GcRequest.expired)
    const orphans = yield* collector.purgeOrphans()
    yield* Effect.yieldNow
    const failures = [...last.pairs, ...orphans.pairs].filter(({ exit }) => exit._tag === "Failure")
    const decidedAt = Math.max(...(yield* collector.lastPasses).map((pass) => pass.now))
    const problems = [
      ...failures.map(({ pair }) => `the last pass over ${pair} failed`),
      ...(yield* flows.check(decidedAt)),
      ...sums(ended, told)
    ]
    yield* summary(ended, told, orphans.deleted)
    for (const problem of problems) console.log(`  NOT AS EXPECTED: ${problem}`)
    if (problems.length === 0) {
      console.log(`  as expected: every live entry is there, every expired one is gone, each of them told of once`)
    }
    return problems.length === 0
  }).pipe(Effect.provide(host))

const line = ({ serial, family, maps, dryRun, completed }: GcPass.GcPass): string => {
  const sum = (of: (map: GcPass.MapPass) => number) => maps.reduce((all, map) => all + of(map), 0)
  const reasons = GcReason.names
    .map((name) => [name, sum((map) => map.reasons[name])] as const)
    .filter(([, count]) => count > 0)
    .map(([name, count]) => `${name} ${count}`)
  const nat = sum((map) => map.nat.egress + map.nat.ingress)
  const what = `${sum((map) => map.seen)} seen, ${sum((map) => map.deleted)} deleted`
  const why = reasons.length > 0 ? ` (${reasons.join(", ")})` : ""
  const with_ = nat > 0 ? `, ${nat} NAT entries with them` : ""
  return `  pass ${String(serial).padStart(3)}  ${family}  ${what}${why}${with_}${completed && !dryRun ? "" : "  INCOMPLETE"}`
}

const summary = (ended: ReadonlyArray<GcPass.GcPass>, told: { readonly entries: number }, orphans: number) =>
  Effect.gen(function* () {
    const root = yield* Pins.BpfFsRoot
    const sum = (of: (map: GcPass.MapPass) => number) =>
      ended.reduce((all, { maps }) => all + maps.reduce((some, map) => some + of(map), 0), 0)
    console.log(
      `\n${ended.length} passes deleted ${sum(({ deleted }) => deleted)} entries; observers were told of ${told.entries}`
    )
    console.log(
      `  kept because they were refreshed meanwhile: ${sum(({ refreshed }) => refreshed)}; orphaned NAT entries: ${orphans}`
    )
    for (const name of Recorded.tables(SET, "before").keys()) {
      const left = yield* Effect.scoped(
        Effect.flatMap(BpfMap.open(MapName.pinPath(root, name)), (map) => Scan.count(map))
      )
      console.log(`  ${name.padEnd(26)} ${String(left).padStart(5)} left`)
    }
  })

/** Every pass accounts for what it saw, and observers heard of exactly what went. */
const sums = (
  ended: ReadonlyArray<GcPass.GcPass>,
  told: { readonly entries: number; readonly lost: number }
): ReadonlyArray<string> => {
  const maps = ended.flatMap((pass) => pass.maps)
  const wrong = maps.filter(
    ({ seen, kept, deleted, refreshed, vanished, busy }) => seen !== kept + deleted + refreshed + vanished + busy
  )
  const deleted = maps.reduce((sum, map) => sum + map.deleted, 0)
  return [
    ...wrong.map(({ map }) => `the counts of a pass over ${map} do not add up`),
    ...(deleted === told.entries + told.lost
      ? []
      : [`${deleted} entries were deleted, observers heard of ${told.entries}`])
  ]
}

const maps = Layer.merge(CtMaps.layer({ limits }), NatMaps.layer({ limits }))
const sources = Layer.provideMerge(CtMapSources.layerNode(), CtMapSources.layer)
const passes = Collector.layer.pipe(Layer.provide(GcEngine.layer()), Layer.provideMerge(GcEvents.layer))
const host: Layer.Layer<GcRunner.GcRunner | Collector.Collector, unknown, Bpf.Bpf | KernelClock.KernelClock> =
  GcRunner.layer().pipe(
    Layer.provideMerge(Layer.mergeAll(sources, passes, GcConfig.layer({ conntrackGcInterval: Duration.seconds(5) }))),
    Layer.provide(maps),
    // What goes wrong is seen in the summary; a log would run through the passes.
    Layer.provideMerge(Logger.layer([]))
  )
