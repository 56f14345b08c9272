/** What the tests of passes work with: the maps of a pair, filled, on either kernel. */
import { CtEntry, type Family, MapSpec, NatEntry, Tuple } from "ctmap-core"
import {
  Bpf,
  type BpfError,
  BpfMap,
  BpfMemory,
  CompareAndDelete,
  CtPair,
  type KernelClock,
  KernelSweep,
  type Layout,
  Owner,
  Scan
} from "ctmap-kernel"
import { Recorded } from "ctmap-testing"
import * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"

/** What a test may use besides what it makes. */
export type Needs = Bpf.Bpf | Scope.Scope

/** A kernel to test on. */
export interface Kernel {
  readonly name: string
  readonly layer: Layer.Layer<Bpf.Bpf, BpfError.BpfError>
}

/** The kernel in memory with the programs that passes load. */
export const objects: BpfMemory.Options["objects"] = {
  [CompareAndDelete.object]: CompareAndDelete.twin,
  [KernelSweep.object]: KernelSweep.twin
}

export const memory: Kernel = { name: "in memory", layer: BpfMemory.layerTest({ objects }) }

export interface Entry {
  readonly key: Uint8Array
  readonly value: Uint8Array
}

/** An entry as the datapath stores it: `daddr` is the originator of a plain entry. */
export const ct = (about: {
  readonly family?: Family.Family
  readonly daddr?: ReadonlyArray<number>
  readonly saddr?: ReadonlyArray<number>
  readonly dport?: number
  readonly sport?: number
  readonly proto?: number
  readonly tupleFlags?: number
  readonly lifetime?: number
  readonly flags?: number
  readonly revNat?: number
  readonly backend?: number
  /** Of 1.20: the NAT address and port of an entry that is no service's. */
  readonly nat?: readonly [address: ReadonlyArray<number>, port: number]
}): Entry => {
  const { family = "ipv4", lifetime = 0, flags = 0, revNat = 0, backend = 0 } = about
  const value = new Uint8Array(CtEntry.SIZE)
  const words = new DataView(value.buffer)
  words.setUint32(CtEntry.offset.lifetime, lifetime, true)
  words.setUint16(CtEntry.offset.flags, flags, true)
  words.setUint16(CtEntry.offset.revNat, revNat)
  words.setUint32(CtEntry.offset.backendId, backend, true)
  if (about.nat !== undefined) {
    value.set(about.nat[0], 0)
    words.setUint16(CtEntry.offset.natPort, about.nat[1])
  }
  return { key: tuple({ family, ...about }), value }
}

const tuple = (about: {
  readonly family: Family.Family
  readonly daddr?: ReadonlyArray<number>
  readonly saddr?: ReadonlyArray<number>
  readonly dport?: number
  readonly sport?: number
  readonly proto?: number
  readonly tupleFlags?: number
}): Uint8Array => {
  const shape = Tuple.shape(about.family)
  const key = new Uint8Array(shape.size)
  const words = new DataView(key.buffer)
  key.set(address(shape.addressSize, about.daddr ?? [1]), shape.daddr)
  key.set(address(shape.addressSize, about.saddr ?? [2]), shape.saddr)
  words.setUint16(shape.dport, about.dport ?? 80)
  words.setUint16(shape.sport, about.sport ?? 1000)
  key[shape.nexthdr] = about.proto ?? 6
  key[shape.flags] = about.tupleFlags ?? 0
  return key
}

/** 10.0.0.n or fd00::n from the last bytes; a whole address as it is. */
export const address = (size: number, bytes: ReadonlyArray<number>): ReadonlyArray<number> =>
  bytes.length === size ? bytes : [...(size === 4 ? [10] : [0xfd]), ...Array(size - 1 - bytes.length).fill(0), ...bytes]

/** A NAT entry, in packet order. */
export const nat = (about: {
  readonly family?: Family.Family
  readonly daddr?: ReadonlyArray<number>
  readonly saddr?: ReadonlyArray<number>
  readonly dport?: number
  readonly sport?: number
  readonly proto?: number
  readonly tupleFlags?: number
  readonly to: readonly [address: ReadonlyArray<number>, port: number]
  readonly created?: number
}): Entry => {
  const { family = "ipv4" } = about
  const shape = NatEntry.shape(family)
  const value = new Uint8Array(shape.size)
  const words = new DataView(value.buffer)
  words.setBigUint64(0, BigInt(about.created ?? 1), true)
  value.set(address(Tuple.shape(family).addressSize, about.to[0]), shape.address)
  words.setUint16(shape.port, about.to[1])
  return { key: tuple({ ...about, family }), value }
}

