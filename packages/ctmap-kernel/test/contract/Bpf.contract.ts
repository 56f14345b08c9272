/**
 * What {@link Bpf} promises, of whatever kernel: one suite for Linux and for its twin in memory.
 *
 * Every test works in a directory of its own below `root` and leaves nothing behind.
 */
import { assert, describe, layer } from "@effect/vitest"
import { MapSpec } from "ctmap-core"
import { Bpf, BpfError, type BpfMemory } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import { Bench, MMAPABLE, readU32, spec, u32, u32s } from "./bench.ts"
import { BAD_FD, errnoTable, NOT_BPFFS } from "./errnoTable.ts"

const { mapType } = MapSpec

/** Defines the suite for a kernel that has a bpffs at or above `root`. */
export const contract = <E>(
  name: string,
  kernel: Layer.Layer<Bpf.Bpf, E>,
  { root, receive }: { readonly root: string; readonly receive: (path: string) => BpfMemory.Receiver }
): void => {
  describe(`${name}, by the contract`, () => {
    let number = 0
    layer(kernel)((it) => {
      const test: Test = (title, body) => {
        it.effect(title, () =>
          Effect.gen(function* () {
            const bpf = yield* Bpf.Bpf
            const bench = yield* Effect.acquireRelease(
              Effect.sync(() => new Bench(bpf, `${root}/contract/${number++}`)),
              (made) => Effect.sync(() => made.release())
            )
            const promised = body(bench)
            if (promised !== undefined) yield* Effect.promise(() => promised)
          })
        )
      }
      describe("errors", () => {
        errors(test)
      })
      describe("creation", () => {
        creation(test)
      })
      describe("elements", () => {
        elements(test)
      })
      describe("walks by next key", () => {
        walks(test)
      })
      describe("batches", () => {
        batches(test)
      })
      describe("outer maps", () => {
        outerMaps(test)
      })
      describe("pins", () => {
        pins(test)
      })
      describe("memory, programs, machine", () => {
        machine(test)
      })
      describe("datagrams", () => {
        datagrams(test, receive)
      })
    })
  })
}

type Test = (title: string, body: (bench: Bench) => void | Promise<void>) => void

const errors = (test: Test): void => {
  for (const { operation, situation, errno, reason, isArray, feature, provoke } of errnoTable) {
    test(`${operation}, ${situation}: errno ${errno}, ${reason}`, (bench) => {
      assert.strictEqual(provoke(bench), -errno)
      assert.strictEqual(BpfError.fromErrno({ operation, errno, isArray, feature }).reason._tag, reason)
    })
  }
  test("close of an fd that nobody has is -EBADF", ({ bpf }) => {
    assert.strictEqual(bpf.close(BAD_FD), -9)
  })
}

const creation = (test: Test): void => {
  const kinds = {
    hash: {},
    "hash without preallocation": { flags: MapSpec.NO_PREALLOC },
    "LRU hash": { type: mapType.lruHash, keySize: 14, valueSize: 56, maxEntries: 1000 },
    array: { type: mapType.array, valueSize: 12 },
    "mmapable array": { type: mapType.array, flags: MMAPABLE },
    "per-CPU array": { type: mapType.percpuArray, maxEntries: 33 },
    "perf event array": { type: mapType.perfEventArray, maxEntries: 2 }
  }
  for (const [kind, changes] of Object.entries(kinds)) {
    test(`info says what was asked for: ${kind}`, (bench) => {
      const { id, name, ...properties } = bench.info(bench.map(changes, { name: "kind" }))
      assert.deepStrictEqual(properties, spec(changes))
      assert.strictEqual(name, "kind")
      assert.isAbove(id, 0)
    })
  }
  test("ids rise", (bench) => {
    const [first, second] = [bench.map(), bench.map()]
    assert.isAbove(bench.info(second).id, bench.info(first).id)
  })
  test("names are cut to 15 bytes, and what is cut off may be anything", (bench) => {
    assert.strictEqual(bench.info(bench.map({}, { name: "cilium_ct4_global" })).name, "cilium_ct4_glob")
    assert.strictEqual(bench.info(bench.map({}, { name: "a.b_C9" })).name, "a.b_C9")
    assert.strictEqual(bench.info(bench.map({}, { name: "abcdefghijklmno-" })).name, "abcdefghijklmno")
    assert.strictEqual(bench.info(bench.map({}, { name: "" })).name, "")
  })
  test("a distributed LRU is rounded up to a multiple of the possible CPUs", (bench) => {
    const cpus = bench.bpf.possibleCpus()
    const fd = bench.map({ type: mapType.lruHash, maxEntries: 1000 * cpus + 1, flags: MapSpec.NO_COMMON_LRU })
    assert.strictEqual(bench.info(fd).maxEntries, 1001 * cpus)
  })
  test("a map is found by its id while something holds it", (bench) => {
    const fd = bench.map()
    const { id } = bench.info(fd)
    const again = bench.bpf.mapFdById(id)
    assert.strictEqual(bench.info(again).id, id)
    assert.strictEqual(bench.bpf.close(again), 0)
    bench.close(fd)
    assert.isTrue(bench.isGone(id))
  })
}

