import { assert, describe, it } from "@effect/vitest"
import { MapName, MapSpec } from "ctmap-core"
import { NatRetries } from "ctmap-gc"
import { Bpf, BpfMap, BpfMemory } from "ctmap-kernel"
import * as Effect from "effect/Effect"

const path = `/sys/fs/bpf/tc/globals/${MapName.natRetries("ipv4")}`

const pinned = (changes: Partial<MapSpec.MapSpec> = {}) =>
  BpfMap.createPinned({ ...MapSpec.natRetries, ...changes }, path)

describe("NatRetries", () => {
  it.effect("sums what each CPU has counted, and zeroes it", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const bpf = yield* Bpf.Bpf
        const map = yield* pinned()
        const count = (slot: number, ...cpus: ReadonlyArray<number>) => {
          const value = new DataView(new ArrayBuffer(8 * cpus.length))
          cpus.forEach((n, cpu) => value.setUint32(8 * cpu, n, true))
          const key = new Uint8Array(Uint32Array.of(slot).buffer)
          assert.strictEqual(bpf.update(map.fd, key, new Uint8Array(value.buffer), Bpf.ANY), 0)
        }
        count(0, 5, 7)
        count(32, 0xffff_ffff, 2)
        const counts = yield* NatRetries.read("ipv4")
        assert.strictEqual(counts.length, 33)
        assert.deepStrictEqual([counts[0], counts[1], counts[32]], [12, 0, 1])
        yield* NatRetries.reset("ipv4")
        assert.deepStrictEqual(yield* NatRetries.read("ipv4"), Array(33).fill(0))
      })
    ).pipe(Effect.provide(BpfMemory.layer))
  )

  it.effect("says that there is no histogram, or that the map is none", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const missing = yield* Effect.flip(NatRetries.read("ipv4"))
        assert.strictEqual(missing.reason._tag, "PinNotFound")
        yield* pinned({ type: MapSpec.mapType.array })
        const other = yield* Effect.flip(NatRetries.read("ipv4"))
        assert.strictEqual(other.reason._tag, "InvalidArgument")
      })
    ).pipe(Effect.provide(BpfMemory.layer))
  )
})
