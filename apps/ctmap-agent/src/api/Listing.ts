/**
 * Entries as lines of JSON, or as the kernel has them, a batch at a time.
 *
 * Nothing is read ahead of the reader: memory is one batch of the kernel and one chunk of the answer, however large the table
 * and however slow the reader.
 *
 * @since 0.1.0
 */
import { type AgentStream, EntryRows, Problem, type Request } from "ctmap-api"
import {
  CtColumns,
  type CtJson,
  CtJsonWriter,
  CtTime,
  Family,
  type Filter,
  FilterParser,
  FilterPredicate,
  MapName,
  NatColumns
} from "ctmap-core"
import {
  Bpf,
  type BpfError,
  type BpfMap,
  CtMaps,
  type CtPair,
  KernelClock,
  Layout,
  MapIterator,
  NatMaps,
  Owner,
  Pins,
  RowScan,
  type Scan
} from "ctmap-kernel"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { invalid } from "./Edge.ts"
import { type Reading, reading } from "./Reading.ts"

type Columns = CtColumns.CtColumns | NatColumns.NatColumns

/** A map that is listed, and how. */
interface Source {
  readonly map: BpfMap.BpfMap
  readonly columns: Columns
  readonly wants: (row: number) => boolean
  readonly context: CtJson.Context
}

/** In which form entries are sent. @since 0.1.0 */
export type Form = "lines" | "rows"

/** @since 0.1.0 */
export type ListProblem = Problem.InvalidRequest | Problem.KernelFailed | Problem.LayoutUnknown | Problem.NotFound

/** What maps are opened and read with. @since 0.1.0 */
export type Kernel = Bpf.Bpf | CtMaps.CtMaps | NatMaps.NatMaps | KernelClock.KernelClock | MapIterator.MapIterator

/**
 * Opens what a query is about and reads the first batch. What fails by then is a problem; what fails later is the last
 * line of the stream, which itself never fails. The maps are open as long as the scope is.
 *
 * @since 0.1.0
 */
export const open = (
  query: Request.EntriesQuery,
  form: Form = "lines"
): Effect.Effect<Stream.Stream<Uint8Array>, ListProblem, Kernel | Scope.Scope> =>
  Effect.gen(function* () {
    const clock = yield* Effect.flatMap(KernelClock.KernelClock, reading)
    const filter = query.where === undefined ? undefined : Result.getOrThrow(FilterParser.parse(query.where))
    const maps = yield* openMaps(query)
    const sources = yield* Effect.forEach(maps, (map) => sourceOf(map, filter, clock))
    const kernel = Context.make(Bpf.Bpf, yield* Bpf.Bpf).pipe(
      Context.add(MapIterator.MapIterator, yield* MapIterator.MapIterator)
    )
    const sent = { entries: 0, limit: query.limit ?? Number.POSITIVE_INFINITY }
    const chunks = Stream.provideContext(
      Stream.flatMap(Stream.fromIterable(sources).pipe(Stream.rechunk(1)), (source) => chunksOf(source, form, sent)),
      kernel
    )
    const pull = yield* Stream.toPull(chunks)
    const first = yield* Effect.result(
      Effect.catchTag(pull, "Done", () => Effect.succeed([] as ReadonlyArray<Uint8Array>))
    )
    if (Result.isFailure(first)) return yield* Effect.fail(kernelFailed(first.failure))
    const rest = first.success.length === 0 ? Stream.empty : Stream.fromPull(Effect.succeed(pull))
    return Stream.concat(Stream.fromIterable(first.success), rest).pipe(
      Stream.catch((error) => Stream.succeed(failure(form, error.message, sent.entries)))
    )
  })

const kernelFailed = ({ message }: { readonly message: string }) =>
  new Problem.KernelFailed({ detail: message, deleted: 0, pairs: [] })

const encoder = new TextEncoder()

const failure = (form: Form, detail: string, entries: number): Uint8Array => {
  const failed: AgentStream.ListingFailed = { type: "error", detail, entries }
  return form === "rows" ? EntryRows.failedFrame(failed) : encoder.encode(`${JSON.stringify(failed)}\n`)
}

type AnyMap = CtPair.CtMap | CtPair.NatMap

