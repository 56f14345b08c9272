import { assert, describe, it } from "@effect/vitest"
import { MapKind, MapSpec } from "ctmap-core"
import { BpfMap, BpfMemory, Features, LibBpf, MapIterator, RowScan } from "ctmap-kernel"
import { Privileged } from "ctmap-testing"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { release } from "node:os"
import { describe as suite } from "vitest"

const probe = (feature: Features.Feature) => Effect.flatMap(Features.Features, (features) => features.probe(feature))
const on = (options?: BpfMemory.Options) => Features.layer.pipe(Layer.provideMerge(BpfMemory.layerTest(options)))

describe("what a kernel can do", () => {
  it.effect("is asked once per feature, and leaves nothing open", () =>
    Effect.gen(function* () {
      const control = yield* BpfMemory.Control
      assert.deepStrictEqual(yield* probe("batch"), { _tag: "Supported" })
      const calls = control.count()
      assert.deepStrictEqual(yield* probe("batch"), { _tag: "Supported" })
      assert.strictEqual(control.count(), calls)
      yield* Effect.flatMap(Features.Features, (features) => features.all)
      assert.deepStrictEqual(control.openFds(), [])
    }).pipe(Effect.provide(on()))
  )

  it.effect.each(["unknown command", "not for this map"] as const)(
    "batches are missing where the kernel says %s",
    (batch) =>
      Effect.gen(function* () {
        assert.strictEqual((yield* probe("batch"))._tag, "Missing")
        assert.strictEqual((yield* probe("mmapable-array"))._tag, "Missing")
      }).pipe(Effect.provide(on({ features: { batch, mmapable: false } })))
  )

  it.effect("what is only forbidden is told from what is missing", () =>
    Effect.gen(function* () {
      const control = yield* BpfMemory.Control
      control.asUser(1000)
      assert.deepStrictEqual(yield* probe("distributed-lru"), { _tag: "NotPermitted" })
    }).pipe(Effect.provide(on()))
  )

  it.effect("what the verifier hides without CAP_PERFMON is forbidden, not missing", () =>
    Effect.gen(function* () {
      const EINVAL = 22
      for (const [capabilities, answer] of [
        [["CAP_BPF"], "NotPermitted"],
        [["CAP_BPF", "CAP_PERFMON"], "Missing"]
      ] as const) {
        const tag = Effect.gen(function* () {
          const control = yield* BpfMemory.Control
          control.asUser(1000, capabilities)
          control.failNext("loadObject", EINVAL)
          const { _tag } = yield* probe("iterator")
          assert.deepStrictEqual(control.openFds(), [])
          return _tag
        })
        assert.strictEqual(yield* Effect.provide(tag, on()), answer)
      }
    })
  )

  it.effect("a large map on a kernel without iterators is read by batch", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const map = yield* BpfMap.create(MapSpec.ct(MapKind.globals[0]), "large")
        assert.strictEqual((yield* RowScan.forEach(map, () => Effect.void)).method, "batch")
      })
    ).pipe(Effect.provide(MapIterator.layer.pipe(Layer.provideMerge(BpfMemory.layer))))
  )

  it("a host that cannot be served is refused with the reason", () => {
    assert.isUndefined(LibBpf.refusal("linux", "LE"))
    assert.include(LibBpf.refusal("linux", "BE") ?? "", "big endian")
    assert.include(LibBpf.refusal("darwin", "LE") ?? "", "this is darwin")
    assert.include(LibBpf.missing(new Error("libbpf.so.1: cannot open shared object file")), "apt install libbpf1")
  })
})

Privileged.suite(suite, "what this kernel can do", () => {
  const isAtLeast = (since: string): boolean => {
    const [major = 0, minor = 0] = release().split(".").map(Number)
    const [first = 0, second = 0] = since.split(".").map(Number)
    return major > first || (major === first && minor >= second)
  }

  it.effect.each(Features.names)("%s: a kernel that is new enough has it", (feature) =>
    Effect.gen(function* () {
      const answer = yield* probe(feature)
      if (isAtLeast(Features.features[feature].since)) assert.strictEqual(answer._tag, "Supported")
    }).pipe(Effect.provide(Features.layer.pipe(Layer.provideMerge(LibBpf.layer))))
  )
})
