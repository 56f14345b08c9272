import { assert, describe, it } from "@effect/vitest"
import { ClusterSource, PerClusterCtMaps, PerClusterNatMaps } from "ctmap-cluster"
import { BpfMemory } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import { objects } from "./collectorRig.ts"
import { contract } from "./Source.contract.ts"

contract("in memory", { layer: BpfMemory.layerTest({ objects }), root: "/sys/fs/bpf" })

describe("tables for the gauges", () => {
  it.effect("one that does not open stands for pins that cannot be listed", () =>
    Effect.gen(function* () {
      const control = yield* BpfMemory.Control
      control.failNext("listDirectory", 13)
      const [table, ...others] = yield* ClusterSource.tables
      assert.deepStrictEqual(others, [])
      assert.match((yield* Effect.flip(Effect.scoped(table!.open))).message, /list pins .*tc\/globals: not permitted/)
      assert.deepStrictEqual(yield* ClusterSource.tables, [])
    }).pipe(Effect.provide(BpfMemory.layerTest()))
  )
})

describe("the stand-ins", () => {
  it.effect("note ids that were made and not deleted, whatever they are, and have no maps", () =>
    Effect.gen(function* () {
      const maps = yield* PerClusterCtMaps.PerClusterCtMaps
      const nats = yield* PerClusterNatMaps.PerClusterNatMaps
      const [ct, nat] = [yield* PerClusterCtMaps.Control, yield* PerClusterNatMaps.Control]
      yield* maps.openOrCreate
      for (const id of [9, 0, 4, 1000]) yield* maps.create(id)
      yield* maps.delete(4)
      yield* nats.create(5)
      yield* nats.close
      assert.deepStrictEqual([ct.ids(), nat.ids()], [[0, 9, 1000], [5]])
      assert.deepStrictEqual([ct.has(9), ct.has(4), nat.has(9)], [true, false, false])
      assert.deepStrictEqual([yield* maps.getAll, yield* maps.get(9), yield* nats.getAll], [[], [], []])
      assert.strictEqual((yield* Effect.flip(nats.get(5, "ipv4")))._tag, "FamilyNotEnabled")
    }).pipe(Effect.provide([PerClusterCtMaps.layerTest, PerClusterNatMaps.layerTest]))
  )
})