const elements = (test: Test): void => {
  for (const type of [mapType.hash, mapType.lruHash]) {
    test(`type ${type}: insert, look up, replace, delete`, (bench) => {
      const { bpf } = bench
      const fd = bench.map({ type, keySize: 14, valueSize: 56, maxEntries: 100 })
      const key = Uint8Array.from({ length: 14 }, (_, i) => i)
      const found = new Uint8Array(56)
      assert.strictEqual(bpf.update(fd, key, new Uint8Array(56).fill(1), Bpf.NOEXIST), 0)
      assert.strictEqual(bpf.update(fd, key, new Uint8Array(56).fill(2), Bpf.EXIST), 0)
      assert.strictEqual(bpf.lookup(fd, key, found), 0)
      assert.deepStrictEqual(found, new Uint8Array(56).fill(2))
      assert.strictEqual(bpf.update(fd, key, new Uint8Array(56).fill(3), Bpf.ANY), 0)
      assert.strictEqual(bpf.lookup(fd, key, found), 0)
      assert.deepStrictEqual(found, new Uint8Array(56).fill(3))
      assert.strictEqual(bpf.delete(fd, key), 0)
      assert.strictEqual(bpf.lookup(fd, key, found), -2)
    })
  }
  test("keys and values are copied: the caller's buffers are its own again", (bench) => {
    const fd = bench.map()
    const [key, value, found] = [u32(1), u32(2), u32(0)]
    bench.bpf.update(fd, key, value, 0)
    key.fill(9)
    value.fill(9)
    assert.strictEqual(bench.bpf.lookup(fd, u32(1), found), 0)
    assert.strictEqual(readU32(found), 2)
  })
  test("a full hash still takes replacements", (bench) => {
    const fd = bench.map()
    bench.fill(fd, 4)
    assert.strictEqual(bench.bpf.update(fd, u32(1), u32(9), Bpf.ANY), 0)
    assert.strictEqual(bench.bpf.update(fd, u32(77), u32(9), Bpf.EXIST), -2)
    assert.strictEqual(bench.walk(fd).keys.length, 4)
  })
  test("an LRU hash is never full: it evicts, and has what came last", (bench) => {
    const fd = bench.map({ type: mapType.lruHash, maxEntries: 256 })
    bench.fill(fd, 1000)
    const { keys } = bench.walk(fd)
    assert.isAtMost(keys.length, 256)
    assert.isAbove(keys.length, 0)
    assert.include(keys, 999)
  })
  test("an array is full of zeros from the start, and nothing of it can be deleted", (bench) => {
    const fd = bench.map({ type: mapType.array, valueSize: 12 })
    const found = new Uint8Array(12).fill(7)
    assert.strictEqual(bench.bpf.lookup(fd, u32(3), found), 0)
    assert.deepStrictEqual(found, new Uint8Array(12))
    assert.strictEqual(bench.bpf.update(fd, u32(3), new Uint8Array(12).fill(5), Bpf.EXIST), 0)
    bench.bpf.lookup(fd, u32(3), found)
    assert.deepStrictEqual(found, new Uint8Array(12).fill(5))
    assert.strictEqual(bench.bpf.delete(fd, u32(3)), -22)
  })
  test("a per-CPU value is every possible CPU's, each rounded up to 8 bytes", (bench) => {
    const fd = bench.map({ type: mapType.percpuArray, maxEntries: 3 })
    const width = 8 * bench.bpf.possibleCpus()
    const found = new Uint8Array(width).fill(7)
    assert.strictEqual(bench.bpf.lookup(fd, u32(1), found), 0)
    assert.deepStrictEqual(found, new Uint8Array(width))
    const each = Uint8Array.from({ length: width }, (_, i) => (i % 8 < 4 ? i + 1 : 0))
    assert.strictEqual(bench.bpf.update(fd, u32(1), each, 0), 0)
    assert.strictEqual(bench.bpf.lookup(fd, u32(1), found), 0)
    assert.deepStrictEqual(found, each)
    bench.bpf.lookup(fd, u32(2), found)
    assert.deepStrictEqual(found, new Uint8Array(width))
  })
}

