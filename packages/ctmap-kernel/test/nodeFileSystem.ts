/** As much of a file system over `node:fs` as snapshots need. */
import {
  closeSync,
  fstatSync,
  mkdtempSync,
  openSync,
  readSync,
  realpathSync,
  renameSync,
  rmSync,
  type Stats,
  statSync,
  writeSync
} from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"
import type * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import { systemError, type PlatformError } from "effect/PlatformError"
import * as Sink from "effect/Sink"

const failed = (method: string, cause: unknown): PlatformError =>
  systemError({ _tag: "Unknown", module: "FileSystem", method, cause })

const attempt = <A>(method: string, run: () => A): Effect.Effect<A, PlatformError> =>
  Effect.try({ try: run, catch: (cause) => failed(method, cause) })

const infoOf = (stats: Stats): FileSystem.File.Info =>
  ({
    type: stats.isFile() ? "File" : stats.isDirectory() ? "Directory" : "Unknown",
    mtime: Option.some(stats.mtime),
    size: BigInt(stats.size)
  }) as unknown as FileSystem.File.Info

const opened = (path: string, flag: string, mode: number | undefined) =>
  Effect.acquireRelease(
    attempt("open", () => openSync(path, flag, mode)),
    (fd) => Effect.sync(() => closeSync(fd))
  )

const fileOf = (fd: number): FileSystem.File =>
  ({
    stat: attempt("stat", () => infoOf(fstatSync(fd))),
    read: (buffer, options) =>
      attempt("read", () => readSync(fd, buffer, 0, buffer.byteLength, Number(options?.position))),
    writeAll: (buffer) => attempt("write", () => void writeSync(fd, buffer))
  }) as FileSystem.File

export const layer: Layer.Layer<FileSystem.FileSystem> = FileSystem.layerNoop({
  sink: (path, options) =>
    Sink.unwrap(
      Effect.map(opened(path, options?.flag ?? "w", options?.mode), (fd) =>
        Sink.forEach((bytes: Uint8Array) => attempt("write", () => void writeSync(fd, bytes)))
      )
    ),
  open: (path, options) => Effect.map(opened(path, options?.flag ?? "r", options?.mode), fileOf),
  realPath: (path) => attempt("realPath", () => realpathSync(path)),
  stat: (path) => attempt("stat", () => infoOf(statSync(path))),
  makeTempDirectory: (options) =>
    attempt("makeTempDirectory", () => mkdtempSync(join(options?.directory ?? "/tmp", options?.prefix ?? ""))),
  rename: (from, to) => attempt("rename", () => renameSync(from, to)),
  remove: (path, options) =>
    attempt("remove", () => rmSync(path, { force: options?.force === true, recursive: options?.recursive === true }))
})
