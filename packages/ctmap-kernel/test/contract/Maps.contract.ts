/** What typed maps and scans promise, on any kernel. */
import { assert, describe } from "@effect/vitest"
import { MapKind, MapName, MapSpec } from "ctmap-core"
import { Bpf, BpfMap, CtMaps, KernelClock, Layout, NatMaps, OuterMap, Owner, Pins, Scan } from "ctmap-kernel"
import { Recorded } from "ctmap-testing"
import { type Kernel, contents, entryOf, put, small, spec, testsOf, toHex } from "./tables.ts"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"

export const contract = (name: string, kernel: Kernel): void => {
  const live = testsOf("maps", kernel)

  describe(`${name}: opening maps`, () => {
    live("a map that is made and pinned is found again, with its properties", (root) =>
      Effect.gen(function* () {
        const path = MapName.pinPath(root, "cilium_ct4_global")
        const made = yield* BpfMap.createPinned(spec(), path)
        const found = yield* BpfMap.open(path)
        assert.deepStrictEqual(MapSpec.differences(spec(), found.info), [])
        assert.deepStrictEqual([found.name, found.path, found.info.id], ["cilium_ct4_global", path, made.info.id])
        assert.isTrue(yield* BpfMap.exists(path))
        assert.isTrue(yield* BpfMap.unpin(path))
        assert.isFalse(yield* BpfMap.unpin(path))
        assert.isFalse(yield* BpfMap.exists(path))
      })
    )

    live("an absent pin says where it looked and what to do", (root) =>
      Effect.gen(function* () {
        const error = yield* Effect.flip(BpfMap.open(`${root}/none`))
        assert.strictEqual(error.reason._tag, "PinNotFound")
        assert.include(error.message, `${root}/none`)
        assert.include(error.message, "check the path")
      })
    )

    live("a path outside a bpffs is refused by that name, before anything is tried", () =>
      Effect.gen(function* () {
        const map = yield* BpfMap.create(spec(), "m")
        const error = yield* Effect.flip(BpfMap.pin(map, "/proc/self/map"))
        assert.strictEqual(error.reason._tag, "NotBpfFs")
        assert.include(error.message, "mount -t bpf")
      })
    )

    live("open-or-create keeps the map that is wanted and replaces any other, naming every difference", (root) =>
      Effect.gen(function* () {
        const path = `${root}/tc/globals/m`
        const first = yield* BpfMap.openOrCreate(spec(), path)
        yield* put(first.map, 3)
        const second = yield* BpfMap.openOrCreate(spec(), path)
        assert.deepStrictEqual([first.created, second.created, second.map.info.id], [true, false, first.map.info.id])
        const third = yield* BpfMap.openOrCreate(spec({ maxEntries: 2048 }), path)
        assert.deepStrictEqual(third.replaced, [{ property: "maxEntries", wanted: 2048, found: 4096 }])
        assert.strictEqual(yield* Scan.count(third.map), 0)
        assert.strictEqual(yield* Scan.count(first.map), 3)
      })
    )

    live("a map used after its scope has closed is a defect, not a call on somebody else's fd", () =>
      Effect.gen(function* () {
        const map = yield* Effect.scoped(BpfMap.create(spec(), "gone"))
        assert.throws(() => map.fd, /gone was used after its scope/)
        const exit = yield* Effect.exit(BpfMap.lookup(map, new Uint8Array(14)))
        assert.isTrue(exit._tag === "Failure" && exit.cause.reasons.some((reason) => reason._tag === "Die"))
      })
    )

    live("an outer map is made from its spec, template and all", () =>
      Effect.gen(function* () {
        const outer = yield* BpfMap.create(MapSpec.clusterOuter(MapKind.globals[0], 255, small), "outer")
        assert.deepStrictEqual([outer.info.type, outer.info.maxEntries], [12, 256])
        const inner = yield* BpfMap.create(spec(), "inner")
        const key = Uint8Array.of(7, 0, 0, 0)
        yield* BpfMap.update(outer, { key, value: new Uint8Array(Uint32Array.of(inner.fd).buffer) })
        const value = Option.getOrThrow(yield* BpfMap.lookup(outer, key))
        assert.strictEqual(new DataView(value.buffer).getUint32(0, true), inner.info.id)
      })
    )
    live("a slot of an outer map takes a map, tells its id, and lets go of it once", () =>
      Effect.gen(function* () {
        const outer = yield* BpfMap.create(MapSpec.clusterOuter(MapKind.globals[0], 255, small), "outer")
        const [first, second] = [yield* BpfMap.create(spec(), "first"), yield* BpfMap.create(spec(), "second")]
        yield* OuterMap.put(outer, 255, first)
        assert.strictEqual(yield* OuterMap.idAt(outer, 255), first.info.id)
        yield* OuterMap.put(outer, 255, second)
        assert.strictEqual(yield* OuterMap.idAt(outer, 255), second.info.id)
        assert.isTrue(yield* OuterMap.remove(outer, 255))
        assert.isFalse(yield* OuterMap.remove(outer, 255))
        assert.isUndefined(yield* OuterMap.idAt(outer, 255))
        assert.isUndefined(yield* OuterMap.idAt(outer, 256))
        const beyond = yield* Effect.flip(OuterMap.put(outer, 256, first))
        assert.strictEqual(beyond.reason._tag, "IndexOutOfRange")
        for (const use of [OuterMap.put(first, 1, second), OuterMap.remove(first, 1), OuterMap.idAt(first, 1)]) {
          assert.strictEqual((yield* Effect.flip(use)).reason._tag, "FeatureUnsupported")
        }
        const other = yield* BpfMap.create(spec({ keySize: 38 }), "ipv6")
        assert.strictEqual((yield* Effect.flip(OuterMap.put(outer, 1, other))).reason._tag, "InvalidArgument")
      })
    )

    live("names of per-cluster maps start with the prefix of tests, and no other names do", (root) =>
      Effect.gen(function* () {
        const maps = yield* CtMaps.make({ limits: { ctTcp: 1024, ctAny: 1024, nat: 1024 } })
        const nats = yield* NatMaps.make({ limits: { ctTcp: 1024, ctAny: 1024, nat: 1024 } })
        const [kind, owner] = [{ family: "ipv4", transport: "tcp" } as const, Owner.cluster(7)]
        yield* maps.openOrCreate({ ...kind, owner })
        yield* maps.openOrCreate({ ...kind, owner: Owner.global })
        yield* nats.openOrCreate("ipv6", owner)
        yield* BpfMap.createPinned(spec(), MapName.pinPath(root, "cilium_per_cluster_ct_tcp4_8"))
        const pins = yield* Pins.discover
        assert.deepStrictEqual(
          pins.map((pin) => [pin.name, pin.denoted._tag]),
          [
            ["cilium_ct4_global", "Global"],
            ["test_cilium_per_cluster_ct_tcp4_7", "ClusterInner"],
            ["test_cilium_per_cluster_snat_v6_external_7", "ClusterNatInner"]
          ]
        )
        assert.strictEqual(nats.spec("ipv6").maxEntries, 1024)
      }).pipe(Effect.provideService(Pins.ClusterPrefix, "test"))
    )
  })

  describe(`${name}: single entries`, () => {
    live("are found, replaced, inserted only once, and deleted only once", () =>
      Effect.gen(function* () {
        const map = yield* BpfMap.create(spec(), "m")
        const { key, value } = entryOf(5)
        assert.isTrue(Option.isNone(yield* BpfMap.lookup(map, key)))
        assert.strictEqual(
          (yield* Effect.flip(BpfMap.update(map, { key, value }, Bpf.EXIST))).reason._tag,
          "KeyNotExist"
        )
        yield* BpfMap.update(map, { key, value }, Bpf.NOEXIST)
        assert.strictEqual(
          (yield* Effect.flip(BpfMap.update(map, { key, value }, Bpf.NOEXIST))).reason._tag,
          "KeyExist"
        )
        assert.strictEqual(toHex(Option.getOrThrow(yield* BpfMap.lookup(map, key))), toHex(value))
        assert.isTrue(yield* BpfMap.remove(map, key))
        assert.isFalse(yield* BpfMap.remove(map, key))
      })
    )
  })

  describe(`${name}: sizes`, () => {
    live("a key or value of another size never reaches the kernel, which would read past its end", () =>
      Effect.gen(function* () {
        const map = yield* BpfMap.create(spec(), "m")
        const { key, value } = entryOf(1)
        const reasons = yield* Effect.forEach(
          [
            BpfMap.lookup(map, key.subarray(1)),
            BpfMap.remove(map, new Uint8Array(15)),
            BpfMap.update(map, { key: key.subarray(1), value }),
            BpfMap.update(map, { key, value: value.subarray(1) })
          ],
          (call) => Effect.map(Effect.flip(call), (error) => error.reason._tag)
        )
        assert.deepStrictEqual(new Set(reasons), new Set(["InvalidArgument"]))
      })
    )

    live("a per-CPU map has a value for every possible CPU", () =>
      Effect.gen(function* () {
        const bpf = yield* Bpf.Bpf
        const map = yield* BpfMap.create(MapSpec.natRetries, "retries")
        const value = Option.getOrThrow(yield* BpfMap.lookup(map, new Uint8Array(4)))
        assert.strictEqual(value.byteLength, 8 * bpf.possibleCpus())
      })
    )
  })

  describe(`${name}: scans`, () => {
    for (const method of ["batch", "next-key"] as const) {
      for (const batchSize of [1, 7, 64, 100_000]) {
        live(`by ${method}, ${batchSize} at a time: every entry once`, () =>
          Effect.gen(function* () {
            const map = yield* BpfMap.create(spec(), "m")
            yield* put(map, 500)
            const expected = Array.from({ length: 500 }, (_, i) => entryOf(i)).map(
              ({ key, value }) => `${toHex(key)} ${toHex(value)}`
            )
            assert.deepStrictEqual(yield* contents(map, { method, batchSize }), expected.toSorted())
            const report = yield* Scan.forEach(map, () => Effect.void, { method, batchSize })
            assert.deepStrictEqual(
              [report.method, report.entries, report.completed, report.restarts],
              [method, 500, true, 0]
            )
          })
        )
      }
      live(`by ${method}: an empty map is complete and has no batch`, () =>
        Effect.gen(function* () {
          const map = yield* BpfMap.create(spec(), "m")
          let batches = 0
          const report = yield* Scan.forEachSync(map, () => void batches++, { method })
          assert.deepStrictEqual([report.completed, report.entries, batches], [true, 0, 0])
        })
      )
      live(`by ${method}: deleting what was handed out loses nothing and ends`, () =>
        Effect.gen(function* () {
          const map = yield* BpfMap.create(spec(), "m")
          yield* put(map, 300)
          const seen = new Set<string>()
          const report = yield* Scan.forEach(
            map,
            ({ keys, count }) =>
              Effect.forEach(
                Array.from({ length: count }, (_, i) => keys.slice(i * 14, (i + 1) * 14)),
                (key) => {
                  seen.add(toHex(key))
                  return BpfMap.remove(map, key)
                }
              ),
            { method, batchSize: 16 }
          )
          assert.isTrue(report.completed)
          assert.strictEqual(seen.size, 300)
          assert.strictEqual(yield* Scan.count(map), 0)
        })
      )
    }

    live("as a stream: the same entries, and taking some is enough", () =>
      Effect.gen(function* () {
        const map = yield* BpfMap.create(spec(), "m")
        yield* put(map, 500)
        const counts = yield* Stream.runCollect(Stream.map(Scan.stream(map, { batchSize: 64 }), ({ count }) => count))
        assert.strictEqual(
          counts.reduce((a, b) => a + b, 0),
          500
        )
        const some = yield* Stream.runCollect(
          Stream.take(
            Stream.map(Scan.stream(map), ({ count }) => count),
            1
          )
        )
        assert.strictEqual(some.length, 1)
      })
    )
  })

  describe(`${name}: maps that are no plain hash`, () => {
    live("are refused by name: their values are larger than a buffer made for one", () =>
      Effect.gen(function* () {
        const map = yield* BpfMap.create(MapSpec.natRetries, "retries")
        for (const method of ["batch", "next-key", undefined] as const) {
          const error = yield* Effect.flip(
            Scan.forEachSync(map, () => undefined, method === undefined ? {} : { method })
          )
          assert.strictEqual(error.reason._tag, "FeatureUnsupported")
          assert.include(error.message, "maps of type 6")
        }
      })
    )
  })

  describe(`${name}: the datapath's maps`, () => {
    const recorded = (map: BpfMap.BpfMap, table: Recorded.Table) =>
      Effect.flatMap(Bpf.Bpf, (bpf) =>
        Effect.sync(() =>
          assert.strictEqual(bpf.updateBatch(map.fd, table.keys, table.values, Uint32Array.of(table.count)), 0)
        )
      )
    const tables = Recorded.tables("pods-ktime", "before")

    live("are discovered by name, in list order, strangers left out", (root) =>
      Effect.gen(function* () {
        for (const file of [
          "cilium_ct_any6_global",
          "cilium_ct4_00007",
          "cilium_snat_v4_external",
          "cilium_ct4_global",
          "cilium_ipcache"
        ]) {
          yield* BpfMap.createPinned(spec(), MapName.pinPath(root, file))
        }
        const pins = yield* Pins.discover
        assert.deepStrictEqual(
          pins.map((pin) => [pin.name, pin.denoted._tag]),
          [
            ["cilium_ct4_global", "Global"],
            ["cilium_ct_any6_global", "Global"],
            ["cilium_snat_v4_external", "Nat"],
            ["cilium_ct4_00007", "Local"]
          ]
        )
      })
    )

    live("nothing pinned is an error that says where", (root) =>
      Effect.gen(function* () {
        const error = yield* Effect.flip(Pins.discover)
        assert.include(error.message, `${root}/tc/globals`)
      })
    )

    live("open typed, with a layout judged by their entries", () =>
      Effect.gen(function* () {
        const maps = yield* CtMaps.CtMaps
        const which = { family: "ipv4", transport: "tcp", owner: Owner.global } as const
        yield* recorded((yield* maps.openOrCreate(which)).map, tables.get("cilium_ct4_global")!)
        const opened = yield* maps.open(which)
        assert.deepStrictEqual([opened.family, opened.transport, opened.layout._tag], ["ipv4", "tcp", "Known"])
        assert.strictEqual(Layout.releaseOf(opened.layout), "1.17")
        assert.strictEqual(yield* Scan.count(opened.map), 1008)
      })
    )

    live("of a layout nobody knows open too, with a verdict that forbids to interpret them", (root) =>
      Effect.gen(function* () {
        const maps = yield* CtMaps.CtMaps
        yield* BpfMap.createPinned(spec({ valueSize: 64 }), MapName.pinPath(root, "cilium_ct4_global"))
        const { layout } = yield* maps.open({ family: "ipv4", transport: "tcp", owner: Owner.global })
        assert.isTrue(layout._tag === "Unknown" && layout.why.includes("values 64"))
      })
    )

    live("of an endpoint exist only when all of them do", () =>
      Effect.gen(function* () {
        const maps = yield* CtMaps.CtMaps
        const owner = Owner.endpoint(65_543n)
        const families = { ipv4: true, ipv6: false }
        assert.isFalse(yield* maps.exists(owner, families))
        assert.isTrue(yield* maps.exists(owner, { ipv4: false, ipv6: false }))
        for (const transport of ["tcp", "any"] as const) yield* maps.openOrCreate({ family: "ipv4", transport, owner })
        assert.isTrue(yield* maps.exists(owner, families))
        assert.isFalse(yield* maps.exists(owner))
        const opened = yield* maps.openAll(owner)
        assert.deepStrictEqual(
          opened.map(({ map }) => [map.name, map.info.maxEntries]),
          [
            ["cilium_ct4_00007", 64_000],
            ["cilium_ct_any4_00007", 64_000]
          ]
        )
      })
    )

    live("pair up with the NAT map of their owner; without one, the pair says so", () =>
      Effect.gen(function* () {
        const maps = yield* CtMaps.CtMaps
        const nat = yield* NatMaps.NatMaps
        for (const transport of ["tcp", "any"] as const)
          yield* maps.openOrCreate({ family: "ipv6", transport, owner: Owner.global })
        assert.isUndefined((yield* NatMaps.openPair("ipv6", Owner.global)).nat)
        yield* nat.openOrCreate("ipv6", Owner.global)
        const pair = yield* NatMaps.openPair("ipv6", Owner.global)
        assert.strictEqual(pair.nat?.map.name, "cilium_snat_v6_external")
        assert.strictEqual((yield* Effect.flip(NatMaps.openPair("ipv4", Owner.global)))._tag, "BpfError")
      })
    )

    live("of an endpoint pair up without a NAT map", () =>
      Effect.gen(function* () {
        const maps = yield* CtMaps.CtMaps
        const owner = Owner.endpoint(7)
        for (const transport of ["tcp", "any"] as const) yield* maps.openOrCreate({ family: "ipv4", transport, owner })
        yield* (yield* NatMaps.NatMaps).openOrCreate("ipv4", Owner.global)
        const pair = yield* NatMaps.openPair("ipv4", owner)
        assert.deepStrictEqual([pair.tcp.map.name, pair.nat], ["cilium_ct4_00007", undefined])
      })
    )

    for (const [there, gone] of [
      ["tcp", "any"],
      ["any", "tcp"]
    ] as const) {
      live(`of which only the ${there} map is pinned are no pair, and that is told from there being none`, () =>
        Effect.gen(function* () {
          const maps = yield* CtMaps.CtMaps
          const which = (transport: "tcp" | "any") => ({ family: "ipv6", transport, owner: Owner.global }) as const
          const none = yield* Effect.flip(NatMaps.openPair("ipv6", Owner.global))
          assert.strictEqual(none._tag === "BpfError" && none.reason._tag, "PinNotFound")
          yield* maps.openOrCreate(which(there))
          const error = yield* Effect.flip(NatMaps.openPair("ipv6", Owner.global))
          const paths = { missing: maps.path(which(gone)), pinned: maps.path(which(there)) }
          assert.deepInclude(error, { _tag: "HalfPair", ...paths })
          assert.isTrue(
            error.message.startsWith(`${paths.missing}: nothing is pinned there, though ${paths.pinned} is`)
          )
        })
      )
    }

    live("have a clock that moves on", () =>
      Effect.gen(function* () {
        const now = yield* Effect.flatMap(KernelClock.KernelClock, (clock) => clock.now).pipe(
          Effect.provide(KernelClock.layerKtime)
        )
        assert.isAbove(now, 0)
      })
    )
  })
}