/** The maps that a query is about: one at least. */
const openMaps = (
  query: Request.EntriesQuery
): Effect.Effect<ReadonlyArray<AnyMap>, ListProblem, Kernel | Scope.Scope> =>
  Effect.gen(function* () {
    const wrong = contradictions(query)
    if (wrong.length > 0) return yield* Effect.fail(invalid(wrong))
    const { cluster, endpoint, family, map: names, nat = false } = query
    const ct = yield* CtMaps.CtMaps
    const nats = yield* NatMaps.NatMaps
    const found: Array<AnyMap> = []
    const add = (opened: Effect.Effect<AnyMap, BpfError.BpfError, Scope.Scope>, name?: string) =>
      opened.pipe(
        Effect.map((map) => void found.push(map)),
        Effect.catchReason("BpfError", "PinNotFound", () => (name === undefined ? Effect.void : absent(name))),
        Effect.catchTag("BpfError", (error) => Effect.fail(kernelFailed(error)))
      )
    for (const name of names ?? []) {
      const denoted = MapName.parse(name)
      const owner = denoted && Pins.ownerOf(denoted)
      if (denoted === undefined || owner === undefined) continue
      if ("kind" in denoted) yield* add(ct.open({ ...denoted.kind, owner }), name)
      else if ("family" in denoted && owner._tag !== "Endpoint") yield* add(nats.open(denoted.family, owner), name)
    }
    if (names !== undefined) return found
    const owner =
      cluster !== undefined ? Owner.cluster(cluster) : endpoint !== undefined ? Owner.endpoint(endpoint) : Owner.global
    for (const each of Family.all.filter((one) => family === undefined || family === one)) {
      if (!nat) {
        for (const transport of ["tcp", "any"] as const) yield* add(ct.open({ family: each, transport, owner }))
      } else if (owner._tag !== "Endpoint") yield* add(nats.open(each, owner))
    }
    return found.length > 0 ? found : yield* absent(undefined)
  })

const absent = (name: string | undefined) =>
  new Problem.NotFound({
    detail: `no ${name === undefined ? "such map" : `map ${name}`} is pinned: /v1/maps lists what is there`
  })

/** What cannot be meant together, and names of no table. */
const contradictions = ({ cluster, endpoint, map, nat }: Request.EntriesQuery): ReadonlyArray<Problem.Issue> => {
  const issue = (name: string, message: string): Problem.Issue => ({ path: ["query", name], message })
  const owners = [...(cluster === undefined ? [] : ["cluster"]), ...(endpoint === undefined ? [] : ["endpoint"])]
  const unknown = (map ?? []).filter((name) => {
    const denoted = MapName.parse(name)
    return denoted === undefined || Pins.ownerOf(denoted) === undefined
  })
  return [
    ...unknown.map((name) => issue("map", `"${name}" is not the name of a CT or NAT map`)),
    ...(map === undefined ? [] : owners.map((name) => issue(name, "map names whole maps: leave this out"))),
    ...(owners.length === 2 ? [issue("endpoint", "cluster and endpoint are two owners: leave one out")] : []),
    ...(nat === true && endpoint !== undefined ? [issue("endpoint", "endpoints have no NAT maps of their own")] : [])
  ]
}

