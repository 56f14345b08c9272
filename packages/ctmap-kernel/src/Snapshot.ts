/**
 * Whole maps as text, and back: `map name<TAB>key hex<TAB>value hex`, one entry a line.
 *
 * Owns the format and what restoring means. A snapshot is bytes, not an interpretation: it is saved and restored whatever
 * release wrote it, is compared with `diff`, and every byte of an entry survives. Nothing is lost without a word: text
 * that is damaged or cut short, names that are none of Cilium's, maps of another layout and entries that an LRU map
 * evicted while others were restored are errors. A map without entries has no line, so a snapshot does not mention it.
 *
 * Restore into maps that nobody else writes to at the time: what the datapath inserts or deletes meanwhile is counted as
 * if the restore had done it.
 *
 * @since 0.1.0
 */
import { MapSpec } from "ctmap-core"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as FileSystem from "effect/FileSystem"
import type { PlatformError } from "effect/PlatformError"
import * as Option from "effect/Option"
import * as Random from "effect/Random"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import type * as Bpf from "./Bpf.ts"
import type { BpfError } from "./BpfError.ts"
import type * as BpfMap from "./BpfMap.ts"
import * as Gzip from "./internal/gzip.ts"
import { type Known, shiftTimes, type Target } from "./internal/restoreTarget.ts"
import { SnapshotError } from "./internal/snapshotError.ts"
import { checkFit, knownMap, openTarget, readBatches, write } from "./internal/snapshotMaps.ts"
import { linesOf } from "./internal/snapshotText.ts"
import * as Scan from "./Scan.ts"

export { SnapshotError } from "./internal/snapshotError.ts"

/**
 * LRU maps were too small for a snapshot: they evicted entries for others, restored ones or ones that were there.
 *
 * @since 0.1.0
 */
export class EntriesEvicted extends Schema.TaggedError<EntriesEvicted>()("EntriesEvicted", {
  maps: Schema.Array(
    Schema.Struct({ map: Schema.String, maxEntries: Schema.Int, restored: Schema.Int, evicted: Schema.Int })
  )
}) {
  override get message(): string {
    const each = this.maps.map(
      ({ map, maxEntries, restored, evicted }) =>
        `map ${map} has room for ${maxEntries} entries and evicted ${evicted} while ${restored} were restored`
    )
    return (
      `${each.join("; ")}: make the maps larger (--bpf-ct-global-tcp-max, --bpf-ct-global-any-max, ` +
      `--bpf-nat-global-max; an LRU needs some room to spare), or accept the loss`
    )
  }
}

/** How many entries of which map. @since 0.1.0 */
export interface Content {
  readonly map: string
  readonly entries: number
}

/** What became of one map. @since 0.1.0 */
export interface Restored extends Content {
  /** The map was not pinned and has been made. */
  readonly created: boolean
  /** Entries that were deleted first, for `replace`. */
  readonly cleared: number
  /** Entries that the map, an LRU, threw out for those that were restored. */
  readonly evicted: number
  /** Times that did not fit after the shift and were cut to the end of their scale. */
  readonly cut: number
  /** Entries in the map afterwards. */
  readonly now: number
}

/** @since 0.1.0 */
export interface RestoreOptions extends MapSpec.Options {
  /** Delete what a map holds before its first entry is restored. Default: merge, the snapshot wins. */
  readonly replace?: boolean
  /** Fail with `EntriesEvicted` where entries were evicted. Default `true`. */
  readonly failOnEviction?: boolean
  /**
   * Moves all times by so many clock units (now minus the time of the snapshot): what remains of a lifetime stays as it
   * was. A report of 0 means never and stays 0, a lifetime of `0xffffffff` means for ever and stays that. A time that
   * would leave its scale is cut: below to 0 (long expired; 1 for a report), above to the largest.
   */
  readonly shift?: number
}

/**
 * The lines of a map, a chunk per batch.
 *
 * **Details**
 *
 * Errors: `BpfError`, `Incomplete` as in {@link Scan.streamComplete}, `SnapshotError` for a map that is no hash. The lines
 * before an error are whole. Ownership: chunks are the receiver's. Memory: one batch. Kernel: see {@link Scan}.
 *
 * @since 0.1.0
 */
