/** Numbered connections of IPv4 with their NAT mappings, for the soak: both processes make the same ones. */
import { CtEntry, CtEntryFlags, NatDerivation, NatEntry, Tuple, TupleFlags } from "ctmap-core"

const tuple = Tuple.shape("ipv4")
const nat = NatEntry.shape("ipv4")

/** One entry of a CT map, and both halves of its NAT mapping, to be written again and again. */
export class Connection {
  readonly key = new Uint8Array(tuple.size)
  readonly value = new Uint8Array(CtEntry.SIZE)
  readonly out = { key: new Uint8Array(tuple.size), value: new Uint8Array(nat.size) }
  readonly back = { key: new Uint8Array(tuple.size), value: new Uint8Array(nat.size) }
  readonly #key = new DataView(this.key.buffer)
  readonly #value = new DataView(this.value.buffer)
  readonly #outValue = new DataView(this.out.value.buffer)
  readonly #backValue = new DataView(this.back.value.buffer)

  constructor(protocol: 6 | 17) {
    this.#key.setUint8(tuple.nexthdr, protocol)
    this.#key.setUint8(tuple.flags, TupleFlags.OUT)
    this.#key.setUint16(tuple.dport, 40_000)
    this.#key.setUint16(tuple.sport, 443)
    this.#value.setUint16(CtEntry.offset.flags, CtEntryFlags.SeenNonSyn, true)
    this.#value.setUint32(CtEntry.offset.packets, 1, true)
  }

  /** The connection of a number, to expire at a time in seconds. */
  set(number: number, lifetime = 0): this {
    this.#key.setUint32(tuple.daddr, 0x5db8_0000 + (number % 200))
    this.#key.setUint32(tuple.saddr, number)
    this.#value.setUint32(CtEntry.offset.lifetime, lifetime, true)
    return this
  }

  /** Its mapping: every number has a translated address and port of its own. */
  map(number: number, created: bigint): this {
    const { back, out } = this
    NatDerivation.natOutOfCt(tuple, this.key, out.key)
    this.#outValue.setBigUint64(nat.created, created, true)
    this.#outValue.setUint32(nat.address, 0x0ac8_0000 + (number >>> 15))
    this.#outValue.setUint16(nat.port, 32_768 + (number & 0x7fff))
    NatDerivation.natInOfNatOut(tuple, out, back.key)
    this.#backValue.setBigUint64(nat.created, created, true)
    // The way back leads to the client.
    back.value.set(out.key.subarray(tuple.saddr, tuple.saddr + tuple.addressSize), nat.address)
    back.value.set(out.key.subarray(tuple.sport, tuple.sport + 2), nat.port)
    return this
  }
}

/** The number of a key in a buffer. */
export const numberAt = (keys: DataView, at: number): number => keys.getUint32(at + tuple.saddr)

/** Where the numbers of each role begin; roles of one table have no number in common. */
export const first = { steady: 0, racing: 0x0100_0000, idle: 0x0200_0000, brief: 0x1000_0000 } as const

/** Of idle connections, every eighth is masqueraded; of brief ones, every second. */
export const isMapped = (number: number): boolean =>
  number >= first.brief ? number % 2 === 0 : number >= first.idle && number % 8 === 0

/** How many connections of each role, in tables of so many entries, and how many in a second. */
export const sizes = (entries: number) => ({
  /** Of the roomy table: alive throughout, refreshed every few seconds. */
  steady: Math.floor(entries * 0.4),
  /** Of the roomy table: left to expire, and refreshed about when they are collected. */
  racing: Math.floor(entries / 32),
  /** Of the full table: more than there is room for, inserted again and again. */
  idle: Math.floor(entries * 1.25),
  /** Of both: new ones in a second that live for a few. */
  brief: Math.floor(entries / 200),
  /** Of the full table: inserted in a second. */
  evicting: Math.floor(entries / 200)
})

/** Seconds for which connections live. */
export const lives = { steady: 30, refreshedEvery: 10, racing: 3, idle: 7200, brief: { from: 2, to: 6 } } as const
