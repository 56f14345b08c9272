/** Text that can be read as often as wanted, whatever it comes from: a file as it is, anything else by way of one. */
import { createReadStream } from "node:fs"
import { tmpdir } from "node:os"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"
import * as Option from "effect/Option"
import { type PlatformError, systemError } from "effect/PlatformError"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { type SnapshotError, SpoolFailed } from "./snapshotError.ts"
import { changed } from "./restoreWrite.ts"

const CHUNK = 256 * 1024

/** The bytes of an open file, from its start. */
const contents = (file: FileSystem.File): Stream.Stream<Uint8Array, PlatformError> =>
  Stream.fromPull(
    Effect.sync(() => {
      let at = 0n
      return Effect.suspend(() => {
        const buffer = new Uint8Array(CHUNK)
        return Effect.flatMap(file.read(buffer, { position: at }), (bytes) => {
          at += BigInt(bytes)
          return bytes === 0 ? Cause.done() : Effect.succeed([buffer.subarray(0, bytes)] as const)
        })
      })
    })
  )

/** Puts a text into a file that has no name: it is gone with the scope, or with the process, however that ends. */
export const spooled = <E, R>(
  text: Stream.Stream<Uint8Array, E, R>
): Effect.Effect<Stream.Stream<Uint8Array, PlatformError>, E | SpoolFailed, R | FileSystem.FileSystem | Scope.Scope> =>
  Effect.gen(function* () {
    const fs = yield* FileSystem.FileSystem
    const directory = tmpdir()
    const failed = (cause: PlatformError) => new SpoolFailed({ directory, cause })
    const file = yield* Effect.acquireUseRelease(
      // Of mode 0700.
      fs.makeTempDirectory({ directory, prefix: "ctmap-" }),
      (own) => fs.open(`${own}/snapshot`, { flag: "wx+", mode: 0o600 }),
      (own) => Effect.ignore(fs.remove(own, { recursive: true, force: true }))
    ).pipe(Effect.mapError(failed))
    yield* Stream.runForEach(text, (bytes) => Effect.mapError(file.writeAll(bytes), failed))
    return contents(file)
  })

/** The bytes of a file; one that is no regular file is {@link spooled}. */
export const rereadable = (
  path: string
): Effect.Effect<
  Stream.Stream<Uint8Array, PlatformError | SnapshotError>,
  PlatformError | SpoolFailed,
  FileSystem.FileSystem | Scope.Scope
> =>
  Effect.gen(function* () {
    const fs = yield* FileSystem.FileSystem
    const { type } = yield* fs.stat(path)
    if (type !== "File") return yield* spooled(inOrder(path))
    const file = yield* fs.open(path)
    const before = versionOf(yield* file.stat)
    return Stream.unwrap(
      Effect.map(file.stat, (now): Stream.Stream<Uint8Array, PlatformError | SnapshotError> =>
        versionOf(now) === before ? contents(file) : Stream.fail(changed)
      )
    )
  })

/** The bytes of what can only be read from where it stands, as a pipe: the service reads at positions, which those lack. */
const inOrder = (path: string): Stream.Stream<Uint8Array, PlatformError> =>
  Stream.suspend(() =>
    Stream.fromAsyncIterable<Uint8Array, PlatformError>(createReadStream(path, { highWaterMark: CHUNK }), (cause) =>
      systemError({ _tag: "Unknown", module: "FileSystem", method: "stream", pathOrDescriptor: path, cause })
    )
  )

const versionOf = ({ size, mtime }: FileSystem.File.Info): string =>
  `${size} ${Option.match(mtime, { onNone: () => "", onSome: (date) => String(date.getTime()) })}`
