/**
 * Scans for those who read rows and do not care how they stand in memory: by iterator where that pays, else by batch.
 *
 * Owns the choice. `Scan` hands out keys and values in two arrays; here a batch is {@link Rows} only, which columns read
 * either way, so the fastest reader of the kernel at hand can be used.
 *
 * @since 0.1.0
 */
import { Rows } from "ctmap-core"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import * as Bpf from "./Bpf.ts"
import type { BpfError } from "./BpfError.ts"
import * as BpfMap from "./BpfMap.ts"
import { MapIterator, type Started } from "./MapIterator.ts"
import * as Scan from "./Scan.ts"

/**
 * How rows are read.
 *
 * @since 0.1.0
 */
export type Method = Scan.Method | "iterator"

/**
 * What became of a scan.
 *
 * @since 0.1.0
 */
export interface Report extends Omit<Scan.Report, "method"> {
  readonly method: Method
}

/** Maps of fewer entries are read by batch: an iterator's program takes longer to load than they take to read. @since 0.1.0 */
export const ITERATOR_FROM = 65_536

/** What a read of an iterator hands out at most; a step makes a few reads. */
const PAGE_RUN = 32_768
const BUFFER = 4 * PAGE_RUN
const EAGAIN = -11

/**
 * Calls `use` with the rows of every read and reports how it went.
 *
 * **Details**
 *
 * Ownership: rows are valid until `use` has returned. Iterators are used for maps of {@link ITERATOR_FROM} entries and
 * more, where a `MapIterator` is provided and the kernel lets it work; otherwise, and where an iterator cannot be
 * started, batches. Errors: `BpfError`.
 *
 * @since 0.1.0
 */
export const forEach = <E, R>(
  map: BpfMap.BpfMap,
  use: (rows: Rows.Rows) => Effect.Effect<void, E, R>,
  options: { readonly method?: Method } = {}
): Effect.Effect<Report, BpfError | E, Bpf.Bpf | R> =>
  Effect.scoped(
    Effect.flatMap(start(map, options.method), (started): Effect.Effect<Report, BpfError | E, Bpf.Bpf | R> =>
      Option.isSome(started)
        ? iterate(map, started.value, use)
        : Scan.forEach(map, ({ rows }) => use(rows), portable(options))
    )
  )

const portable = ({ method }: { readonly method?: Method }): Scan.Options =>
  method === undefined || method === "iterator" ? {} : { method }

const start = (
  map: BpfMap.BpfMap,
  method: Method | undefined
): Effect.Effect<Option.Option<Started>, BpfError, Scope.Scope> =>
  Effect.flatMap(Effect.serviceOption(MapIterator), (service) =>
    Option.isNone(service) || (method === undefined ? map.info.maxEntries < ITERATOR_FROM : method !== "iterator")
      ? Effect.succeed(Option.none<Started>())
      : method === "iterator"
        ? Effect.map(service.value.start(map), Option.some)
        : Effect.option(service.value.start(map))
  )

const iterate = Effect.fnUntraced(function* <E, R>(
  map: BpfMap.BpfMap,
  { fd, shape }: Started,
  use: (rows: Rows.Rows) => Effect.Effect<void, E, R>
) {
  const bpf = yield* Bpf.Bpf
  const buffer = new Uint8Array(BUFFER)
  let entries = 0
  let batches = 0
  let filled = 0
  for (;;) {
    let rc = 0
    while (filled + PAGE_RUN <= BUFFER) {
      rc = bpf.read(fd, buffer.subarray(filled))
      if (rc <= 0) break
      filled += rc
    }
    if (rc < 0 && rc !== EAGAIN) return yield* Effect.fail(BpfMap.failure(map, "iterate", rc))
    const count = Math.floor(filled / shape.stride)
    if (count > 0) {
      entries += count
      batches++
      yield* use(Rows.interleaved(buffer, { ...shape, count }))
      buffer.copyWithin(0, count * shape.stride, filled)
      filled -= count * shape.stride
    }
    if (rc === 0) break
    yield* Effect.yieldNow
  }
  const report: Report = { method: "iterator", entries, batches, completed: true, restarts: 0, fallbacks: 0, grown: 0 }
  return report
})
