/** The whole agent on the kernel in memory, under the test clock: time passes in the tables as it does for schedules. */
import { readFileSync } from "node:fs"
import { gunzipSync } from "node:zlib"
import { Health, Hive, Settings } from "ctmap-cell"
import { MapName } from "ctmap-core"
import { Bpf, BpfMemory, CompareAndDelete, KernelSweep, MapIterator, Pins, Snapshot } from "ctmap-kernel"
import { Recorded } from "ctmap-testing"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import { TestClock } from "effect/testing"
import { hive } from "../src/Agent.ts"
import * as Kernel from "../src/cells/kernel.ts"
import { Configuration } from "../src/Configuration.ts"
import { type Level, LogControl } from "../src/Logs.ts"

export const ROOT = "/sys/fs/bpf"
export const limits = { ctTcp: 8192, ctAny: 8192, nat: 8192 }
/** The clock's reading when Cilium's own collector ran over the tables of `pods-ktime`. */
export const COLLECTED_AT = 5462

/** The twin, with the programs that passes load. */
export const makeKernel = () =>
  BpfMemory.make({
    time: BigInt(COLLECTED_AT) * 1_000_000_000n,
    objects: { [CompareAndDelete.object]: CompareAndDelete.twin, [KernelSweep.object]: KernelSweep.twin }
  })

export type Twin = ReturnType<typeof makeKernel>

/** No socket where a real agent has its own, unless a test names one. */
const sources = (flags: () => ReadonlyArray<string>) => {
  const named = flags().some((flag) => flag.startsWith("--api-socket="))
  return { flags: [...flags(), ...(named ? [] : ["--api-socket="])] }
}

/** What the program gives to the hive, for tests: settings as flags, which a test can change. */
export const given = (flags: () => ReadonlyArray<string> = () => []) => {
  let level: Level = "info"
  return Layer.mergeAll(
    Layer.succeed(Configuration, { load: Effect.suspend(() => Settings.load(hive, sources(flags))) }),
    Layer.succeed(LogControl, {
      level: Effect.sync(() => level),
      setLevel: (next) => Effect.sync(() => void (level = next))
    })
  )
}

/** The agent over a twin, with other cells where a test has them replaced, and what the program gives to it. */
export const agent = (
  twin: Twin,
  flags: () => ReadonlyArray<string> = () => [],
  change: (whole: typeof hive) => typeof hive = (whole) => whole,
  around: ReturnType<typeof given> = given(flags)
) =>
  Layer.unwrap(
    Effect.map(Settings.load(hive, sources(flags)), (settings) =>
      Hive.layer(
        change(hive).pipe(
          Hive.replace(
            Kernel.cell,
            Layer.mergeAll(
              Layer.succeed(Bpf.Bpf, twin.calls),
              Layer.succeed(Pins.BpfFsRoot, ROOT),
              Layer.provide(MapIterator.layer, Layer.succeed(Bpf.Bpf, twin.calls))
            )
          )
        ),
        { settings }
      )
    )
  ).pipe(Layer.provide(around))

/** Turns of the event loop in which nobody calls the kernel, after which nobody will until time passes. */
const CALM = 20

/** Programs are loaded on another thread, here in another turn of the event loop: time stands still for what waits for one. */
const calm = ({ control }: Twin): Effect.Effect<void> =>
  Effect.gen(function* () {
    for (let turns = 0, calls = -1; turns < CALM; turns++) {
      if (control.count() !== calls) turns = 0
      calls = control.count()
      yield* Effect.promise(() => new Promise<void>((resolve) => setImmediate(resolve)))
    }
  })

/** Lets time pass for schedules and for tables alike, in steps, and then what that has set going come to its end. */
export const pass = (twin: Twin, input: Duration.Input, step: Duration.Input = "1 second") =>
  Effect.gen(function* () {
    const each = Duration.fromInputUnsafe(step)
    const times = Math.ceil(Duration.toMillis(Duration.fromInputUnsafe(input)) / Duration.toMillis(each))
    for (let i = 0; i < times; i++) {
      twin.control.time += BigInt(Duration.toMillis(each)) * 1_000_000n
      yield* TestClock.adjust(each)
    }
    yield* calm(twin)
  })

/** Pins the recorded tables as they were, times moved by `shift`. */
export const restore = (twin: Twin, shift = 0) =>
  Snapshot.restore(Stream.make(gunzipSync(readFileSync(Recorded.path("pods-ktime", "before.tsv.gz")))), {
    limits,
    shift
  }).pipe(Effect.provideService(Bpf.Bpf, twin.calls))

/** Keys of a map, as text; nothing where it is not pinned. */
export const keysOf = (twin: Twin, name: string): ReadonlySet<string> => {
  const map = twin.control.map(MapName.pinPath(ROOT, name))
  const keys = new Set<string>()
  map?.forEach((key) => void keys.add(Buffer.from(key).toString("hex")))
  return keys
}

/** Keys that Cilium's own collector left in a recorded table. */
export const keysAfter = (name: string): ReadonlySet<string> => {
  const table = Recorded.tables("pods-ktime", "after-gc").get(name)
  const keys = new Set<string>()
  if (table === undefined) return keys
  for (let i = 0; i < table.count; i++) {
    keys.add(Buffer.from(table.keys.subarray(i * table.keySize, (i + 1) * table.keySize)).toString("hex"))
  }
  return keys
}

/** What the recorded set has tables of. */
export const names: ReadonlyArray<string> = [...Recorded.tables("pods-ktime", "before").keys()]

/** Health of a cell or of one of its jobs, as its line says. */
export const healthOf = (...path: ReadonlyArray<string>) =>
  Effect.flatMap(Health.Health, ({ tree }) =>
    Effect.map(tree, (root) => {
      let node = root
      for (const name of path) node = node.parts.find((part) => part.name === name)!
      return `${node.status}${node.message === "" ? "" : `, ${node.message}`}`
    })
  )

/** Whatever is degraded, with its path, as `cell/job: message`. */
export const unwell = Effect.flatMap(Health.Health, ({ tree }) =>
  Effect.map(tree, (root) => {
    const found: Array<string> = []
    const visit = (node: Health.Node, path: ReadonlyArray<string>): void => {
      if (node.status === "degraded") found.push(`${path.join("/")}: ${node.message}`)
      for (const part of node.parts) visit(part, [...path, part.name])
    }
    visit(root, [])
    return found
  })
)