const walks = (test: Test): void => {
  for (const type of [mapType.hash, mapType.lruHash]) {
    test(`type ${type}: every key once, then -ENOENT`, (bench) => {
      const fd = bench.map({ type, maxEntries: 4096 })
      bench.fill(fd, 500)
      const { keys, end } = bench.walk(fd)
      assert.strictEqual(end, -2)
      assert.deepStrictEqual(
        keys.toSorted((a, b) => a - b),
        Array.from({ length: 500 }, (_, i) => i)
      )
    })
    test(`type ${type}: a key that is gone answers the first key again`, (bench) => {
      const fd = bench.map({ type, maxEntries: 64 })
      bench.fill(fd, 20)
      const { keys } = bench.walk(fd)
      const gone = keys[10] ?? 0
      const next = u32(0)
      assert.strictEqual(bench.bpf.delete(fd, u32(gone)), 0)
      assert.strictEqual(bench.bpf.nextKey(fd, u32(gone), next), 0)
      assert.strictEqual(readU32(next), keys[0])
      assert.deepStrictEqual(
        bench.walk(fd).keys,
        keys.filter((key) => key !== gone)
      )
    })
  }
  test("an array counts its indices, and a key that is no index answers the first", (bench) => {
    const fd = bench.map({ type: mapType.array })
    const next = u32(9)
    assert.deepStrictEqual(bench.walk(fd), { keys: [0, 1, 2, 3], end: -2 })
    assert.strictEqual(bench.bpf.nextKey(fd, u32(99), next), 0)
    assert.strictEqual(readU32(next), 0)
  })
}

