/**
 * Cilium's own JSON as bytes, ten times faster than one string at a time and without garbage.
 *
 * Owns no wording: {@link CiliumJson} does, and property tests hold the two together byte for byte. A record is a fixed
 * sequence of literals and numbers, so it is written by a list of them. Reads rows where they are, allocates nothing per
 * entry, blocks for the time of one call: bound it by the size of the buffer.
 *
 * @since 0.1.0
 */
import { CtColumns } from "./CtColumns.ts"
import * as CtEntry from "./CtEntry.ts"
import { LineWriter } from "./internal/lineWriter.ts"
import * as Literals from "./internal/literals.ts"
import * as Text from "./internal/textBytes.ts"
import type { NatColumns } from "./NatColumns.ts"

/** A buffer of this many bytes holds any one record. Those of IPv4 entries are about 700. @since 0.1.0 */
export const maxRecordBytes = 2048

/**
 * Writes the records of the rows that `columns` is bound to. One per scan, as the columns.
 *
 * **Details**
 *
 * Shape: `lead` and what {@link CiliumJson.ctRecordIndented} or `natRecordIndented` prints, for every row. `lead` is what
 * stands between two records of a document; whoever writes the first leaves it out. Errors, ownership, kernel: as
 * `CtLineWriter`.
 *
 * **Example** (A document of one record)
 *
 * ```ts
 * import { CiliumJson, CiliumJsonWriter, CtColumns, Rows } from "ctmap-core"
 * import * as Hex from "effect/encoding/Hex"
 * import * as Result from "effect/Result"
 *
 * const keys = Result.getOrThrow(Hex.decode("0a0a0a010a0a0a020050350b067b"))
 * const columns = new CtColumns.CtColumns({ family: "ipv4", release: "1.17" })
 * columns.bind(Rows.separate(keys, new Uint8Array(56), { keySize: 14, valueSize: 56, count: 1 }))
 *
 * const { open, between, close } = CiliumJson.document
 * const writer = new CiliumJsonWriter.CiliumJsonWriter(columns, between)
 * const buffer = new Uint8Array(65_536)
 * writer.fill(buffer) // => 1
 * const text = open + new TextDecoder().decode(buffer.subarray(between.length, writer.end)) + close
 * JSON.parse(text)[0].Key.NextHeader // => 6
 * ```
 *
 * @since 0.1.0
 */
export class CiliumJsonWriter extends LineWriter<CtColumns | NatColumns> {
  readonly #steps: ReadonlyArray<Step>
  readonly #end: Literal

  constructor(columns: CtColumns | NatColumns, lead = "") {
    super(columns, maxRecordBytes)
    const { steps, end } = compile(lead, columns instanceof CtColumns ? ctRecord(columns) : natRecord(columns))
    this.#steps = steps
    this.#end = end
  }

