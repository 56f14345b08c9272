/** As many clusters as there can be by default, on any kernel. */
import { assert, describe } from "@effect/vitest"
import { CtEntry } from "ctmap-core"
import { GcRequest, GcRunner } from "ctmap-gc"
import { Bpf } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Host from "./collectorRig.ts"
import { type Kernel, testsOf } from "./onKernel.ts"
import * as Rig from "./rig.ts"

const CLUSTERS = 255
const LIVE = 3
const EXPIRED = 2

/** Counts fds that are open, and bytes that buffers hold while they are. */
const counting = (kernel: Kernel["layer"]) => {
  const seen = { open: 0, most: 0, bytes: 0 }
  const calls = Effect.map(Bpf.Bpf, (bpf): Bpf.Calls => {
    const opened = (fd: number): number => {
      if (fd >= 0) seen.open++
      seen.most = Math.max(seen.most, seen.open)
      seen.bytes = Math.max(seen.bytes, process.memoryUsage().arrayBuffers)
      return fd
    }
    return {
      ...bpf,
      mapCreate: (...args) => opened(bpf.mapCreate(...args)),
      openPin: (...args) => opened(bpf.openPin(...args)),
      close: (fd) => {
        seen.open--
        return bpf.close(fd)
      }
    }
  })
  return { seen, layer: Layer.effect(Bpf.Bpf, calls).pipe(Layer.provide(kernel)) }
}

export const contract = (name: string, kernel: Kernel): void => {
  const { seen, layer } = counting(kernel.layer)
  const live = testsOf("scale", { ...kernel, layer })

  describe(`${name}: ${CLUSTERS} clusters of both families`, () => {
    live(
      "are found by one start and collected in one pass, with a handful of fds and without piling up memory",
      Effect.gen(function* () {
        yield* Rig.life(
          Effect.gen(function* () {
            yield* Rig.openBoth
            for (let id = 1; id <= CLUSTERS; id++) yield* Rig.createBoth(id)
            for (const { open } of yield* (yield* Rig.ct).getAll) yield* Effect.scoped(Effect.flatMap(open, fill))
          })
        )
        assert.strictEqual(seen.open, 0)
        Object.assign(seen, { most: 0, bytes: 0 })
        const before = process.memoryUsage().arrayBuffers
        const { pairs, deleted } = yield* Effect.flatMap(GcRunner.GcRunner, (runner) =>
          runner.run(GcRequest.expired)
        ).pipe(Effect.provide(Host.collector()))
        assert.strictEqual(pairs.filter(({ exit }) => Exit.isSuccess(exit)).length, 2 * CLUSTERS)
        assert.strictEqual(deleted, 4 * CLUSTERS * EXPIRED)
        assert.strictEqual(seen.open, 0)
        assert.isAtMost(seen.most, 24)
        assert.isBelow(seen.bytes - before, 128 << 20)
        const last = yield* Host.keysOf(`cilium_per_cluster_ct_any6_${CLUSTERS}`)
        assert.strictEqual(last.length, LIVE)

        Object.assign(seen, { most: 0 })
        const found = yield* Rig.life(Effect.andThen(Rig.openBoth, Rig.findings()))
        assert.deepStrictEqual(found, [])
        assert.isAtMost(seen.most, 24)
      })
    )
  })
}

const fill = ({ map }: { readonly map: { readonly fd: number; readonly info: Bpf.MapInfo } }) =>
  Effect.map(Bpf.Bpf, (bpf) => {
    for (let i = 0; i < LIVE + EXPIRED; i++) {
      const value = new Uint8Array(CtEntry.SIZE)
      const lifetime = i < LIVE ? Host.NOW + 100 : Host.NOW - 100
      new DataView(value.buffer).setUint32(CtEntry.offset.lifetime, lifetime, true)
      const rc = bpf.update(map.fd, new Uint8Array(map.info.keySize).fill(i + 1), value, Bpf.ANY)
      if (rc < 0) throw new Error(`filling: ${rc}`)
    }
  })