const batches = (test: Test): void => {
  const cases = [
    { entries: 10, maxEntries: 10 },
    { entries: 1024, maxEntries: 1024 },
    { entries: 4096, maxEntries: 8192 },
    { entries: 1, maxEntries: 4096 },
    { entries: 0, maxEntries: 4096 }
  ]
  for (const { entries, maxEntries } of cases) {
    for (const room of [1, 64, 4096]) {
      test(`${entries} entries in ${maxEntries}, room for ${room} at first: each exactly once`, (bench) => {
        const fd = bench.map({ maxEntries })
        bench.fill(fd, entries)
        const { entries: read, calls } = bench.batches(fd, room)
        assert.deepStrictEqual(
          read.toSorted(([a], [b]) => a - b),
          Array.from({ length: entries }, (_, i) => [i, 3 * i] as const)
        )
        assert.strictEqual(calls.at(-1)?.rc, -2)
        for (const { rc, count } of calls) {
          if (rc === -28) assert.strictEqual(count, 0)
          if (rc === 0) assert.isAbove(count, 0)
        }
      })
    }
  }
  test("the last batch has its entries beside -ENOENT", (bench) => {
    const fd = bench.map({ maxEntries: 64 })
    bench.fill(fd, 40)
    const { rc, count, cursor } = bench.batch(fd, null, 64)
    assert.deepStrictEqual({ rc, count }, { rc: -2, count: 40 })
    const { rc: again, count: none } = bench.batch(fd, cursor, 64)
    assert.deepStrictEqual({ again, none }, { again: -2, none: 0 })
  })
  test("order is the order of next key, also in an LRU hash", (bench) => {
    const fd = bench.map({ type: mapType.lruHash, maxEntries: 4096 })
    bench.fill(fd, 1000)
    const keys = bench.batches(fd, 256).entries.map(([key]) => key)
    assert.deepStrictEqual(keys, bench.walk(fd).keys)
  })
  test("entries deleted behind the cursor do not disturb a read", (bench) => {
    const fd = bench.map({ maxEntries: 1024 })
    bench.fill(fd, 1000)
    const seen: Array<number> = []
    for (let cursor: Uint8Array | null = null; ;) {
      const read = bench.batch(fd, cursor, 128)
      for (let i = 0; i < read.count; i++) {
        seen.push(readU32(read.keys, i))
        assert.strictEqual(bench.bpf.delete(fd, u32(readU32(read.keys, i))), 0)
      }
      if (read.rc < 0) break
      cursor = read.cursor
    }
    assert.strictEqual(new Set(seen).size, 1000)
    assert.strictEqual(seen.length, 1000)
    assert.strictEqual(bench.bpf.nextKey(fd, null, u32(0)), -2)
  })
  test("room for nothing is no error and reads nothing", (bench) => {
    const fd = bench.map()
    bench.fill(fd, 2)
    const { rc, count } = bench.batch(fd, null, 0)
    assert.deepStrictEqual({ rc, count }, { rc: 0, count: 0 })
    assert.strictEqual(bench.bpf.deleteBatch(fd, u32(0), Uint32Array.of(0)), 0)
    assert.strictEqual(bench.bpf.updateBatch(fd, u32(0), u32(0), Uint32Array.of(0)), 0)
    assert.strictEqual(bench.walk(fd).keys.length, 2)
  })
  for (const type of [MapSpec.mapType.hash, MapSpec.mapType.lruHash]) {
    test(`type ${type}: what is taken is read as it goes, and can be taken once`, (bench) => {
      const fd = bench.map({ type, maxEntries: 16 })
      bench.fill(fd, 3)
      const value = u32(0)
      assert.strictEqual(bench.bpf.lookupAndDelete(fd, u32(2), value), 0)
      assert.strictEqual(readU32(value), 6)
      assert.strictEqual(bench.bpf.lookupAndDelete(fd, u32(2), value), -2)
      assert.sameMembers([...bench.walk(fd).keys], [0, 1])
    })
  }

  test("nothing can be taken from an array", (bench) => {
    const fd = bench.map({ type: MapSpec.mapType.array })
    assert.strictEqual(bench.bpf.lookupAndDelete(fd, u32(0), u32(0)), -524)
  })

  test("a delete batch stops at the first key that is gone and says how many went before it", (bench) => {
    const fd = bench.map({ maxEntries: 16 })
    bench.fill(fd, 10)
    const count = Uint32Array.of(4)
    assert.strictEqual(bench.bpf.deleteBatch(fd, u32s(3, 4, 77, 5), count), -2)
    assert.strictEqual(count[0], 2)
    assert.sameMembers([...bench.walk(fd).keys], [0, 1, 2, 5, 6, 7, 8, 9])
  })
  test("an update batch writes all, or stops where the hash is full", (bench) => {
    const fd = bench.map()
    const count = Uint32Array.of(3)
    assert.strictEqual(bench.bpf.updateBatch(fd, u32s(1, 2, 3), u32s(10, 20, 30), count), 0)
    assert.strictEqual(count[0], 3)
    assert.strictEqual(bench.bpf.updateBatch(fd, u32s(4, 5, 6), u32s(40, 50, 60), count), -7)
    assert.strictEqual(count[0], 1)
    const found = u32(0)
    bench.bpf.lookup(fd, u32(4), found)
    assert.strictEqual(readU32(found), 40)
  })
  test("an array is read by batches too, with its last index as cursor", (bench) => {
    const fd = bench.map({ type: mapType.array })
    bench.fill(fd, 4)
    assert.strictEqual(readU32(bench.batch(fd, null, 2).cursor), 1)
    assert.deepStrictEqual(bench.batches(fd, 3).entries, [
      [0, 0],
      [1, 3],
      [2, 6],
      [3, 9]
    ])
  })
}

