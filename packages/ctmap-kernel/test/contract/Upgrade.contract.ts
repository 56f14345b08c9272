/** What upgrades promise, on any kernel. */
import { assert, describe } from "@effect/vitest"
import { CtEntry, CtTime, MapName, type MapSpec, Tuple } from "ctmap-core"
import { Bpf, BpfMap, CtMaps, type KernelClock, Owner, Scan, Upgrade } from "ctmap-kernel"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as TestClock from "effect/testing/TestClock"
import { loadProgram } from "./bench.ts"
import { type Kernel, contents, entryOf, put, spec, testsOf, toHex } from "./tables.ts"

/** Entry `i` with another lifetime. */
const withLifetime = (i: number, lifetime: number): { readonly key: Uint8Array; readonly value: Uint8Array } => {
  const { key, value } = entryOf(i)
  new DataView(value.buffer).setUint32(CtEntry.offset.lifetime, lifetime, true)
  return { key, value }
}

const lifetime = (value: Uint8Array): number =>
  new DataView(value.buffer, value.byteOffset).getUint32(CtEntry.offset.lifetime, true)

const lifetimeIn = (map: BpfMap.BpfMap, i: number) =>
  Effect.map(BpfMap.lookup(map, entryOf(i).key), (found) => Option.getOrUndefined(Option.map(found, lifetime)))

const ktime = (now: number): KernelClock.KernelClock["Service"] => ({
  source: CtTime.ktime,
  now: Effect.succeed(now)
})

const larger = spec({ maxEntries: 16_384 })

/** `keep` that keeps everything, and does something when it has been asked so often. */
const atCall = (n: number, act: () => void) => {
  let calls = 0
  return (): boolean => {
    if (++calls === n) act()
    return true
  }
}

/** `onPhase` that does something when a phase is reached. */
const at = (wanted: Upgrade.Phase["_tag"], act: () => void) => (phase: Upgrade.Phase) =>
  Effect.sync(() => (phase._tag === wanted ? act() : undefined))

/** Lets time pass until it is done. */
const inTime = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.gen(function* () {
    const fiber = yield* Effect.forkChild(effect)
    while (fiber.pollUnsafe() === undefined) yield* TestClock.adjust(Duration.millis(20))
    return yield* Fiber.join(fiber)
  })

