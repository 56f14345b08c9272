/**
 * Run by the privileged test in a process of its own, with few capabilities: reads a map that it makes, and prints how
 * that went and what is open afterwards.
 */
import * as Bpf from "ctmap-kernel/Bpf"
import * as BpfMap from "ctmap-kernel/BpfMap"
import * as LibBpf from "ctmap-kernel/LibBpf"
import * as MapIterator from "ctmap-kernel/MapIterator"
import * as RowScan from "ctmap-kernel/RowScan"
import { FdLeak } from "ctmap-testing"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { KEY, keysOf, VALUE, values } from "./churn.ts"

const COUNT = 40_000

const program = Effect.gen(function* () {
  const bpf = yield* Bpf.Bpf
  const spec = { type: 1, keySize: KEY, valueSize: VALUE, maxEntries: 65_536, flags: 0 } as const
  const map = yield* BpfMap.create(spec, "rows")
  bpf.updateBatch(map.fd, keysOf(0, COUNT), values(COUNT), Uint32Array.of(COUNT))
  const { method, entries, exact } = yield* RowScan.forEach(map, () => Effect.void)
  return { method, entries, exact }
})

const result = await Effect.runPromise(
  Effect.scoped(program).pipe(Effect.provide(MapIterator.layer.pipe(Layer.provideMerge(LibBpf.layer))))
)
process.stdout.write(JSON.stringify({ ...result, left: FdLeak.handles() }))
