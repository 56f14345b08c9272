/**
 * One entry, by what people know of a connection: Cilium's `Lookup` and `Update`.
 *
 * Owns finding the map and the key, and an update that notices when the datapath was faster. Each call opens the map it
 * needs and closes it again, so there is no cache of open maps behind anybody's back: Cilium's `CloseLocalMaps`, which
 * empties that cache when an endpoint goes, has nothing left to do. What keeps a map open here is a scope: open it with
 * {@link CtMaps} in the scope of the endpoint, use {@link lookupIn} and {@link updateIn}, and it closes with that scope.
 *
 * @see `pkg/maps/ctmap/utils.go` of Cilium, `Lookup`, `Update`, `CloseLocalMaps`
 * @since 0.1.0
 */
import { CtEntry, CtKey, LookupKey, MapKind, type Release } from "ctmap-core"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as Bpf from "./Bpf.ts"
import { BpfError, KeyNotExist } from "./BpfError.ts"
import * as BpfMap from "./BpfMap.ts"
import { CtMaps } from "./CtMaps.ts"
import type * as CtPair from "./CtPair.ts"
import { UnknownLayout } from "./Dump.ts"
import * as Layout from "./Layout.ts"
import type * as Owner from "./Owner.ts"

/**
 * What to look for, and in whose maps.
 *
 * @since 0.1.0
 */
export interface Query extends LookupKey.Flow {
  readonly owner: Owner.Owner
}

/**
 * The map that was given does not hold entries of such a flow.
 *
 * @since 0.1.0
 */
export class WrongMap extends Schema.TaggedError<WrongMap>()("WrongMap", {
  map: Schema.String,
  holds: Schema.String,
  wanted: Schema.String
}) {
  override get message(): string {
    return `map ${this.map} holds ${this.holds} entries, and the flow is ${this.wanted}: look in the other map`
  }
}

/**
 * The datapath changed the entry every time between reading and writing it.
 *
 * @since 0.1.0
 */
export class EntryChanged extends Schema.TaggedError<EntryChanged>()("EntryChanged", {
  map: Schema.String,
  attempts: Schema.Int
}) {
  override get message(): string {
    return (
      `the entry in map ${this.map} changed under each of ${this.attempts} attempts to update it, nothing was written: ` +
      `the connection is busy; try again when it is not`
    )
  }
}

/** @since 0.1.0 */
export type LookupError = BpfError | LookupKey.LookupKeyError | UnknownLayout

/**
 * The entry of a flow, or none.
 *
 * **Details**
 *
 * The map follows from the owner, the family of the addresses and the protocol; the key from {@link LookupKey.make}.
 * Errors: `LookupKeyError` for ends that are no `addr:port` or of two families (Cilium looks up zeros there),
 * `BpfError` where the map does not open (`PinNotFound`), `UnknownLayout`. That there is no entry is no error; Cilium
 * answers `key does not exist`. A look-up does not touch the LRU order.
 *
 * **Example** (Is this connection known?)
 *
 * ```ts
 * import { BpfMap, BpfMemory, CtMaps, Lookup, Owner } from "ctmap-kernel"
 * import * as Effect from "effect/Effect"
 * import * as Layer from "effect/Layer"
 *
 * const flow = { owner: Owner.global, source: "10.0.1.99:34520", destination: "1.1.1.1:80", protocol: 6 }
 * const key = Uint8Array.of(10, 0, 1, 99, 1, 1, 1, 1, 0, 80, 0x86, 0xd8, 6, 0)
 * const program = Effect.gen(function* () {
 *   const maps = yield* CtMaps.CtMaps
 *   const { map } = yield* maps.openOrCreate({ family: "ipv4", transport: "tcp", owner: Owner.global })
 *   yield* BpfMap.update(map, { key, value: new Uint8Array(56) })
 *   return [yield* Lookup.lookup(flow), yield* Lookup.lookup({ ...flow, ingress: true })]
 * })
 * const kernel = CtMaps.layer().pipe(Layer.provideMerge(BpfMemory.layer))
 * const found = await Effect.runPromise(Effect.scoped(program).pipe(Effect.provide(kernel)))
 * found.map((entry) => entry._tag) // => ["Some", "None"]
 * ```
 *
 * @since 0.1.0
 */
export const lookup: (query: Query) => Effect.Effect<Option.Option<CtEntry.CtEntry>, LookupError, Bpf.Bpf | CtMaps> =
  Effect.fn("Lookup.lookup")(function* (query: Query) {
    const key = yield* keyOf(query, query.owner)
    return yield* read(yield* open(query.owner, key), key)
  }, Effect.scoped)

/**
 * As {@link lookup} in a map that is open. Errors: also `WrongMap`.
 *
 * @since 0.1.0
 */
export const lookupIn: (
  map: CtPair.CtMap,
  flow: LookupKey.Flow
) => Effect.Effect<Option.Option<CtEntry.CtEntry>, LookupError | WrongMap, Bpf.Bpf> = Effect.fnUntraced(function* (
  map: CtPair.CtMap,
  flow: LookupKey.Flow
) {
  const key = yield* keyOf(flow, map.owner)
  yield* checkMap(map, key)
  return yield* read(map, key)
})

/** @since 0.1.0 */
export interface UpdateOptions {
  /** How often to start over when the entry changes meanwhile. Default 8. */
  readonly attempts?: number
}