export interface Filled {
  readonly family?: Family.Family
  readonly owner?: Owner.Owner
  readonly release?: "1.17" | "1.20"
  readonly layout?: Layout.Verdict
  readonly capacity?: number
  /** Ends the names of its maps. */
  readonly name?: string
  readonly type?: number
  readonly tcp?: Iterable<Entry>
  readonly any?: Iterable<Entry>
  /** `undefined`: the pair has no NAT map. */
  readonly nat?: Iterable<Entry>
}

/** Makes the maps of a pair and fills them. */
export const pair = Effect.fnUntraced(function* (content: Filled) {
  const bpf = yield* Bpf.Bpf
  const { family = "ipv4", owner = Owner.global, release = "1.17", capacity = 4096 } = content
  const keySize = Tuple.shape(family).size
  const make = Effect.fnUntraced(function* (name: string, valueSize: number, entries: Iterable<Entry>) {
    const type = content.type ?? MapSpec.mapType.lruHash
    const map = yield* BpfMap.create({ type, keySize, valueSize, maxEntries: capacity, flags: 0 }, name)
    for (const { key, value } of entries) {
      const rc = bpf.update(map.fd, key, value, Bpf.ANY)
      if (rc < 0) throw new Error(`filling ${name}: ${rc}`)
    }
    return map
  })
  const layout: Layout.Verdict = content.layout ?? { _tag: "Known", release, evidence: 1 }
  const suffix = content.name ?? ""
  const digit = family === "ipv4" ? 4 : 6
  const tcp = yield* make(`cilium_ct${digit}_global${suffix}`, CtEntry.SIZE, content.tcp ?? [])
  const any = yield* make(`cilium_ct_any${digit}_global${suffix}`, CtEntry.SIZE, content.any ?? [])
  const natMap =
    content.nat === undefined
      ? undefined
      : yield* make(`cilium_snat_v${digit}_external${suffix}`, NatEntry.shape(family).size, content.nat)
  return yield* CtPair.makeUnsafe(
    { _tag: "CtMap", family, transport: "tcp", owner, layout, map: tcp },
    { _tag: "CtMap", family, transport: "any", owner, layout, map: any },
    natMap === undefined ? undefined : { _tag: "NatMap", family, owner, mismatch: undefined, map: natMap }
  )
})

export const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex")

export const bytes = (text: string): Uint8Array => Uint8Array.from(Buffer.from(text, "hex"))

/** The keys of a map as hex, sorted. */
export const keysOf = (map: BpfMap.BpfMap) => Effect.map(dump(map), (entries) => entries.map(([key]) => key))

/** Keys and values of a map as hex, sorted by key. */
export const dump = Effect.fnUntraced(function* (map: BpfMap.BpfMap) {
  const entries: Array<readonly [key: string, value: string]> = []
  const { keySize, valueSize } = map.info
  yield* Scan.forEachSync(map, ({ keys, values, count }) => {
    for (let i = 0; i < count; i++) {
      const key = hex(keys.subarray(i * keySize, (i + 1) * keySize))
      entries.push([key, hex(values.subarray(i * valueSize, (i + 1) * valueSize))])
    }
  })
  return entries.toSorted(([a], [b]) => (a < b ? -1 : 1))
})

export const keyHex = ({ key }: Entry): string => hex(key)

/** Entries of a recorded table. */
export const recorded = (set: Recorded.SetName, moment: Recorded.Moment, map: string): ReadonlyArray<Entry> => {
  const table = Recorded.tables(set, moment).get(map)
  if (table === undefined) return []
  const { keySize, valueSize } = table
  return Array.from({ length: table.count }, (_, i) => ({
    key: table.keys.subarray(i * keySize, (i + 1) * keySize),
    value: table.values.subarray(i * valueSize, (i + 1) * valueSize)
  }))
}

/** A clock that stands. */
export const ktime = (now: number): KernelClock.KernelClock["Service"] => ({
  source: { mode: "ktime" },
  now: Effect.succeed(now)
})