const sourceOf = (
  opened: AnyMap,
  filter: Filter.Filter | undefined,
  clock: Reading | undefined
): Effect.Effect<Source, Problem.InvalidRequest | Problem.LayoutUnknown, CtMaps.CtMaps> =>
  Effect.gen(function* () {
    const { family, map } = opened
    const time = clock === undefined ? {} : { now: clock.now, secondsPerUnit: CtTime.secondsPerUnit(clock.source) }
    const context: CtJson.Context = { map: map.name, ...(clock === undefined ? {} : { clock }) }
    const compiled = <A>(predicate: Result.Result<A, Filter.FilterUnsupported>) =>
      Effect.mapError(Effect.fromResult(predicate), ({ message }) => invalid([{ path: ["query", "where"], message }]))
    const unknown = (why: string) =>
      new Problem.LayoutUnknown({
        detail: `the entries of ${map.name} cannot be read: ${why}`,
        map: map.name,
        deleted: 0,
        pairs: []
      })
    if (opened._tag === "CtMap") {
      const { layout } = opened
      const release = Layout.releaseOf(layout)
      if (release === undefined) return yield* unknown(layout._tag === "Unknown" ? layout.why : "")
      const columns = new CtColumns.CtColumns({ family, release })
      const wants = filter && (yield* compiled(FilterPredicate.compileCt(filter, { family, release, ...time })))
      return {
        map,
        columns,
        wants: wants === undefined ? () => true : (row: number) => wants(columns, row),
        context
      }
    }
    if (opened.mismatch !== undefined) return yield* unknown(opened.mismatch)
    const { assumedRelease: release } = yield* CtMaps.CtMaps
    const columns = new NatColumns.NatColumns({ family, release })
    const wants = filter && (yield* compiled(FilterPredicate.compileNat(filter, { family, release, ...time })))
    return {
      map,
      columns,
      wants: wants === undefined ? () => true : (row: number) => wants(columns, row),
      context
    }
  })

/** Rows that are looked at between two turns where few are wanted. */
const LOOKED_AT = 1024

interface Sent {
  entries: number
  readonly limit: number
}

/** What makes an answer of chosen rows of the bound batch. */
interface Maker {
  /** Rows at a time, in a fraction of a millisecond; then others have their turn. */
  readonly most: number
  readonly make: (chosen: Uint32Array, count: number) => Uint8Array
}

const NEWLINE = "\n"

const lines = ({ columns, context }: Source): Maker => {
  const most = 128
  // Puts the end of a line in front of each record.
  const writer = new CtJsonWriter.CtJsonWriter(columns, context, NEWLINE)
  // A record has a kilobyte at most for the name of its map.
  const buffer = new Uint8Array(most * (CtJsonWriter.maxRecordBytes + 1024))
  return {
    most,
    make: (rows, count) => {
      writer.fill(buffer, { rows, count })
      const text = buffer.slice(NEWLINE.length, writer.end + NEWLINE.length)
      text[text.length - 1] = NEWLINE.charCodeAt(0)
      return text
    }
  }
}

const rows = ({ columns, map: { info, name } }: Source): Maker => {
  const { keySize, valueSize } = info
  const kind = columns instanceof CtColumns.CtColumns ? "ct" : "nat"
  const { family, release } = columns
  // With the first rows: before these nothing is sent, for nothing is known to work.
  let table: Uint8Array | undefined = EntryRows.tableFrame({ map: name, kind, family, release, keySize, valueSize })
  return {
    most: LOOKED_AT,
    make: (chosen, count) => {
      const { bytes, keys, values } = EntryRows.rowsFrame({ keySize, valueSize }, count)
      for (let i = 0; i < count; i++) {
        const row = chosen[i]!
        keys.set(columns.keyBytes(row), i * keySize)
        values.set(columns.valueBytes(row), i * valueSize)
      }
      const head = table
      table = undefined
      return head === undefined ? bytes : Buffer.concat([head, bytes])
    }
  }
}

const chunksOf = (
  source: Source,
  form: Form,
  sent: Sent
): Stream.Stream<Uint8Array, BpfError.BpfError | Scan.Incomplete, Bpf.Bpf> =>
  Stream.suspend(() => {
    const { columns, map, wants } = source
    const { make, most } = form === "rows" ? rows(source) : lines(source)
    const chosen = new Uint32Array(most)
    return RowScan.stream(map).pipe(
      Stream.takeWhile(() => sent.entries < sent.limit),
      Stream.flatMap((batch) => {
        columns.bind(batch)
        return Stream.unfold(0, (from) =>
          Effect.gen(function* () {
            if (from >= batch.count || sent.entries >= sent.limit) return undefined
            yield* Effect.yieldNow
            let count = 0
            let row = from
            const end = Math.min(batch.count, from + LOOKED_AT)
            const room = Math.min(most, sent.limit - sent.entries)
            for (; row < end && count < room; row++) if (wants(row)) chosen[count++] = row
            sent.entries += count
            return [count === 0 ? none : make(chosen, count), row] as const
          })
        )
      }),
      Stream.filter((chunk) => chunk.length > 0)
    )
  })

const none = new Uint8Array(0)
