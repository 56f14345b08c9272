/** Real CT maps with as many entries as are asked for, in a bpffs of the benchmark's own. */
import { dirname } from "node:path"
import { CtEntry, MapSpec, Tuple } from "ctmap-core"
import { TempBpfFs } from "ctmap-testing"
import * as Bpf from "ctmap-kernel/Bpf"
import * as BpfMap from "ctmap-kernel/BpfMap"
import * as Scan from "ctmap-kernel/Scan"
import * as Effect from "effect/Effect"
import { ctTable, makeRandom } from "./tables.ts"

const CHUNK = 65_536

/** Mounts a bpffs until the end of the scope, or of the process. */
export const bpfFs = Effect.map(
  Effect.acquireRelease(
    Effect.sync(() => {
      const made = TempBpfFs.make()
      made.start()
      return made
    }),
    (made) => Effect.sync(made.stop)
  ),
  ({ path }) => path
)

/**
 * Makes an LRU map of twice as many entries, pins it where Cilium would, and fills it. The path of the pin, which goes
 * with the scope.
 */
export const make = (root: string, entries: number) =>
  Effect.gen(function* () {
    const bpf = yield* Bpf.Bpf
    const path = `${root}/tc/globals/cilium_ct4_global`
    const { size: keySize } = Tuple.shape("ipv4")
    const spec = { type: MapSpec.mapType.lruHash, keySize, valueSize: CtEntry.SIZE, maxEntries: 2 * entries, flags: 0 }
    const map = yield* Effect.acquireRelease(BpfMap.createPinned(spec, path), () => Effect.orDie(BpfMap.unpin(path)))
    const random = makeRandom()
    const count = new Uint32Array(1)
    // Keys come twice now and then: what is missing in the end is made up for.
    for (let missing = entries; missing > 0; missing = entries - (yield* Scan.count(map))) {
      for (let left = missing; left > 0; left -= CHUNK) {
        const rows = ctTable("ipv4", Math.min(left, CHUNK), random)
        count[0] = rows.count
        const rc = bpf.updateBatch(map.fd, new Uint8Array(rows.keys.buffer), new Uint8Array(rows.values.buffer), count)
        if (rc < 0) return yield* Effect.die(new Error(`filling ${dirname(path)}: errno ${-rc}`))
      }
    }
    return path
  })
