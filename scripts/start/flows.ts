/** The datapath of `npm start`: connections that go on, and what must be left of the tables at the end. */
import { CtEntry, CtKey, CtText, type Family, MapKind, MapName, Tuple } from "ctmap-core"
import { Bpf, BpfMap, KernelClock, Pins, Scan } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Mappings from "./mappings.ts"

interface Entry {
  readonly map: BpfMap.BpfMap
  readonly kind: MapKind.MapKind
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
        all.push({ map, kind, key: keys.slice(i * size, (i + 1) * size), value })
      }
    })
  }
  const step = Math.max(1, Math.floor(all.length / kept))
  all.forEach((entry, i) => entries.set(nameOf(entry), { ...entry, isKept: i % step === 0 && i / step < kept }))
  const living = [...entries.values()].filter(({ isKept }) => isKept)
  const mappings = yield* Mappings.read
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
      // In this order: what goes meanwhile takes its NAT entries along, and was due before the last look at the clock.
      const left = new Set<string>()
      for (const { map, kind } of new Map([...entries.values()].map((entry) => [entry.kind, entry])).values())
        for (const name of yield* namesOf(map, kind)) left.add(name)
      const mappingsLeft = yield* Mappings.read
      const seenAt = yield* clock.now
      const lives = ({ isKept, value }: Entry): boolean => isKept || lifetimeOf(value) >= seenAt
      const cut = [...entries].flatMap(([name, entry]) => (lives(entry) && !left.has(name) ? [entry] : []))
      const forgotten = [...entries].flatMap(([name, entry]) => {
        const wasDue = !entry.isKept && lifetimeOf(entry.value) < decidedAt[entry.kind.family]
        return wasDue && left.has(name) ? [entry] : []
      })
      const livesBy = (name: string): boolean => {
        const entry = entries.get(name)
        return entry !== undefined && lives(entry)
      }
      return [
        ...Mappings.problem(cut, textOf, "live entry is gone", "live entries are gone"),
        ...Mappings.problem(forgotten, textOf, "expired entry is still there", "expired entries are still there"),
        ...Mappings.problems(mappings, mappingsLeft, {
          valueOf: (name) => entries.get(name)?.value,
          isThere: (name) => left.has(name),
          lives: livesBy
        })
      ]
    })
  }
})

/** Sets of recorded tables that are played together: the second is full of NAT entries without a connection. */
export const sets = [
  { name: "pods-ktime", at: 5461 },
  { name: "nat-orphans-ktime", at: 5494 }
] as const

const textOf = ({ kind, key, value }: Entry): string => {
  const [ctKey, entry] = [CtKey.fromBytes(kind.family, key), CtEntry.fromBytes("1.17", value)]
  const text = CtText.line(Result.getOrThrow(ctKey), Result.getOrThrow(entry)) ?? Buffer.from(key).toString("hex")
  return `${MapName.global(kind)}  ${text.replace(/ expires=.*/s, "")}`
}

const namesOf = Effect.fnUntraced(function* (map: BpfMap.BpfMap, kind: MapKind.MapKind) {
  const { keySize } = map.info
  const names: Array<string> = []
  yield* Scan.forEachSync(map, ({ keys, count }) => {
    for (let i = 0; i < count; i++) names.push(nameOf({ kind, key: keys.subarray(i * keySize, (i + 1) * keySize) }))
  })
  return names
})

const nameOf = ({ kind, key }: Pick<Entry, "kind" | "key">): string => Mappings.nameOf(MapName.global(kind), key)

const words = (value: Uint8Array): DataView => new DataView(value.buffer, value.byteOffset, value.byteLength)

const lifetimeOf = (value: Uint8Array): number => words(value).getUint32(CtEntry.offset.lifetime, true)

const writeLifetime = (value: Uint8Array, lifetime: number): void =>
  words(value).setUint32(CtEntry.offset.lifetime, lifetime, true)