const outerMaps = (test: Test): void => {
  const lru = { type: mapType.lruHash }
  for (const type of [mapType.arrayOfMaps, mapType.hashOfMaps]) {
    test(`type ${type}: takes an fd, gives back an id, and lets go`, (bench) => {
      const { bpf } = bench
      const inner = bench.map(lru)
      const outer = bench.map({ type }, { inner })
      const id = u32(0)
      assert.strictEqual(bpf.update(outer, u32(2), u32(inner), 0), 0)
      assert.strictEqual(bpf.lookup(outer, u32(2), id), 0)
      assert.strictEqual(readU32(id), bench.info(inner).id)
      assert.strictEqual(bpf.delete(outer, u32(2)), 0)
      assert.strictEqual(bpf.lookup(outer, u32(2), id), -2)
    })
    test(`type ${type}: holds an inner map that nobody has open`, (bench) => {
      const { bpf } = bench
      const inner = bench.map(lru)
      const outer = bench.map({ type }, { inner })
      const { id } = bench.info(inner)
      bench.fill(inner, 2)
      assert.strictEqual(bpf.update(outer, u32(0), u32(inner), 0), 0)
      bench.close(inner)
      const again = bench.own(bpf.mapFdById(id))
      assert.strictEqual(bench.walk(again).keys.length, 2)
    })
    test(`type ${type}: an inner map may differ in size only`, (bench) => {
      const { bpf } = bench
      const outer = bench.map({ type }, { inner: bench.map(lru) })
      assert.strictEqual(bpf.update(outer, u32(0), u32(bench.map({ ...lru, maxEntries: 400 })), 0), 0)
      for (const changes of [
        { keySize: 8 },
        { valueSize: 8 },
        { type: mapType.hash },
        { flags: MapSpec.NO_COMMON_LRU }
      ]) {
        assert.strictEqual(bpf.update(outer, u32(1), u32(bench.map({ ...lru, ...changes })), 0), -22)
      }
    })
    test(`type ${type}: batch reads skip empty slots`, (bench) => {
      const inner = bench.map(lru)
      const outer = bench.map({ type }, { inner })
      const { id } = bench.info(inner)
      bench.bpf.update(outer, u32(1), u32(inner), 0)
      assert.deepStrictEqual(bench.batches(outer, 4).entries, [[1, id]])
    })
  }
  test("a slot is changed on another thread as on this one, and not before the call has returned", async (bench) => {
    const { bpf } = bench
    const inner = bench.map(lru)
    const outer = bench.map({ type: mapType.arrayOfMaps }, { inner })
    const id = u32(0)
    const told = (call: (done: (rc: number) => void) => void): Promise<readonly [rc: number, hadReturned: boolean]> =>
      new Promise((resolve) => {
        let hasReturned = false
        call((rc) => resolve([rc, hasReturned]))
        hasReturned = true
      })
    const put = (index: number, fd: number) => told((done) => bpf.updateAsync(outer, u32(index), u32(fd), 0, done))
    const drop = (index: number) => told((done) => bpf.deleteAsync(outer, u32(index), done))
    assert.deepStrictEqual(await put(2, inner), [0, true])
    assert.strictEqual(bpf.lookup(outer, u32(2), id), 0)
    assert.strictEqual(readU32(id), bench.info(inner).id)
    assert.deepStrictEqual(await drop(2), [0, true])
    assert.deepStrictEqual(await drop(2), [-2, true])
    assert.deepStrictEqual(await drop(4), [-7, true])
    assert.deepStrictEqual(await put(4, inner), [-7, true])
    assert.deepStrictEqual(await put(0, bench.map({ ...lru, keySize: 8 })), [-22, true])
    assert.deepStrictEqual(await told((done) => bpf.deleteAsync(9999, u32(0), done)), [-9, true])
  })
  test("many slots are changed at once", async (bench) => {
    const inner = bench.map(lru)
    const outer = bench.map({ type: mapType.arrayOfMaps, maxEntries: 64 }, { inner })
    const rcs = await Promise.all(
      Array.from(
        { length: 64 },
        (_, index) => new Promise<number>((done) => bench.bpf.updateAsync(outer, u32(index), u32(inner), 0, done))
      )
    )
    assert.deepStrictEqual(rcs, Array(64).fill(0))
    assert.strictEqual(bench.batches(outer, 64).entries.length, 64)
  })
  test("an array as inner map must have as many slots as the template", (bench) => {
    const array = { type: mapType.array }
    const outer = bench.map({ type: mapType.arrayOfMaps }, { inner: bench.map(array) })
    assert.strictEqual(bench.bpf.update(outer, u32(0), u32(bench.map({ ...array, maxEntries: 5 })), 0), -22)
    assert.strictEqual(bench.bpf.update(outer, u32(0), u32(bench.map(array)), 0), 0)
  })
  test("a slot that is written again holds the new map", (bench) => {
    const [first, second] = [bench.map(lru), bench.map(lru)]
    const outer = bench.map({ type: mapType.arrayOfMaps }, { inner: first })
    const id = u32(0)
    bench.bpf.update(outer, u32(0), u32(first), 0)
    bench.bpf.update(outer, u32(0), u32(second), 0)
    bench.bpf.lookup(outer, u32(0), id)
    assert.strictEqual(readU32(id), bench.info(second).id)
  })
}

