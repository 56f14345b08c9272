/** Tests of raw addresses against networks: a masked compare for one, a search of sorted ranges for more. */
import type * as IpNetwork from "effect/net/IpNetwork"
import type { Family } from "../Family.ts"
import { ipBytes } from "./address.ts"
import type { Test } from "./filterMatch.ts"

/** Big-endian 32-bit words: one of an IPv4 address, four of an IPv6 address. */
interface Range {
  readonly first: ReadonlyArray<number>
  readonly last: ReadonlyArray<number>
}

/** Networks of the other family hold no address of this one. A boolean where the answer is the same for all. */
export const inNetworks = (family: Family, networks: ReadonlyArray<IpNetwork.IpNetwork>): Test | boolean => {
  const width = family === "ipv4" ? 4 : 16
  const own = networks.flatMap(({ address, prefixLength }) => {
    const bytes = ipBytes(address)
    return bytes.length === width ? [{ words: wordsOf(bytes), prefixLength }] : []
  })
  const [only] = own
  if (only === undefined) return false
  if (own.some(({ prefixLength }) => prefixLength === 0)) return true
  if (own.length === 1) return masked(only.words, only.prefixLength)
  const ranges = disjoint(own.map(({ words, prefixLength }) => rangeOf(words, prefixLength)))
  return family === "ipv4" ? search4(ranges) : search6(ranges)
}

const wordsOf = (bytes: Uint8Array): Array<number> => {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  return Array.from({ length: bytes.length / 4 }, (_, i) => view.getUint32(i * 4))
}

/** The leading bits of word `i` that belong to the prefix, as a signed 32-bit mask. */
const maskOf = (prefixLength: number, i: number): number => {
  const bits = Math.max(0, Math.min(32, prefixLength - 32 * i))
  return bits === 0 ? 0 : -1 << (32 - bits)
}

const masked = (words: ReadonlyArray<number>, prefixLength: number): Test => {
  const [a = 0, b = 0, c = 0, d = 0] = words.map((word) => word | 0)
  const [ma = 0, mb = 0, mc = 0, md = 0] = words.map((_, i) => maskOf(prefixLength, i))
  if (prefixLength <= 32) return (view, at) => (view.getInt32(at) & ma) === a
  if (prefixLength <= 64) return (view, at) => view.getInt32(at) === a && (view.getInt32(at + 4) & mb) === b
  // The last word differs most often between addresses of one site, so it goes first.
  return (view, at) =>
    (view.getInt32(at + 12) & md) === d &&
    (view.getInt32(at + 8) & mc) === c &&
    view.getInt32(at + 4) === b &&
    view.getInt32(at) === a
}

const rangeOf = (words: ReadonlyArray<number>, prefixLength: number): Range => ({
  first: words,
  last: words.map((word, i) => (word | ~maskOf(prefixLength, i)) >>> 0)
})

/** Sorted, and without networks that lie inside another: two networks are nested or disjoint. */
const disjoint = (ranges: ReadonlyArray<Range>): Array<Range> => {
  const kept: Array<Range> = []
  const sorted = ranges.toSorted((x, y) => compare(x.first, y.first) || compare(y.last, x.last))
  for (const range of sorted) {
    const previous = kept.at(-1)
    if (previous === undefined || compare(range.first, previous.last) > 0) kept.push(range)
  }
  return kept
}

const compare = (x: ReadonlyArray<number>, y: ReadonlyArray<number>): number => {
  for (const [i, word] of x.entries()) {
    const other = y[i] ?? 0
    if (word !== other) return word < other ? -1 : 1
  }
  return 0
}

const search4 = (ranges: ReadonlyArray<Range>): Test => {
  const firsts = Uint32Array.from(ranges.flatMap(({ first }) => first))
  const lasts = Uint32Array.from(ranges.flatMap(({ last }) => last))
  return (view, at) => {
    const address = view.getUint32(at)
    let [from, to] = [0, firsts.length]
    while (from < to) {
      const middle = (from + to) >>> 1
      if ((firsts[middle] ?? 0) <= address) from = middle + 1
      else to = middle
    }
    return from > 0 && address <= (lasts[from - 1] ?? 0)
  }
}

const search6 = (ranges: ReadonlyArray<Range>): Test => {
  const firsts = Uint32Array.from(ranges.flatMap(({ first }) => first))
  const lasts = Uint32Array.from(ranges.flatMap(({ last }) => last))
  return (view, at) => {
    let [from, to] = [0, ranges.length]
    while (from < to) {
      const middle = (from + to) >>> 1
      if (compareAt(view, at, firsts, middle) >= 0) from = middle + 1
      else to = middle
    }
    return from > 0 && compareAt(view, at, lasts, from - 1) <= 0
  }
}

const compareAt = (view: DataView, at: number, words: Uint32Array, i: number): number => {
  for (let k = 0; k < 4; k++) {
    const word = view.getUint32(at + 4 * k)
    const other = words[4 * i + k] ?? 0
    if (word !== other) return word < other ? -1 : 1
  }
  return 0
}
