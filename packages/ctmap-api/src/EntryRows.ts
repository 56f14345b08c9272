/**
 * Entries as the kernel has them: what `GET /v1/entries/rows` sends, for whoever renders them itself.
 *
 * Owns the form of the bytes. Several times as fast as lines of JSON, for nobody makes or reads any text; nothing of an
 * entry is lost, padding included.
 *
 * **Details**
 *
 * A sequence of frames, each a head of eight bytes (little endian: u32 kind, u32 bytes that follow) and a body. Kind 1, a
 * table: JSON, see {@link Table}; what follows is of it. Kind 2, rows: all keys, then all values, without gaps. Kind 3, the
 * last one of a listing that could not be finished: JSON, as the last line of the other form. Numbers within keys and
 * values are as in the map: ports and addresses big endian, all else in the order of the host that the agent runs on.
 *
 * @since 0.1.0
 */
import * as Family from "ctmap-core/Family"
import * as Release from "ctmap-core/Release"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { ListingFailed } from "./AgentStream.ts"

/** The type of the content. @since 0.1.0 */
export const CONTENT_TYPE = "application/vnd.ctmap.rows"

/** Whose rows follow, and how they are read. @since 0.1.0 */
export const Table = Schema.Struct({
  map: Schema.String,
  kind: Schema.Literals(["ct", "nat"]),
  family: Family.Family,
  release: Release.Release,
  keySize: Schema.Int,
  valueSize: Schema.Int
})
/** @since 0.1.0 */
export type Table = typeof Table.Type

/** Rows of one table: valid until the next are asked for. @since 0.1.0 */
export interface Batch {
  readonly table: Table
  readonly count: number
  readonly keys: Uint8Array
  readonly values: Uint8Array
}

/** Bytes that are no listing of this form. @since 0.1.0 */
export class NotRows extends Schema.TaggedError<NotRows>()("NotRows", { why: Schema.String }) {
  override get message(): string {
    return this.why
  }
}

const HEAD = 8
const TABLE = 1
const ROWS = 2
const FAILED = 3

/** The largest frame that anybody makes is far below this: more is something else. */
const MOST = 16 * 1024 * 1024

const frame = (kind: number, length: number): Uint8Array => {
  const bytes = new Uint8Array(HEAD + length)
  const head = new DataView(bytes.buffer)
  head.setUint32(0, kind, true)
  head.setUint32(4, length, true)
  return bytes
}

const jsonFrame = (kind: number, value: object): Uint8Array => {
  const text = new TextEncoder().encode(JSON.stringify(value))
  const bytes = frame(kind, text.byteLength)
  bytes.set(text, HEAD)
  return bytes
}

/** The frame of a table. @since 0.1.0 */
export const tableFrame = (table: Table): Uint8Array => jsonFrame(TABLE, table)

/** The frame that ends a listing early. @since 0.1.0 */
export const failedFrame = (failed: ListingFailed): Uint8Array => jsonFrame(FAILED, failed)

/**
 * A frame of `count` rows, and where its keys and its values are to be put.
 *
 * @since 0.1.0
 */
export const rowsFrame = ({ keySize, valueSize }: Pick<Table, "keySize" | "valueSize">, count: number) => {
  const bytes = frame(ROWS, count * (keySize + valueSize))
  const values = HEAD + count * keySize
  return { bytes, keys: bytes.subarray(HEAD, values), values: bytes.subarray(values) }
}

const decodeTable = Schema.decodeUnknownResult(Schema.fromJsonString(Table))
const decodeFailed = Schema.decodeUnknownResult(Schema.fromJsonString(ListingFailed))

