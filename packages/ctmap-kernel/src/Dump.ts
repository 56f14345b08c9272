/**
 * Open maps as Cilium prints them: the text of `cilium bpf ct list` and `cilium bpf nat list`, byte for byte.
 *
 * Owns the order of things around the line writers of ctmap-core: clock first, then the map, batch by batch, and an error
 * behind what was written before it. The streams run over reused bytes and hold one buffer, however large the map; the
 * whole texts and the records are the convenient forms. A map of a layout that ctmap does not know is refused, not
 * misread. Entries are read in batches, so none appears twice (Cilium's walk by key repeats entries of a busy map).
 *
 * @see `pkg/maps/ctmap/ctmap.go` of Cilium, `DoDumpEntries`, `DumpEntriesWithTimeDiff`
 * @since 0.1.0
 */
import { constants } from "node:buffer"
import {
  CtColumns,
  type CtKey,
  CtLineWriter,
  CtTime,
  FilterPredicate,
  NatColumns,
  type NatEntry,
  type NatKey,
  NatLineWriter,
  type Release
} from "ctmap-core"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import type * as Bpf from "./Bpf.ts"
import type { BpfError } from "./BpfError.ts"
import type * as CtPair from "./CtPair.ts"
import { type BatchWriter, textStream } from "./internal/textStream.ts"
import type * as KernelClock from "./KernelClock.ts"
import * as Layout from "./Layout.ts"
import type * as RowScan from "./RowScan.ts"
import * as Scan from "./Scan.ts"

/**
 * The entries of a map are of a layout that ctmap does not know.
 *
 * @since 0.1.0
 */
export class UnknownLayout extends Schema.TaggedError<UnknownLayout>()("UnknownLayout", {
  map: Schema.String,
  why: Schema.String
}) {
  override get message(): string {
    return (
      `the entries of map ${this.map} cannot be interpreted: ${this.why}; ` +
      `of a hash they can be counted and saved as they are, and nothing else`
    )
  }
}

/**
 * The text of a map is longer than a string can be (half a gigabyte, about two million entries).
 *
 * @since 0.1.0
 */
export class TextTooLong extends Schema.TaggedError<TextTooLong>()("TextTooLong", { map: Schema.String }) {
  override get message(): string {
    return (
      `the text of map ${this.map} is longer than the ${constants.MAX_STRING_LENGTH} characters that a string can hold: ` +
      `take it as a stream, or narrow it down with a filter`
    )
  }
}

/** What the streams can end with. @since 0.1.0 */
export type DumpError = BpfError | Scan.Incomplete | UnknownLayout | CtTime.ClockError

/** @since 0.1.0 */
export interface TextOptions extends RowScan.Options {
  /** Prints behind each expiry how far away it is: ` (remaining: … sec(s))`. Read once, before the map. */
  readonly clock?: KernelClock.KernelClock["Service"] | undefined
  /** Only entries that match; compiled for the family and the release of the map. */
  readonly predicate?: FilterPredicate.CtPredicate | undefined
}

/** @since 0.1.0 */
export interface NatTextOptions extends RowScan.Options {
  /** Prints how old an entry is, `Created=…sec ago`, in place of the raw time. Read once, before the map. */
  readonly clock?: KernelClock.KernelClock["Service"] | undefined
  /** Only entries that match; compiled for the family of the map. */
  readonly predicate?: FilterPredicate.NatPredicate | undefined
  /** Protocol names and address texts of this release. Default `"1.17"`. */
  readonly release?: Release.Release | undefined
}

/** Key and value of one NAT entry, decoded. @since 0.1.0 */
export interface NatRecord {
  readonly key: NatKey.NatKey
  readonly entry: NatEntry.NatEntry
}

/**
 * The lines of a CT map as bytes.
 *
 * **Details**
 *
 * Shape: chunks of about 256 KiB, whole lines, in the order of the map; nothing for an entry whose protocol is 0, as in
 * Cilium. Lines of an endpoint's map are of Cilium's local form. Errors: {@link DumpError}; what was written before a
 * late error comes before it. Ownership: each chunk is a copy and the receiver's to keep. Kernel: see {@link RowScan}; a
 * batch of 1024 blocks the thread for about a millisecond.
 *
 * @since 0.1.0
 */
