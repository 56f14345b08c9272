/** Plays a datapath on the kernel in memory: pins the tables of a host, and makes connections in them. */
import { CtEntry, type Family, MapKind, MapName, MapSpec, NatDerivation, NatEntry, Tuple, TupleFlags } from "ctmap-core"
import type { Twin } from "./stage.ts"
import { limits, ROOT } from "./stage.ts"

export const nat = { ipv4: "cilium_snat_v4_external", ipv6: "cilium_snat_v6_external" } as const

/** Makes a map and pins it, in the place of the one that is pinned. */
export const pin = ({ calls }: Twin, name: string, spec: MapSpec.MapSpec): void => {
  const path = MapName.pinPath(ROOT, name)
  calls.makeDirectory(`${ROOT}/tc`)
  calls.makeDirectory(`${ROOT}/tc/globals`)
  calls.unpin(path)
  const fd = calls.mapCreate(spec, name.slice(0, 15))
  const rc = fd < 0 ? fd : calls.pin(fd, path)
  calls.close(fd)
  if (rc < 0) throw new Error(`${path}: ${rc}`)
}

export const unpin = ({ calls }: Twin, name: string): void => void calls.unpin(MapName.pinPath(ROOT, name))

/** Pins the CT maps of the host of both families, their NAT maps, and signals. */
export const pinAll = (twin: Twin): void => {
  for (const kind of MapKind.globals) pin(twin, MapName.global(kind), MapSpec.ct(kind, { limits }))
  for (const family of ["ipv4", "ipv6"] as const) pin(twin, nat[family], MapSpec.nat(family, { limits }))
  pin(twin, MapName.SIGNALS, MapSpec.signals(twin.calls.possibleCpus()))
}

/** A pinned map from inside the kernel: what is done to it is no call of the agent's. */
export const map = ({ control }: Twin, name: string) => {
  const found = control.map(MapName.pinPath(ROOT, name))
  if (found === undefined) throw new Error(`${name} is not pinned`)
  return found
}

export const sizeOf = (twin: Twin, name: string): number => map(twin, name).size()

export interface About {
  readonly family?: Family.Family
  /** Seconds until it expires. */
  readonly life: number
  /** With both halves of a NAT mapping. Default yes. */
  readonly mapped?: boolean
  /** Without an entry of its own: the NAT mapping is an orphan. */
  readonly orphan?: boolean
}

/** A TCP connection of a number, from inside to the world. */
export const connect = (
  twin: Twin,
  number: number,
  { family = "ipv4", life, mapped = true, orphan = false }: About
) => {
  const tuple = Tuple.shape(family)
  const shape = NatEntry.shape(family)
  const [key, value] = [new Uint8Array(tuple.size), new Uint8Array(CtEntry.SIZE)]
  const [words, fields] = [new DataView(key.buffer), new DataView(value.buffer)]
  words.setUint32(tuple.daddr, 0x5db8_d822)
  words.setUint32(tuple.saddr, 0x0a00_0000 + number)
  words.setUint16(tuple.dport, 40_000)
  words.setUint16(tuple.sport, 443)
  words.setUint8(tuple.nexthdr, 6)
  words.setUint8(tuple.flags, TupleFlags.OUT)
  const { time } = twin.control
  fields.setUint32(CtEntry.offset.lifetime, Number(time / 1_000_000_000n) + life, true)
  const put = (name: string, k: Uint8Array, v: Uint8Array) => {
    const rc = map(twin, name).update(k, v)
    if (rc < 0) throw new Error(`${name}: ${rc}`)
  }
  if (!orphan) put(family === "ipv4" ? "cilium_ct4_global" : "cilium_ct6_global", key, value)
  if (!mapped && !orphan) return
  const half = () => ({ key: new Uint8Array(tuple.size), value: new Uint8Array(shape.size) })
  const [out, back] = [half(), half()]
  for (const { value: bytes } of [out, back]) new DataView(bytes.buffer).setBigUint64(shape.created, time, true)
  const translated = new DataView(out.value.buffer)
  translated.setUint32(shape.address, 0x0ac8_0001)
  translated.setUint16(shape.port, 1024 + number)
  NatDerivation.natOutOfCt(tuple, key, out.key)
  NatDerivation.natInOfNatOut(tuple, out, back.key)
  back.value.set(out.key.subarray(tuple.saddr, tuple.saddr + tuple.addressSize), shape.address)
  back.value.set(out.key.subarray(tuple.sport, tuple.sport + 2), shape.port)
  put(nat[family], out.key, out.value)
  put(nat[family], back.key, back.value)
}

/** Says so often on a CPU that the CT table of a family is full; how many there was room for. */
export const signal = (twin: Twin, family: Family.Family, { cpu = 0, count = 1 } = {}): number => {
  const ring = map(twin, MapName.SIGNALS)
  const message = new Uint8Array(8)
  new DataView(message.buffer).setUint32(0, 1, true)
  new DataView(message.buffer).setUint32(4, family === "ipv4" ? 0 : 1, true)
  let sent = 0
  for (let i = 0; i < count; i++) if (ring.output(cpu, message) === 0) sent++
  return sent
}
