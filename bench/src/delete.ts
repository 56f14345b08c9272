/**
 * What deleting candidates costs, in each way there is. Run as root by
 * `node --conditions=ctmap-source src/delete.ts`.
 *
 * Every round fills one LRU map and deletes all of it again, once for each way; only the deleting is timed. The ways
 * that compare read every entry again before they delete it; BPF_MAP_DELETE_BATCH and plain deletion do not look.
 */
import { hrtime } from "node:process"
import { Bpf, CompareAndDelete, LibBpf } from "ctmap-kernel"
import { MapSpec, Tuple } from "ctmap-core"
import * as Effect from "effect/Effect"
import { machine, type Measured, table } from "./common/measure.ts"

const ENTRIES = 65_536
const ROUNDS = 15
const LIFETIME = 100
const VALUE_SIZE = 56

interface Way {
  readonly name: string
  /** Deletes every entry; how many went. */
  readonly run: () => number
}

/** Deletes by the slice, and notes how long each call takes. */
const inSlices =
  (cad: CompareAndDelete.CompareAndDelete, read: CompareAndDelete.Candidates, calls: Array<number> = []) =>
  (): number => {
    let deleted = 0
    for (let from = 0; from < ENTRIES; from += cad.capacity) {
      const start = performance.now()
      deleted += cad.run(read, "lifetime", from, cad.capacity)
      calls.push(performance.now() - start)
    }
    return deleted
  }

/** A kernel that does not let this process read kernel memory. */
const withoutPerfmon = (kernel: Bpf.Calls): Bpf.Calls => ({
  ...kernel,
  loadObjectAsync: (spec, done) =>
    spec.programs.includes("compare_delete_restore")
      ? void setImmediate(() => done({ errno: 1, log: "" }))
      : kernel.loadObjectAsync(spec, done)
})

const compare = (family: "ipv4" | "ipv6") =>
  Effect.gen(function* () {
    const kernel = yield* Bpf.Bpf
    const { size: keySize } = Tuple.shape(family)
    const sizes = { keySize, valueSize: VALUE_SIZE }
    const spec = { type: MapSpec.mapType.lruHash, ...sizes, maxEntries: 2 * ENTRIES, flags: 0 }
    const fd = yield* Effect.acquireRelease(
      Effect.sync(() => kernel.mapCreate(spec, "bench_delete")),
      (opened) => Effect.sync(() => kernel.close(opened))
    )
    const keys = keysOf(keySize)
    const values = new Uint8Array(ENTRIES * VALUE_SIZE)
    const words = new DataView(values.buffer)
    for (let i = 0; i < ENTRIES; i++) words.setUint32(i * VALUE_SIZE + 32, LIFETIME, true)
    const read = { keys, expected: new Uint32Array(ENTRIES).fill(LIFETIME), verdicts: new Uint8Array(ENTRIES) }
    const views = Array.from({ length: ENTRIES }, (_, i) => keys.subarray(i * keySize, (i + 1) * keySize))
    const count = new Uint32Array(1)
    const map = { fd, ...sizes, name: "bench_delete" }
    const start = performance.now()
    const restoring = yield* CompareAndDelete.make(map, { engine: "program" })
    const loading = performance.now() - start
    const plain = yield* CompareAndDelete.make(map, { engine: "program" }).pipe(
      Effect.provideService(Bpf.Bpf, withoutPerfmon(kernel))
    )
    const portable = yield* CompareAndDelete.make(map, { engine: "portable" })
    const calls: Array<number> = []
    const ways: ReadonlyArray<Way> = [
      { name: `program${restoring.restores ? ", puts back" : ""}`, run: inSlices(restoring, read, calls) },
      { name: "program, CAP_BPF only", run: inSlices(plain, read) },
      { name: "portable: look up, delete", run: inSlices(portable, read) },
      {
        name: "BPF_MAP_DELETE_BATCH of 1024, blind",
        run: () => {
          let deleted = 0
          for (let from = 0; from < ENTRIES; from += 1024) {
            count[0] = 1024
            kernel.deleteBatch(fd, keys.subarray(from * keySize), count)
            deleted += count[0] ?? 0
          }
          return deleted
        }
      },
      {
        name: "BPF_MAP_DELETE_ELEM each, blind",
        run: () => views.reduce((deleted, key) => deleted + (kernel.delete(fd, key) === 0 ? 1 : 0), 0)
      }
    ]
    const refill = () => {
      count[0] = ENTRIES
      kernel.updateBatch(fd, keys, values, count)
    }
    console.log(`\n${table(`${family}, ${ENTRIES} candidates`, rounds(ways, refill))}`)
    const call = calls.toSorted((a, b) => a - b)
    const [half, most] = [0.5, 0.99].map((part) => call[Math.floor(call.length * part)]?.toFixed(2))
    console.log(`loading: ${loading.toFixed(1)} ms; a call of the first: ${half} ms, 99 % below ${most} ms`)
  })

/** Keys in no order that a hash could profit from. */
const keysOf = (keySize: number): Uint8Array => {
  const keys = new Uint8Array(ENTRIES * keySize)
  const view = new DataView(keys.buffer)
  for (let i = 0; i < ENTRIES; i++) {
    view.setUint32(i * keySize, Math.imul(i, 2_654_435_761))
    view.setUint32(i * keySize + keySize - 4, i)
  }
  return keys
}

const rounds = (ways: ReadonlyArray<Way>, refill: () => void): ReadonlyArray<Measured> => {
  const results = ways.map(({ name }) => ({ name, times: Array.from<number>([]) }))
  for (let round = 0; round < ROUNDS; round++) {
    ways.forEach(({ run }, i) => {
      refill()
      const start = hrtime.bigint()
      const deleted = run()
      results[i]?.times.push(Number(hrtime.bigint() - start) / ENTRIES)
      if (deleted !== ENTRIES) console.log(`${ways[i]?.name}: ${deleted} of ${ENTRIES} deleted`)
    })
  }
  return results.map(({ name, times }) => {
    const sorted = times.toSorted((a, b) => a - b)
    return {
      name,
      nsPerEntry: sorted[sorted.length >> 1] ?? Number.NaN,
      spread: [sorted[0] ?? Number.NaN, sorted.at(-1) ?? Number.NaN],
      checksum: ENTRIES
    }
  })
}

console.log(machine())
await Effect.runPromise(
  Effect.forEach(["ipv4", "ipv6"] as const, (family) => Effect.scoped(compare(family)), { discard: true }).pipe(
    Effect.provide(LibBpf.layer)
  )
)
