/** As much of a file system over `node:fs` as snapshots need. */
import { closeSync, createReadStream, openSync, renameSync, rmSync, writeSync } from "node:fs"
import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"
import type * as Layer from "effect/Layer"
import { systemError, type PlatformError } from "effect/PlatformError"
import * as Sink from "effect/Sink"
import * as Stream from "effect/Stream"

const failed = (method: string, cause: unknown): PlatformError =>
  systemError({ _tag: "Unknown", module: "FileSystem", method, cause })

const attempt = <A>(method: string, run: () => A): Effect.Effect<A, PlatformError> =>
  Effect.try({ try: run, catch: (cause) => failed(method, cause) })

export const layer: Layer.Layer<FileSystem.FileSystem> = FileSystem.layerNoop({
  stream: (path) =>
    Stream.suspend(() =>
      Stream.fromAsyncIterable<Uint8Array, PlatformError>(createReadStream(path), (cause) => failed("stream", cause))
    ),
  sink: (path, options) =>
    Sink.unwrap(
      Effect.map(
        Effect.acquireRelease(
          attempt("open", () => openSync(path, options?.flag ?? "w", options?.mode)),
          (fd) => Effect.sync(() => closeSync(fd))
        ),
        (fd) => Sink.forEach((bytes: Uint8Array) => attempt("write", () => void writeSync(fd, bytes)))
      )
    ),
  rename: (from, to) => attempt("rename", () => renameSync(from, to)),
  remove: (path, options) => attempt("remove", () => rmSync(path, { force: options?.force === true }))
})
