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
const [from, deleted, replaced, keySize] = process.argv.slice(2).map(Number) as [number, number, number, number]

const kernel = await Effect.runPromise(Effect.provide(Bpf.Bpf, LibBpf.layer))
/** Fewer than a chunk are one chunk, in which they come again and again. */
const chunks = (first: number, count: number): ReadonlyArray<Uint8Array> =>
  Array.from({ length: Math.ceil(count / CHUNK) }, (_, i) => {
    const distinct = keysOf(first + i * CHUNK, Math.min(count, CHUNK), keySize)
    return new Uint8Array(CHUNK * keySize).map((_byte, at) => distinct[at % distinct.length]!)
  })
const going = chunks(from, deleted)
const staying = chunks(from + deleted, replaced)
const contents = values(CHUNK).subarray(0, CHUNK * VALUE)
for (let round = 0; ; round++) {
  const keys = going[round % Math.max(1, going.length)]
  if (keys !== undefined) {
    kernel.deleteBatch(MAP, keys, Uint32Array.of(CHUNK))
    kernel.updateBatch(MAP, keys, contents, Uint32Array.of(CHUNK))
  }
  const others = staying[round % Math.max(1, staying.length)]
  if (others !== undefined) kernel.updateBatch(MAP, others, contents, Uint32Array.of(CHUNK))
  if (round === 0) writeSync(1, "started")
}
