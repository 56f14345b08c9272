import { assert, describe, it } from "@effect/vitest"
import { CtEntry, Tuple, TupleFlags } from "ctmap-core"
import { BpfMap, BpfMemory, Upgrade } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import { put, spec } from "./contract/tables.ts"

describe("converting a value from one release to another", () => {
  const converted = (key: Uint8Array, ...releases: Parameters<typeof Upgrade.convert>): ReadonlyArray<number> => {
    const value = new Uint8Array(CtEntry.SIZE).fill(7)
    Upgrade.convert(...releases)(value, key)
    return [...value.keys()].filter((i) => value[i] !== 7)
  }
  const backend = Array.from({ length: 16 }, (_, i) => i)

  for (const tuple of [Tuple.v4, Tuple.v6]) {
    const key = new Uint8Array(tuple.size)
    const service = new Uint8Array(tuple.size).fill(TupleFlags.SERVICE, tuple.flags)

    it(`clears what means something else there: ${tuple.family}`, () => {
      assert.deepStrictEqual(converted(key, "1.17", "1.20"), [...backend, 40, 41])
      assert.deepStrictEqual(converted(key, "1.20", "1.17"), [...backend, 40, 41])
    })
    it(`keeps the backend of a service: ${tuple.family}`, () => {
      assert.deepStrictEqual(converted(service, "1.17", "1.20"), [40, 41])
    })
    it(`changes nothing within a release: ${tuple.family}`, () => {
      assert.deepStrictEqual(converted(key, "1.20", "1.20"), [])
    })
  }
})

describe("migrating without privilege", () => {
  it.effect("of somebody else's pin is refused rather than taken from them", () =>
    Effect.gen(function* () {
      const control = yield* BpfMemory.Control
      const path = "/sys/fs/bpf/m"
      yield* Effect.scoped(Effect.flatMap(BpfMap.createPinned(spec(), path), (map) => put(map, 10)))
      control.chmod("/sys/fs/bpf", 0o777)
      control.chmod(path, 0o666)
      const back = control.asUser(1000, ["CAP_BPF"])
      const error = yield* Effect.flip(Upgrade.migrate(path, spec({ maxEntries: 8192 })))
      back()
      assert.isTrue(error._tag === "BpfError" && error.operation === "change owner", error.message)
      assert.include(error.message, "with CAP_CHOWN and CAP_FOWNER")
      assert.deepStrictEqual([control.pins(), control.openFds()], [[path], []])
      assert.strictEqual(control.map(path)?.properties.maxEntries, 4096)
    }).pipe(Effect.provide(BpfMemory.layerTest()))
  )
})
