/**
 * What is lost when the pins of a cluster go: the entries of all of its maps, CT and NAT, of both families. They are one
 * question, for a map without the others of its pair is no use: while one holds entries, all stay.
 */
import { type Bpf, type BpfError, BpfMap, Pins, Scan } from "ctmap-kernel"
import * as Effect from "effect/Effect"

/** Entries by the name of the map, of every map that is pinned. */
export type Held = ReadonlyMap<string, number>

export const totalOf = (held: Held): number => [...held.values()].reduce((sum, entries) => sum + entries, 0)

/** As it is now. Errors: those of the pins and maps; `FeatureUnsupported` where a pin is no hash. */
export const heldBy = (clusterId: number): Effect.Effect<Held, BpfError.BpfError, Bpf.Bpf> =>
  Effect.gen(function* () {
    const held = new Map<string, number>()
    const pins = yield* Pins.discover.pipe(Effect.catchReason("BpfError", "PinNotFound", () => Effect.succeed([])))
    for (const { name, path, denoted } of pins) {
      const owner = Pins.ownerOf(denoted)
      if (owner?._tag !== "Cluster" || owner.clusterId !== clusterId) continue
      const entries = yield* countAt(path)
      if (entries !== undefined) held.set(name, entries)
    }
    return held
  })

/** A map that changes faster than it can be counted is not empty; nothing where the pin has gone. */
const countAt = (path: string): Effect.Effect<number | undefined, BpfError.BpfError, Bpf.Bpf> =>
  Effect.scoped(Effect.flatMap(BpfMap.open(path), (map) => Scan.count(map))).pipe(
    Effect.catchTag("Incomplete", ({ entries }) => Effect.succeed(Math.max(entries, 1))),
    Effect.catchReason("BpfError", "PinNotFound", () => Effect.succeed(undefined))
  )

/** `1 entry`, `1,200 entries`. */
export const counted = (entries: number): string =>
  entries === 1 ? "1 entry" : `${entries.toLocaleString("en")} entries`
