/**
 * The slots of an outer map: an array of maps, which the datapath indexes by cluster id.
 *
 * Owns the three things that are done to a slot. Changing one waits out an RCU grace period inside the kernel, 10 ms and
 * more, so that happens on another thread; several at a time wait together.
 *
 * @since 0.1.0
 */
import { PerClusterMap } from "ctmap-core"
import * as Effect from "effect/Effect"
import * as Bpf from "./Bpf.ts"
import type { BpfError } from "./BpfError.ts"
import * as BpfMap from "./BpfMap.ts"

/**
 * Puts a map into a slot, over what is in it.
 *
 * **Details**
 *
 * Errors: `IndexOutOfRange`; `InvalidArgument` where the map differs in more than its size from what the outer map was
 * made for. Ownership: the slot holds the map on its own, whatever becomes of fds and pins. Interruption waits for the
 * kernel.
 *
 * **Example** (A slot tells an id)
 *
 * ```ts
 * import { MapKind, MapSpec } from "ctmap-core"
 * import { BpfMap, BpfMemory, OuterMap } from "ctmap-kernel"
 * import * as Effect from "effect/Effect"
 *
 * const [tcp4] = MapKind.globals
 * const program = Effect.gen(function* () {
 *   const outer = yield* BpfMap.create(MapSpec.clusterOuter(tcp4, 255), "outer")
 *   const inner = yield* BpfMap.create({ ...MapSpec.ct(tcp4), maxEntries: 1024 }, "inner")
 *   yield* OuterMap.put(outer, 7, inner)
 *   return [(yield* OuterMap.idAt(outer, 7)) === inner.info.id, yield* OuterMap.idAt(outer, 8)]
 * })
 * await Effect.runPromise(program.pipe(Effect.scoped, Effect.provide(BpfMemory.layer))) // => [true, undefined]
 * ```
 *
 * @since 0.1.0
 */
export const put = (
  outer: BpfMap.BpfMap,
  index: number,
  inner: BpfMap.BpfMap
): Effect.Effect<void, BpfError, Bpf.Bpf> =>
  Effect.flatMap(
    elsewhere((bpf, done) => bpf.updateAsync(outer.fd, word(index), word(inner.fd), Bpf.ANY, done)),
    (rc) => (rc < 0 ? Effect.fail(BpfMap.failure(outer, "update", rc)) : Effect.void)
  )

/**
 * Empties a slot; whether there was a map in it. Errors: `IndexOutOfRange`. Interruption waits for the kernel.
 *
 * @since 0.1.0
 */
export const remove = (outer: BpfMap.BpfMap, index: number): Effect.Effect<boolean, BpfError, Bpf.Bpf> =>
  Effect.flatMap(
    elsewhere((bpf, done) => bpf.deleteAsync(outer.fd, word(index), done)),
    (rc) =>
      rc === 0
        ? Effect.succeed(true)
        : rc === ENOENT
          ? Effect.succeed(false)
          : Effect.fail(BpfMap.failure(outer, "delete", rc))
  )

/**
 * The kernel's id of the map in a slot; `undefined` for an empty slot, and for one beyond the end.
 *
 * @since 0.1.0
 */
export const idAt = (outer: BpfMap.BpfMap, index: number): Effect.Effect<number | undefined, BpfError, Bpf.Bpf> =>
  Effect.flatMap(Bpf.Bpf, (bpf) =>
    Effect.suspend(() => {
      const id = new Uint8Array(PerClusterMap.SIZE)
      const rc = bpf.lookup(outer.fd, word(index), id)
      if (rc === ENOENT) return Effect.succeed(undefined)
      return rc < 0 ? Effect.fail(BpfMap.failure(outer, "lookup", rc)) : Effect.succeed(read(id))
    })
  )

const ENOENT = -2

const elsewhere = (call: (bpf: Bpf.Calls, done: (rc: number) => void) => void): Effect.Effect<number, never, Bpf.Bpf> =>
  Effect.flatMap(Bpf.Bpf, (bpf) =>
    // The fds belong to the call until it is over.
    Effect.uninterruptible(Effect.callback<number>((resume) => call(bpf, (rc) => resume(Effect.succeed(rc)))))
  )

const word = (value: number): Uint8Array<ArrayBuffer> => {
  const bytes = new Uint8Array(PerClusterMap.SIZE)
  PerClusterMap.write(value, new DataView(bytes.buffer), 0)
  return bytes
}

const read = (bytes: Uint8Array<ArrayBuffer>): number => PerClusterMap.read(new DataView(bytes.buffer), 0)
