/**
 * Dump lines of CT entries as bytes, thirty times faster than one string at a time.
 *
 * Owns no wording: {@link CtText} does, and property tests hold the two together byte for byte. Reads rows where they
 * are, allocates nothing per entry, blocks for the time of one call: bound it by the size of the buffer.
 *
 * @since 0.1.0
 */
import type { CtColumns } from "./CtColumns.ts"
import * as CtEntry from "./CtEntry.ts"
import * as CtEntryFlags from "./CtEntryFlags.ts"
import type { Scope } from "./CtKey.ts"
import { headsOf, LineWriter, makeHeads } from "./internal/lineWriter.ts"
import * as Ipv6 from "./internal/ipv6Bytes.ts"
import * as Text from "./internal/textBytes.ts"
import * as TupleFlags from "./TupleFlags.ts"

/** What `fill` may be told. @since 0.1.0 */
export type { FillOptions } from "./internal/lineWriter.ts"

/** A buffer of this many bytes holds any one line. Lines of ordinary entries are about 250. @since 0.1.0 */
export const maxLineBytes = 640

/**
 * What lines say beyond the bytes of their rows.
 *
 * @since 0.1.0
 */
export interface Options {
  /** Whose table it is: lines of a local (per-endpoint) one name only the peer. Default `"global"`. */
  readonly scope?: Scope
  /**
   * Seconds until a raw lifetime, negative once it has passed: prints ` (remaining: … sec(s))` behind it. A whole
   * number, as {@link CtTime.remaining} returns. It must not use a writer: all writers of a thread share memory.
   */
  readonly secondsRemaining?: (lifetime: number) => number
}

/**
 * Writes the lines of the rows that `columns` is bound to. One per scan, as the columns.
 *
 * **Details**
 *
 * Shape: what {@link CtText.line} prints, under the release and family of the columns; nothing for a row whose protocol
 * is 0. Errors: `write` and `fill` throw `RangeError` where a single line has no room. Ownership: the buffer is the
 * caller's, nothing is written past `end`; the rows are read during the call only. Kernel: none.
 *
 * **Example** (Listing a batch through a buffer)
 *
 * ```ts
 * import { CtColumns, CtLineWriter, Rows } from "ctmap-core"
 * import * as Hex from "effect/encoding/Hex"
 * import * as Result from "effect/Result"
 *
 * const keys = Result.getOrThrow(Hex.decode("0a00016301010101005086d80600"))
 * const columns = new CtColumns.CtColumns({ family: "ipv4", release: "1.17" })
 * columns.bind(Rows.separate(keys, new Uint8Array(56), { keySize: 14, valueSize: 56, count: 1 }))
 *
 * const writer = new CtLineWriter.CtLineWriter(columns, { secondsRemaining: (lifetime) => lifetime - 60 })
 * const buffer = new Uint8Array(65_536)
 * let text = ""
 * for (let row = 0; row < columns.count; ) {
 *   row = writer.fill(buffer, { from: row })
 *   text += new TextDecoder().decode(buffer.subarray(0, writer.end))
 * }
 * text.startsWith("TCP OUT 10.0.1.99:34520 -> 1.1.1.1:80 expires=0 (remaining: -60 sec(s)) Packets=0 ") // => true
 * ```
 *
 * @since 0.1.0
 */
export class CtLineWriter extends LineWriter<CtColumns> {
  readonly #global: boolean
  readonly #heads: number
  readonly #is117: boolean
  readonly #secondsRemaining: ((lifetime: number) => number) | undefined

  constructor(columns: CtColumns, options: Options = {}) {
    super(columns, maxLineBytes)
    this.#global = options.scope !== "local"
    this.#heads = headsOf(heads, columns.release)
    this.#is117 = columns.release === "1.17"
    this.#secondsRemaining = options.secondsRemaining
  }

