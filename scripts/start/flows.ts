/** The datapath of `npm start`: connections that go on, and what must be left of the tables at the end. */
import { CtEntry, Family, MapKind, MapName, NatDerivation, Tuple } from "ctmap-core"
import { Bpf, BpfMap, KernelClock, Pins, Scan } from "ctmap-kernel"
import { Recorded } from "ctmap-testing"
import * as Effect from "effect/Effect"

interface Entry {
  readonly map: BpfMap.BpfMap
  readonly key: Uint8Array
  readonly value: Uint8Array
  readonly isKept: boolean
}

/** How far ahead a refreshed entry expires, in seconds. */
const LIFETIME = 60

/** Reads the tables, and picks `kept` connections, evenly, whose entries will be refreshed. */
export const read = Effect.fnUntraced(function* (now: number, kept: number) {
  const bpf = yield* Bpf.Bpf
  const clock = yield* KernelClock.KernelClock
  const root = yield* Pins.BpfFsRoot
  const entries = new Map<string, Entry>()
  const all: Array<Omit<Entry, "isKept">> = []
  for (const kind of MapKind.globals) {
    const map = yield* BpfMap.open(MapName.pinPath(root, MapName.global(kind)))
    const { size } = Tuple.shape(kind.family)
    yield* Scan.forEachSync(map, ({ keys, values, count }) => {
      for (let i = 0; i < count; i++) {
        const value = values.slice(i * CtEntry.SIZE, (i + 1) * CtEntry.SIZE)
        all.push({ map, key: keys.slice(i * size, (i + 1) * size), value })
      }
    })
  }
  const step = Math.max(1, Math.floor(all.length / kept))
  all.forEach((entry, i) => entries.set(nameOf(entry), { ...entry, isKept: i % step === 0 && i / step < kept }))
  const living = [...entries.values()].filter(({ isKept }) => isKept)
  let latest = now

  return {
    /** What packets do: every kept connection lives on. */
    refresh: Effect.gen(function* () {
      latest = yield* clock.now
      for (const { map, key, value } of living) {
        writeLifetime(value, latest + LIFETIME)
        bpf.update(map.fd, key, value, Bpf.EXIST)
      }
    }),
    /** What is not as it should be after passes that decided at these times; others may have followed them. */
    check: Effect.fnUntraced(function* (decidedAt: Readonly<Record<Family.Family, number>>) {
      const maps = new Set([...entries.values()].map(({ map }) => map))
      const left = new Set<string>()
      for (const map of maps) for (const name of yield* namesOf(map)) left.add(name)
      const seenAt = yield* clock.now
      let cut = 0
      let forgotten = 0
      for (const [name, { isKept, key, value }] of entries) {
        const lifetime = lifetimeOf(value)
        const family = key.byteLength === Tuple.v4.size ? "ipv4" : "ipv6"
        if ((isKept || lifetime >= seenAt) && !left.has(name)) cut++
        if (!isKept && lifetime < decidedAt[family] && left.has(name)) forgotten++
      }
      const orphans = yield* orphansLeft(living)
      return [
        ...(cut > 0 ? [`${cut} live entries are gone`] : []),
        ...(forgotten > 0 ? [`${forgotten} expired entries are still there`] : []),
        ...(orphans > 0 ? [`${orphans} NAT entries are still there that Cilium's own purge took`] : [])
      ]
    })
  }
})

/** Sets of recorded tables that are played together: the second is full of NAT entries without a connection. */
export const sets = [
  { name: "pods-ktime", at: 5461 },
  { name: "nat-orphans-ktime", at: 5494 }
] as const

/** NAT entries that Cilium's purge of orphans took out of the second set, and that are there without a connection. */
const orphansLeft = Effect.fnUntraced(function* (living: ReadonlyArray<Entry>) {
  const root = yield* Pins.BpfFsRoot
  let left = 0
  for (const family of Family.all) {
    const name = MapName.nat(family)
    const before = recorded(name, "after-gc")
    const after = recorded(name, "after-purge")
    // Played together, a connection of one set may own a mapping of the other.
    const owned = new Set(living.flatMap(({ key }) => mappingsOf(family, key, before)))
    const map = yield* BpfMap.open(MapName.pinPath(root, name))
    for (const full of yield* namesOf(map)) {
      const key = full.split(" ")[1]!
      if (before.has(key) && !after.has(key) && !owned.has(key)) left++
    }
  }
  return left
})

/** The NAT entries of a connection, as far as they were recorded. */
const mappingsOf = (family: Family.Family, ctKey: Uint8Array, table: ReadonlyMap<string, Uint8Array>) => {
  const tuple = Tuple.shape(family)
  if (ctKey.byteLength !== tuple.size) return []
  const out = new Uint8Array(tuple.size)
  NatDerivation.natOutOfCt(tuple, ctKey, out)
  const value = table.get(Buffer.from(out).toString("hex"))
  if (value === undefined) return []
  const back = new Uint8Array(tuple.size)
  NatDerivation.natInOfNatOut(tuple, { key: out, value }, back)
  return [out, back].map((key) => Buffer.from(key).toString("hex"))
}

const recorded = (name: string, moment: Recorded.Moment): ReadonlyMap<string, Uint8Array> => {
  const table = Recorded.tables("nat-orphans-ktime", moment).get(name)
  const found = new Map<string, Uint8Array>()
  for (let i = 0; i < (table?.count ?? 0); i++) {
    const { keySize, keys, valueSize, values } = table!
    const key = Buffer.from(keys.subarray(i * keySize, (i + 1) * keySize)).toString("hex")
    found.set(key, values.subarray(i * valueSize, (i + 1) * valueSize))
  }
  return found
}

const namesOf = Effect.fnUntraced(function* (map: BpfMap.BpfMap) {
  const { keySize } = map.info
  const names: Array<string> = []
  yield* Scan.forEachSync(map, ({ keys, count }) => {
    for (let i = 0; i < count; i++) names.push(nameOf({ map, key: keys.subarray(i * keySize, (i + 1) * keySize) }))
  })
  return names
})

const nameOf = ({ map, key }: Pick<Entry, "map" | "key">): string => `${map.name} ${Buffer.from(key).toString("hex")}`

const words = (value: Uint8Array): DataView => new DataView(value.buffer, value.byteOffset, value.byteLength)

const lifetimeOf = (value: Uint8Array): number => words(value).getUint32(CtEntry.offset.lifetime, true)

const writeLifetime = (value: Uint8Array, lifetime: number): void =>
  words(value).setUint32(CtEntry.offset.lifetime, lifetime, true)
