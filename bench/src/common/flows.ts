/** Numbered entries of either family, for the churn: both processes make the same ones. */
import { CtEntry, type Family, Tuple, TupleFlags } from "ctmap-core"

/** The moment of the passes; an entry is expired or not by far. */
export const NOW = 1000
export const EXPIRED = 100
export const FRESH = 5000

/** Numbers of the entries that each role has. Those that evict others count on from `evicting`. */
export const numbers = {
  /** Expired, and nobody touches them. */
  stale: { first: 0, count: 8192 },
  /** Alive, and nobody touches them. */
  live: { first: 8192, count: 8192 },
  /** Inserted and deleted in turn, half of them expired. */
  passing: { first: 16_384, count: 8192 },
  /** Replaced by themselves, expired and alive in turn. */
  turning: { first: 24_576, count: 4096 },
  evicting: 1_000_000
} as const

/** Entries of a table with room for all, and of one that they fill. */
export const capacity = { roomy: 131_072, full: 65_536 } as const

/** Writes the key of a number. */
const putKey = (family: Family.Family, into: DataView, number: number): void => {
  const tuple = Tuple.shape(family)
  into.setUint32(tuple.daddr, Math.imul(number, 2_654_435_761))
  into.setUint32(tuple.saddr, number)
  into.setUint8(tuple.nexthdr, 6)
  into.setUint8(tuple.flags, TupleFlags.IN)
}

/** The number of a key. */
export const numberOf = (family: Family.Family, keys: DataView, at: number): number =>
  keys.getUint32(at + Tuple.shape(family).saddr)

/** One key and one value, to be written to a map again and again. */
export class Flow {
  readonly #family: Family.Family
  readonly key: Uint8Array
  readonly value = new Uint8Array(CtEntry.SIZE)
  readonly #keyWords: DataView
  readonly #valueWords = new DataView(this.value.buffer)

  constructor(family: Family.Family) {
    this.#family = family
    this.key = new Uint8Array(Tuple.shape(family).size)
    this.#keyWords = new DataView(this.key.buffer)
  }

  set(number: number, lifetime = 0): this {
    putKey(this.#family, this.#keyWords, number)
    this.#valueWords.setUint32(CtEntry.offset.lifetime, lifetime, true)
    return this
  }

  get lifetime(): number {
    return this.#valueWords.getUint32(CtEntry.offset.lifetime, true)
  }
}
