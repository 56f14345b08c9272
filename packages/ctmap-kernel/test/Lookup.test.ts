import { assert, describe, it } from "@effect/vitest"
import { CtEntry, CtKey, LookupKey } from "ctmap-core"
import { type Bpf, BpfError, BpfMap, BpfMemory, CtMaps, Owner } from "ctmap-kernel"
import * as Lookup from "ctmap-kernel/Lookup"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import type * as Scope from "effect/Scope"
import { ctValue, limits } from "./snapshotCases.ts"

type Needs = Bpf.Bpf | BpfMemory.Control | CtMaps.CtMaps | Scope.Scope

const run = <A, E>(effect: Effect.Effect<A, E, Needs>): Effect.Effect<A, E> =>
  Effect.scoped(effect).pipe(Effect.provide(CtMaps.layer(limits).pipe(Layer.provideMerge(BpfMemory.layerTest()))))

const tcp = { source: "10.0.0.1:34520", destination: "1.1.1.1:80", protocol: 6 }
const dns6 = { source: "[fd00::1]:40000", destination: "[2001:db8::5]:53", protocol: 17, ingress: true }
const ofNode = { ...tcp, owner: Owner.global }

/** An entry of 1.17 whose other bytes are not zero. */
const entry = (lifetime: number): CtEntry.CtEntry => {
  const value = ctValue(lifetime, 7, 8)
  const view = new DataView(value.buffer)
  view.setBigUint64(CtEntry.offset.packets, 1n << 60n, true)
  view.setUint16(CtEntry.offset.ifindex, 3, true)
  return Result.getOrThrow(CtEntry.fromBytes("1.17", value))
}

const withLifetime = (of: CtEntry.CtEntry, lifetime: number): CtEntry.CtEntry => {
  const value = CtEntry.toBytes(of)
  new DataView(value.buffer).setUint32(CtEntry.offset.lifetime, lifetime, true)
  return Result.getOrThrow(CtEntry.fromBytes(of.release, value))
}

const keyOf = (flow: LookupKey.Flow): Uint8Array => CtKey.toBytes(Result.getOrThrow(LookupKey.make(flow)))

/** Makes a map of an owner with one entry, and returns its path. */
const put = (owner: Owner.Owner, flow: LookupKey.Flow, value: CtEntry.CtEntry) =>
  Effect.gen(function* () {
    const maps = yield* CtMaps.CtMaps
    const family = flow === dns6 ? "ipv6" : "ipv4"
    const which = { family, transport: flow.protocol === 6 ? "tcp" : "any", owner } as const
    yield* Effect.scoped(
      Effect.gen(function* () {
        const { map } = yield* maps.openOrCreate(which)
        yield* BpfMap.update(map, { key: keyOf(flow), value: CtEntry.toBytes(value) })
      })
    )
    return maps.path(which)
  })

const reasonOf = (error: { readonly _tag: string }): string =>
  error instanceof BpfError.BpfError ? error.reason._tag : error._tag

describe("lookup", () => {
  it.effect("finds an entry of the node, of an endpoint and of a cluster by its ends", () =>
    run(
      Effect.gen(function* () {
        for (const [i, owner] of [Owner.global, Owner.endpoint(7), Owner.cluster(3)].entries()) {
          for (const flow of [tcp, dns6]) {
            yield* put(owner, flow, entry(i + 100))
            const found = yield* Lookup.lookup({ owner, ...flow })
            assert.strictEqual(Option.getOrThrow(found).lifetime, i + 100)
          }
        }
      })
    )
  )

  it.effect("tells directions apart, and answers none where there is no entry", () =>
    run(
      Effect.gen(function* () {
        yield* put(Owner.global, tcp, entry(1))
        assert.isTrue(Option.isNone(yield* Lookup.lookup({ ...ofNode, ingress: true })))
        assert.isTrue(Option.isNone(yield* Lookup.lookup({ ...ofNode, source: "10.0.0.1:34521" })))
      })
    )
  )

  it.effect("leaves nothing open: there is no cache for CloseLocalMaps to close (G11)", () =>
    run(
      Effect.gen(function* () {
        yield* put(Owner.endpoint(7), tcp, entry(1))
        yield* Lookup.lookup({ ...tcp, owner: Owner.endpoint(7) })
        assert.deepStrictEqual((yield* BpfMemory.Control).openFds(), [])
      })
    )
  )

  it.effect("says what is wrong with a question, before any map is opened (G14)", () =>
    run(
      Effect.gen(function* () {
        const why = (change: Partial<Lookup.Query>) =>
          Effect.map(Effect.flip(Lookup.lookup({ ...ofNode, ...change })), reasonOf)
        assert.strictEqual(yield* why({ source: "10.0.0.1" }), "InvalidEnd")
        assert.strictEqual(yield* why({ destination: "[fd00::1]:80" }), "MixedFamilies")
        assert.strictEqual(yield* why({ protocol: -1 }), "InvalidProtocol")
        assert.strictEqual((yield* BpfMemory.Control).count(), 0)
        assert.strictEqual(yield* why({}), "PinNotFound")
      })
    )
  )

  it.effect("refuses a map of an unknown layout", () =>
    run(
      Effect.gen(function* () {
        const maps = yield* CtMaps.CtMaps
        const which = { family: "ipv4", transport: "tcp", owner: Owner.global } as const
        yield* BpfMap.createPinned({ ...maps.spec(which), valueSize: 48 }, maps.path(which))
        assert.strictEqual((yield* Effect.flip(Lookup.lookup(ofNode)))._tag, "UnknownLayout")
      })
    )
  )

  it.effect("in an open map checks that the flow can be in it", () =>
    run(
      Effect.gen(function* () {
        yield* put(Owner.global, tcp, entry(9))
        const map = yield* (yield* CtMaps.CtMaps).open({ family: "ipv4", transport: "tcp", owner: Owner.global })
        assert.strictEqual(Option.getOrThrow(yield* Lookup.lookupIn(map, tcp)).lifetime, 9)
        const error = yield* Effect.flip(Lookup.lookupIn(map, dns6))
        assert.strictEqual(
          error.message,
          "map cilium_ct4_global holds tcp4 entries, and the flow is any6: look in the other map"
        )
        assert.strictEqual((yield* Effect.flip(Lookup.updateIn(map, dns6, Effect.succeed)))._tag, "WrongMap")
      })
    )
  )
})