/**
 * Changes the entry of a flow: reads it, has `change` make another of it, and writes that.
 *
 * **Details**
 *
 * Not for the entries of busy connections: the datapath writes to an entry with every packet, in place and without a
 * lock, and a map has no compare-and-swap. Where Cilium writes back its copy however old, this reads the entry once more
 * and starts over with what it finds when that is not what `change` was given, so `change` may run more than once. What
 * the datapath writes in the microsecond between that reading and the writing is still lost. An entry that is gone is
 * not brought back, one that stays the same is not written. In a full LRU map any write evicts an entry.
 *
 * Errors: as {@link lookup}; `KeyNotExist` where there is no entry, without calling `change`; what `change` fails with,
 * and nothing is written then; `EntryChanged` after the last attempt, and nothing is written either. Returns the entry
 * that stands in the map now.
 *
 * @since 0.1.0
 */
export const update: <E, R>(
  query: Query,
  change: Change<E, R>,
  options?: UpdateOptions
) => Effect.Effect<CtEntry.CtEntry, LookupError | EntryChanged | E, Bpf.Bpf | CtMaps | R> = Effect.fn("Lookup.update")(
  function* <E, R>(query: Query, change: Change<E, R>, options?: UpdateOptions) {
    const key = yield* keyOf(query, query.owner)
    return yield* write(yield* open(query.owner, key), key, change, options)
  },
  Effect.scoped
)

/**
 * As {@link update} in a map that is open. Errors: also `WrongMap`.
 *
 * @since 0.1.0
 */
export const updateIn: <E, R>(
  map: CtPair.CtMap,
  flow: LookupKey.Flow,
  change: Change<E, R>,
  options?: UpdateOptions
) => Effect.Effect<CtEntry.CtEntry, LookupError | WrongMap | EntryChanged | E, Bpf.Bpf | R> = Effect.fnUntraced(
  function* <E, R>(map: CtPair.CtMap, flow: LookupKey.Flow, change: Change<E, R>, options?: UpdateOptions) {
    const key = yield* keyOf(flow, map.owner)
    yield* checkMap(map, key)
    return yield* write(map, key, change, options)
  }
)

/** Makes another entry of one, of the same release. @since 0.1.0 */
export type Change<E = never, R = never> = (entry: CtEntry.CtEntry) => Effect.Effect<CtEntry.CtEntry, E, R>

// internal

const keyOf = (flow: LookupKey.Flow, owner: Owner.Owner): Effect.Effect<CtKey.CtKey, LookupKey.LookupKeyError> =>
  Effect.suspend(() => Effect.fromResult(LookupKey.make(flow, owner._tag === "Endpoint" ? "local" : "global")))

const open = (owner: Owner.Owner, key: CtKey.CtKey) =>
  CtMaps.use((maps) => maps.open({ owner, family: key.family, transport: MapKind.transportOf(key.nexthdr) }))

const checkMap = (map: CtPair.CtMap, key: CtKey.CtKey): Effect.Effect<void, WrongMap> => {
  const holds = MapKind.shortName({ ...map, scope: "global" })
  const wanted = MapKind.shortName({
    family: key.family,
    transport: MapKind.transportOf(key.nexthdr),
    scope: "global"
  })
  return holds === wanted ? Effect.void : Effect.fail(new WrongMap({ map: map.map.name, holds, wanted }))
}

const releaseOf = ({ layout, map }: CtPair.CtMap): Effect.Effect<Release.Release, UnknownLayout> =>
  Effect.suspend(() => {
    const release = Layout.releaseOf(layout)
    return release === undefined
      ? Effect.fail(new UnknownLayout({ map: map.name, why: layout._tag === "Unknown" ? layout.why : "" }))
      : Effect.succeed(release)
  })

const decode = (release: Release.Release, value: Uint8Array): CtEntry.CtEntry =>
  Result.getOrThrow(CtEntry.fromBytes(release, value))

const read = (
  map: CtPair.CtMap,
  key: CtKey.CtKey
): Effect.Effect<Option.Option<CtEntry.CtEntry>, BpfError | UnknownLayout, Bpf.Bpf> =>
  Effect.flatMap(releaseOf(map), (release) =>
    Effect.map(
      BpfMap.lookup(map.map, CtKey.toBytes(key)),
      Option.map((value) => decode(release, value))
    )
  )

const write = Effect.fnUntraced(function* <E, R>(
  map: CtPair.CtMap,
  ctKey: CtKey.CtKey,
  change: Change<E, R>,
  { attempts = 8 }: UpdateOptions = {}
) {
  const release = yield* releaseOf(map)
  const key = CtKey.toBytes(ctKey)
  const found = Effect.flatMap(BpfMap.lookup(map.map, key), (value) =>
    Option.isSome(value) ? Effect.succeed(value.value) : Effect.fail(notThere(map.map))
  )
  let before = yield* found
  for (let attempt = 0; attempt < attempts; attempt++) {
    const changed = yield* change(decode(release, before))
    const value = CtEntry.toBytes(changed)
    if (same(before, value)) return changed
    const now = yield* found
    if (same(before, now)) {
      yield* BpfMap.update(map.map, { key, value }, Bpf.EXIST)
      return changed
    }
    before = now
  }
  return yield* new EntryChanged({ map: map.map.name, attempts })
})

const notThere = ({ name, path }: BpfMap.BpfMap): BpfError =>
  new BpfError({
    operation: "lookup",
    errno: 2,
    map: name,
    ...(path === undefined ? {} : { path }),
    reason: new KeyNotExist()
  })

const same = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0
