/**
 * Dump lines of NAT entries as bytes: {@link CtLineWriter} for the other kind of table.
 *
 * Owns no wording: {@link NatText} does, and property tests hold the two together byte for byte.
 *
 * @since 0.1.0
 */
import { headsOf, LineWriter, makeHeads } from "./internal/lineWriter.ts"
import * as Ipv6 from "./internal/ipv6Bytes.ts"
import * as Text from "./internal/textBytes.ts"
import type { NatColumns } from "./NatColumns.ts"
import * as NatEntry from "./NatEntry.ts"
import * as TupleFlags from "./TupleFlags.ts"

/** What `fill` may be told. @since 0.1.0 */
export type { FillOptions } from "./internal/lineWriter.ts"

/** A buffer of this many bytes holds any one line. Lines of ordinary entries are about 110. @since 0.1.0 */
export const maxLineBytes = 384

/**
 * What lines say beyond the bytes of their rows.
 *
 * @since 0.1.0
 */
export interface Options {
  /**
   * Whole seconds since a raw creation time, as {@link CtTime.age} returns: prints `Created=…sec ago`. Without it the raw
   * time is printed, as Cilium does without a clock. It must not use a writer: all writers of a thread share memory.
   */
  readonly age?: (created: bigint) => bigint
}

/**
 * Writes the lines of the rows that `columns` is bound to. One per scan, as the columns.
 *
 * **Details**
 *
 * Shape: what {@link NatText.line} prints, under the release and family of the columns; nothing for a row whose
 * protocol is 0. Errors: `write` and `fill` throw `RangeError` where a single line has no room. Ownership: the buffer
 * is the caller's, nothing is written past `end`; the rows are read during the call only. Kernel: none.
 *
 * **Example** (A line into a buffer)
 *
 * ```ts
 * import { NatColumns, NatLineWriter, Rows } from "ctmap-core"
 * import * as Hex from "effect/encoding/Hex"
 * import * as Result from "effect/Result"
 *
 * const keys = Result.getOrThrow(Hex.decode("010101010a000163005086d80600"))
 * const columns = new NatColumns.NatColumns({ family: "ipv4", release: "1.17" })
 * columns.bind(Rows.separate(keys, new Uint8Array(40), { keySize: 14, valueSize: 40, count: 1 }))
 *
 * const writer = new NatLineWriter.NatLineWriter(columns, { age: () => 42n })
 * const buffer = new Uint8Array(NatLineWriter.maxLineBytes)
 * const end = writer.write(0, buffer)
 * new TextDecoder().decode(buffer.subarray(0, end))
 * // => "TCP OUT 10.0.1.99:34520 -> 1.1.1.1:80 XLATE_SRC 0.0.0.0:0 Created=42sec ago NeedsCT=0\n"
 * ```
 *
 * @since 0.1.0
 */
export class NatLineWriter extends LineWriter<NatColumns> {
  readonly #heads: number
  readonly #is117: boolean
  readonly #age: ((created: bigint) => bigint) | undefined

  constructor(columns: NatColumns, options: Options = {}) {
    super(columns, maxLineBytes)
    this.#heads = headsOf(heads, columns.release)
    this.#is117 = columns.release === "1.17"
    this.#age = options.age
  }