export const save = (
  map: BpfMap.BpfMap
): Stream.Stream<Uint8Array<ArrayBuffer>, BpfError | Scan.Incomplete | SnapshotError, Bpf.Bpf> => {
  const { type } = map.info
  if (type !== MapSpec.mapType.lruHash && type !== MapSpec.mapType.hash) {
    return Stream.fail(
      new SnapshotError({ why: `cannot hold map ${map.name} of type ${type}`, hint: "name CT and NAT maps only" })
    )
  }
  const name = Buffer.from(map.name)
  return Stream.map(Scan.streamComplete(map), (batch) => linesOf(name, map.info, batch))
}

/** {@link save} for several maps, one after the other. @since 0.1.0 */
export const saveAll = (
  maps: ReadonlyArray<BpfMap.BpfMap>
): Stream.Stream<Uint8Array<ArrayBuffer>, BpfError | Scan.Incomplete | SnapshotError, Bpf.Bpf> =>
  Stream.flatMap(Stream.fromArray(maps), save)

/** What restoring a text can fail with, besides the errors of the text's own stream. @since 0.1.0 */
export type RestoreError = BpfError | SnapshotError | EntriesEvicted

/**
 * Writes the entries of a snapshot into the maps they are named after, below the configured bpffs.
 *
 * **Details**
 *
 * A map that is not pinned is made and pinned, of the size that `limits` says (an inner map of a cluster is not entered
 * into its outer map); a restore that fails unpins what it made. Maps that were there keep what was written to them until
 * then: check a text with {@link inspect} first, as {@link restoreFile} does. The maps may come in any order, but a text
 * that changes between them with every line is slow. Errors: `SnapshotError` with the number of the line; `BpfError`
 * (`MapFull` for a hash that is no LRU); `EntriesEvicted` once everything has been written. Memory: one chunk of text and
 * one batch, however long the snapshot. Kernel: batch updates since Linux 5.6, else one by one; at most 1024 entries
 * between two yields.
 *
 * **Example** (A table in the in-memory kernel)
 *
 * ```ts
 * import { BpfMemory, Snapshot } from "ctmap-kernel"
 * import * as Effect from "effect/Effect"
 * import * as Stream from "effect/Stream"
 *
 * const line = `cilium_ct4_global\t0a00016301010101005086d80600\t${"00".repeat(56)}\n`
 * const text = Stream.make(new TextEncoder().encode(line))
 * const restored = await Effect.runPromise(Snapshot.restore(text).pipe(Effect.provide(BpfMemory.layer)))
 * restored[0]?.map // => "cilium_ct4_global"
 * restored[0]?.now // => 1
 * ```
 *
 * @since 0.1.0
 */
export const restore: <E, R>(
  text: Stream.Stream<Uint8Array, E, R>,
  options?: RestoreOptions
) => Effect.Effect<ReadonlyArray<Restored>, E | RestoreError, Bpf.Bpf | R> = Effect.fn("Snapshot.restore")(function* <
  E,
  R
>(text: Stream.Stream<Uint8Array, E, R>, options: RestoreOptions = {}) {
  const { shift = 0, failOnEviction = true, replace = false } = options
  const targets = new Map<string, { readonly known: Known; readonly target: Target; cut: number }>()
  yield* readBatches(text, {
    open: (name, line) =>
      Effect.gen(function* () {
        const known = yield* knownMap(name, line, options)
        if (!targets.has(name))
          targets.set(name, { known, target: yield* openTarget(name, line, known, replace), cut: 0 })
        return known.spec
      }),
    take: (name, entries) => {
      const open = targets.get(name)!
      if (shift !== 0) open.cut += shiftTimes(open.known, entries, shift)
      return write(open.target, entries)
    }
  })
  const restored = yield* Effect.forEach(targets, ([map, { target, cut }]) =>
    Effect.map(Scan.count(target.map), (now): Restored => {
      const { written: entries, created, cleared } = target
      return { map, entries, created, cleared, evicted: target.evicted(now), cut, now }
    })
  )
  const short = restored.filter(({ evicted }) => evicted > 0)
  if (short.length === 0 || !failOnEviction) return restored
  return yield* new EntriesEvicted({
    maps: short.map(({ map, entries, evicted }) => {
      return { map, maxEntries: targets.get(map)!.target.map.info.maxEntries, restored: entries, evicted }
    })
  })
}, Effect.scoped)

/**
 * What a snapshot holds, in the order of its first lines; every line of it is checked, and no map is touched.
 *
 * @since 0.1.0
 */