const pins = (test: Test): void => {
  test("a pin keeps a map and its entries when every fd is closed", (bench) => {
    const fd = bench.map()
    const { id } = bench.info(fd)
    bench.fill(fd, 3)
    assert.strictEqual(bench.bpf.pin(fd, bench.path("kept")), 0)
    bench.close(fd)
    const again = bench.own(bench.bpf.openPin(bench.path("kept")))
    assert.strictEqual(bench.info(again).id, id)
    assert.strictEqual(bench.walk(again).keys.length, 3)
    assert.strictEqual(bench.bpf.unpin(bench.path("kept")), 0)
    assert.strictEqual(bench.bpf.openPin(bench.path("kept")), -2)
  })
  test("a pin opened for reading reads and changes nothing", (bench) => {
    const { bpf } = bench
    const fd = bench.map()
    bpf.update(fd, u32(1), u32(7), 0)
    assert.strictEqual(bpf.pin(fd, bench.path("ro")), 0)
    const readOnly = bench.own(bpf.openPin(bench.path("ro"), Bpf.READ_ONLY))
    const value = u32(0)
    assert.strictEqual(bpf.lookup(readOnly, u32(1), value), 0)
    assert.strictEqual(readU32(value), 7)
    assert.deepStrictEqual([bpf.update(readOnly, u32(1), u32(8), 0), bpf.delete(readOnly, u32(1))], [-1, -1])
    assert.strictEqual(bpf.openPin(bench.path("ro"), 1 << 30), -22)
  })
  test("rename replaces what is pinned at the target in one step", (bench) => {
    const { bpf } = bench
    const [old, fresh] = [bench.map({ maxEntries: 4 }), bench.map({ maxEntries: 8 })]
    bpf.pin(old, bench.path("ct"))
    bpf.pin(fresh, bench.path("ct_pending"))
    assert.strictEqual(bpf.renamePin(bench.path("ct_pending"), bench.path("ct")), 0)
    assert.strictEqual(bench.info(bench.own(bpf.openPin(bench.path("ct")))).maxEntries, 8)
    assert.deepStrictEqual(bpf.listDirectory(bench.directory), ["ct"])
    assert.strictEqual(bpf.renamePin(bench.path("ct"), bench.path("ct")), 0)
  })
  test("rename does not mix pins and directories up", (bench) => {
    const { bpf } = bench
    bpf.pin(bench.map(), bench.path("pin"))
    bpf.makeDirectory(bench.path("dir/sub"))
    assert.strictEqual(bpf.renamePin(bench.path("pin"), bench.path("dir")), -21)
    assert.strictEqual(bpf.renamePin(bench.path("dir"), bench.path("pin")), -20)
    assert.strictEqual(bpf.renamePin(bench.path("dir"), bench.path("dir/sub/dir")), -22)
    assert.strictEqual(bpf.renamePin(bench.path("dir"), bench.path("moved")), 0)
    assert.deepStrictEqual(bpf.listDirectory(bench.directory), ["moved", "pin"])
    assert.deepStrictEqual(bpf.listDirectory(bench.path("moved")), ["sub"])
  })
  test("directories are made with their parents, listed in order, and removed when empty", (bench) => {
    const { bpf } = bench
    assert.strictEqual(bpf.makeDirectory(bench.path("tc/globals")), 0)
    assert.strictEqual(bpf.makeDirectory(bench.path("tc/globals")), 0)
    for (const name of ["c", "a", "b"]) assert.strictEqual(bpf.pin(bench.map(), bench.path(`tc/globals/${name}`)), 0)
    assert.deepStrictEqual(bpf.listDirectory(bench.path("tc/globals")), ["a", "b", "c"])
    assert.strictEqual(bpf.unpin(bench.path("tc/globals")), -39)
    for (const name of ["a", "b", "c"]) assert.strictEqual(bpf.unpin(bench.path(`tc/globals/${name}`)), 0)
    assert.strictEqual(bpf.unpin(bench.path("tc/globals")), 0)
    assert.deepStrictEqual(bpf.listDirectory(bench.path("tc")), [])
  })
  test("stat tells pins from directories, with owner and permissions", (bench) => {
    const { bpf } = bench
    bpf.pin(bench.map(), bench.path("pin"))
    const pin = { kind: "pin" as const, uid: 0, gid: 0, mode: 0o600 }
    const [atPin, atDirectory, above] = [bench.path("pin"), bench.directory, `${bench.directory}/..`].map(bench.stat)
    assert.deepInclude(atPin, pin)
    assert.deepInclude(atDirectory, { ...pin, kind: "directory", mode: 0o755 })
    // One file system, three inodes.
    assert.strictEqual(new Set([atPin, atDirectory, above].map((info) => info?.device)).size, 1)
    assert.strictEqual(new Set([atPin, atDirectory, above].map((info) => info?.inode)).size, 3)
    assert.notStrictEqual(bench.stat(NOT_BPFFS).device, atPin?.device)
    assert.strictEqual(bpf.stat(bench.path("none")), -2)
    assert.strictEqual(bpf.stat(bench.path("pin/below")), -20)
    assert.strictEqual(bpf.listDirectory(bench.path("pin")), -20)
  })
  test("a pin takes another owner and other permission bits, and keeps them when it is renamed", (bench) => {
    const { bpf } = bench
    bpf.pin(bench.map(), bench.path("pin"))
    assert.strictEqual(bpf.chown(bench.path("pin"), 1000, 2000), 0)
    assert.strictEqual(bpf.chmod(bench.path("pin"), 0o640), 0)
    assert.strictEqual(bpf.renamePin(bench.path("pin"), bench.path("moved")), 0)
    assert.deepInclude(bench.stat(bench.path("moved")), { kind: "pin", uid: 1000, gid: 2000, mode: 0o640 })
  })
  test("one at a time holds the lock of a directory, until the fd is closed", (bench) => {
    const { bpf, directory } = bench
    bpf.makeDirectory(bench.path("below"))
    const lock = bench.own(bpf.lockDirectory(directory))
    assert.strictEqual(bpf.lockDirectory(directory), -11)
    assert.strictEqual(bpf.lockDirectory(`${directory}/below/..`), -11)
    bench.own(bpf.lockDirectory(bench.path("below")))
    bench.close(lock)
    bench.own(bpf.lockDirectory(directory))
  })
  test("a locked directory is used as any other, and a lock is no map and no program", (bench) => {
    const { bpf } = bench
    const lock = bench.own(bpf.lockDirectory(bench.directory))
    assert.strictEqual(bpf.pin(bench.map(), bench.path("pin")), 0)
    assert.deepStrictEqual(bpf.listDirectory(bench.directory), ["pin"])
    assert.deepStrictEqual(
      [bpf.lookup(lock, u32(0), u32(0)), bpf.mapInfo(lock), bpf.runProgram(lock, new Uint8Array(0))],
      [-22, -22, -22]
    )
  })
  test("a path is on a bpffs if its nearest parent is", ({ bpf, directory }) => {
    assert.isTrue(bpf.isBpfFs(directory))
    assert.isTrue(bpf.isBpfFs(`${directory}/not/there/yet`))
    assert.isFalse(bpf.isBpfFs(NOT_BPFFS))
    assert.isFalse(bpf.isBpfFs(`${NOT_BPFFS}/ctmap-contract-never-there/pin`))
  })
}

