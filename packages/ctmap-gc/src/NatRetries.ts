/**
 * The histogram of SNAT port-allocation retries that Cilium 1.20 keeps: how often a free port was found after how many
 * tries. A histogram that moves to the right is a NAT table that runs out of ports.
 *
 * @since 0.1.0
 */
import { type Family, MapName, MapSpec } from "ctmap-core"
import { Bpf, type BpfError, BpfMap, Pins } from "ctmap-kernel"
import * as Effect from "effect/Effect"

/** 0 to 32 retries. @since 0.1.0 */
export const SLOTS = 33

/**
 * How many allocations took how many retries, from 0 to 32, summed over the CPUs.
 *
 * **Details**
 *
 * Each CPU counts in a u32 that wraps; the sum of them is kept modulo 2^32, as Cilium prints it. Errors: `PinNotFound`
 * where the datapath keeps no histogram (before 1.20, or without masquerading), `NotPermitted`, `InvalidArgument` for a
 * map of another shape.
 *
 * @since 0.1.0
 */
export const read = (family: Family.Family): Effect.Effect<ReadonlyArray<number>, BpfError.BpfError, Bpf.Bpf> =>
  withMap(family, (bpf, map) => {
    const value = new Uint8Array(BpfMap.valueRoom(bpf, map))
    const words = new DataView(value.buffer)
    return Effect.forEach(slots, (slot) =>
      Effect.suspend(() => {
        const rc = bpf.lookup(map.fd, keyOf(slot), value)
        if (rc < 0) return Effect.fail(BpfMap.failure(map, "lookup", rc))
        let sum = 0
        for (let at = 0; at < value.byteLength; at += 8) sum = (sum + words.getUint32(at, true)) >>> 0
        return Effect.succeed(sum)
      })
    )
  })

/**
 * Sets all counters of all CPUs to zero. What the datapath counts meanwhile may be lost. Errors: as {@link read}.
 *
 * @since 0.1.0
 */
export const reset = (family: Family.Family): Effect.Effect<void, BpfError.BpfError, Bpf.Bpf> =>
  withMap(family, (bpf, map) => {
    const zero = new Uint8Array(BpfMap.valueRoom(bpf, map))
    return Effect.forEach(
      slots,
      (slot) =>
        Effect.suspend(() => {
          const rc = bpf.update(map.fd, keyOf(slot), zero, Bpf.ANY)
          return rc < 0 ? Effect.fail(BpfMap.failure(map, "update", rc)) : Effect.void
        }),
      { discard: true }
    )
  })

const slots: ReadonlyArray<number> = Array.from({ length: SLOTS }, (_, slot) => slot)

const keyOf = (slot: number): Uint8Array => new Uint8Array(Uint32Array.of(slot).buffer)

const withMap = <A>(
  family: Family.Family,
  use: (bpf: Bpf.Calls, map: BpfMap.BpfMap) => Effect.Effect<A, BpfError.BpfError>
): Effect.Effect<A, BpfError.BpfError, Bpf.Bpf> =>
  Effect.scoped(
    Effect.gen(function* () {
      const bpf = yield* Bpf.Bpf
      const map = yield* BpfMap.open(yield* Pins.pathOf(MapName.natRetries(family)))
      const { type, keySize, valueSize, maxEntries } = map.info
      const fits = type === MapSpec.mapType.percpuArray && keySize === 4 && valueSize === 4 && maxEntries >= SLOTS
      return yield* fits ? use(bpf, map) : Effect.fail(BpfMap.failure(map, "lookup", EINVAL))
    })
  )

const EINVAL = -22
