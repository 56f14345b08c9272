/** What reading a snapshot and writing it to maps is made of: batches from text, maps from names. */
import { MapName, MapSpec } from "ctmap-core"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import type * as BpfMap from "../BpfMap.ts"
import * as Layout from "../Layout.ts"
import type { Known } from "./shiftTimes.ts"
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

/** Fails where the pinned map is not made for the entries of that name. */
export const checkLayout = (
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
