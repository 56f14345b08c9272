// The race that cuts connections elsewhere: an entry is refreshed between reading and deleting. Played on the kernel's
// twin in memory, which stops between two calls to let the datapath in.
import { CtEntry, MapKind, MapSpec } from "ctmap-core"
import { BpfMap, BpfMemory, CompareAndDelete } from "ctmap-kernel"
import * as Effect from "effect/Effect"

const program = Effect.gen(function* () {
  const control = yield* BpfMemory.Control
  const map = yield* BpfMap.create(MapSpec.ct(MapKind.globals[0]), "cilium_ct4_global")
  const key = new Uint8Array(14)
  const withLifetime = (lifetime: number) => {
    const value = new Uint8Array(CtEntry.SIZE)
    new DataView(value.buffer).setUint32(CtEntry.offset.lifetime, lifetime, true)
    return value
  }
  yield* BpfMap.update(map, { key, value: withLifetime(100) })

  // It is 200 now: the entry has expired. But before the collector's call arrives, a packet does.
  control.onCall((call) => call === "runProgram" && control.map(map.fd)?.update(key, withLifetime(8200)))

  const { keySize, valueSize } = map.info
  const collector = yield* CompareAndDelete.make({ fd: map.fd, keySize, valueSize, name: map.name })
  const candidates = { keys: key, expected: Uint32Array.of(100), verdicts: new Uint8Array(1) }
  const totals = yield* collector.deleteAll(candidates, "lifetime", 1)
  console.log(`deleted ${totals.deleted}, refreshed and kept ${totals.refreshed}`)
})

const kernel = BpfMemory.layerTest({ objects: { [CompareAndDelete.object]: CompareAndDelete.twin } })
await Effect.runPromise(Effect.scoped(program).pipe(Effect.provide(kernel)))
