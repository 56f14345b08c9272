import { assert, describe, it } from "@effect/vitest"
import type { Family } from "ctmap-core"
import { CtMapSources, Endpoints } from "ctmap-gc"
import { BpfError, BpfMemory, CtMaps, NatMaps, Owner } from "ctmap-kernel"
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { withWarnings } from "./scheduleRig.ts"

const source = (cluster: number): CtMapSources.PairSource => ({
  family: "ipv4",
  owner: Owner.cluster(cluster),
  open: Effect.die("nobody opens it")
})

const refusal = BpfError.fromErrno({ operation: "list pins", errno: 13, path: "/sys/fs/bpf" })

const node = (families?: ReadonlyArray<Family.Family>) =>
  CtMapSources.layerNode(families).pipe(
    Layer.provideMerge(CtMapSources.layer),
    Layer.provide(Layer.mergeAll(CtMaps.layer(), NatMaps.layer())),
    Layer.provide(BpfMemory.layer)
  )

const names = Effect.map(
  Effect.flatMap(CtMapSources.CtMapSources, ({ pairs }) => pairs),
  (found) => found.map(CtMapSources.nameOf)
)

describe("a source of a pair", () => {
  it("opens the pair of the family and owner that it is called by, as far as types know them", () => {
    const mistaken = (maps: Context.Context<CtMaps.CtMaps | NatMaps.NatMaps>) => {
      const own = CtMapSources.of("ipv4", Owner.cluster(3), maps)
      const typed: CtMapSources.PairSource<"ipv4", Owner.Cluster<3>> = own
      // @ts-expect-error it is cluster 3's
      const other: CtMapSources.PairSource<"ipv4", Owner.Cluster<4>> = own
      const { open } = CtMapSources.of("ipv4", Owner.cluster(4), maps)
      // @ts-expect-error it would be called cluster 3's and open cluster 4's
      const relabelled: typeof own = { ...own, open }
      // @ts-expect-error it would be called IPv6 and open IPv4
      const turned: CtMapSources.PairSource<"ipv6", Owner.Global> = {
        ...CtMapSources.global("ipv4", maps),
        family: "ipv6"
      }
      return [typed, other, relabelled, turned]
    }
    assert.isFunction(mistaken)
  })
})

describe("the sources of a node", () => {
  it.effect("are the global pairs of its families and those of its endpoints, as they are now", () =>
    Effect.gen(function* () {
      let endpoints = [{ id: 7 }, { id: 8 }]
      const local = Effect.sync(() => endpoints)
      yield* Effect.gen(function* () {
        assert.deepStrictEqual(yield* names, ["ipv6 global", "ipv6 endpoint 7", "ipv6 endpoint 8"])
        endpoints = [{ id: 65_536 + 9 }]
        assert.deepStrictEqual(yield* names, ["ipv6 global", "ipv6 endpoint 9"])
      }).pipe(
        Effect.provide(node(["ipv6"])),
        Effect.provideService(Endpoints.Endpoints, { local, emitCtEntry: undefined })
      )
    })
  )

  it.effect("are of both families unless it is said otherwise, and of no endpoint", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* names, ["ipv4 global", "ipv6 global"])
    }).pipe(Effect.provide(node()))
  )
})

describe("CtMapSources", () => {
  it.effect("lists the pairs of every source in order, as they are when it is asked", () =>
    Effect.gen(function* () {
      const { register } = yield* CtMapSources.CtMapSources
      let later = [source(2)]
      yield* register(Effect.succeed([source(1)]))
      yield* register(Effect.sync(() => later))
      assert.deepStrictEqual(yield* names, ["ipv4 cluster 1", "ipv4 cluster 2"])
      later = [source(3), source(4)]
      assert.deepStrictEqual(yield* names, ["ipv4 cluster 1", "ipv4 cluster 3", "ipv4 cluster 4"])
    }).pipe(Effect.scoped, Effect.provide(CtMapSources.layer))
  )

  it.effect("a source is there for as long as who registered it, each time it is", () =>
    Effect.gen(function* () {
      const { register } = yield* CtMapSources.CtMapSources
      const one = Effect.succeed([source(1)])
      yield* register(one)
      const during = yield* Effect.scoped(Effect.andThen(register(one), names))
      assert.deepStrictEqual(during, ["ipv4 cluster 1", "ipv4 cluster 1"])
      assert.deepStrictEqual(yield* names, ["ipv4 cluster 1"])
    }).pipe(Effect.scoped, Effect.provide(CtMapSources.layer))
  )

  it.effect("a source that cannot tell is warned of, and the others are collected", () =>
    Effect.gen(function* () {
      const { register } = yield* CtMapSources.CtMapSources
      yield* register(Effect.fail(refusal))
      assert.strictEqual(yield* Effect.flip(names), refusal)
      yield* register(Effect.succeed([source(1)]))
      const { value, warnings } = yield* withWarnings(names)
      assert.deepStrictEqual(value, ["ipv4 cluster 1"])
      assert.deepStrictEqual(warnings, [`some tables cannot be listed: ${refusal.message}`])
    }).pipe(Effect.scoped, Effect.provide(CtMapSources.layer))
  )
})
