/**
 * `ctmap snapshot save|restore`: tables to a file and back, byte for byte.
 *
 * @since 0.1.0
 */
import * as NodeServices from "@effect/platform-node/NodeServices"
import * as MapLimits from "ctmap-core/MapLimits"
import * as BpfMap from "ctmap-kernel/BpfMap"
import * as Pins from "ctmap-kernel/Pins"
import * as Snapshot from "ctmap-kernel/Snapshot"
import * as Effect from "effect/Effect"
import { PlatformError } from "effect/PlatformError"
import * as Stdio from "effect/Stdio"
import * as Stream from "effect/Stream"
import * as Clock from "../Clock.ts"
import { confirm } from "../Confirm.ts"
import type { FileFailed } from "../Failure.ts"
import { fileFailed } from "../FileError.ts"
import * as Kernel from "../Kernel.ts"
import type { ClockOptions, Selection as SelectionOptions, Sizes } from "../Options.ts"
import * as MapFlags from "../MapFlags.ts"
import * as Output from "../Output.ts"
import * as Selection from "../Selection.ts"

/** @since 0.1.0 */
export interface SaveOptions extends SelectionOptions {
  readonly file: string
}

/** @since 0.1.0 */
export const save = (root: string, options: SaveOptions) =>
  Kernel.provide(
    root,
    Effect.gen(function* () {
      const maps = yield* tables(options)
      if (options.file === "-") {
        return yield* Stream.runForEach(Snapshot.saveAll(maps), (chunk) => Output.write(chunk))
      }
      for (const { map, entries } of yield* Snapshot.saveFile(options.file, maps)) {
        const absent = entries === 0 ? ": the file says nothing of this map" : ""
        yield* Output.note(`ctmap: ${map}: ${entries} entries saved${absent}`)
      }
    }).pipe(named(options.file, "write"), Effect.provide(NodeServices.layer))
  )

/** The CT and NAT maps that are meant; without a flag, every one that is pinned. */
const tables = (options: SaveOptions) =>
  Effect.gen(function* () {
    yield* MapFlags.checkAny(options)
    yield* Selection.checkRoot
    const pins = (yield* Pins.discover).filter((pin) => options.map.length > 0 || isTable(pin))
    const directory = (yield* Pins.pathOf("")).replace(/\/$/, "")
    const meant = yield* MapFlags.select(options, pins, directory)
    return yield* Effect.forEach(meant, ({ path }) => BpfMap.open(path))
  })

/** Whether it has entries of somebody: outer maps, counters and rings have none. */
const isTable = ({ denoted }: Pins.Pin): boolean => Pins.ownerOf(denoted) !== undefined

/** @since 0.1.0 */
export interface RestoreOptions extends ClockOptions, Sizes {
  readonly file: string
  readonly replace: boolean
  readonly overwrite: boolean
  readonly allowEviction: boolean
  /** Do not ask before entries are deleted. */
  readonly yes: boolean
  /** The clock's reading when the snapshot was taken. */
  readonly takenAt: number | undefined
}

/** @since 0.1.0 */
export const restore = (root: string, options: RestoreOptions) =>
  Kernel.provide(
    root,
    Effect.gen(function* () {
      yield* Selection.checkBpfFs
      const { ctTcp, ctAny, nat, file, replace, overwrite, takenAt } = options
      const limits = yield* Effect.fromResult(MapLimits.check({ ctTcp, ctAny, nat }))
      const shift = takenAt === undefined ? 0 : (yield* Clock.read(options)).now - takenAt
      const { note } = yield* Output.Output
      const settings: Snapshot.RestoreOptions = {
        limits,
        replace,
        overwrite,
        shift,
        failOnEviction: !options.allowEviction,
        onInterrupt: ({ message }) => note(`ctmap: ${message}`)
      }
      const text =
        file === "-"
          ? yield* Snapshot.spooled(Stream.unwrap(Effect.map(Stdio.Stdio, ({ stdin }) => stdin)))
          : yield* Snapshot.fileText(file)
      if (replace && !options.yes) yield* askFor(yield* Snapshot.plan(text, settings))
      const restored = yield* Snapshot.restore(text, settings)
      if (restored.length === 0) yield* note("ctmap: the snapshot has no entries: nothing was changed")
      for (const each of restored) {
        yield* note(`ctmap: ${each.map}: ${report(each)}`)
        if (each.cut > 0) {
          yield* note(
            `ctmap: ${each.map}: ${each.cut} times would have left their scale and were cut: check --taken-at`
          )
        }
      }
    }).pipe(named(options.file, "read"), Effect.provide(NodeServices.layer))
  )

/** What a table holds cannot be had back once it has been replaced. */
const askFor = (plan: ReadonlyArray<Snapshot.Planned>) =>
  Effect.gen(function* () {
    const filled = plan.filter(({ there }) => there > 0)
    if (filled.length === 0) return
    for (const { map, there, entries } of filled) {
      yield* Output.note(`ctmap: ${map}: ${there} entries are there, ${entries} are in the snapshot`)
    }
    const maps = filled.length === 1 ? "a map that is not empty" : `${filled.length} maps that are not empty`
    yield* confirm({
      message: `Replace what ${maps} ${filled.length === 1 ? "holds" : "hold"}?`,
      yes: false,
      what: `--replace deletes entries of ${maps}`
    })
  })

const report = ({ entries, kept, created, overwritten, cleared, evicted, now }: Snapshot.Restored): string =>
  [
    `${entries - kept} entries restored${created ? " into a new map" : ""}`,
    ...(kept > 0 ? [`${kept} kept as they were in the table`] : []),
    ...(overwritten > 0 ? [`${overwritten} over others of the same key`] : []),
    ...(cleared > 0 ? [`${cleared} others deleted`] : []),
    ...(evicted > 0 ? [`${evicted} evicted`] : []),
    `${now} now`
  ].join(", ")

/** Errors of the platform say what was called, not what was wanted. */
const named = (file: string, action: FileFailed["action"]) =>
  Effect.mapError(<E>(error: E): FileFailed | Exclude<E, PlatformError> => {
    const path = file !== "-" ? file : action === "read" ? "the standard input" : "the standard output"
    if (error instanceof PlatformError) return fileFailed(path, action, error)
    if (error instanceof Snapshot.RestoreStopped && error.cause instanceof PlatformError) {
      const { maps, cause } = error
      return new Snapshot.RestoreStopped({ maps, cause: fileFailed(path, action, cause) }) as Exclude<E, PlatformError>
    }
    return error as Exclude<E, PlatformError>
  })