  protected override line(row: number, start: number): number {
    const { addressSize, nexthdr } = this.columns.tuple
    const { keys, values } = this.columns
    const key = this.columns.keyAt(row)
    const protocol = keys.getUint8(key + nexthdr)
    if (protocol === 0) return start
    const flags = keys.getUint8(key + nexthdr + 1)
    let at = writeHead(start, this.#heads + ((protocol << 3) | (flags & 7)))
    at = this.#global
      ? addressSize === 4
        ? writeEnds4(at, keys, key, flags)
        : writeEnds6(at, keys, key, flags, this.#is117)
      : writePeer(at, keys, key, flags, addressSize, this.#is117)
    const value = this.columns.valueAt(row)
    at = writeCounters(at, values, value, this.#secondsRemaining)
    at = writeReports(at, values, value)
    at = writeIdentity(at, values, value)
    return this.#is117 ? writeTail117(at, values, value) : writeTail120(at, values, value)
  }
}

// internal: see `internal/textBytes.ts` for words, the page, and why names are made local.

const { pair, put1, put2, put8, putHex2, word, writeIpv4Colon, writeNumber, writeText, writeU32 } = Text
const { writeU64 } = Text
const { writeIpv6Colon } = Ipv6
const PAGE_MASK = Text.PAGE_MASK
const { IN, RELATED, SERVICE } = TupleFlags
const { lifetime, packets, bytes, lastRxReport, lastTxReport, rxFlagsSeen, txFlagsSeen } = CtEntry.offset
const { flags: entryFlags, revNat, sourceSecurityId, ifindex, backendId, natPort } = CtEntry.offset

const heads = makeHeads(["OUT", "IN", "OUT", "IN", "SVC", "SVC", "SVC", "SVC"])
const { words: headWords, lengths: headLengths } = heads

const writeHead = (start: number, head: number): number => {
  const at = start & PAGE_MASK
  put8(at, headWords[2 * head]!)
  put8(at + 8, headWords[2 * head + 1]!)
  return at + headLengths[head]!
}

const arrow = word(" -> ")

// Both ends of a flow. A service keeps its addresses and its ports the other way round.

const writeEnds4 = (start: number, keys: DataView, key: number, flags: number): number => {
  const service = flags & SERVICE
  let at = writeIpv4Colon(start & PAGE_MASK, keys.getInt32(key + service)) & PAGE_MASK
  at = writeU32(at, keys.getUint16(key + 10 - (service >> 1))) & PAGE_MASK
  put8(at, arrow)
  at = writeIpv4Colon(at + 4, keys.getInt32(key + 4 - service)) & PAGE_MASK
  return writeKeyEnd(writeU32(at, keys.getUint16(key + 8 + (service >> 1))), flags)
}

const writeEnds6 = (start: number, keys: DataView, key: number, flags: number, bareMapped: boolean): number => {
  const service = flags & SERVICE
  let at = writeIpv6Colon(start & PAGE_MASK, keys, key + (service << 2), bareMapped) & PAGE_MASK
  at = writeU32(at, keys.getUint16(key + 34 - (service >> 1))) & PAGE_MASK
  put8(at, arrow)
  at = writeIpv6Colon(at + 4, keys, key + 16 - (service << 2), bareMapped) & PAGE_MASK
  return writeKeyEnd(writeU32(at, keys.getUint16(key + 32 + (service >> 1))), flags)
}

/** The peer of a local map's endpoint, and the two ports in the order of {@link CtText}. */
const writePeer = (
  start: number,
  keys: DataView,
  key: number,
  flags: number,
  addressSize: 4 | 16,
  bareMapped: boolean
): number => {
  const peer = key + ((flags & SERVICE) !== 0 ? 0 : addressSize)
  const ports = key + 2 * addressSize
  const sourceFirst = (flags & (SERVICE | IN)) === IN
  const colon =
    addressSize === 4 ? writeIpv4Colon(start, keys.getInt32(peer)) : writeIpv6Colon(start, keys, peer, bareMapped)
  put1(colon - 1, 0x20)
  const at = writeU32(colon, keys.getUint16(ports + (sourceFirst ? 2 : 0)))
  put1(at, 0x3a)
  return writeKeyEnd(writeU32(at + 1, keys.getUint16(ports + (sourceFirst ? 0 : 2))), flags)
}

const relatedWord = word("related ")

const writeKeyEnd = (start: number, flags: number): number => {
  const at = start & PAGE_MASK
  put1(at, 0x20)
  if ((flags & RELATED) === 0) return at + 1
  put8(at + 1, relatedWord)
  return at + 9
}

const expiresWord = word("expires=")
const [packets0, packets1] = pair(" Packets=")
const bytesWord = word(" Bytes=")

const writeCounters = (
  start: number,
  values: DataView,
  value: number,
  secondsRemaining: ((lifetime: number) => number) | undefined
): number => {
  let at = start & PAGE_MASK
  const expires = values.getUint32(value + lifetime, true)
  put8(at, expiresWord)
  at = writeU32(at + 8, expires) & PAGE_MASK
  if (secondsRemaining !== undefined) at = writeRemaining(at, secondsRemaining(expires)) & PAGE_MASK
  put8(at, packets0)
  put8(at + 8, packets1)
  at = writeU64(at + 9, values.getUint32(value + packets, true), values.getUint32(value + packets + 4, true))
  at &= PAGE_MASK
  put8(at, bytesWord)
  return writeU64(at + 7, values.getUint32(value + bytes, true), values.getUint32(value + bytes + 4, true))
}

const [remaining0, remaining1] = pair(" (remaining: ")
const secondsWord = word(" sec(s))")

const writeRemaining = (start: number, seconds: number): number => {
  put8(start, remaining0)
  put8(start + 8, remaining1)
  const at = writeNumber(start + 13, seconds)
  put8(at, secondsWord)
  return at + 8
}

const [rx0, seen] = pair(" RxFlagsSeen=0x")
const tx0 = word(" TxFlags")
const [lastRx0, report] = pair(" LastRxReport=")
const lastTx0 = word(" LastTxR")

const writeReports = (start: number, values: DataView, value: number): number => {
  let at = start & PAGE_MASK
  put8(at, rx0)
  put8(at + 8, seen)
  putHex2(at + 15, values.getUint8(value + rxFlagsSeen))
  put8(at + 17, lastRx0)
  put8(at + 25, report)
  at = writeU32(at + 31, values.getUint32(value + lastRxReport, true)) & PAGE_MASK
  put8(at, tx0)
  put8(at + 8, seen)
  putHex2(at + 15, values.getUint8(value + txFlagsSeen))
  put8(at + 17, lastTx0)
  put8(at + 25, report)
  return writeU32(at + 31, values.getUint32(value + lastTxReport, true))
}

const [source0, source1] = pair(" SourceSecurityI")
const source2 = word("D=")

const writeIdentity = (start: number, values: DataView, value: number): number => {
  let at = writeFlags(start & PAGE_MASK, values.getUint16(value + entryFlags, true)) & PAGE_MASK
  at = writeU32(at, values.getUint16(value + revNat)) & PAGE_MASK
  put8(at, source0)
  put8(at + 8, source1)
  put8(at + 16, source2)
  return writeU32(at + 18, values.getUint32(value + sourceSecurityId, true))
}

/** Texts of the flag words that have no unknown bits, made when a word first comes up: 16 words hold the longest. */
const flagWords = new Float64Array(CtEntryFlags.MaxFlags * 16)
const flagLengths = new Uint8Array(CtEntryFlags.MaxFlags)

const flagText = (flags: number): string => ` ${CtEntryFlags.format(flags)} RevNAT=`

const learnFlags = (flags: number): number => {
  const text = flagText(flags)
  for (let i = 0; i < text.length; i += 8) flagWords[16 * flags + i / 8] = word(text, i)
  return (flagLengths[flags] = text.length)
}

const writeFlags = (at: number, flags: number): number => {
  if (flags >= CtEntryFlags.MaxFlags) return writeText(at, flagText(flags))
  const length = flagLengths[flags] || learnFlags(flags)
  const first = 16 * flags
  // Seven words hold every text with up to four names: the branch that is left is almost never taken.
  put8(at, flagWords[first]!)
  put8(at + 8, flagWords[first + 1]!)
  put8(at + 16, flagWords[first + 2]!)
  put8(at + 24, flagWords[first + 3]!)
  put8(at + 32, flagWords[first + 4]!)
  put8(at + 40, flagWords[first + 5]!)
  put8(at + 48, flagWords[first + 6]!)
  for (let i = 56; i < length; i += 8) put8(at + i, flagWords[first + (i >> 3)]!)
  return at + length
}

const [ifindex0, ifindex1] = pair(" IfIndex=")
const [backend0, backend1] = pair(" BackendID=")
const [natPort0, natPort1] = pair(" NatPort=")
const SPACE_NEWLINE = 0x0a20

const writeTail117 = (start: number, values: DataView, value: number): number => {
  let at = start & PAGE_MASK
  put8(at, ifindex0)
  put8(at + 8, ifindex1)
  at = writeU32(at + 9, values.getUint16(value + ifindex, true)) & PAGE_MASK
  at = writeBackend(at, values, value) & PAGE_MASK
  put2(at, SPACE_NEWLINE)
  return at + 2
}

const writeTail120 = (start: number, values: DataView, value: number): number => {
  let at = writeBackend(start & PAGE_MASK, values, value) & PAGE_MASK
  put8(at, natPort0)
  put8(at + 8, natPort1)
  at = writeU32(at + 9, values.getUint16(value + natPort)) & PAGE_MASK
  put2(at, SPACE_NEWLINE)
  return at + 2
}

const writeBackend = (at: number, values: DataView, value: number): number => {
  put8(at, backend0)
  put8(at + 8, backend1)
  return writeU64(at + 11, values.getUint32(value + backendId, true), values.getUint32(value + backendId + 4, true))
}
