/** gzip as a transformation of Streams, over Node's zlib: one Effect per chunk, the work on zlib's own threads. */
import { createGunzip, createGzip, type Gunzip, type Gzip } from "node:zlib"
import type * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Pull from "effect/Pull"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"

type Chunk = readonly [Uint8Array, ...Array<Uint8Array>]

/**
 * Everything through zlib. What it produces while a chunk is written is collected and handed on with the next pull; the
 * scope of the stream ends it, however that comes.
 */
const through = <E, R, E2>(
  self: Stream.Stream<Uint8Array, E, R>,
  make: () => Gzip | Gunzip,
  fail: (error: Error) => Effect.Effect<never, E2>
): Stream.Stream<Uint8Array, E | E2, R> =>
  Stream.transformPull(self, (input, scope) =>
    Effect.gen(function* () {
      const zlib = collect(make())
      yield* Scope.addFinalizer(scope, Effect.sync(zlib.destroy))
      const settle = (start: (done: () => void) => void): Effect.Effect<void, E2> =>
        Effect.flatMap(
          Effect.callback<void>((resume) => zlib.await(start, () => resume(Effect.void))),
          () => (zlib.failure === undefined ? Effect.void : fail(zlib.failure))
        )
      let ended: Exit.Exit<never, E | Cause.Done> | undefined
      const pull: Effect.Effect<Chunk, E | E2 | Cause.Done> = Effect.suspend(() => {
        const [head, ...tail] = zlib.take()
        if (head !== undefined) return Effect.succeed<Chunk>([head, ...tail])
        if (ended !== undefined) return ended
        return Effect.flatMap(Effect.exit(input), (exit) => {
          if (Exit.isSuccess(exit))
            return Effect.andThen(
              settle((done) => zlib.write(exit.value, done)),
              pull
            )
          ended = Exit.failCause(exit.cause)
          // Only the end of the input is an end of the output: an error must not look like one.
          return Pull.isDoneCause(exit.cause) ? Effect.andThen(settle(zlib.end), pull) : ended
        })
      })
      return pull
    })
  )

/** A zlib stream whose output lies ready and whose one waiter is woken by an error and by the end. */
const collect = (stream: Gzip | Gunzip) => {
  let output: Array<Uint8Array> = []
  let failure: Error | undefined
  let isOver = false
  let wake = (): void => {}
  stream.on("data", (bytes: Uint8Array) => output.push(bytes))
  stream.on("error", (error: Error) => {
    failure = error
    wake()
  })
  stream.on("end", () => {
    isOver = true
    wake()
  })
  return {
    get failure() {
      return failure
    },
    take: (): Array<Uint8Array> => {
      const taken = output
      output = []
      return taken
    },
    await: (start: (done: () => void) => void, done: () => void): void => {
      wake = done
      if (failure === undefined) start(done)
      else done()
    },
    write: (chunks: ReadonlyArray<Uint8Array>, done: () => void): void => {
      for (const bytes of chunks.slice(0, -1)) stream.write(bytes)
      stream.write(chunks.at(-1), () => done())
    },
    end: (done: () => void): void => {
      if (isOver) done()
      else stream.end()
    },
    destroy: (): void => void stream.destroy()
  }
}

/** Bytes that zlib hands out at once: each time costs a visit to its threads. */
const CHUNK = 256 * 1024

/** Level 1: snapshots are hex, of which more effort saves little and takes three times as long. */
export const gzip = <E, R>(self: Stream.Stream<Uint8Array, E, R>): Stream.Stream<Uint8Array, E, R> =>
  through(self, () => createGzip({ level: 1, chunkSize: CHUNK }), Effect.die)

export const gunzip = <E, R, E2>(
  self: Stream.Stream<Uint8Array, E, R>,
  onError: (error: Error) => E2
): Stream.Stream<Uint8Array, E | E2, R> =>
  through(
    self,
    () => createGunzip({ chunkSize: CHUNK }),
    (error) => Effect.fail(onError(error))
  )
