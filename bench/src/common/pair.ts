/** The maps of a pair as passes take them, without the service that looks for pins. */
import { CtEntry, type Family, MapSpec, NatDerivation, NatEntry, Tuple, TupleFlags } from "ctmap-core"
import * as Bpf from "ctmap-kernel/Bpf"
import * as BpfMap from "ctmap-kernel/BpfMap"
import * as CtPair from "ctmap-kernel/CtPair"
import type * as KernelClock from "ctmap-kernel/KernelClock"
import type * as Layout from "ctmap-kernel/Layout"
import * as Owner from "ctmap-kernel/Owner"
import * as Scan from "ctmap-kernel/Scan"
import * as Effect from "effect/Effect"
import * as KernelTable from "./kernelTable.ts"
import * as Tables from "./tables.ts"

const layout: Layout.Verdict = { _tag: "Known", release: "1.17", evidence: 1 }
const owner = Owner.global

/** Open maps as a pair of the host. */
export const of = (
  family: Family.Family,
  tcp: BpfMap.BpfMap,
  any: BpfMap.BpfMap,
  nat?: BpfMap.BpfMap
): Effect.Effect<CtPair.CtPair, CtPair.NotAPair> =>
  CtPair.makeUnsafe(
    { _tag: "CtMap", family, transport: "tcp", owner, layout, map: tcp },
    { _tag: "CtMap", family, transport: "any", owner, layout, map: any },
    nat === undefined ? undefined : { _tag: "NatMap", family, owner, mismatch: undefined, map: nat }
  )

/** The properties of an LRU CT map. */
export const ctSpec = (family: Family.Family, maxEntries: number): MapSpec.Properties => ({
  type: MapSpec.mapType.lruHash,
  keySize: Tuple.shape(family).size,
  valueSize: CtEntry.SIZE,
  maxEntries,
  flags: 0
})

/** A clock that stands. */
export const clock = (now: number): KernelClock.KernelClock["Service"] => ({
  source: { mode: "ktime" },
  now: Effect.succeed(now)
})

/** Where the maps of a pair are pinned: one for NAT where it was asked for. */
export interface Pins {
  readonly tcp: string
  readonly any: string
  readonly nat: string
}

export const pinsIn = (root: string): Pins => ({
  tcp: `${root}/tc/globals/cilium_ct4_global`,
  any: `${root}/tc/globals/cilium_ct_any4_global`,
  nat: `${root}/tc/globals/cilium_snat_v4_external`
})

/** Opens a pair, until the end of the scope. */
export const open = Effect.fnUntraced(function* (pins: Pins, withNat: boolean) {
  const [tcp, any] = [yield* BpfMap.open(pins.tcp), yield* BpfMap.open(pins.any)]
  return yield* of("ipv4", tcp, any, withNat ? yield* BpfMap.open(pins.nat) : undefined)
})

/** A pinned pair whose expired entries come back as often as they are deleted. */
export interface Table {
  readonly pins: Pins
  readonly expired: number
  /** NAT entries of the expired entries: two a mapping. */
  readonly natExpired: number
  /** Writes the expired entries, and their NAT entries. */
  readonly refill: () => void
}

/** Makes a pair of IPv4 maps with so many TCP entries, a quarter of them expired, and pins it until the scope closes. */
export const make = Effect.fnUntraced(function* (root: string, entries: number, withNat: boolean) {
  const bpf = yield* Bpf.Bpf
  const pins = pinsIn(root)
  const pinned = (spec: MapSpec.Properties, path: string) =>
    Effect.acquireRelease(BpfMap.createPinned(spec, path), () => Effect.orDie(BpfMap.unpin(path)))
  yield* KernelTable.make(root, entries)
  yield* pinned(ctSpec("ipv4", 1024), pins.any)
  const tcp = yield* BpfMap.open(pins.tcp)
  const ct = yield* filling(tcp, isExpired)
  const parts: Array<readonly [fd: number, part: Filling]> = [[tcp.fd, ct]]
  let natExpired = 0
  if (withNat) {
    const nat = yield* pinned(natSpec(2 * entries), pins.nat)
    const egress = yield* filling(tcp, isEgress)
    const all = mappings(egress)
    write(bpf, nat.fd, all)
    const gone = pick(all, (i) => isExpired(egress, i >> 1))
    parts.push([nat.fd, gone])
    natExpired = gone.count
  }
  const table: Table = {
    pins,
    expired: ct.count,
    natExpired,
    refill: () => {
      for (const [fd, part] of parts) write(bpf, fd, part)
    }
  }
  return table
})