/**
 * Reads frames, however their bytes come. Errors: `NotRows`; `ListingFailed` where the listing says that it is not whole.
 *
 * **Example** (Two rows in pieces)
 *
 * ```ts
 * import { EntryRows } from "ctmap-api"
 * import * as Effect from "effect/Effect"
 * import * as Stream from "effect/Stream"
 *
 * const sizes = { keySize: 14, valueSize: 56 }
 * const about = { map: "cilium_ct4_global", kind: "ct", family: "ipv4", release: "1.17" } as const
 * const bytes = [...EntryRows.tableFrame({ ...about, ...sizes }), ...EntryRows.rowsFrame(sizes, 2).bytes]
 * const pieces = Stream.make(Uint8Array.from(bytes.slice(0, 99)), Uint8Array.from(bytes.slice(99)))
 * const counts = Stream.map(EntryRows.decode(pieces), ({ count }) => count)
 * await Effect.runPromise(Stream.runCollect(counts)) // => [2]
 * ```
 *
 * @since 0.1.0
 */
export const decode = <E, R>(
  bytes: Stream.Stream<Uint8Array, E, R>
): Stream.Stream<Batch, E | NotRows | ListingFailed, R> =>
  Stream.suspend(() => {
    const reader = new Reader()
    const batches = Stream.flatMap(bytes, (chunk): Stream.Stream<Batch, NotRows | ListingFailed> => {
      const { complete, error } = reader.take(chunk)
      const some = Stream.fromIterable(complete)
      return error === undefined ? some : Stream.concat(some, Stream.fail(error))
    })
    const end = Stream.suspend((): Stream.Stream<never, NotRows> =>
      reader.isBetweenFrames ? Stream.empty : Stream.fail(new NotRows({ why: "it ends within a frame" }))
    )
    return Stream.concat(batches, end)
  })

/** What is complete of bytes that come in pieces. */
class Reader {
  #left: Uint8Array = new Uint8Array(0)
  #table: Table | undefined

  get isBetweenFrames(): boolean {
    return this.#left.byteLength === 0
  }

  take(chunk: Uint8Array): { readonly complete: ReadonlyArray<Batch>; readonly error?: NotRows | ListingFailed } {
    const all = this.#left.byteLength === 0 ? chunk : joined(this.#left, chunk)
    const head = new DataView(all.buffer, all.byteOffset, all.byteLength)
    const complete: Array<Batch> = []
    let at = 0
    while (all.byteLength - at >= HEAD) {
      const length = head.getUint32(at + 4, true)
      if (length > MOST) return { complete, error: new NotRows({ why: `a frame of ${length} bytes` }) }
      const end = at + HEAD + length
      if (end > all.byteLength) break
      const found = this.#read(head.getUint32(at, true), all.subarray(at + HEAD, end))
      if (found._tag === "Failure") return { complete, error: found.failure }
      if (found.success !== undefined) complete.push(found.success)
      at = end
    }
    this.#left = at === 0 ? all : all.slice(at)
    return { complete }
  }

  #read(kind: number, body: Uint8Array): Result.Result<Batch | undefined, NotRows | ListingFailed> {
    const bad = (why: string) => Result.fail(new NotRows({ why }))
    if (kind === ROWS) {
      if (this.#table === undefined) return bad("rows of no table")
      const { keySize, valueSize } = this.#table
      const count = body.byteLength / (keySize + valueSize)
      if (!Number.isInteger(count)) return bad(`${body.byteLength} bytes are no rows of ${keySize} and ${valueSize}`)
      const keys = body.subarray(0, count * keySize)
      return Result.succeed({ table: this.#table, count, keys, values: body.subarray(count * keySize) })
    }
    const text = new TextDecoder().decode(body)
    if (kind === FAILED) {
      const failed = decodeFailed(text)
      return failed._tag === "Success" ? Result.fail(failed.success) : bad(failed.failure.message)
    }
    const table = decodeTable(text)
    if (kind !== TABLE || table._tag === "Failure") return bad(`a frame of kind ${kind} that is none`)
    this.#table = table.success
    return Result.succeed(undefined)
  }
}

const joined = (a: Uint8Array, b: Uint8Array): Uint8Array => {
  const all = new Uint8Array(a.byteLength + b.byteLength)
  all.set(a)
  all.set(b, a.byteLength)
  return all
}