describe("update", () => {
  const inMap = (path: string) =>
    Effect.map(BpfMemory.Control, (control) => {
      const value = control.map(path)?.lookup(keyOf(tcp))
      return value === undefined ? undefined : Result.getOrThrow(CtEntry.fromBytes("1.17", value))
    })

  it.effect("writes the entry that is made of the one that is there, every other byte as it was", () =>
    run(
      Effect.gen(function* () {
        const path = yield* put(Owner.global, tcp, entry(100))
        const written = yield* Lookup.update(ofNode, (found) => Effect.succeed(withLifetime(found, 200)))
        assert.deepStrictEqual(written, entry(200))
        assert.deepStrictEqual(yield* inMap(path), entry(200))
        const map = yield* (yield* CtMaps.CtMaps).open({ family: "ipv4", transport: "tcp", owner: Owner.global })
        yield* Lookup.updateIn(map, tcp, (found) => Effect.succeed(withLifetime(found, 300)))
        assert.deepStrictEqual(yield* inMap(path), entry(300))
      })
    )
  )

  it.effect("writes nothing when the change fails", () =>
    run(
      Effect.gen(function* () {
        const path = yield* put(Owner.global, tcp, entry(100))
        const control = yield* BpfMemory.Control
        const before = control.count("update")
        assert.strictEqual(yield* Effect.flip(Lookup.update(ofNode, () => Effect.fail("no" as const))), "no")
        assert.strictEqual(control.count("update"), before)
        assert.deepStrictEqual(yield* inMap(path), entry(100))
      })
    )
  )

  it.effect("writes nothing when nothing changes", () =>
    run(
      Effect.gen(function* () {
        yield* put(Owner.global, tcp, entry(100))
        const control = yield* BpfMemory.Control
        const before = control.count("update")
        yield* Lookup.update(ofNode, Effect.succeed)
        assert.strictEqual(control.count("update"), before)
      })
    )
  )

  it.effect("does not call the change where there is no entry", () =>
    run(
      Effect.gen(function* () {
        yield* put(Owner.global, { ...tcp, source: "10.9.9.9:1" }, entry(1))
        const error = yield* Effect.flip(Lookup.update(ofNode, () => Effect.die("called")))
        assert.strictEqual(reasonOf(error), "KeyNotExist")
        assert.match(error.message, /cilium_ct4_global: no entry has this key/)
      })
    )
  )

  it.effect("starts over from what the datapath made of the entry meanwhile (G15)", () =>
    run(
      Effect.gen(function* () {
        const path = yield* put(Owner.global, tcp, entry(100))
        const inKernel = (yield* BpfMemory.Control).map(path)!
        const seen: Array<number> = []
        yield* Lookup.update(ofNode, (found) => {
          seen.push(found.lifetime)
          if (seen.length < 3) inKernel.update(keyOf(tcp), CtEntry.toBytes(entry(100 + seen.length)))
          return Effect.succeed(withLifetime(found, found.lifetime + 1000))
        })
        assert.deepStrictEqual(seen, [100, 101, 102])
        assert.deepStrictEqual(yield* inMap(path), entry(1102))
      })
    )
  )

  it.effect("gives a busy entry up, unwritten", () =>
    run(
      Effect.gen(function* () {
        const path = yield* put(Owner.global, tcp, entry(0))
        const inKernel = (yield* BpfMemory.Control).map(path)!
        let packets = 0
        const change = (found: CtEntry.CtEntry) =>
          Effect.sync(() => {
            inKernel.update(keyOf(tcp), CtEntry.toBytes(entry(++packets)))
            return withLifetime(found, 9999)
          })
        const error = yield* Effect.flip(Lookup.update(ofNode, change, { attempts: 3 }))
        assert.strictEqual(
          error.message,
          "the entry in map cilium_ct4_global changed under each of 3 attempts to update it, nothing was written: the connection is busy; try again when it is not"
        )
        assert.deepStrictEqual(yield* inMap(path), entry(3))
      })
    )
  )

  it.effect("does not bring back an entry that is deleted at any moment of it", () =>
    Effect.gen(function* () {
      for (let skip = 1; skip <= 3; skip++) {
        yield* run(
          Effect.gen(function* () {
            const path = yield* put(Owner.global, tcp, entry(100))
            const control = yield* BpfMemory.Control
            let calls = 0
            control.onCall((call) => {
              if ((call === "lookup" || call === "update") && ++calls === skip) control.map(path)?.delete(keyOf(tcp))
            })
            const change = (found: CtEntry.CtEntry) => Effect.succeed(withLifetime(found, 1))
            assert.strictEqual(reasonOf(yield* Effect.flip(Lookup.update(ofNode, change))), "KeyNotExist")
            assert.isUndefined(yield* inMap(path))
          })
        )
      }
    })
  )
})