const machine = (test: Test): void => {
  test("a mmapable array is one memory: the view shows updates, lookups see what is written to it", (bench) => {
    const fd = bench.map({ type: mapType.array, valueSize: 12, maxEntries: 3, flags: MMAPABLE })
    const view = bench.bpf.mapMemory(fd, 48)
    if (typeof view === "number") throw new Error(`map memory: ${view}`)
    const found = new Uint8Array(12)
    assert.strictEqual(view.byteLength, 48)
    // Elements stand 16 bytes apart: 12, rounded up to 8.
    bench.bpf.update(fd, u32(1), new Uint8Array(12).fill(7), 0)
    assert.deepStrictEqual([...view.subarray(12, 32)], [0, 0, 0, 0, ...Array<number>(12).fill(7), 0, 0, 0, 0])
    view.fill(5, 32, 44)
    assert.strictEqual(bench.bpf.lookup(fd, u32(2), found), 0)
    assert.deepStrictEqual(found, new Uint8Array(12).fill(5))
    assert.strictEqual(bench.bpf.unmapMemory(view), 0)
  })
  test("memory beyond the pages of an array is refused, and so is none", (bench) => {
    const fd = bench.map({ type: mapType.array, flags: MMAPABLE })
    assert.strictEqual(bench.bpf.mapMemory(fd, 4097), -22)
    assert.strictEqual(bench.bpf.mapMemory(fd, 0), -22)
  })
  test("mapped memory is given back once, by the view that was handed out, and the map goes on", (bench) => {
    const { bpf } = bench
    const fd = bench.map({ type: mapType.array, valueSize: 8, maxEntries: 4, flags: MMAPABLE })
    const [first, second] = [bpf.mapMemory(fd, 32), bpf.mapMemory(fd, 32)]
    if (typeof first === "number" || typeof second === "number") throw new Error("no memory")
    assert.strictEqual(bpf.unmapMemory(first.subarray(0, 8)), -22)
    assert.strictEqual(bpf.unmapMemory(new Uint8Array(32)), -22)
    assert.strictEqual(bpf.unmapMemory(first), 0)
    assert.strictEqual(bpf.unmapMemory(first), -22)
    second[8] = 3
    const found = new Uint8Array(8)
    assert.strictEqual(bpf.lookup(fd, u32(1), found), 0)
    assert.strictEqual(found[0], 3)
    assert.strictEqual(bpf.unmapMemory(second), 0)
    const third = bpf.mapMemory(fd, 32)
    if (typeof third === "number") throw new Error(`map memory: ${third}`)
    assert.strictEqual(third[8], 3)
    assert.strictEqual(bpf.unmapMemory(third), 0)
  })
  test("mapped memory holds its map", (bench) => {
    const { bpf } = bench
    const fd = bpf.mapCreate(spec({ type: mapType.array, flags: MMAPABLE }), "held")
    const info = bpf.mapInfo(fd)
    const memory = bpf.mapMemory(fd, 8)
    if (typeof memory === "number" || typeof info === "number") throw new Error(`map memory: ${String(memory)}`)
    bpf.close(fd)
    const again = bpf.mapFdById(info.id)
    assert.isAbove(again, 0)
    bpf.close(again)
    assert.strictEqual(bpf.unmapMemory(memory), 0)
  })
  test("an object that is none does not load, and the log says something", ({ bpf }) => {
    const loaded = bpf.loadObject({ name: "nonsense", elf: new Uint8Array(64), programs: ["p"] })
    if (!("errno" in loaded)) throw new Error("it loaded")
    assert.isAbove(loaded.errno, 0)
    assert.isNotEmpty(loaded.log)
  })
  test("an object that is none does not load on another thread either, and nothing is answered at once", async ({
    bpf
  }) => {
    let hasReturned = false
    const [errno, wasLater] = await new Promise<readonly [errno: number, wasLater: boolean]>((resolve) => {
      const nonsense = { name: "nonsense", elf: new Uint8Array(64), programs: ["p"] }
      bpf.loadObjectAsync(nonsense, (loaded) => resolve(["errno" in loaded ? loaded.errno : 0, hasReturned]))
      hasReturned = true
    })
    assert.isAbove(errno, 0)
    assert.isTrue(wasLater)
  })
  test("a run on another thread answers what one on this thread does, and not before it has returned", async (bench) => {
    const { bpf } = bench
    const later = (fd: number): Promise<readonly [rc: number, hasReturned: boolean]> => {
      let hasReturned = false
      return new Promise((resolve) => {
        bpf.runProgramAsync(fd, new Uint8Array(8), (rc) => resolve([rc, hasReturned]))
        hasReturned = true
      })
    }
    const fds = [BAD_FD, bench.map()]
    const onThisThread = fds.map((fd) => [bpf.runProgram(fd, new Uint8Array(8)), true] as const)
    assert.deepStrictEqual(await Promise.all(fds.map(later)), onThisThread)
  })
  test("there is a possible CPU, and the clock does not go back", ({ bpf }) => {
    assert.isAtLeast(bpf.possibleCpus(), 1)
    const before = bpf.monotonic()
    assert.isTrue(before > 0n)
    assert.isTrue(bpf.monotonic() >= before)
  })
}

