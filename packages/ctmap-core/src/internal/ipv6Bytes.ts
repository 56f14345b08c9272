/**
 * IPv6 addresses as text on the page of `textBytes.ts`.
 *
 * An address is written once and then copied: a table has far fewer of them than entries. Measured: 24 ns an entry less
 * where the addresses of a node fit, 3 ns more where hardly any address comes twice.
 */
import * as Text from "./textBytes.ts"

const { fill, get8, pad, put4, put8, quadLength, writeIpv4Colon, writeText } = Text
const PAGE_MASK = Text.PAGE_MASK

/** Texts of addresses, each in the one slot that its bits choose: the bits, five words of text, the length. */
const SLOT_BITS = 12
const slotKeys = new Int32Array(4 << SLOT_BITS)
const slotWords = new Float64Array(5 << SLOT_BITS)
const slotLengths = new Uint8Array(1 << SLOT_BITS)

/**
 * The IPv6 address at `source` and a colon: RFC 5952, and an IPv4-mapped one as `::ffff:a.b.c.d`, or as `a.b.c.d` where
 * `bareMapped`.
 */
export const writeIpv6Colon = (at: number, view: DataView, source: number, bareMapped: boolean): number => {
  const a = view.getInt32(source)
  const b = view.getInt32(source + 4)
  const c = view.getInt32(source + 8)
  const d = view.getInt32(source + 12)
  if ((a | b) === 0 && c === 0xffff) return writeIpv4Colon(bareMapped ? at : writeText(at, "::ffff:"), d)
  const slot = Math.imul(a ^ Math.imul(b, 31) ^ Math.imul(c, 37) ^ d, -0x61c8_864f) >>> (32 - SLOT_BITS)
  const key = 4 * slot
  if (slotKeys[key] !== a || slotKeys[key + 1] !== b || slotKeys[key + 2] !== c || slotKeys[key + 3] !== d) {
    return learn(at & PAGE_MASK, view, source, slot)
  }
  const to = at & PAGE_MASK
  const from = 5 * slot
  put8(to, slotWords[from]!)
  put8(to + 8, slotWords[from + 1]!)
  put8(to + 16, slotWords[from + 2]!)
  put8(to + 24, slotWords[from + 3]!)
  put8(to + 32, slotWords[from + 4]!)
  return to + slotLengths[slot]!
}

/** Writes the address and keeps its text: 39 characters and the colon are five words. */
const learn = (at: number, view: DataView, source: number, slot: number): number => {
  const end = writeAddress(at, view, source)
  for (let i = 0; i < 4; i++) slotKeys[4 * slot + i] = view.getInt32(source + 4 * i)
  for (let i = 0; i < 5; i++) slotWords[5 * slot + i] = get8(at + 8 * i)
  slotLengths[slot] = end - at
  return end
}

/** The high byte of a group (none for 0), and the low byte with a colon: as many digits as needed, then always two. */
const groupHigh = new Uint32Array(256)
const groupLow = new Uint32Array(512)

/** Where the groups begin and end that `::` stands for, by which groups are zero (the first is bit 7); 8, 8 for none. */
const runStart = new Uint8Array(256)
const runEnd = new Uint8Array(256)

const writeAddress = (at: number, view: DataView, source: number): number => {
  const a = view.getInt32(source)
  const b = view.getInt32(source + 4)
  const c = view.getInt32(source + 8)
  const d = view.getInt32(source + 12)
  const zeros = (zeroHalves(a) << 6) | (zeroHalves(b) << 4) | (zeroHalves(c) << 2) | zeroHalves(d)
  const start = runStart[zeros]!
  const next = writeGroups(at, view, source, source + 2 * start)
  if (start === 8) return next
  const end = runEnd[zeros]!
  // The group before the run has written one colon, and the colon behind the address is one more.
  put4(next, 0x3a3a3a)
  const run = next + (start === 0 ? 2 : 1)
  return end === 8 ? run + 1 : writeGroups(run, view, source + 2 * end, source + 16)
}

/** Bit 1 for the high half of 32 bits being zero, bit 0 for the low half. */
const zeroHalves = (n: number): number => ((((n >>> 16) - 1) >>> 30) & 2) | (((n & 0xffff) - 1) >>> 31)

/** The groups from `source` to `end`, each with a colon. */
const writeGroups = (from: number, view: DataView, source: number, end: number): number => {
  let at = from
  for (let i = source; i < end; i += 2) {
    const group = view.getUint16(i)
    const high = group >> 8
    const first = groupHigh[high]!
    const second = groupLow[(group & 0xff) + (((0 - high) >> 31) & 256)]!
    at &= PAGE_MASK
    put4(at, first)
    at += quadLength(first)
    put4(at, second)
    at += quadLength(second)
  }
  return at
}

const fillRuns = (zeros: number): void => {
  runStart[zeros] = runEnd[zeros] = 8
  let longest = 1
  for (let start = 0; start < 8; start++) {
    let end = start
    while (end < 8 && (zeros & (0x80 >> end)) !== 0) end++
    if (end - start <= longest) continue
    longest = end - start
    runStart[zeros] = start
    runEnd[zeros] = end
  }
}

/** Makes the tables. Every writer calls it before it writes; only the first call in a thread does anything. */
export const prepare = (): void => {
  if (groupHigh[1] !== 0) return
  fill(groupHigh, 1, 255, (i) => (i + 1).toString(16))
  fill(groupLow, 0, 256, (i) => `${i.toString(16)}:`)
  fill(groupLow, 256, 256, (i) => `${pad(i.toString(16), 2)}:`)
  for (let zeros = 0; zeros < 256; zeros++) fillRuns(zeros)
  // Empty slots have the key of `::`. That address looks into slot 0 only, so there must be another key.
  slotKeys[0] = 1
}