export const text = (
  map: CtPair.CtMap,
  options: TextOptions = {}
): Stream.Stream<Uint8Array<ArrayBuffer>, DumpError, Bpf.Bpf> =>
  textStream(
    map.map,
    Effect.gen(function* () {
      const columns = yield* columnsOf(map)
      const { clock, predicate } = options
      const now = clock === undefined ? 0 : yield* clock.now
      const writer = new CtLineWriter.CtLineWriter(columns, {
        scope: scopeOf(map),
        ...(clock === undefined
          ? {}
          : { secondsRemaining: (lifetime) => CtTime.remaining(clock.source, lifetime, now) })
      })
      return batchWriter(columns, writer, predicate)
    }),
    options
  )

/**
 * The lines of a NAT map as bytes. As {@link text} in all else.
 *
 * @since 0.1.0
 */
export const natText = (
  map: CtPair.NatMap,
  options: NatTextOptions = {}
): Stream.Stream<Uint8Array<ArrayBuffer>, DumpError, Bpf.Bpf> =>
  textStream(
    map.map,
    Effect.gen(function* () {
      const columns = yield* natColumnsOf(map, options.release)
      const { clock, predicate } = options
      const now = clock === undefined ? 0n : BigInt(yield* clock.now)
      const writer = new NatLineWriter.NatLineWriter(
        columns,
        clock === undefined ? {} : { age: (created) => CtTime.age(clock.source, created, now) }
      )
      return batchWriter(columns, writer, predicate)
    }),
    options
  )

/**
 * Cilium's `DumpEntries`: the whole text of a CT map, `""` for an empty one. On an error there is no text.
 *
 * **Example** (The global TCP map, as `cilium bpf ct list` prints it)
 *
 * ```ts
 * import { BpfMap, BpfMemory, CtMaps, Dump, Owner } from "ctmap-kernel"
 * import * as Effect from "effect/Effect"
 * import * as Layer from "effect/Layer"
 *
 * const key = Uint8Array.of(10, 0, 1, 99, 1, 1, 1, 1, 0, 80, 0x86, 0xd8, 6, 0)
 * const program = Effect.gen(function* () {
 *   const maps = yield* CtMaps.CtMaps
 *   const ct = yield* maps.openOrCreate({ family: "ipv4", transport: "tcp", owner: Owner.global })
 *   yield* BpfMap.update(ct.map, { key, value: new Uint8Array(56) })
 *   return yield* Dump.dumpEntries(ct)
 * })
 * const kernel = CtMaps.layer().pipe(Layer.provideMerge(BpfMemory.layer))
 * const text = await Effect.runPromise(Effect.scoped(program).pipe(Effect.provide(kernel)))
 * text.startsWith("TCP OUT 10.0.1.99:34520 -> 1.1.1.1:80 expires=0 Packets=0 ") // => true
 * ```
 *
 * @since 0.1.0
 */
export const dumpEntries = (
  map: CtPair.CtMap,
  options?: TextOptions
): Effect.Effect<string, DumpError | TextTooLong, Bpf.Bpf> => whole(map.map.name, text(map, options))

/** {@link dumpEntries} by its name in the API list. @since 0.1.0 */
export const doDumpEntries: typeof dumpEntries = dumpEntries

/**
 * Cilium's `DumpEntriesWithTimeDiff`: as {@link dumpEntries}, with the time that remains if there is a clock.
 *
 * @since 0.1.0
 */
export const dumpEntriesWithTimeDiff = (
  map: CtPair.CtMap,
  clock?: KernelClock.KernelClock["Service"],
  options?: Omit<TextOptions, "clock">
): Effect.Effect<string, DumpError | TextTooLong, Bpf.Bpf> => dumpEntries(map, { ...options, clock })

/** The whole text of a NAT map, with raw creation times. @since 0.1.0 */
export const dumpNatEntries = (
  map: CtPair.NatMap,
  options?: NatTextOptions
): Effect.Effect<string, DumpError | TextTooLong, Bpf.Bpf> => whole(map.map.name, natText(map, options))

/** As {@link dumpNatEntries}, with the age of each entry if there is a clock. @since 0.1.0 */
export const dumpNatEntriesWithTimeDiff = (
  map: CtPair.NatMap,
  clock?: KernelClock.KernelClock["Service"],
  options?: Omit<NatTextOptions, "clock">
): Effect.Effect<string, DumpError | TextTooLong, Bpf.Bpf> => dumpNatEntries(map, { ...options, clock })

/**
 * Cilium's `DumpWithCallback`: hands out every entry, decoded and copied, entries of protocol 0 included.
 *
 * **Details**
 *
 * The slow, convenient form: two objects per entry, about twenty times the cost of the columns of {@link Scan.forEach}.
 * The callback runs between two batches and must not block; what it throws is a defect. Errors: as {@link text}, without
 * the clock's; what came before an error has been handed out.
 *
 * @since 0.1.0
 */