const datagrams = (test: Test, receive: (path: string) => BpfMemory.Receiver): void => {
  const name = `${process.pid}-ctmap-contract`
  for (const path of [`@${name}`, `/tmp/${name}`]) {
    test(`a datagram to ${path[0] === "@" ? "an abstract name" : "a path"} arrives as it was sent, and in order`, ({
      bpf
    }) => {
      const receiver = receive(path)
      try {
        const sent = ["READY=1", "STATUS=ok\nWATCHDOG=1"].map((text) => new TextEncoder().encode(text))
        assert.deepStrictEqual(
          sent.map((bytes) => bpf.sendDatagram(path, bytes)),
          [0, 0]
        )
        assert.deepStrictEqual(receiver.read(), sent)
      } finally {
        receiver.close()
      }
    })
  }
  test("a datagram to nobody is refused, by what is there instead", ({ bpf, directory }) => {
    const byte = Uint8Array.of(1)
    const to = (path: string): number => bpf.sendDatagram(path, byte)
    assert.deepStrictEqual([to(`@${name}`), to(directory), to(`${directory}/none`), to("")], [-111, -111, -2, -22])
  })
  test("a name of 108 bytes is the longest, and a datagram of a megabyte is too large", ({ bpf }) => {
    assert.strictEqual(bpf.sendDatagram(`@${"x".repeat(107)}`, Uint8Array.of(1)), -111)
    assert.strictEqual(bpf.sendDatagram(`@${"x".repeat(108)}`, Uint8Array.of(1)), -22)
    assert.strictEqual(bpf.sendDatagram(`@${name}`, new Uint8Array(1 << 20)), -90)
  })
}
