/**
 * Run by the privileged test of scans in a process of its own, until it is killed: deletes entries of the map at fd 3
 * and inserts them again, and replaces others by themselves, as fast as the kernel lets it.
 */
import { writeSync } from "node:fs"
import * as Bpf from "ctmap-kernel/Bpf"
import * as LibBpf from "ctmap-kernel/LibBpf"
import * as Effect from "effect/Effect"
import { keysOf, VALUE, values } from "./churn.ts"

const MAP = 3
const CHUNK = 64
const [from, deleted, replaced] = process.argv.slice(2).map(Number) as [number, number, number]

const kernel = await Effect.runPromise(Effect.provide(Bpf.Bpf, LibBpf.layer))
const chunks = (first: number, count: number): ReadonlyArray<Uint8Array> =>
  Array.from({ length: Math.floor(count / CHUNK) }, (_, i) => keysOf(first + i * CHUNK, CHUNK))
const going = chunks(from, deleted)
const staying = chunks(from + deleted, replaced)
const contents = values(CHUNK).subarray(0, CHUNK * VALUE)
for (let round = 0; ; round++) {
  for (const [i, keys] of going.entries()) {
    kernel.deleteBatch(MAP, keys, Uint32Array.of(CHUNK))
    kernel.updateBatch(MAP, keys, contents, Uint32Array.of(CHUNK))
    const others = staying[i % Math.max(1, staying.length)]
    if (others !== undefined) kernel.updateBatch(MAP, others, contents, Uint32Array.of(CHUNK))
  }
  if (round === 0) writeSync(1, "started")
}