export const natSpec = (maxEntries: number): MapSpec.Properties => ({
  ...ctSpec("ipv4", maxEntries),
  valueSize: NatEntry.shape("ipv4").size
})

/** Entries to write, without gaps. */
export interface Filling {
  readonly keys: Uint8Array
  readonly values: Uint8Array
  readonly keySize: number
  readonly valueSize: number
  readonly count: number
}

/** Entries of one write. */
const CHUNK = 65_536

/** Writes entries, whether they are there or not. */
export const write = (bpf: Bpf.Calls, fd: number, { keys, values, keySize, valueSize, count }: Filling): void => {
  for (let from = 0; from < count; from += CHUNK) {
    const written = Uint32Array.of(Math.min(CHUNK, count - from))
    const rc = bpf.updateBatch(fd, keys.subarray(from * keySize), values.subarray(from * valueSize), written)
    if (rc < 0) throw new Error(`filling a map: errno ${-rc}`)
  }
}

const isExpired = ({ values }: Filling, i: number): boolean =>
  viewOf(values).getUint32(i * CtEntry.SIZE + CtEntry.offset.lifetime, true) < Tables.now

const tuple = Tuple.shape("ipv4")

const isEgress = ({ keys }: Filling, i: number): boolean => keys[i * tuple.size + tuple.flags] === TupleFlags.OUT

const viewOf = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)

/** Some of the entries. */
const pick = (from: Filling, wanted: (i: number) => boolean): Filling => {
  const { keySize, valueSize } = from
  const rows = Array.from({ length: from.count }, (_, i) => i).filter(wanted)
  const keys = new Uint8Array(rows.length * keySize)
  const values = new Uint8Array(rows.length * valueSize)
  for (const [at, i] of rows.entries()) {
    keys.set(from.keys.subarray(i * keySize, (i + 1) * keySize), at * keySize)
    values.set(from.values.subarray(i * valueSize, (i + 1) * valueSize), at * valueSize)
  }
  return { keys, values, keySize, valueSize, count: rows.length }
}

/** Those entries of a map, as they are now. */
const filling = Effect.fnUntraced(function* (map: BpfMap.BpfMap, wanted: (from: Filling, i: number) => boolean) {
  const { keySize, valueSize } = map.info
  const parts: Array<Filling> = []
  yield* Scan.forEachSync(map, ({ keys, values, count }) => {
    const batch = { keys, values, keySize, valueSize, count }
    parts.push(pick(batch, (i) => wanted(batch, i)))
  })
  const joined = (field: "keys" | "values") => new Uint8Array(Buffer.concat(parts.map((part) => part[field])))
  const count = parts.reduce((sum, part) => sum + part.count, 0)
  return { keys: joined("keys"), values: joined("values"), keySize, valueSize, count } satisfies Filling
})

/** Both halves of the mapping of each egress entry: every mapping has a translated address and port of its own. */
const mappings = (egress: Filling): Filling => {
  const shape = NatEntry.shape("ipv4")
  const count = 2 * egress.count
  const [keySize, valueSize] = [tuple.size, shape.size]
  const keys = new Uint8Array(count * keySize)
  const values = new Uint8Array(count * valueSize)
  const words = viewOf(values)
  for (let i = 0; i < egress.count; i++) {
    const ct = egress.keys.subarray(i * keySize, (i + 1) * keySize)
    const half = (number: number) => ({
      key: keys.subarray((2 * i + number) * keySize, (2 * i + number + 1) * keySize),
      value: values.subarray((2 * i + number) * valueSize, (2 * i + number + 1) * valueSize)
    })
    const [out, back] = [half(0), half(1)]
    for (const at of [2 * i, 2 * i + 1]) words.setBigUint64(at * valueSize + shape.created, BigInt(Tables.now), true)
    words.setUint32(2 * i * valueSize + shape.address, 0x0ac8_0000 + (i >> 15))
    words.setUint16(2 * i * valueSize + shape.port, 32_768 + (i & 0x7fff))
    NatDerivation.natOutOfCt(tuple, ct, out.key)
    NatDerivation.natInOfNatOut(tuple, out, back.key)
    // The way back leads to the client of the CT entry.
    back.value.set(out.key.subarray(tuple.saddr, tuple.saddr + tuple.addressSize), shape.address)
    back.value.set(out.key.subarray(tuple.sport, tuple.sport + 2), shape.port)
  }
  return { keys, values, keySize, valueSize, count }
}