  protected override line(row: number, start: number): number {
    const { addressSize, nexthdr } = this.columns.tuple
    const { keys, values } = this.columns
    const key = this.columns.keyAt(row)
    const protocol = keys.getUint8(key + nexthdr)
    if (protocol === 0) return start
    const flags = keys.getUint8(key + nexthdr + 1)
    const value = this.columns.valueAt(row)
    let at = writeHead(start, this.#heads + ((protocol << 1) | (flags & IN)))
    if (addressSize === 4) {
      at = writeEnd4(at, keys, key + 4, key + 10)
      put4(at, arrow)
      at = writeEnd4(at + 4, keys, key, key + 8)
      at = writeEnd4(writeSide(at, flags), values, value + v4.address, value + v4.port)
    } else {
      at = writeEnd6(at, keys, key + 16, key + 34, this.#is117)
      put4(at, arrow)
      at = writeEnd6(at + 4, keys, key, key + 32, this.#is117)
      at = writeEnd6(writeSide(at, flags), values, value + v6.address, value + v6.port, this.#is117)
    }
    return writeNeeds(writeCreated(at, values, value, this.#age), values, value)
  }
}

// internal: see `internal/textBytes.ts` for words, the page, and why names are made local.

const { pair, put1, put2, put4, put8, quad, word, writeIpv4Colon, writeNumber, writeText } = Text
const { writeU32, writeU64 } = Text
const { writeIpv6Colon } = Ipv6
const PAGE_MASK = Text.PAGE_MASK
const { IN, RELATED, SERVICE } = TupleFlags
const { v4, v6 } = NatEntry

const heads = makeHeads(["OUT", "IN"])
const { words: headWords, lengths: headLengths } = heads

const writeHead = (start: number, head: number): number => {
  const at = start & PAGE_MASK
  put8(at, headWords[2 * head]!)
  put8(at + 8, headWords[2 * head + 1]!)
  return at + headLengths[head]!
}

const arrow = quad(" -> ")

const writeEnd4 = (start: number, view: DataView, address: number, port: number): number =>
  writeU32(writeIpv4Colon(start & PAGE_MASK, view.getInt32(address)), view.getUint16(port))

const CLOSE_COLON = 0x3a5d

/** An address in brackets, whatever it prints as, and its port. */
const writeEnd6 = (start: number, view: DataView, address: number, port: number, bareMapped: boolean): number => {
  const at = start & PAGE_MASK
  put1(at, 0x5b)
  const colon = writeIpv6Colon(at + 1, view, address, bareMapped) & PAGE_MASK
  put2(colon - 1, CLOSE_COLON)
  return writeU32(colon + 1, view.getUint16(port))
}

const related = word("related ")
const service = word("service ")
const [source0, source1] = pair(" XLATE_SRC ")
const [destination0, destination1] = pair(" XLATE_DST ")

/** Where the flags are named, and which side of the packet is translated. */
const writeSide = (start: number, flags: number): number => {
  let at = start & PAGE_MASK
  if ((flags & (RELATED | SERVICE)) !== 0) at = writeMarks(at, flags)
  const isReply = (flags & IN) !== 0
  put8(at, isReply ? destination0 : source0)
  put8(at + 8, isReply ? destination1 : source1)
  return at + 11
}

/** Each mark with a space before it: the one behind is that of what follows. */
const writeMarks = (start: number, flags: number): number => {
  let at = start
  if ((flags & RELATED) !== 0) {
    put1(at, 0x20)
    put8(at + 1, related)
    at += 8
  }
  if ((flags & SERVICE) !== 0) {
    put1(at, 0x20)
    put8(at + 1, service)
    at += 8
  }
  return at
}

const [created0, created1] = pair(" Created=")
const ago = word("sec ago")
const raw = word("? (raw ")

const writeCreated = (
  start: number,
  values: DataView,
  value: number,
  age: ((created: bigint) => bigint) | undefined
): number => {
  let at = start & PAGE_MASK
  put8(at, created0)
  put8(at + 8, created1)
  if (age !== undefined) {
    at = writeBigInt(at + 9, age(values.getBigUint64(value, true))) & PAGE_MASK
    put8(at, ago)
    return at + 7
  }
  put8(at + 9, raw)
  at = writeU64(at + 16, values.getUint32(value, true), values.getUint32(value + 4, true)) & PAGE_MASK
  put1(at, 0x29)
  return at + 1
}

const writeBigInt = (at: number, n: bigint): number => {
  const approximate = Number(n)
  return Number.isSafeInteger(approximate) ? writeNumber(at, approximate) : writeText(at, n.toString())
}

const [needs0, needs1] = pair(" NeedsCT=")

const writeNeeds = (start: number, values: DataView, value: number): number => {
  let at = start & PAGE_MASK
  put8(at, needs0)
  put8(at + 8, needs1)
  at = writeU64(at + 9, values.getUint32(value + 8, true), values.getUint32(value + 12, true)) & PAGE_MASK
  put1(at, 0x0a)
  return at + 1
}