export const contract = (name: string, kernel: Kernel): void => {
  const live = testsOf("upgrade", kernel)

  /** An old map of `count` entries, pinned; what is pinned beside it afterwards. */
  const pinned = (root: string, count: number, change: Partial<MapSpec.Properties> = {}) =>
    Effect.gen(function* () {
      const bpf = yield* Bpf.Bpf
      const path = `${root}/tc/globals/m`
      const old = yield* BpfMap.createPinned(spec(change), path)
      yield* put(old, count)
      return { bpf, path, old, pins: () => bpf.listDirectory(`${root}/tc/globals`) }
    })

  describe(`${name}: delete-if-upgrade-needed`, () => {
    live("unpins what differs, names how, and leaves the rest", (root) =>
      Effect.gen(function* () {
        const maps = yield* CtMaps.CtMaps
        yield* maps.openOrCreate({ family: "ipv4", transport: "tcp", owner: Owner.global })
        yield* BpfMap.createPinned(spec({ maxEntries: 1024 }), MapName.pinPath(root, "cilium_ct_any4_global"))
        const outcomes = yield* Upgrade.deleteIfUpgradeNeeded(Owner.global)
        assert.deepStrictEqual(
          outcomes.map(({ outcome }) => outcome),
          ["unchanged", "deleted", "absent", "absent"]
        )
        assert.deepStrictEqual(outcomes[1]?.differences, [{ property: "maxEntries", wanted: 4096, found: 1024 }])
        assert.isFalse(yield* BpfMap.exists(MapName.pinPath(root, "cilium_ct_any4_global")))
        assert.isTrue(yield* BpfMap.exists(MapName.pinPath(root, "cilium_ct4_global")))
      })
    )

    live("leaves a program alone that is pinned under a map's name, and says what it is", (root) =>
      Effect.gen(function* () {
        const bpf = yield* Bpf.Bpf
        const path = MapName.pinPath(root, "cilium_ct4_global")
        const program = yield* loadProgram
        bpf.makeDirectory(`${root}/tc/globals`)
        assert.strictEqual(bpf.pin(program, path), 0)
        const [outcome] = yield* Upgrade.deleteIfUpgradeNeeded(Owner.global)
        assert.strictEqual(outcome?.outcome, "failed")
        assert.include(outcome?.error?.message, `${path}: what is pinned there is a program or a link, not a map`)
        const error = yield* Effect.flip(Upgrade.migrate(path, larger))
        assert.isTrue(error._tag === "BpfError" && error.reason._tag === "NotAMap", error.message)
        assert.isTrue(yield* BpfMap.exists(path))
      })
    )
  })

  describe(`${name}: migrating`, () => {
    live("keeps every entry, in a map of the new size, under the same pin and no other", (root) =>
      Effect.gen(function* () {
        const { path, old, pins } = yield* pinned(root, 1000)
        const before = yield* contents(old)
        const done = yield* Upgrade.migrate(path, larger)
        assert.deepInclude(done, { copied: 1000, left: 0, expired: 0, removed: 0, caughtUp: 0, quiet: true })
        const fresh = yield* BpfMap.open(path)
        assert.strictEqual(fresh.info.maxEntries, 16_384)
        assert.deepStrictEqual(yield* contents(fresh), before)
        assert.deepStrictEqual(pins(), ["m"])
      })
    )

    live("tells each phase, the swap before it waits for anybody", (root) =>
      Effect.gen(function* () {
        const { path, old } = yield* pinned(root, 10)
        const told: Array<string> = []
        const onPhase = (phase: Upgrade.Phase) =>
          Effect.map(Effect.scoped(BpfMap.open(path)), ({ info }) => {
            told.push(`${phase._tag}: ${info.id === old.info.id ? "old" : "new"}`)
          }).pipe(Effect.orDie, Effect.provideService(Bpf.Bpf, bpf))
        const bpf = yield* Bpf.Bpf
        yield* Upgrade.migrate(path, larger, { onPhase })
        assert.deepStrictEqual(told, ["Copying: old", "Verified: old", "Swapped: new", "CatchingUp: new", "Quiet: new"])
      })
    )

    live("keeps owner and permissions of the pin", (root) =>
      Effect.gen(function* () {
        const { bpf, path } = yield* pinned(root, 10)
        assert.deepStrictEqual([bpf.chown(path, 1000, 2000), bpf.chmod(path, 0o640)], [0, 0])
        yield* Upgrade.migrate(path, larger)
        assert.deepInclude(bpf.stat(path), { kind: "pin", uid: 1000, gid: 2000, mode: 0o640 })
      })
    )

    live("leaves behind what it is told to, and converts the rest", (root) =>
      Effect.gen(function* () {
        const { path } = yield* pinned(root, 100)
        const done = yield* Upgrade.migrate(path, larger, {
          keep: (value) => lifetime(value) >= 40,
          convert: (value) => value.fill(0xee, 0, 4)
        })
        assert.deepStrictEqual([done.copied, done.left], [60, 40])
        const fresh = yield* BpfMap.open(path)
        const value = Option.getOrThrow(yield* BpfMap.lookup(fresh, entryOf(50).key))
        assert.strictEqual(toHex(value.subarray(0, 4)), "eeeeeeee")
      })
    )
  })

  describe(`${name}: migrating into a smaller map`, () => {
    live("of fewer entries than are alive is refused before a map is made", (root) =>
      Effect.gen(function* () {
        const { path, old, pins } = yield* pinned(root, 1000)
        const phases: Array<string> = []
        const onPhase = ({ _tag }: Upgrade.Phase) => Effect.sync(() => void phases.push(_tag))
        const error = yield* Effect.flip(Upgrade.migrate(path, spec({ maxEntries: 128 }), { onPhase }))
        assert.strictEqual(error._tag, "MapTooSmall")
        assert.include(error.message, `${path}: 1000 live entries do not fit into a map of 128; nothing was changed`)
        assert.deepStrictEqual(phases, [])
        assert.strictEqual((yield* BpfMap.open(path)).info.id, old.info.id)
        assert.deepStrictEqual(pins(), ["m"])
      })
    )

    live("counts those that are alive only", (root) =>
      Effect.gen(function* () {
        const { path } = yield* pinned(root, 1000)
        const done = yield* Upgrade.migrate(path, spec({ maxEntries: 2048 }), { clock: ktime(990) })
        assert.deepInclude(done, { copied: 10, expired: 990 })
        const keep = (value: Uint8Array) => lifetime(value) >= 995
        const again = yield* Upgrade.migrate(path, spec({ maxEntries: 9, type: 1 }), { keep })
        assert.deepInclude(again, { copied: 5, left: 5 })
      })
    )

    live("that evicts what is alive changes nothing and says what to do", (root) =>
      Effect.gen(function* () {
        const { bpf, path, old, pins } = yield* pinned(root, 1000)
        // Looked over, then copied; and when the last has been read, the datapath makes more than there is room for.
        const keep = atCall(2000, () => {
          for (let i = 1000; i < 1500; i++) bpf.update(old.fd, entryOf(i).key, entryOf(i).value, Bpf.ANY)
        })
        const error = yield* Effect.flip(Upgrade.migrate(path, spec({ maxEntries: 1024 }), { keep }))
        assert.isTrue(error._tag === "MigrationIncomplete" && error.missing > 0, error.message)
        assert.include(error.message, "choose a larger size")
        assert.strictEqual((yield* BpfMap.open(path)).info.id, old.info.id)
        assert.deepStrictEqual(pins(), ["m"])
      })
    )
  })

  describe(`${name}: migrating a map of another kind`, () => {
    const refused: ReadonlyArray<
      readonly [title: string, old: Partial<MapSpec.Properties>, wanted: Partial<MapSpec.Properties>, says: RegExp]
    > = [
      ["keys of another size", { keySize: 16 }, {}, /keys are of 16 bytes, wanted are 14/],
      ["values of another size", { valueSize: 48 }, {}, /values are of 48 bytes, wanted are 56/],
      ["an array", { type: 2, keySize: 4 }, {}, /pinned map is of type 2, not a hash/],
      ["into an array", {}, { type: 2, keySize: 4 }, /wanted map is of type 2, not a hash/]
    ]
    for (const [title, was, wanted, says] of refused) {
      live(`is refused before a map is made: ${title}`, (root) =>
        Effect.gen(function* () {
          const { path, old, pins } = yield* pinned(root, 0, was)
          const error = yield* Effect.flip(Upgrade.migrate(path, spec(wanted)))
          assert.strictEqual(error._tag, "NotMigratable")
          assert.match(error.message, says)
          assert.include(error.message, `${path}: `)
          assert.strictEqual((yield* BpfMap.open(path)).info.id, old.info.id)
          assert.deepStrictEqual(pins(), ["m"])
        })
      )
    }

    live("takes values of another size where it is told how to convert them", (root) =>
      Effect.gen(function* () {
        const { path } = yield* pinned(root, 50)
        const convert = (value: Uint8Array) => value.fill(0xaa, 56)
        assert.strictEqual((yield* Upgrade.migrate(path, spec({ valueSize: 64 }), { convert })).copied, 50)
        const value = Option.getOrThrow(yield* BpfMap.lookup(yield* BpfMap.open(path), entryOf(7).key))
        assert.strictEqual(toHex(value), `${toHex(entryOf(7).value)}aaaaaaaaaaaaaaaa`)
      })
    )

    live("takes a plain hash for an LRU hash", (root) =>
      Effect.gen(function* () {
        const { path } = yield* pinned(root, 50, { type: 1 })
        const { copied, differences } = yield* Upgrade.migrate(path, spec())
        assert.deepStrictEqual([copied, differences], [50, [{ property: "type", wanted: 9, found: 1 }]])
      })
    )
  })

  describe(`${name}: migrating with a clock`, () => {
    live("leaves behind what is expired, one unit past its time and no sooner", (root) =>
      Effect.gen(function* () {
        const { path } = yield* pinned(root, 100)
        const done = yield* Upgrade.migrate(path, larger, { clock: ktime(40) })
        assert.deepInclude(done, { copied: 60, expired: 40, left: 0, untimely: undefined })
        const fresh = yield* BpfMap.open(path)
        assert.deepStrictEqual([yield* lifetimeIn(fresh, 39), yield* lifetimeIn(fresh, 40)], [undefined, 40])
      })
    )

    live("that does not fit the table copies everything, and says why", (root) =>
      Effect.gen(function* () {
        const { path } = yield* pinned(root, 100)
        const done = yield* Upgrade.migrate(path, larger, { clock: ktime(10_000_000) })
        assert.deepInclude(done, { copied: 100, expired: 0 })
        assert.strictEqual(done.untimely?._tag, "ImplausibleClock")
      })
    )

    live("that cannot be read copies everything, and says why", (root) =>
      Effect.gen(function* () {
        const { path } = yield* pinned(root, 100)
        const unreadable = new CtTime.ClockError({ reason: "schedstat", value: "" })
        const clock = { source: CtTime.jiffies(250), now: Effect.fail(unreadable) }
        const done = yield* Upgrade.migrate(path, larger, { clock })
        assert.deepInclude(done, { copied: 100, expired: 0, untimely: unreadable })
      })
    )

    live("copies everything of a table that has no time to compare the clock with", (root) =>
      Effect.gen(function* () {
        const { path } = yield* pinned(root, 1)
        const done = yield* Upgrade.migrate(path, larger, { clock: ktime(40) })
        assert.deepInclude(done, { copied: 1, expired: 0, untimely: undefined })
      })
    )

    live("copies everything of a table that contradicts itself", (root) =>
      Effect.gen(function* () {
        const { path, old } = yield* pinned(root, 100)
        // An interface number is of 1.17, a NAT address of 1.20.
        yield* BpfMap.update(old, { key: entryOf(1).key, value: entryOf(1).value.fill(1, 40, 41) })
        yield* BpfMap.update(old, { key: entryOf(2).key, value: entryOf(2).value.fill(1, 0, 4) })
        const done = yield* Upgrade.migrate(path, larger, { clock: ktime(40) })
        assert.deepInclude(done, { copied: 100, expired: 0 })
      })
    )

    live("copies everything of an IPv6 NAT map, which has the sizes of a CT map", (root) =>
      Effect.gen(function* () {
        const path = MapName.pinPath(root, "cilium_snat_v6_external")
        const old = yield* BpfMap.createPinned(spec({ keySize: Tuple.v6.size }), path)
        const key = new Uint8Array(Tuple.v6.size)
        for (const byte of [1, 2, 3]) {
          yield* BpfMap.update(old, { key: key.fill(byte), value: new Uint8Array(56).fill(byte) })
        }
        const bpf = yield* Bpf.Bpf
        // What stands where a CT entry has its lifetime gets smaller, and is another mapping all the same.
        const onPhase = at("Swapped", () => bpf.update(old.fd, key.fill(3), new Uint8Array(56).fill(1), Bpf.ANY))
        const wanted = spec({ keySize: Tuple.v6.size, maxEntries: 8192 })
        const done = yield* inTime(Upgrade.migrate(path, wanted, { clock: ktime(0x0202_0202), onPhase }))
        assert.deepInclude(done, { copied: 3, expired: 0, untimely: undefined, caughtUp: 1 })
      })
    )
  })

  describe(`${name}: migrating what changes meanwhile`, () => {
    live("carries over what was made anew during the copy, even with a shorter lifetime", (root) =>
      Effect.gen(function* () {
        const { bpf, path, old } = yield* pinned(root, 50)
        const { key, value } = withLifetime(40, 1)
        // The last entry of the first copy has been read: now the datapath makes one of them anew.
        const keep = atCall(50, () => bpf.update(old.fd, key, value, Bpf.ANY))
        yield* Upgrade.migrate(path, larger, { keep })
        assert.strictEqual(yield* lifetimeIn(yield* BpfMap.open(path), 40), 1)
      })
    )

    live("does not keep alive what was deleted during the copy", (root) =>
      Effect.gen(function* () {
        const { bpf, path, old } = yield* pinned(root, 500)
        const keep = atCall(500, () => {
          for (let i = 0; i < 200; i++) assert.strictEqual(bpf.delete(old.fd, entryOf(i).key), 0)
        })
        const done = yield* Upgrade.migrate(path, larger, { keep })
        assert.deepInclude(done, { copied: 300, removed: 200 })
        assert.deepStrictEqual(yield* contents(yield* BpfMap.open(path)), yield* contents(old))
      })
    )

    live("leaves a pin alone that somebody else has replaced meanwhile", (root) =>
      Effect.gen(function* () {
        const { bpf, path } = yield* pinned(root, 10)
        const theirs = yield* BpfMap.create(spec(), "theirs")
        const keep = atCall(1, () => {
          bpf.unpin(path)
          bpf.pin(theirs.fd, path)
        })
        const error = yield* Effect.flip(Upgrade.migrate(path, larger, { keep }))
        assert.strictEqual(error._tag, "PinReplaced")
        assert.strictEqual((yield* BpfMap.open(path)).info.id, theirs.info.id)
      })
    )

    live("carries over what programs write to the old map after the swap, where it is the newer", (root) =>
      Effect.gen(function* () {
        const { bpf, path, old } = yield* pinned(root, 10)
        const write = (fd: number, { key, value }: ReturnType<typeof withLifetime>) =>
          assert.strictEqual(bpf.update(fd, key, value, Bpf.ANY), 0)
        const onPhase = at("Swapped", () => {
          // A connection that is new, one that goes on, one that ends, and one that a reloaded program knows better.
          write(old.fd, withLifetime(100, 60))
          write(old.fd, withLifetime(5, 61))
          write(old.fd, withLifetime(6, 1))
          write(old.fd, withLifetime(7, 62))
          const fresh = bpf.openPin(path)
          write(fresh, withLifetime(7, 63))
          bpf.close(fresh)
        })
        const done = yield* inTime(Upgrade.migrate(path, larger, { onPhase }))
        assert.deepInclude(done, { copied: 10, caughtUp: 2, rounds: 2, quiet: true })
        const fresh = yield* BpfMap.open(path)
        const found = yield* Effect.forEach([100, 5, 6, 7], (i) => lifetimeIn(fresh, i))
        assert.deepStrictEqual(found, [60, 61, 6, 63])
      })
    )

    live("does not bring back what expired after the swap", (root) =>
      Effect.gen(function* () {
        const { bpf, path } = yield* pinned(root, 10)
        let now = 3
        const clock = { source: CtTime.ktime, now: Effect.sync(() => now) }
        const onPhase = at("Swapped", () => {
          now = 6
          // The collector already works on the new map.
          const fresh = bpf.openPin(path)
          for (const i of [4, 5, 6]) assert.strictEqual(bpf.delete(fresh, entryOf(i).key), 0)
          bpf.close(fresh)
        })
        const done = yield* inTime(Upgrade.migrate(path, larger, { clock, onPhase }))
        assert.deepInclude(done, { copied: 7, expired: 3, caughtUp: 1 })
        assert.strictEqual(yield* Scan.count(yield* BpfMap.open(path)), 5)
      })
    )

    live("goes on until the old map has been quiet for the time to settle", (root) =>
      Effect.gen(function* () {
        const { bpf, path, old } = yield* pinned(root, 10)
        const { key, value } = withLifetime(100, 60)
        const quiet: Array<number> = []
        const onPhase = (phase: Upgrade.Phase) =>
          Effect.sync(() => {
            if (phase._tag !== "CatchingUp") return
            quiet.push(phase.quietFor)
            if (phase.caughtUp === 0 && phase.quietFor >= 4000) bpf.update(old.fd, key, value, Bpf.ANY)
          })
        const done = yield* inTime(Upgrade.migrate(path, larger, { settle: Duration.seconds(5), onPhase }))
        assert.deepInclude(done, { caughtUp: 1, quiet: true, rounds: quiet.length })
        assert.isAtLeast(done.quietFor, 5000)
        const began = quiet.lastIndexOf(0)
        assert.isTrue(began > 0 && quiet[began - 1]! >= 4000, "the time to settle began anew with the write")
      })
    )

    live("gives up on an old map that is never quiet, and says so", (root) =>
      Effect.gen(function* () {
        const { bpf, path, old } = yield* pinned(root, 10)
        const phases: Array<string> = []
        const onPhase = ({ _tag }: Upgrade.Phase) =>
          Effect.sync(() => {
            const { key, value } = withLifetime(1, 1000 + phases.push(_tag))
            bpf.update(old.fd, key, value, Bpf.ANY)
          })
        const options = { settle: Duration.seconds(5), giveUpAfter: Duration.seconds(30), onPhase }
        const start = yield* Clock.currentTimeMillis
        const done = yield* inTime(Upgrade.migrate(path, larger, options))
        assert.deepInclude(done, { quiet: false, caughtUp: done.rounds })
        assert.strictEqual(phases.at(-1), "GaveUp")
        assert.isAtLeast((yield* Clock.currentTimeMillis) - start, 30_000)
      })
    )

    live("never gives up before the old map could have been quiet", (root) =>
      Effect.gen(function* () {
        const { path } = yield* pinned(root, 10)
        const options = { settle: Duration.seconds(5), giveUpAfter: Duration.zero }
        assert.isTrue((yield* inTime(Upgrade.migrate(path, larger, options))).quiet)
      })
    )
  })
}
