/**
 * Our own JSON as bytes, many times faster than one string at a time and without garbage.
 *
 * Owns no wording: {@link CtJson} does, and property tests hold the two together byte for byte. What a byte or two decide
 * (protocol, direction, flags) is a literal that is made when it first comes up; between literals stand numbers and
 * addresses. Reads rows where they are, allocates nothing per entry, blocks for the time of one call: bound it by the size
 * of the buffer.
 *
 * @since 0.1.0
 */
import { CtColumns } from "./CtColumns.ts"
import * as CtEntry from "./CtEntry.ts"
import * as CtEntryFlags from "./CtEntryFlags.ts"
import type * as CtJson from "./CtJson.ts"
import * as CtTime from "./CtTime.ts"
import * as Ipv6 from "./internal/ipv6Bytes.ts"
import { LineWriter } from "./internal/lineWriter.ts"
import * as Literals from "./internal/literals.ts"
import * as Text from "./internal/textBytes.ts"
import type { NatColumns } from "./NatColumns.ts"
import * as Protocol from "./Protocol.ts"
import * as TcpFlags from "./TcpFlags.ts"
import * as TupleFlags from "./TupleFlags.ts"

/** A buffer of this many bytes holds any one record, besides the name of its map and what leads it. @since 0.1.0 */
export const maxRecordBytes = 1536

/**
 * Writes the records of the rows that `columns` is bound to. One per scan, as the columns.
 *
 * **Details**
 *
 * Shape: `lead` and what `JSON.stringify` makes of {@link CtJson.ctRecord} or `natRecord` in this context, for every row.
 * `lead` is what stands between two records of a document; whoever writes the first leaves it out. Errors: as
 * `CtLineWriter`; `RangeError` for a map or a lead of more than a kilobyte. Ownership, kernel: as `CtLineWriter`.
 *
 * **Example** (A line of NDJSON)
 *
 * ```ts
 * import { CtColumns, CtJson, CtJsonWriter, CtTime, Rows } from "ctmap-core"
 * import * as Hex from "effect/encoding/Hex"
 * import * as Result from "effect/Result"
 *
 * const keys = Result.getOrThrow(Hex.decode("0a00016301010101005086d80600"))
 * const columns = new CtColumns.CtColumns({ family: "ipv4", release: "1.17" })
 * columns.bind(Rows.separate(keys, new Uint8Array(56), { keySize: 14, valueSize: 56, count: 1 }))
 *
 * const context = { map: "cilium_ct4_global", clock: { source: CtTime.ktime, now: 60 } }
 * const writer = new CtJsonWriter.CtJsonWriter(columns, context)
 * const buffer = new Uint8Array(65_536)
 * writer.fill(buffer) // => 1
 * const text = new TextDecoder().decode(buffer.subarray(0, writer.end))
 * text === JSON.stringify(CtJson.ctRecord(columns, 0, context)) // => true
 * ```
 *
 * @since 0.1.0
 */
export class CtJsonWriter extends LineWriter<CtColumns | NatColumns> {
  readonly #ct: CtColumns | undefined
  readonly #head: Literal
  readonly #protocols: Table
  readonly #directions: Table
  readonly #clock: Clock | undefined

  constructor(columns: CtColumns | NatColumns, { clock, map }: CtJson.Context = {}, lead = "") {
    const isCt = columns instanceof CtColumns
    const { family, release } = columns
    const of = map === undefined ? "" : `"map":${JSON.stringify(map)},`
    const head = literal(`${lead}{"type":"${isCt ? "ct" : "nat"}",${of}"family":"${family}","protocol":`)
    const around = head.length + head.bytes.length
    if (around > 1024) throw new RangeError(`a map or a lead of more than a kilobyte: ${around} bytes`)
    super(columns, maxRecordBytes + around)
    this.#ct = isCt ? columns : undefined
    this.#head = head
    this.#protocols = table((number) => protocolText(Protocol.name(number, release), number))
    this.#directions = table(isCt ? (flags) => ctDirection(flags, release) : natDirection)
    this.#clock = clock === undefined ? undefined : clockOf(clock)
  }