  protected override line(row: number, start: number): number {
    const { keys, values } = this.columns
    const key = this.columns.keyAt(row)
    const value = this.columns.valueAt(row)
    let at = start
    for (const step of this.#steps) {
      at = writeLiteral(at, step.before)
      at =
        step.of === "key"
          ? writeField(at, keys, key + step.at, step.size)
          : writeField(at, values, value + step.at, step.size)
    }
    return writeLiteral(at, this.#end)
  }
}

// internal: see `internal/textBytes.ts` for words, the page, and why names are made local.

const { writeU32, writeU64 } = Text
const { literal, writeLiteral } = Literals

type Literal = Literals.Literal

/** A number where it stands, as a little-endian host loads it. */
interface Field {
  readonly of: "key" | "value"
  readonly at: number
  readonly size: 1 | 2 | 4 | 8
}

interface Step extends Field {
  readonly before: Literal
}

/** What a record is made of: a field, a list, or names with what they stand for, in their order. */
type Part = Field | ReadonlyArray<Field> | { readonly names: Readonly<Record<string, Part>> }

/** Fields with the text in front of each, and the text behind the last: two spaces for each level, as Cilium indents. */
const compile = (lead: string, record: Part): { readonly steps: ReadonlyArray<Step>; readonly end: Literal } => {
  const steps: Array<Step> = []
  let text = lead
  const several = (
    around: string,
    items: ReadonlyArray<readonly [before: string, part: Part]>,
    indent: string
  ): void => {
    text += around.charAt(0)
    for (const [i, [before, part]] of items.entries()) {
      text += `${i === 0 ? "" : ","}\n${indent}  ${before}`
      visit(part, `${indent}  `)
    }
    text += `\n${indent}${around.charAt(1)}`
  }
  const visit = (part: Part, indent: string): void => {
    if ("names" in part) {
      const named = Object.entries(part.names).map(([name, field]) => [`"${name}": `, field] as const)
      several("{}", named, indent)
    } else if ("of" in part) {
      steps.push({ ...part, before: literal(text) })
      text = ""
    } else {
      several(
        "[]",
        part.map((field) => ["", field] as const),
        indent
      )
    }
  }
  visit(record, "  ")
  return { steps, end: literal(text) }
}

const inKey = (at: number, size: Field["size"]): Field => ({ of: "key", at, size })
const inValue = (at: number, size: Field["size"]): Field => ({ of: "value", at, size })

const bytes = (of: Field["of"], at: number, length: number): ReadonlyArray<Field> =>
  Array.from({ length }, (_, i) => ({ of, at: at + i, size: 1 }))

const keyPart = ({ tuple }: CtColumns | NatColumns): Part => ({
  names: {
    DestAddr: bytes("key", tuple.daddr, tuple.addressSize),
    SourceAddr: bytes("key", tuple.saddr, tuple.addressSize),
    DestPort: inKey(tuple.dport, 2),
    SourcePort: inKey(tuple.sport, 2),
    NextHeader: inKey(tuple.nexthdr, 1),
    Flags: inKey(tuple.flags, 1)
  }
})

const ctRecord = (columns: CtColumns): Part => {
  const { offset } = CtEntry
  const [first, second] = [inValue(offset.reserved0, 8), inValue(offset.backendId, 8)]
  const is117 = columns.release === "1.17"
  const Value: Readonly<Record<string, Part>> = {
    ...(is117 ? { Reserved0: first, BackendID: second } : { Union0: [first, second] }),
    Packets: inValue(offset.packets, 8),
    Bytes: inValue(offset.bytes, 8),
    Lifetime: inValue(offset.lifetime, 4),
    Flags: inValue(offset.flags, 2),
    RevNAT: inValue(offset.revNat, 2),
    ...(is117 ? { IfIndex: inValue(offset.ifindex, 2) } : { NatPort: inValue(offset.natPort, 2) }),
    TxFlagsSeen: inValue(offset.txFlagsSeen, 1),
    RxFlagsSeen: inValue(offset.rxFlagsSeen, 1),
    SourceSecurityID: inValue(offset.sourceSecurityId, 4),
    LastTxReport: inValue(offset.lastTxReport, 4),
    LastRxReport: inValue(offset.lastRxReport, 4)
  }
  return { names: { Key: keyPart(columns), Value: { names: Value } } }
}

const natRecord = (columns: NatColumns): Part => {
  const { nat } = columns
  const Value: Readonly<Record<string, Part>> = {
    Created: inValue(nat.created, 8),
    NeedsCT: inValue(nat.needsCt, 8),
    Pad1: inValue(nat.pad1, 8),
    Pad2: inValue(nat.pad2, 8),
    Addr: bytes("value", nat.address, nat.addressSize),
    Port: inValue(nat.port, 2)
  }
  return { names: { Key: keyPart(columns), Value: { names: Value } } }
}

const writeField = (at: number, view: DataView, from: number, size: Field["size"]): number => {
  switch (size) {
    case 1:
      return writeU32(at, view.getUint8(from))
    case 2:
      return writeU32(at, view.getUint16(from, true))
    case 4:
      return writeU32(at, view.getUint32(from, true))
    case 8:
      return writeU64(at, view.getUint32(from, true), view.getUint32(from + 4, true))
  }
}
