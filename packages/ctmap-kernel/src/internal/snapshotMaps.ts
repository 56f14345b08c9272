/** What reading a snapshot and writing it to maps is made of: batches from text, maps from names. */
import { MapName, MapSpec } from "ctmap-core"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Bpf from "../Bpf.ts"
import type { BpfError } from "../BpfError.ts"
import * as BpfMap from "../BpfMap.ts"
import * as Layout from "../Layout.ts"
import * as Pins from "../Pins.ts"
import * as Scan from "../Scan.ts"
import { type Known, Target } from "./restoreTarget.ts"
import { SnapshotError } from "./snapshotError.ts"
import { type Entries, LineReader, type Sizes } from "./snapshotText.ts"

/** Entries written between two yields. */
const CHUNK = 1024

/** Calls `take` with batches of entries of one map each, in the order of the text. */
export const readBatches = <E, R, E2, R2, E3, R3>(
  text: Stream.Stream<Uint8Array, E, R>,
  use: {
    /** A map is named. It may have been named before. */
    readonly open: (name: string, line: number) => Effect.Effect<Sizes, E2, R2>
    readonly take: (name: string, entries: Entries) => Effect.Effect<void, E3, R3>
  }
): Effect.Effect<void, E | E2 | E3 | SnapshotError, R | R2 | R3> =>
  Effect.suspend(() => {
    const reader = new LineReader(CHUNK)
    const drain = Effect.gen(function* () {
      for (;;) {
        const step = reader.next()
        if (step === "input" || step === "end") return
        if (step === "map") reader.use(reader.nextMap, yield* use.open(reader.nextMap, reader.line + 1))
        else if (step === "flush") {
          yield* use.take(reader.map, reader)
          reader.count = 0
          yield* Effect.yieldNow
        } else return yield* step
      }
    })
    return Effect.andThen(
      Stream.runForEach(text, (bytes) => Effect.suspend(() => (reader.push(bytes), drain))),
      Effect.suspend(() => (reader.end(), drain))
    )
  })

/** What a map of this name holds. */
export const knownMap = (
  name: string,
  line: number | undefined,
  options: MapSpec.Options
): Effect.Effect<Known, SnapshotError> =>
  Effect.suspend(() => {
    const denoted = MapName.parse(name)
    switch (denoted?._tag) {
      case "Global":
      case "Local":
      case "ClusterInner": {
        const { kind } = denoted
        return Effect.succeed<Known>({ table: "ct", family: kind.family, spec: MapSpec.ct(kind, options) })
      }
      case "Nat":
      case "ClusterNatInner": {
        const { family } = denoted
        return Effect.succeed<Known>({ table: "nat", family, spec: MapSpec.nat(family, options) })
      }
      default: {
        const why = `names ${JSON.stringify(name)}, which is no CT or NAT map of Cilium`
        return Effect.fail(
          new SnapshotError({
            ...(line === undefined ? {} : { line }),
            why,
            hint: "remove its lines, or correct the name"
          })
        )
      }
    }
  })

/** Opens or makes the map; where it was made, a scope that ends in failure unpins it. */
export const openTarget = Effect.fnUntraced(function* (name: string, line: number, known: Known, replace: boolean) {
  const bpf = yield* Bpf.Bpf
  const path = yield* Pins.pathOf(name)
  const { map, created } = yield* openOrMake(path, known.spec)
  yield* checkLayout(map, line, known)
  const target = new Target(bpf, map, created)
  if (!created && replace) yield* Scan.forEach(map, (batch) => done(target.clear(batch)))
  if (!created && !replace) target.counted(yield* Scan.count(map))
  return target
})

const checkLayout = (
  map: BpfMap.BpfMap,
  line: number | undefined,
  known: Known
): Effect.Effect<void, SnapshotError> => {
  const why = (known.table === "ct" ? Layout.ctMismatch : Layout.natMismatch)(map.info, known.family)
  return why === undefined
    ? Effect.void
    : Effect.fail(
        new SnapshotError({
          ...(line === undefined ? {} : { line }),
          why: `has entries of map ${map.name}, and what is pinned at ${map.path} is another: ${why}`,
          hint: "restore it below another directory with --bpffs-root, or remove the pin"
        })
      )
}

/** Fails, and touches nothing, where a map of this name cannot take so many entries. */
export const checkFit = Effect.fnUntraced(function* (name: string, entries: number, options: Fit) {
  const known = yield* knownMap(name, undefined, options)
  const pinned = yield* BpfMap.open(yield* Pins.pathOf(name)).pipe(
    Effect.catchReason("BpfError", "PinNotFound", () => Effect.succeed(undefined))
  )
  if (pinned !== undefined) yield* checkLayout(pinned, undefined, known)
  const { maxEntries } = pinned?.info ?? known.spec
  if (entries <= maxEntries || options.failOnEviction === false) return
  return yield* new SnapshotError({
    why: `has ${entries} entries of map ${name}, which has room for ${maxEntries}; nothing was touched`,
    hint: "make the map larger (--bpf-ct-global-tcp-max, --bpf-ct-global-any-max, --bpf-nat-global-max), or accept the loss"
  })
}, Effect.scoped)

/** @internal */
export interface Fit extends MapSpec.Options {
  readonly failOnEviction?: boolean
}

const openOrMake = (
  path: string,
  spec: MapSpec.MapSpec
): Effect.Effect<{ readonly map: BpfMap.BpfMap; readonly created: boolean }, BpfError, Bpf.Bpf | Scope.Scope> =>
  BpfMap.open(path).pipe(
    Effect.map((map) => ({ map, created: false })),
    Effect.catchReason("BpfError", "PinNotFound", () =>
      Effect.acquireRelease(BpfMap.createPinned(spec, path), (_, exit) =>
        Exit.isSuccess(exit) ? Effect.void : Effect.ignore(BpfMap.unpin(path))
      ).pipe(Effect.map((map) => ({ map, created: true })))
    )
  )

/** Writes a batch, and counts the map before where it may become full. */
export const write = (target: Target, entries: Entries): Effect.Effect<void, BpfError, Bpf.Bpf> =>
  target.needsCount(entries.count)
    ? Effect.flatMap(Scan.count(target.map), (count) => {
        target.counted(count)
        return done(target.write(entries))
      })
    : done(target.write(entries))

const done = (error: BpfError | undefined): Effect.Effect<void, BpfError> =>
  error === undefined ? Effect.void : Effect.fail(error)