  protected override line(row: number, start: number): number {
    const { columns } = this
    const { addressSize, nexthdr } = columns.tuple
    const { keys, values } = columns
    const key = columns.keyAt(row)
    const value = columns.valueAt(row)
    const flags = keys.getUint8(key + nexthdr + 1)
    let at = writeLiteral(start, this.#head)
    at = writeLiteral(at, of(this.#protocols, keys.getUint8(key + nexthdr)))
    const isSwapped = this.#ct === undefined || (flags & SERVICE) !== 0
    const [first, second] = isSwapped ? [addressSize, 0] : [0, addressSize]
    const ports = key + 2 * addressSize
    // A service keeps its ports the other way round as well; a NAT entry does not.
    const isPortSwapped = this.#ct !== undefined && (flags & SERVICE) !== 0
    at = writeEnd(at, keys, key + first, addressSize, keys.getUint16(ports + (isPortSwapped ? 0 : 2)))
    at = writeLiteral(at, destination)
    at = writeEnd(at, keys, key + second, addressSize, keys.getUint16(ports + (isPortSwapped ? 2 : 0)))
    at = writeLiteral(at, of(this.#directions, flags))
    return this.#ct === undefined ? this.#writeNat(at, values, value) : this.#writeCt(at, values, value, flags)
  }

  #writeCt(start: number, values: DataView, value: number, flags: number): number {
    const lifetime = values.getUint32(value + offset.lifetime, true)
    let at = writeU32(start, lifetime)
    if (this.#clock !== undefined) {
      at = writeLiteral(at, remaining)
      at = writeNumber(at, secondsOf(this.#clock, lifetime) - this.#clock.nowSeconds)
    }
    at = writeCounter(writeLiteral(at, packets), values, value + offset.packets)
    at = writeCounter(writeLiteral(at, bytes), values, value + offset.bytes)
    at = writeEntryFlags(at, values.getUint16(value + offset.flags, true))
    at = writeLiteral(at, of(seen, values.getUint8(value + offset.rxFlagsSeen)))
    at = writeU32(at, values.getUint32(value + offset.lastRxReport, true))
    at = writeLiteral(at, tx)
    at = writeLiteral(at, of(seen, values.getUint8(value + offset.txFlagsSeen)))
    at = writeU32(at, values.getUint32(value + offset.lastTxReport, true))
    at = writeU32(writeLiteral(at, revNat), values.getUint16(value + offset.revNat))
    at = writeU32(writeLiteral(at, identity), values.getUint32(value + offset.sourceSecurityId, true))
    const is117 = this.columns.release === "1.17"
    const port = values.getUint16(value + offset.natPort)
    if (is117 || port === 0 || (flags & SERVICE) !== 0) {
      at = writeCounter(writeLiteral(at, backend), values, value + offset.backendId)
      if (is117) at = writeU32(writeLiteral(at, ifindex), values.getUint16(value + offset.ifindex, true))
    } else {
      const { addressSize } = this.columns.tuple
      at = writeEnd(writeLiteral(at, translatedTo), values, value + 16 - addressSize, addressSize, port)
      at = close(at)
    }
    return close(at)
  }

  #writeNat(start: number, values: DataView, value: number): number {
    const { nat } = this.columns as NatColumns
    let at = writeEnd(start, values, value + nat.address, nat.addressSize, values.getUint16(value + nat.port))
    const [low, high] = [values.getUint32(value, true), values.getUint32(value + 4, true)]
    at = writeCounter(writeLiteral(at, created), values, value)
    const age = this.#clock === undefined ? undefined : ageOf(this.#clock, low, high)
    if (age !== undefined) at = writeNumber(writeLiteral(at, ageSeconds), age)
    const needsCt = values.getUint32(value + nat.needsCt, true) | values.getUint32(value + nat.needsCt + 4, true)
    return writeLiteral(at, needsCt === 0 ? needsNone : needsOne)
  }
}

// internal: see `internal/textBytes.ts` for words, the page, and why names are made local.

const { put1, writeIpv4Colon, writeNumber, writeText, writeU32, writeU64 } = Text
const { literal, writeLiteral } = Literals
const { writeIpv6Colon } = Ipv6
const { SERVICE } = TupleFlags
const { offset } = CtEntry
const PAGE_MASK = Text.PAGE_MASK

type Literal = Literals.Literal

const port = literal('","port":')
const destination = literal('},"destination":{"address":"')
const remaining = literal(',"remainingSeconds":')
const packets = literal(',"packets":')
const bytes = literal(',"bytes":')
const tx = literal('},"tx":{"tcpFlags":')
const revNat = literal('},"revNat":')
const identity = literal(',"sourceSecurityId":')
const backend = literal(',"backendId":')
const ifindex = literal(',"ifindex":')
const translatedTo = literal(',"nat":{"address":"')
const created = literal('},"created":')
const ageSeconds = literal(',"ageSeconds":')
const needsNone = literal(',"needsCt":false}')
const needsOne = literal(',"needsCt":true}')

/** Literals by a byte, each made when it first comes up. */
interface Table {
  readonly known: Array<Literal | undefined>
  readonly text: (byte: number) => string
}

const table = (text: (byte: number) => string): Table => ({ known: Array.from({ length: 256 }), text })

const of = (literals: Table, byte: number): Literal => literals.known[byte] ?? learn(literals, byte)

const learn = ({ known, text }: Table, byte: number): Literal => (known[byte] = literal(text(byte)))

const protocolText = (name: string, number: number): string =>
  `"${name}","protocolNumber":${number},"source":{"address":"`

const tupleText = (flags: number): string => `},"related":${TupleFlags.isRelated(flags)},"tupleFlagBits":${flags}`

const ctDirection = (flags: number, release: string): string =>
  `${tupleText(flags)},"release":"${release}","direction":"${TupleFlags.direction(flags)}","expires":`

const natDirection = (flags: number): string => {
  const isReverse = (flags & TupleFlags.IN) !== 0
  return (
    `${tupleText(flags)},"direction":"${isReverse ? "in" : "out"}","service":${(flags & SERVICE) !== 0}` +
    `,"translates":"${isReverse ? "destination" : "source"}","translated":{"address":"`
  )
}

/** What was seen in a direction, by its TCP flags. */
const seen = table((bits) => `${JSON.stringify(TcpFlags.names(bits))},"tcpFlagBits":${bits},"lastReport":`)

/** Flags of an entry that have no unknown bits. */
const entryFlags: Array<Literal | undefined> = Array.from({ length: CtEntryFlags.MaxFlags })

const entryFlagText = (flags: number): string =>
  `,"flags":${JSON.stringify(CtEntryFlags.names(flags))},"flagBits":${flags},"rx":{"tcpFlags":`

const writeEntryFlags = (at: number, flags: number): number =>
  flags < CtEntryFlags.MaxFlags
    ? writeLiteral(at, (entryFlags[flags] ??= literal(entryFlagText(flags))))
    : writeText(at, entryFlagText(flags))

/** An address behind its quote, and a port; the writers of addresses end with a colon, which is overwritten. */
const writeEnd = (start: number, view: DataView, address: number, size: 4 | 16, number: number): number => {
  const at = start & PAGE_MASK
  const colon = size === 4 ? writeIpv4Colon(at, view.getInt32(address)) : writeIpv6Colon(at, view, address, false)
  return writeU32(writeLiteral(colon - 1, port), number)
}

/** A 64-bit number; a string where a JSON parser would round it. */
const writeCounter = (at: number, view: DataView, from: number): number => {
  const [low, high] = [view.getUint32(from, true), view.getUint32(from + 4, true)]
  if (high <= 0x1f_ffff) return writeU64(at, low, high)
  put1(at, QUOTE)
  const end = writeU64(at + 1, low, high)
  put1(end, QUOTE)
  return end + 1
}

const QUOTE = 0x22

const close = (at: number): number => {
  put1(at, 0x7d)
  return at + 1
}

interface Clock {
  readonly source: CtTime.ClockSource
  readonly now: number
  readonly nowSeconds: number
}

const clockOf = ({ now, source }: NonNullable<CtJson.Context["clock"]>): Clock => {
  const whole = Math.trunc(now)
  return { source, now: whole, nowSeconds: CtTime.toSeconds32(source, whole) }
}

const secondsOf = ({ source }: Clock, time: number): number => CtTime.toSeconds32(source, time)

/** Where the times in units of the clock, and those of jiffies times 256, are exact. */
const EXACT_HIGH = 0x1000

/** As {@link CtJson.natRecord} has it; `undefined` where it is no number that JSON holds. */
const ageOf = (clock: Clock, low: number, high: number): number | undefined => {
  if (high < EXACT_HIGH && clock.now >= 0) return clock.nowSeconds - secondsOf(clock, high * 4_294_967_296 + low)
  const age = Number(CtTime.age(clock.source, (BigInt(high) << 32n) | BigInt(low), BigInt(clock.now)))
  return Number.isSafeInteger(age) ? age : undefined
}
