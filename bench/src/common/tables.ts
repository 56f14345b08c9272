/**
 * Synthetic tables of the shape that nodes have: many clients, few services, one seed.
 *
 * 40 % egress, 40 % ingress, 19 % service, 1 % related entries; 80 % TCP; a quarter has expired; counters that look like
 * short flows, one in a thousand above 2^32 bytes.
 */
import { CtEntry, CtEntryFlags, type Family, Rows, Tuple, TupleFlags } from "ctmap-core"

/** The moment at which a quarter of each table has expired, in seconds since boot. */
export const now = 864_000

const clients = 20_000
const servers = 200
const servicePorts = [80, 443, 53, 8080, 5432]
const flagWords = [
  CtEntryFlags.SeenNonSyn,
  CtEntryFlags.SeenNonSyn,
  CtEntryFlags.SeenNonSyn | CtEntryFlags.RxClosing | CtEntryFlags.TxClosing,
  CtEntryFlags.SeenNonSyn | CtEntryFlags.NodePort,
  0
]

/**
 * CT entries of one family, in two arrays as a batch read fills them. A table that is made in parts gives each of them
 * the same `random`; a few in a million have a key that came before.
 */
export const ctTable = (family: Family.Family, count: number, random: Random = makeRandom()): Rows.Rows => {
  const tuple = Tuple.shape(family)
  const keys = new Uint8Array(tuple.size * count)
  const values = new Uint8Array(CtEntry.SIZE * count)
  const key = new DataView(keys.buffer)
  const value = new DataView(values.buffer)
  for (let i = 0; i < count; i++) {
    const k = i * tuple.size
    const v = i * CtEntry.SIZE
    const kind = random(100)
    const flags =
      kind < 40 ? TupleFlags.OUT : kind < 80 ? TupleFlags.IN : kind < 99 ? TupleFlags.SERVICE : TupleFlags.RELATED
    const isService = flags === TupleFlags.SERVICE
    putAddress(key, isService ? k + tuple.saddr : k, family, random(clients), "client")
    putAddress(key, isService ? k : k + tuple.saddr, family, random(servers), "server")
    key.setUint16(k + (isService ? tuple.dport : tuple.sport), 1024 + random(60_000))
    key.setUint16(k + (isService ? tuple.sport : tuple.dport), pick(servicePorts, random))
    key.setUint8(k + tuple.nexthdr, random(5) === 0 ? 17 : 6)
    key.setUint8(k + tuple.flags, flags)
    putValue(value, v, isService, random)
  }
  return Rows.separate(keys, values, { keySize: tuple.size, valueSize: CtEntry.SIZE, count })
}

/** A whole number from 0 up to, but not including, `below`. */
export type Random = (below: number) => number

const putValue = (value: DataView, v: number, isService: boolean, random: Random): void => {
  const { offset } = CtEntry
  const packets = 1 + random(500)
  if (isService) value.setUint32(v + offset.backendId, 1 + random(1000), true)
  value.setUint32(v + offset.packets, packets, true)
  value.setUint32(v + offset.bytes, packets * (60 + random(1200)), true)
  if (random(1000) === 0) value.setUint32(v + offset.bytes + 4, 1 + random(8), true)
  value.setUint32(v + offset.lifetime, random(4) === 0 ? now - 1 - random(60) : now + random(21_600), true)
  value.setUint16(v + offset.flags, pick(flagWords, random), true)
  if (random(3) === 0) value.setUint16(v + offset.revNat, 1 + random(servers))
  value.setUint8(v + offset.txFlagsSeen, 0x1a)
  value.setUint8(v + offset.rxFlagsSeen, 0x1b)
  value.setUint32(v + offset.sourceSecurityId, 256 + random(50_000), true)
  value.setUint32(v + offset.lastTxReport, now - random(600), true)
  value.setUint32(v + offset.lastRxReport, now - random(600), true)
}

/** `10.n.n.n` and `fd00:10::n:n` for clients, `10.96.n.n` and `2001:db8:n::n` for servers. */
const putAddress = (key: DataView, at: number, family: Family.Family, n: number, role: "client" | "server"): void => {
  if (family === "ipv4") return key.setUint32(at, (role === "client" ? 0x0a00_0000 : 0x0a60_0000) + n * 37)
  key.setUint32(at, role === "client" ? 0xfd00_0010 : 0x2001_0db8)
  key.setUint32(at + 4, role === "client" ? 0 : n << 16)
  key.setUint32(at + 8, 0)
  key.setUint32(at + 12, n * 37 + 1)
}

/** The same numbers in every run (a 32-bit linear congruence; its upper bits are the good ones). */
export const makeRandom = (): Random => {
  let state = 12_345
  return (below) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return Math.floor((state / 4_294_967_296) * below)
  }
}

const pick = (from: ReadonlyArray<number>, random: Random): number => from[random(from.length)] ?? 0