export const inspect: <E, R>(
  text: Stream.Stream<Uint8Array, E, R>
) => Effect.Effect<ReadonlyArray<Content>, E | SnapshotError, R> = Effect.fnUntraced(function* <E, R>(
  text: Stream.Stream<Uint8Array, E, R>
) {
  const counts = new Map<string, number>()
  yield* readBatches(text, {
    open: (name, line) => Effect.map(knownMap(name, line, {}), ({ spec }) => spec),
    take: (name, { count }) => Effect.sync(() => void counts.set(name, (counts.get(name) ?? 0) + count))
  })
  return Array.from(counts, ([map, entries]) => ({ map, entries }))
})

/**
 * Saves maps to a file, compressed where its name ends in `.gz`.
 *
 * **Details**
 *
 * The file appears under its name when it is complete, and readable by its owner only: it says who talked to whom.
 * Errors: as {@link save}, and `PlatformError`; no file is left behind then, and one of that name stays what it was.
 *
 * @since 0.1.0
 */
export const saveFile: (
  path: string,
  maps: ReadonlyArray<BpfMap.BpfMap>
) => Effect.Effect<
  ReadonlyArray<Content>,
  BpfError | Scan.Incomplete | SnapshotError | PlatformError,
  Bpf.Bpf | FileSystem.FileSystem
> = Effect.fn("Snapshot.saveFile")(function* (path: string, maps: ReadonlyArray<BpfMap.BpfMap>) {
  const fs = yield* FileSystem.FileSystem
  // What is no regular file (a pipe, a terminal, /dev/null) is written to, never replaced.
  const found = yield* Effect.option(fs.stat(path))
  const isReplaced = Option.isNone(found) || found.value.type === "File"
  const part = isReplaced ? `${path}.${(yield* Random.nextInt).toString(36).replace("-", "")}.part` : path
  const contents: Array<Content> = []
  const text = Stream.flatMap(Stream.fromArray(maps), (map) => {
    const line = Buffer.byteLength(map.name) + 2 * (map.info.keySize + map.info.valueSize) + 3
    const at = contents.push({ map: map.name, entries: 0 }) - 1
    return Stream.map(save(map), (lines) => {
      contents[at] = { map: map.name, entries: contents[at]!.entries + lines.byteLength / line }
      return lines
    })
  })
  yield* Stream.run(
    compressed(path, text),
    fs.sink(part, isReplaced ? { mode: 0o600, flag: "wx" } : { flag: "w" })
  ).pipe(
    Effect.andThen(isReplaced ? fs.rename(part, path) : Effect.void),
    Effect.onExit((exit) =>
      Exit.isSuccess(exit) || !isReplaced ? Effect.void : Effect.ignore(fs.remove(part, { force: true }))
    )
  )
  return contents
})

/**
 * Restores a file, decompressed where its name ends in `.gz`.
 *
 * **Details**
 *
 * The whole file is read and checked before any map is touched: its lines, the maps they are for, and whether they fit.
 * Errors: as {@link restore}, and `PlatformError`.
 *
 * @since 0.1.0
 */
export const restoreFile: (
  path: string,
  options?: RestoreOptions
) => Effect.Effect<ReadonlyArray<Restored>, RestoreError | PlatformError, Bpf.Bpf | FileSystem.FileSystem> = Effect.fn(
  "Snapshot.restoreFile"
)(function* (path: string, options: RestoreOptions = {}) {
  const fs = yield* FileSystem.FileSystem
  const text = decompressed(path, fs.stream(path))
  for (const { map, entries } of yield* inspect(text)) yield* checkFit(map, entries, options)
  return yield* restore(text, options)
})

/** The bytes to write to a file of this name: gzip where it ends in `.gz`, else as they are. @since 0.1.0 */
export const compressed = <E, R>(
  path: string,
  bytes: Stream.Stream<Uint8Array, E, R>
): Stream.Stream<Uint8Array, E, R> => (isGzip(path) ? Gzip.gzip(bytes) : bytes)

/**
 * The bytes that a file of this name stands for: the inverse of {@link compressed}. Errors: `SnapshotError` for what is
 * no gzip, or cut short.
 *
 * @since 0.1.0
 */
export const decompressed = <E, R>(
  path: string,
  bytes: Stream.Stream<Uint8Array, E, R>
): Stream.Stream<Uint8Array, E | SnapshotError, R> =>
  isGzip(path)
    ? Gzip.gunzip(
        bytes,
        ({ message }) =>
          new SnapshotError({
            why: `${path} is no complete gzip file (${message})`,
            hint: "take it again from where it came from; a file that is not compressed must not be named .gz"
          })
      )
    : bytes

// internal

const isGzip = (path: string): boolean => path.endsWith(".gz")
