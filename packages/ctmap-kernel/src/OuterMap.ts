/**
 * The slots of an outer map: an array of maps, which the datapath indexes by cluster id.
 *
 * Owns the three things that are done to a slot. Changing one waits out an RCU grace period inside the kernel, 10 ms and
 * more, so that happens on another thread; several at a time wait together.
 *
 * @since 0.1.0
 */
import { MapSpec, PerClusterMap } from "ctmap-core"
import * as Effect from "effect/Effect"
import * as Bpf from "./Bpf.ts"
import type { BpfError, Failure } from "./BpfError.ts"
import * as BpfMap from "./BpfMap.ts"

/**
 * Puts a map into a slot, over what is in it.
 *
 * **Details**
 *
 * Errors: `IndexOutOfRange`; `FeatureUnsupported` where `outer` is no array of maps; `InvalidArgument` where the map differs in more than its size from what the outer map was
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
  Effect.gen(function* () {
    yield* checkType(outer, "update")
    const rc = yield* elsewhere((bpf, done) => bpf.updateAsync(outer.fd, word(index), word(inner.fd), Bpf.ANY, done))
    if (rc < 0) return yield* Effect.fail(BpfMap.failure(outer, "update", rc))
  })

/**
 * Empties a slot; whether there was a map in it. Errors: `IndexOutOfRange`. Interruption waits for the kernel.
 *
 * @since 0.1.0
 */
export const remove = (outer: BpfMap.BpfMap, index: number): Effect.Effect<boolean, BpfError, Bpf.Bpf> =>
  Effect.gen(function* () {
    yield* checkType(outer, "delete")
    const rc = yield* elsewhere((bpf, done) => bpf.deleteAsync(outer.fd, word(index), done))
    if (rc < 0 && rc !== ENOENT) return yield* Effect.fail(BpfMap.failure(outer, "delete", rc))
    return rc === 0
  })

/**
 * The kernel's id of the map in a slot; `undefined` for an empty slot, and for one beyond the end.
 *
 * @since 0.1.0
 */
export const idAt = (outer: BpfMap.BpfMap, index: number): Effect.Effect<number | undefined, BpfError, Bpf.Bpf> =>
  Effect.gen(function* () {
    const bpf = yield* Bpf.Bpf
    yield* checkType(outer, "lookup")
    const id = new Uint8Array(PerClusterMap.SIZE)
    const rc = bpf.lookup(outer.fd, word(index), id)
    if (rc < 0 && rc !== ENOENT) return yield* Effect.fail(BpfMap.failure(outer, "lookup", rc))
    return rc === 0 ? PerClusterMap.read(new DataView(id.buffer), 0) : undefined
  })

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

/** Keys and values of other maps may be longer than ours: the kernel would read past the end of them. */
const checkType = (outer: BpfMap.BpfMap, operation: Failure["operation"]): Effect.Effect<void, BpfError> => {
  const { type, keySize, valueSize } = outer.info
  return type === MapSpec.mapType.arrayOfMaps && keySize === PerClusterMap.SIZE && valueSize === PerClusterMap.SIZE
    ? Effect.void
    : Effect.fail(BpfMap.failure(outer, operation, -95, `slots in maps of type ${type}, only in arrays of maps (12)`))
}
