/** The datapath of `npm start`: connections that go on, and what must be left of the tables at the end. */
import { CtEntry, MapKind, MapName, Tuple } from "ctmap-core"
import { Bpf, BpfMap, KernelClock, Pins, Scan } from "ctmap-kernel"
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
    /** What is not as it should be after a pass that decided at a time. */
    check: Effect.fnUntraced(function* (decidedAt: number) {
      const left = new Set<string>()
      const maps = new Set([...entries.values()].map(({ map }) => map))
      for (const map of maps) {
        const { keySize } = map.info
        yield* Scan.forEachSync(map, ({ keys, count }) => {
          for (let i = 0; i < count; i++) left.add(nameOf({ map, key: keys.subarray(i * keySize, (i + 1) * keySize) }))
        })
      }
      let cut = 0
      let forgotten = 0
      for (const [name, { isKept, value }] of entries) {
        const isAlive = isKept || lifetimeOf(value) >= decidedAt
        if (isAlive && !left.has(name)) cut++
        if (!isAlive && left.has(name)) forgotten++
      }
      return [
        ...(cut > 0 ? [`${cut} live entries are gone`] : []),
        ...(forgotten > 0 ? [`${forgotten} expired entries are still there`] : [])
      ]
    })
  }
})

const nameOf = ({ map, key }: Pick<Entry, "map" | "key">): string => `${map.name} ${Buffer.from(key).toString("hex")}`

const words = (value: Uint8Array): DataView => new DataView(value.buffer, value.byteOffset, value.byteLength)

const lifetimeOf = (value: Uint8Array): number => words(value).getUint32(CtEntry.offset.lifetime, true)

const writeLifetime = (value: Uint8Array, lifetime: number): void =>
  words(value).setUint32(CtEntry.offset.lifetime, lifetime, true)
