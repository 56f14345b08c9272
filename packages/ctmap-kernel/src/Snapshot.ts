/**
 * Whole maps as text, and back: `map name<TAB>key hex<TAB>value hex`, one entry a line.
 *
 * Owns the format and what restoring means. A snapshot is bytes, not an interpretation: it is saved and restored whatever
 * release wrote it, is compared with `diff`, and every byte of an entry survives. Nothing is lost without a word: text
 * that is damaged or cut short, names that are none of Cilium's, maps of another layout and maps without room are errors
 * before anything is changed. A map without entries has no line, so a snapshot does not mention it; and plain text that
 * ends with a line cannot be told from text that was cut there, which compressed text can.
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
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Bpf from "./Bpf.ts"
import type { BpfError } from "./BpfError.ts"
import type * as BpfMap from "./BpfMap.ts"
import * as Gzip from "./internal/gzip.ts"
import { checkRoom, roomOf, type Site, survey, type SurveyError } from "./internal/restorePlan.ts"
import { clearOthers, openTargets, stoppedAt, type Targets, writeEntries } from "./internal/restoreWrite.ts"
import {
  EntriesEvicted,
  type NoRoom,
  type RestoreStopped,
  SnapshotError,
  type SpoolFailed
} from "./internal/snapshotError.ts"
import { knownMap, readBatches } from "./internal/snapshotMaps.ts"
import { linesOf } from "./internal/snapshotText.ts"
import * as Spool from "./internal/spool.ts"
import * as Scan from "./Scan.ts"

export { EntriesEvicted, NoRoom, RestoreStopped, SnapshotError, SpoolFailed } from "./internal/snapshotError.ts"

/** How many entries of which map. @since 0.1.0 */
export interface Content {
  readonly map: string
  readonly entries: number
}

/** What a snapshot would do to one map. @since 0.1.0 */
export interface Planned extends Content {
  /** Where the map is pinned, or will be. */
  readonly path: string
  readonly isPinned: boolean
  /** Entries in the map now. */
  readonly there: number
  /** Entries of the snapshot that take room: all, or for a merge those whose key is not in the map. */
  readonly coming: number
  /** How many the map takes before it is full or, an LRU, may evict. */
  readonly room: number
}