export const dumpWithCallback: (
  map: CtPair.CtMap,
  callback: (record: CtColumns.CtRecord) => void,
  options?: Scan.Options
) => Effect.Effect<Scan.Report, BpfError | Scan.Incomplete | UnknownLayout, Bpf.Bpf> = Effect.fnUntraced(function* (
  map: CtPair.CtMap,
  callback: (record: CtColumns.CtRecord) => void,
  options?: Scan.Options
) {
  const columns = yield* columnsOf(map)
  const scope = scopeOf(map)
  return yield* forEachRow(map, columns, (row) => callback(columns.record(row, scope)), options)
})

/** As {@link dumpWithCallback} for a NAT map. @since 0.1.0 */
export const dumpNatWithCallback: (
  map: CtPair.NatMap,
  callback: (record: NatRecord) => void,
  options?: Scan.Options
) => Effect.Effect<Scan.Report, BpfError | Scan.Incomplete | UnknownLayout, Bpf.Bpf> = Effect.fnUntraced(function* (
  map: CtPair.NatMap,
  callback: (record: NatRecord) => void,
  options?: Scan.Options
) {
  const columns = yield* natColumnsOf(map)
  return yield* forEachRow(
    map,
    columns,
    (row) => callback({ key: columns.key(row), entry: columns.entry(row) }),
    options
  )
})

// internal

const scopeOf = ({ owner }: CtPair.CtMap): CtKey.Scope => (owner._tag === "Endpoint" ? "local" : "global")

const columnsOf = ({ family, layout, map }: CtPair.CtMap): Effect.Effect<CtColumns.CtColumns, UnknownLayout> =>
  Effect.suspend(() => {
    const release = Layout.releaseOf(layout)
    return release === undefined
      ? Effect.fail(new UnknownLayout({ map: map.name, why: layout._tag === "Unknown" ? layout.why : "" }))
      : Effect.succeed(new CtColumns.CtColumns({ family, release }))
  })

const natColumnsOf = (
  { family, mismatch, map }: CtPair.NatMap,
  release: Release.Release = "1.17"
): Effect.Effect<NatColumns.NatColumns, UnknownLayout> =>
  Effect.suspend(() =>
    mismatch === undefined
      ? Effect.succeed(new NatColumns.NatColumns({ family, release }))
      : Effect.fail(new UnknownLayout({ map: map.name, why: mismatch }))
  )

type Columns = CtColumns.CtColumns | NatColumns.NatColumns

const forEachRow = (
  { map }: CtPair.CtMap | CtPair.NatMap,
  columns: Columns,
  use: (row: number) => void,
  options: Scan.Options | undefined
): Effect.Effect<Scan.Report, BpfError | Scan.Incomplete, Bpf.Bpf> =>
  Effect.flatMap(
    Scan.forEachSync(
      map,
      ({ rows }) => {
        columns.bind(rows)
        for (let row = 0; row < columns.count; row++) use(row)
      },
      options
    ),
    (report) => {
      const why = Scan.whyIncomplete(map, report)
      return why === undefined ? Effect.succeed(report) : Effect.fail(why)
    }
  )

/** The part of the line writers that is needed here. */
interface Writer {
  readonly fill: (into: Uint8Array, options: CtLineWriter.FillOptions) => number
  readonly end: number
}

const batchWriter = <C extends Columns>(
  columns: C,
  writer: Writer,
  predicate: ((columns: C, row: number) => boolean) | undefined
): BatchWriter => {
  let selected = new Uint32Array(0)
  let count = 0
  return {
    bind: (rows) => {
      columns.bind(rows)
      count = columns.count
      if (predicate === undefined) return count
      if (selected.length < count) selected = new Uint32Array(count)
      count = FilterPredicate.select(predicate, columns, selected)
      return count
    },
    fill: (into, from, at) =>
      predicate === undefined
        ? writer.fill(into, { from, at })
        : writer.fill(into, { from, at, rows: selected, count }),
    end: () => writer.end
  }
}

const whole = <E, R>(
  map: string,
  stream: Stream.Stream<Uint8Array<ArrayBuffer>, E, R>
): Effect.Effect<string, E | TextTooLong, R> =>
  Effect.suspend(() => {
    let joined = ""
    return Effect.map(
      Stream.runForEach(stream, (chunk) => {
        if (joined.length + chunk.byteLength > constants.MAX_STRING_LENGTH) {
          return Effect.fail(new TextTooLong({ map }))
        }
        joined += Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength).toString("latin1")
        return Effect.void
      }),
      () => joined
    )
  })
