/** From comparisons to closed intervals of raw field values, and tests of ports. */
import type { Comparison, Port, PortCompare, PortRange } from "../Filter.ts"
import { negate, type Node, type Test } from "./filterMatch.ts"

/** `from`..`to`, or everything else. Unbounded sides lie beyond what any field holds. */
export interface Interval {
  readonly from: bigint
  readonly to: bigint
  readonly negated: boolean
}

const FAR = 1n << 80n

/**
 * The integers that stand in this relation to a number between `floor` and `ceil`: the same two where the number is
 * an integer, neighbours where it is not.
 */
export const intervalOf = (op: Comparison, floor: bigint, ceil: bigint): Interval => {
  switch (op) {
    case "<":
      return { from: -FAR, to: ceil - 1n, negated: false }
    case "<=":
      return { from: -FAR, to: floor, negated: false }
    case ">":
      return { from: floor + 1n, to: FAR, negated: false }
    case ">=":
      return { from: ceil, to: FAR, negated: false }
    case "=":
      return { from: ceil, to: floor, negated: false }
    case "!=":
      return { from: ceil, to: floor, negated: true }
  }
}

/** A match of a field of `0..maximum`, or its answer where the interval leaves no choice. */
export const within = (interval: Interval, maximum: bigint, match: (from: bigint, to: bigint) => Node): Node => {
  const from = interval.from < 0n ? 0n : interval.from
  const to = interval.to > maximum ? maximum : interval.to
  const node = from > to ? false : from === 0n && to === maximum ? true : match(from, to)
  return interval.negated ? negate(node) : node
}

/**
 * A span of time in clock units: floor and ceiling, equal where it is a whole number of units.
 *
 * Units are 256 / hertz seconds and have no exact double, so hertz is recovered (to a millionth) and the rest is exact.
 * Undefined where the unit is not a span that a clock could count.
 */
export const inUnits = (millis: number, secondsPerUnit: number): readonly [floor: bigint, ceil: bigint] | undefined => {
  const microHertz = Math.round((256 / secondsPerUnit) * 1e6)
  if (!(microHertz >= 1 && Number.isFinite(microHertz))) return undefined
  const scaled = BigInt(millis) * BigInt(microHertz)
  const floor = floorDivide(scaled, UNITS)
  return [floor, floor * UNITS === scaled ? floor : floor + 1n]
}

/** 256 seconds in milliseconds, by a million. */
const UNITS = 256_000_000_000n

const floorDivide = (n: bigint, by: bigint): bigint => (n < 0n ? -((-n + by - 1n) / by) : n / by)

/** A test of the big-endian port at an offset. */
export const portTest = (term: Port | PortCompare): Test | boolean => {
  const [first, ...more] = merged(term._tag === "Port" ? term.ranges : rangesOf(term))
  if (first === undefined) return false
  const { from, to } = first
  if (more.length === 0) {
    if (from === 0 && to === 0xffff) return true
    if (from === to) return (view, at) => view.getUint16(at) === from
    return (view, at) => {
      const port = view.getUint16(at)
      return port >= from && port <= to
    }
  }
  const bits = new Uint32Array(2048)
  for (const range of [first, ...more]) {
    for (let port = range.from; port <= range.to; port++)
      bits[port >>> 5] = (bits[port >>> 5] ?? 0) | (1 << (port & 31))
  }
  return (view, at) => {
    const port = view.getUint16(at)
    return (((bits[port >>> 5] ?? 0) >>> (port & 31)) & 1) !== 0
  }
}

/** The ports that a comparison names; of `!=`, which is the negation of the whole term, those of `=`. */
const rangesOf = ({ op, port }: PortCompare): ReadonlyArray<PortRange> => {
  switch (op) {
    case "<":
      return port === 0 ? [] : [{ from: 0, to: port - 1 }]
    case "<=":
      return [{ from: 0, to: port }]
    case ">":
      return port === 0xffff ? [] : [{ from: port + 1, to: 0xffff }]
    case ">=":
      return [{ from: port, to: 0xffff }]
    case "!=":
      return [{ from: port, to: port }]
  }
}

const merged = (ranges: ReadonlyArray<PortRange>): Array<PortRange> => {
  const kept: Array<PortRange> = []
  for (const range of ranges.toSorted((x, y) => x.from - y.from)) {
    const previous = kept.at(-1)
    if (previous === undefined || range.from > previous.to + 1) kept.push(range)
    else kept[kept.length - 1] = { from: previous.from, to: Math.max(previous.to, range.to) }
  }
  return kept
}