/** What became of one map: `entries` of the snapshot were written to it, or `kept` of them were not. @since 0.1.0 */
export interface Restored extends Content {
  /** The map was not pinned and has been made. */
  readonly created: boolean
  /** Entries of the snapshot that were not written, for their key was in the map. Of a merge only. */
  readonly kept: number
  /** Entries that were in the map and got the value of the snapshot. */
  readonly overwritten: number
  /** Entries that were in the map, not in the snapshot, and were deleted. Of `replace` only. */
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
  /** The snapshot is to be what the maps hold: delete what it has not, overwrite what it has. Default: merge. */
  readonly replace?: boolean
  /** In a merge the snapshot wins. Default: an entry that is in the table stays as it is, for it may be newer. */
  readonly overwrite?: boolean
  /** Refuse with `NoRoom` what may evict entries, and fail with `EntriesEvicted` where some were. Default `true`. */
  readonly failOnEviction?: boolean
  /**
   * Moves all times by so many clock units (now minus the time of the snapshot): what remains of a lifetime stays as it
   * was. A report of 0 means never and stays 0, a lifetime of `0xffffffff` means for ever and stays that. A time that
   * would leave its scale is cut: below to 0 (long expired; 1 for a report), above to the largest.
   */
  readonly shift?: number
  /** Hears how far it came of a restore that was interrupted after it had changed maps that were there. */
  readonly onInterrupt?: (stopped: RestoreStopped) => Effect.Effect<void>
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
export type RestoreError = BpfError | SnapshotError | Scan.Incomplete | NoRoom | EntriesEvicted | RestoreStopped

/**
 * What {@link restore} would do, in the order of the first lines: the whole text is read and checked, the maps are
 * counted, and none is touched. Errors: those with which `restore` ends before it changes anything.
 *
 * @since 0.1.0
 */
export const plan: <E, R>(
  text: Stream.Stream<Uint8Array, E, R>,
  options?: RestoreOptions
) => Effect.Effect<ReadonlyArray<Planned>, E | SurveyError | NoRoom, Bpf.Bpf | R> = Effect.fn("Snapshot.plan")(
  function* <E, R>(text: Stream.Stream<Uint8Array, E, R>, options: RestoreOptions = {}) {
    const bpf = yield* Bpf.Bpf
    const sites = yield* survey(text, options)
    yield* checkRoom(bpf, sites.values(), options)
    return Array.from(sites.values(), (site): Planned => {
      const { name, path, map, there, coming, entries } = site
      return { map: name, path, isPinned: map !== undefined, entries, there, coming, room: roomOf(bpf, site, options) }
    })
  },
  Effect.scoped
)

/**
 * Writes the entries of a snapshot into the maps they are named after, below the configured bpffs.
 *
 * **Details**
 *
 * The text is run several times and must be the same each time: {@link fileText} and {@link spooled} see to that. It is
 * read and checked to its end before any map is touched: its lines, the maps they are for, and whether these have room.
 * Only what is counted is known to have room: an LRU map evicts when its free elements run out, of which each CPU may
 * hold 128 aside, so a map that is pinned is filled to its size less 128 for each possible CPU and no further.
 *
 * A map that is not pinned is made and pinned, of the size that `limits` says; an inner map of a cluster is not entered
 * into its outer map. A map without entries has no line in a snapshot: it is neither made nor emptied.
 *
 * A merge adds what is missing and leaves every entry that is there, unless `overwrite` is set. `replace` works in the
 * map that is pinned, which the datapath goes on using: first what the snapshot has not is deleted, then all of its
 * entries are written, over those of the same key; an entry that is in both is there all the time, and what the datapath
 * inserts from then on stays. (A new map in the place of the old would be one that no loaded program uses.)
 *
 * Whatever fails, a map that was made is unpinned again. Errors: `SnapshotError` with the number of the line; `NoRoom`;
 * `EntriesEvicted`; `BpfError`; `RestoreStopped` with one of these in it, or with an error of the text, once a map that
 * was there has been changed. Memory: one chunk of text and one batch, however long the snapshot; `replace` takes kernel
 * memory for the keys of the snapshot meanwhile. Kernel: batch updates since Linux 5.6, else one by one; at most 1024
 * entries between two yields. What the datapath evicts, inserts or deletes at the same time is counted as if the restore
 * had done it.
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
  const sites = yield* survey(text, options)
  yield* checkRoom(yield* Bpf.Bpf, sites.values(), options)
  const targets: Targets = new Map()
  const isChanged = () => Array.from(targets.values()).some((target) => target.isChanged)
  return yield* write(text, sites, targets, options).pipe(
    Effect.mapError((error) => (isChanged() ? stoppedAt(error, sites, targets) : error)),
    Effect.onInterrupt(() =>
      isChanged() ? (options.onInterrupt?.(stoppedAt(undefined, sites, targets)) ?? Effect.void) : Effect.void
    )
  )
}, Effect.scoped)

const write = Effect.fnUntraced(function* <E, R>(
  text: Stream.Stream<Uint8Array, E, R>,
  sites: ReadonlyMap<string, Site>,
  targets: Targets,
  { shift = 0, ...options }: RestoreOptions
) {
  yield* openTargets(sites, options, targets)
  if (options.replace === true) yield* clearOthers(text, sites, targets)
  yield* writeEntries(text, sites, targets, shift)
  const restored = yield* Effect.forEach(targets, ([map, target]) =>
    Effect.map(Scan.count(target.map), (now): Restored => {
      const { taken: entries, created, kept, overwritten, cleared, cut } = target
      return { map, entries, created, kept, overwritten, cleared, evicted: target.evicted(now), cut, now }
    })
  )
  const short = restored.filter(({ created, evicted }) => created && evicted > 0)
  if (short.length === 0 || options.failOnEviction === false) return restored
  return yield* new EntriesEvicted({
    maps: short.map(({ map, entries, evicted }) => {
      return { map, maxEntries: targets.get(map)!.map.info.maxEntries, restored: entries, evicted }
    })
  })
})

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
  // Through links, such as /dev/stdout: a link stays one.
  const target = Option.isSome(found) && isReplaced ? yield* fs.realPath(path) : path
  const part = isReplaced ? `${target}.${(yield* Random.nextInt).toString(36).replace("-", "")}.part` : path
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
    // Appending is writing without positions, which pipes lack.
    fs.sink(part, isReplaced ? { mode: 0o600, flag: "wx" } : { flag: "a" })
  ).pipe(
    Effect.andThen(isReplaced ? fs.rename(part, target) : Effect.void),
    Effect.onExit((exit) =>
      Exit.isSuccess(exit) || !isReplaced ? Effect.void : Effect.ignore(fs.remove(part, { force: true }))
    )
  )
  return contents
})

/**
 * Restores a file, decompressed where its name ends in `.gz`. Errors: as {@link restore} and {@link fileText}.
 *
 * @since 0.1.0
 */
export const restoreFile = (
  path: string,
  options?: RestoreOptions
): Effect.Effect<
  ReadonlyArray<Restored>,
  RestoreError | SpoolFailed | PlatformError,
  Bpf.Bpf | FileSystem.FileSystem
> => Effect.scoped(Effect.flatMap(fileText(path), (text) => restore(text, options)))

/**
 * The text of a file, decompressed where its name ends in `.gz`, to be run as often as wanted while the scope is open.
 *
 * **Details**
 *
 * A regular file is opened once; the stream fails with `SnapshotError` where it was written to since. Anything else, a
 * pipe or a terminal, is {@link spooled}. Errors: `PlatformError`, `SpoolFailed`; of the stream `SnapshotError` too, for
 * what is no gzip, or cut short.
 *
 * @since 0.1.0
 */
export const fileText = (
  path: string
): Effect.Effect<
  Stream.Stream<Uint8Array, PlatformError | SnapshotError>,
  PlatformError | SpoolFailed,
  FileSystem.FileSystem | Scope.Scope
> => Effect.map(Spool.rereadable(path), (bytes) => decompressed(path, bytes))

/**
 * A text that can be run once only, made one that can be run as often as wanted while the scope is open.
 *
 * **Details**
 *
 * Reads it to its end into a file in the directory of temporary files (`TMPDIR`, else `/tmp`), which only this user may
 * read and which has no name any more: it is gone with the scope and with the process, even a killed one. Errors: those
 * of the text, and `SpoolFailed`.
 *
 * @since 0.1.0
 */
export const spooled: <E, R>(
  text: Stream.Stream<Uint8Array, E, R>
) => Effect.Effect<Stream.Stream<Uint8Array, PlatformError>, E | SpoolFailed, R | FileSystem.FileSystem | Scope.Scope> =
  Spool.spooled

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
