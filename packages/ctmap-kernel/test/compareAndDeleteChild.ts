/**
 * Run by the privileged test in a process of its own, with few capabilities and the name of an engine: deletes from a map that it makes, and
 * prints how that went and what is open afterwards.
 */
import * as Bpf from "ctmap-kernel/Bpf"
import * as CompareAndDelete from "ctmap-kernel/CompareAndDelete"
import * as LibBpf from "ctmap-kernel/LibBpf"
import { FdLeak } from "ctmap-testing"
import * as Effect from "effect/Effect"

const sizes = { keySize: 14, valueSize: 56 }

const program = Effect.gen(function* () {
  const kernel = yield* Bpf.Bpf
  const fd = yield* Effect.acquireRelease(
    Effect.sync(() => kernel.mapCreate({ type: 9, ...sizes, maxEntries: 64, flags: 0 }, "cad_child")),
    (opened) => Effect.sync(() => kernel.close(opened))
  )
  const keys = Uint8Array.from({ length: 4 * 14 }, (_, at) => Math.floor(at / 14))
  for (const [i, lifetime] of [100, 101, undefined, 100].entries()) {
    if (lifetime === undefined) continue
    const value = new Uint8Array(56)
    new DataView(value.buffer).setUint32(32, lifetime, true)
    kernel.update(fd, keys.subarray(i * 14, i * 14 + 14), value, Bpf.ANY)
  }
  const verdicts = new Uint8Array(4)
  const table = { fd, ...sizes, name: "cad_child" }
  const options = { engine: process.argv[2] as "auto" | "program" }
  const cad = yield* CompareAndDelete.make(table, options)
  // A second one shares the work-list of the first.
  yield* CompareAndDelete.make(table, options)
  const totals = yield* cad.deleteAll({ keys, expected: new Uint32Array(4).fill(100), verdicts }, "lifetime", 4)
  return {
    engine: cad.engine,
    restores: cad.restores,
    refusal: cad.refusal?.reason._tag ?? "none",
    totals,
    verdicts: [...verdicts]
  }
})

const result = await Effect.runPromise(Effect.scoped(program).pipe(Effect.provide(LibBpf.layer)))
process.stdout.write(JSON.stringify({ ...result, left: FdLeak.handles() }))
