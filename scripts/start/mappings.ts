/** The NAT entries below the connections of `npm start`: which there were, whose they are, and which must be left. */
import {
  CtEntry,
  CtEntryFlags,
  Family,
  MapKind,
  MapName,
  NatDerivation,
  NatEntry,
  NatKey,
  NatText,
  Tuple,
  TupleFlags
} from "ctmap-core"
import { BpfMap, Pins, Scan } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"

/** How many there are, and the first of them by name. */
export const problem = <A>(
  found: ReadonlyArray<A>,
  textOf: (one: A) => string,
  one: string,
  many: string
): ReadonlyArray<string> =>
  found.length === 0
    ? []
    : [`${found.length} ${found.length === 1 ? `${one}:` : `${many}, such as`}\n    ${textOf(found[0]!)}`]

interface Mapping {
  readonly family: Family.Family
  readonly key: Uint8Array
  readonly value: Uint8Array
}

/** By names of {@link nameOf}. */
type Mappings = ReadonlyMap<string, Mapping>

/** What is known of connections, by the names of their entries. */
export interface Connections {
  /** The value of the entry that was there at first. */
  readonly valueOf: (name: string) => Uint8Array | undefined
  /** The entry was there a moment ago. */
  readonly isThere: (name: string) => boolean
  /** The entry must have been there all the time, and still is. */
  readonly lives: (name: string) => boolean
}

/** How an entry of a table is called here. */
export const nameOf = (map: string, key: Uint8Array): string => `${map} ${Buffer.from(key).toString("hex")}`

/** Every NAT entry that is there now. */
export const read = Effect.gen(function* () {
  const root = yield* Pins.BpfFsRoot
  const found = new Map<string, Mapping>()
  for (const family of Family.all) {
    const map = yield* BpfMap.open(MapName.pinPath(root, MapName.nat(family)))
    const { keySize, valueSize } = map.info
    yield* Scan.forEachSync(map, ({ keys, values, count }) => {
      for (let i = 0; i < count; i++) {
        const key = keys.slice(i * keySize, (i + 1) * keySize)
        const value = values.slice(i * valueSize, (i + 1) * valueSize)
        found.set(nameOf(MapName.nat(family), key), { family, key, value })
      }
    })
  }
  return found
})

/**
 * What is wrong with the entries that are there `now`: exactly those of the connections that are left may be there, and
 * those of living ones must.
 */
export const problems = (before: Mappings, now: Mappings, connections: Connections): ReadonlyArray<string> => {
  const owners = new Map([...before].map(([name, mapping]) => [name, ownersOf(mapping, connections)]))
  const livesOn = (name: string): boolean => owners.get(name)!.some(connections.lives)
  const isOwned = (name: string): boolean => (owners.get(name) ?? []).some(connections.isThere)
  const cut = [...before].flatMap(([name, mapping]) => (!now.has(name) && livesOn(name) ? [mapping] : []))
  const ownerless = [...now].flatMap(([name, mapping]) => (isOwned(name) ? [] : [mapping]))
  return [
    ...problem(cut, textOf, "NAT entry of a live connection is gone", "NAT entries of live connections are gone"),
    ...problem(
      ownerless,
      textOf,
      "NAT entry is there without a connection",
      "NAT entries are there without a connection"
    )
  ]
}

/** The CT entries that a NAT entry may live by, by name. */
const ownersOf = ({ family, key, value }: Mapping, { valueOf }: Connections): ReadonlyArray<string> => {
  const tuple = Tuple.shape(family)
  const transport = MapKind.transportOf(key[tuple.nexthdr]!)
  const kind = MapKind.globals.find((of) => of.family === family && of.transport === transport)!
  const owner = new Uint8Array(tuple.size)
  const named = (): string => nameOf(MapName.global(kind), owner)
  if ((key[tuple.flags]! & TupleFlags.IN) !== 0) {
    NatDerivation.ctOfNatIn(tuple, { key, value }, owner)
    return [named()]
  }
  NatDerivation.ctOfNatOut(tuple, key, owner)
  const egress = named()
  NatDerivation.dsrCtOfNatOut(tuple, key, owner)
  const direct = valueOf(named())
  return direct !== undefined && (flagsOf(direct) & CtEntryFlags.DSRInternal) !== 0 ? [egress, named()] : [egress]
}

const flagsOf = (value: Uint8Array): number =>
  new DataView(value.buffer, value.byteOffset, value.byteLength).getUint16(CtEntry.offset.flags, true)

const textOf = ({ family, key, value }: Mapping): string => {
  const [natKey, entry] = [NatKey.fromBytes(family, key), NatEntry.fromBytes(family, value)]
  const text = NatText.line(Result.getOrThrow(natKey), Result.getOrThrow(entry)) ?? Buffer.from(key).toString("hex")
  return `${MapName.nat(family)}  ${text.replace(/ Created=.*/s, "")}`
}
