import { assert, describe, it, layer } from "@effect/vitest"
import { MapSpec } from "ctmap-core"
import { Bpf } from "ctmap-kernel"
import * as BpfMemory from "ctmap-kernel/BpfMemory"
import * as Effect from "effect/Effect"
import { Bench, MMAPABLE, readU32, spec, u32, u32s } from "./contract/bench.ts"

const { mapType } = MapSpec
const lru = { type: mapType.lruHash }

/** A kernel of its own, with a directory to work in. */
const start = (options?: BpfMemory.Options) => {
  const { calls, control } = BpfMemory.make(options)
  return { bench: new Bench(calls, "/sys/fs/bpf/test"), bpf: calls, control }
}

const keysOf = (bench: Bench, fd: number): ReadonlyArray<number> => bench.walk(fd).keys.toSorted((a, b) => a - b)

describe("faults", () => {
  it("fails the next call of a method, once", () => {
    const { bench, bpf, control } = start()
    const fd = bench.map()
    control.failNext("update", 12)
    assert.deepStrictEqual(
      [bpf.lookup(fd, u32(1), u32(0)), bpf.update(fd, u32(1), u32(1), 0), bpf.update(fd, u32(1), u32(1), 0)],
      [-2, -12, 0]
    )
  })
  it("lets some succeed first, and fails several then", () => {
    const { bench, bpf, control } = start()
    const fd = bench.map()
    control.failNext("update", 16, { skip: 1, times: 2 })
    assert.deepStrictEqual(
      [1, 2, 3, 4].map((key) => bpf.update(fd, u32(key), u32(1), 0)),
      [0, -16, -16, 0]
    )
  })
  it("fails every nth call of any method, until told to stop", () => {
    const { bench, bpf, control } = start()
    const fd = bench.map()
    bench.fill(fd, 1)
    control.failEvery(3, "any", 4)
    const answers = Array.from({ length: 7 }, () => bpf.lookup(fd, u32(0), u32(0)))
    assert.deepStrictEqual(answers, [0, 0, -4, 0, 0, -4, 0])
    control.clearFaults()
    assert.deepStrictEqual([bpf.lookup(fd, u32(0), u32(0)), bpf.lookup(fd, u32(0), u32(0))], [0, 0])
  })
  it("a failed call changes nothing", () => {
    const { bench, bpf, control } = start()
    const fd = bench.map()
    bench.fill(fd, 2)
    for (const call of ["update", "delete", "updateBatch", "deleteBatch"] as const) control.failNext(call, 11)
    bpf.update(fd, u32(7), u32(7), 0)
    bpf.delete(fd, u32(0))
    bpf.updateBatch(fd, u32(7), u32(7), Uint32Array.of(1))
    bpf.deleteBatch(fd, u32(0), Uint32Array.of(1))
    assert.deepStrictEqual(keysOf(bench, fd), [0, 1])
  })
  it("a bucket that does not fit leaves the cursor where it was and counts nothing", () => {
    const { bench, control } = start()
    const fd = bench.map({ maxEntries: 64 })
    bench.fill(fd, 64)
    const first = bench.batch(fd, null, 16)
    const at = readU32(first.cursor)
    control.failNext("lookupBatch", 28)
    const failed = bench.batch(fd, first.cursor, 16)
    assert.deepStrictEqual([failed.rc, failed.count, readU32(failed.cursor)], [-28, 0, at])
  })
  it("closes what it says it could not close, as Linux does", () => {
    const { bpf, control } = start()
    const fd = bpf.mapCreate(spec(), "x")
    control.failNext("close", 4)
    assert.deepStrictEqual([bpf.close(fd), bpf.close(fd)], [-4, -9])
  })
  it("loading fails with an errno and a log", () => {
    const { bpf, control } = start()
    control.failNext("loadObject", 13)
    const loaded = bpf.loadObject({ name: "gc", elf: new Uint8Array(0), programs: [] })
    assert.deepInclude(loaded, { errno: 13 })
  })
  it("calls are counted", () => {
    const { bench, bpf, control } = start()
    const fd = bench.map()
    const before = control.count()
    bpf.update(fd, u32(1), u32(1), 0)
    bpf.update(fd, u32(2), u32(1), 0)
    bpf.delete(fd, u32(2))
    assert.deepStrictEqual([control.count("update"), control.count("delete"), control.count() - before], [2, 1, 3])
  })
})

describe("the datapath between two calls", () => {
  it("takes an entry away after it was read and before it is deleted", () => {
    const { bench, bpf, control } = start()
    const fd = bench.map()
    bench.fill(fd, 3)
    control.onCall((call) => {
      if (call === "deleteBatch") control.map(fd)?.delete(u32(1))
    })
    const results: Array<unknown> = []
    control.onCall((call, _args, result) => call === "deleteBatch" && results.push(result), "after")
    const count = Uint32Array.of(3)
    bpf.deleteBatch(fd, u32s(0, 1, 2), count)
    assert.deepStrictEqual([results, count[0]], [[-2], 1])
  })
  it("writes to a value in place, as a program does", () => {
    const { bench, bpf, control } = start()
    const fd = bench.map()
    bench.fill(fd, 1)
    const found = u32(0)
    control.onCall((call) => call === "lookup" && control.map(fd)?.lookup(u32(0))?.set(u32(99)))
    bpf.lookup(fd, u32(0), found)
    assert.strictEqual(readU32(found), 99)
  })
  it("hears the name and the arguments, and stops when asked to", () => {
    const { bench, bpf, control } = start()
    const fd = bench.map()
    const heard: Array<readonly [string, unknown]> = []
    const stop = control.onCall((call, args) => heard.push([call, args[0]]))
    bpf.delete(fd, u32(1))
    stop()
    bpf.delete(fd, u32(1))
    assert.deepStrictEqual(heard, [["delete", fd]])
  })
  it("what a hook calls itself is neither told, nor counted, nor failed", () => {
    const { bench, bpf, control } = start()
    const fd = bench.map()
    let hooks = 0
    const stop = control.onCall(() => {
      hooks += 1
      bpf.update(fd, u32(hooks), u32(0), 0)
    })
    control.failNext("update", 12)
    bpf.lookup(fd, u32(1), u32(0))
    stop()
    assert.deepStrictEqual([hooks, control.count("update")], [1, 0])
    assert.deepStrictEqual(keysOf(bench, fd), [1])
  })
  it("inserts between two batches may or may not be seen, what was there is seen once", () => {
    const { bench, control } = start()
    const fd = bench.map({ maxEntries: 512 })
    bench.fill(fd, 200)
    let fresh = 1000
    control.onCall((call) => {
      if (call === "lookupBatch") control.map(fd)?.update(u32(fresh++), u32(0))
    })
    const keys = bench.batches(fd, 16).entries.map(([key]) => key)
    const old = keys.filter((key) => key < 1000)
    assert.strictEqual(new Set(keys).size, keys.length)
    assert.strictEqual(old.length, 200)
  })
})

describe("order", () => {
  it("evicts the least recently written element, exactly one", () => {
    const { bench, bpf } = start()
    const fd = bench.map(lru)
    bench.fill(fd, 4)
    bpf.delete(fd, u32(3))
    // 1 becomes the newest, so 0, then 2 are the oldest.
    bpf.update(fd, u32(1), u32(0), 0)
    bpf.update(fd, u32(10), u32(0), 0)
    assert.deepStrictEqual(keysOf(bench, fd), [0, 1, 2, 10])
    bpf.update(fd, u32(11), u32(0), 0)
    bpf.update(fd, u32(12), u32(0), 0)
    assert.deepStrictEqual(keysOf(bench, fd), [1, 10, 11, 12])
  })
  it("a lookup of the datapath keeps an element, a lookup by system call does not", () => {
    const { bench, bpf, control } = start()
    const fd = bench.map(lru)
    bench.fill(fd, 4)
    bpf.lookup(fd, u32(1), u32(0))
    control.map(fd)?.lookup(u32(0))
    bpf.update(fd, u32(10), u32(0), 0)
    bpf.update(fd, u32(11), u32(0), 0)
    assert.deepStrictEqual(keysOf(bench, fd), [0, 3, 10, 11])
  })
  it("a full LRU evicts for a replacement too, even for one that its flags refuse: Linux frees an element first", () => {
    const { bench, bpf } = start()
    const fd = bench.map(lru)
    bench.fill(fd, 4)
    assert.strictEqual(bpf.update(fd, u32(3), u32(0), Bpf.ANY), 0)
    assert.deepStrictEqual(keysOf(bench, fd), [1, 2, 3])
    bpf.update(fd, u32(4), u32(0), 0)
    assert.strictEqual(bpf.update(fd, u32(1), u32(0), Bpf.EXIST), -2)
    assert.deepStrictEqual(keysOf(bench, fd), [2, 3, 4])
  })
  it("an element enters at the head of its bucket, and a replacement is a new element", () => {
    const { bench, bpf } = start({ buckets: 1 })
    const fd = bench.map({ maxEntries: 8 })
    bench.fill(fd, 4)
    assert.deepStrictEqual(bench.walk(fd).keys, [3, 2, 1, 0])
    bpf.update(fd, u32(1), u32(0), 0)
    assert.deepStrictEqual(bench.walk(fd).keys, [1, 3, 2, 0])
  })
  it("is the seed's: another seed, another order of the same keys", () => {
    const walks = [1, 1, 2].map((seed) => {
      const { bench } = start({ seed })
      const fd = bench.map({ maxEntries: 64 })
      bench.fill(fd, 64)
      return bench.walk(fd).keys
    })
    assert.deepStrictEqual(walks[0], walks[1])
    assert.notDeepEqual(walks[0], walks[2])
    assert.sameMembers([...(walks[0] ?? [])], [...(walks[2] ?? [])])
  })
})

describe("buckets that do not fit", () => {
  it("one long bucket: -ENOSPC until there is room for all of it", () => {
    const { bench } = start({ hash: () => 5 })
    const fd = bench.map({ maxEntries: 64 })
    bench.fill(fd, 20)
    const { entries, calls } = bench.batches(fd, 4)
    assert.strictEqual(entries.length, 20)
    assert.deepStrictEqual(
      calls.map(({ rc }) => rc),
      [-28, -28, -28, -2]
    )
  })
  it("the cursor names the bucket that did not fit, so that nothing is read twice or left out", () => {
    // Keys 0..7 have a bucket each, 100 and above share bucket 8.
    const { bench, bpf } = start({ hash: (key) => Math.min(readU32(key), 8) })
    const fd = bench.map({ maxEntries: 64 })
    bench.fill(fd, 8)
    for (let key = 100; key < 110; key++) bpf.update(fd, u32(key), u32(0), 0)
    const first = bench.batch(fd, null, 9)
    assert.deepStrictEqual([first.rc, first.count, readU32(first.cursor)], [0, 8, 8])
    const second = bench.batch(fd, first.cursor, 9)
    assert.deepStrictEqual([second.rc, second.count, readU32(second.cursor)], [-28, 0, 8])
    const third = bench.batch(fd, second.cursor, 10)
    assert.deepStrictEqual([third.rc, third.count], [-2, 10])
  })
})

describe("references", () => {
  it("a map lives while an fd, a pin or an outer map holds it", () => {
    const { bench, bpf, control } = start()
    const inner = bpf.mapCreate(spec(lru), "inner")
    const outer = bpf.mapCreate(spec({ type: mapType.arrayOfMaps }), "outer", inner)
    const names = (): ReadonlyArray<string> => control.living().map(({ name }) => name)
    bpf.update(outer, u32(0), u32(inner), 0)
    bpf.pin(inner, bench.path("inner"))
    bpf.close(inner)
    assert.deepStrictEqual(names(), ["inner", "outer"])
    bpf.unpin(bench.path("inner"))
    assert.deepStrictEqual(names(), ["inner", "outer"])
    bpf.close(outer)
    assert.deepStrictEqual(names(), [])
  })
  it("a pin that is renamed over lets go of its map", () => {
    const { bench, bpf, control } = start()
    for (const name of ["old", "new"]) {
      const fd = bpf.mapCreate(spec(), name)
      bpf.pin(fd, bench.path(name))
      bpf.close(fd)
    }
    bpf.renamePin(bench.path("new"), bench.path("old"))
    assert.deepStrictEqual(
      control.living().map(({ name }) => name),
      ["new"]
    )
    assert.deepStrictEqual(control.pins(), [bench.path("old")])
  })
  it("fds are handed out lowest first, up to a limit", () => {
    const { bpf, control } = start({ maxFds: 6 })
    const fds = [1, 2, 3].map(() => bpf.mapCreate(spec(), "x"))
    assert.deepStrictEqual(fds, [3, 4, 5])
    assert.strictEqual(bpf.mapCreate(spec(), "x"), -24)
    bpf.close(4)
    assert.strictEqual(bpf.mapCreate(spec(), "y"), 4)
    assert.deepStrictEqual(
      control.openFds().map(({ fd, name }) => `${fd} ${name}`),
      ["3 x", "4 y", "5 x"]
    )
  })
})

describe("a bpffs that goes", () => {
  const root = "/sys/fs/bpf"

  it("takes its pins along, and leaves a directory that is on none", () => {
    const { bench, bpf, control } = start()
    const fd = bench.map()
    bpf.pin(fd, bench.path("pin"))
    bench.close(fd)
    const before = bench.stat(root)
    assert.strictEqual(control.unmount(root), 0)
    assert.deepStrictEqual([control.pins(), control.living(), bpf.isBpfFs(root)], [[], [], false])
    assert.strictEqual(control.unmount(root), -22)
    control.mount(root)
    assert.isTrue(bpf.isBpfFs(root))
    assert.notStrictEqual(bench.stat(root).device, before.device)
  })
  it("lives on while it is locked, out of sight", () => {
    const { bench, bpf, control } = start()
    const fd = bench.map()
    bpf.pin(fd, bench.path("pin"))
    bench.close(fd)
    const locks = [bpf.lockDirectory(root), bpf.lockDirectory(bench.directory)]
    control.unmount(root)
    control.mount(root)
    const next = bpf.lockDirectory(root)
    assert.deepStrictEqual([next > 0, bpf.openPin(bench.path("pin"))], [true, -2])
    const kinds = (): ReadonlyArray<string> => control.living().map(({ kind }) => kind)
    assert.deepStrictEqual(kinds(), ["map", "lock", "lock", "lock"])
    for (const lock of locks) {
      assert.include(kinds(), "map")
      bpf.close(lock)
    }
    assert.deepStrictEqual(kinds(), ["lock"])
  })
})

describe("permissions", () => {
  const nobody = 65_534

  it("CAP_DAC_READ_SEARCH reads pins and directories of others, and writes none", () => {
    const { bench, bpf, control } = start()
    bpf.pin(bench.map(), bench.path("pin"))
    control.chmod(bench.directory, 0o700)
    const answers = (): ReadonlyArray<number | string> => [
      String(bpf.listDirectory(bench.directory)),
      Math.min(bpf.openPin(bench.path("pin"), Bpf.READ_ONLY), 0),
      bpf.openPin(bench.path("pin")),
      Math.min(bpf.lockDirectory(bench.directory), 0),
      bpf.unpin(bench.path("pin"))
    ]
    control.asUser(nobody, ["CAP_BPF"])
    assert.deepStrictEqual(answers(), ["-13", -13, -13, -13, -13])
    control.asUser(nobody, ["CAP_BPF", "CAP_DAC_READ_SEARCH"])
    assert.deepStrictEqual(answers(), ["pin", 0, -13, 0, -13])
  })

  it("without CAP_BPF no map is made and no program loaded, but an fd that is open works", () => {
    const { bench, bpf, control } = start()
    const fd = bench.map()
    control.asUser(nobody)
    assert.strictEqual(bpf.mapCreate(spec(), "x"), -1)
    assert.deepInclude(bpf.loadObject({ name: "gc", elf: new Uint8Array(0), programs: [] }), { errno: 1 })
    assert.strictEqual(bpf.mapFdById(1), -1)
    assert.strictEqual(bpf.update(fd, u32(1), u32(1), 0), 0)
    control.asUser(nobody, ["CAP_BPF"])
    assert.isAbove(bpf.mapCreate(spec(), "x"), 0)
    assert.strictEqual(bpf.mapFdById(1), -1)
  })
  it("a pin opens to whom may read and write it, whatever the capabilities for maps", () => {
    const { bench, bpf, control } = start()
    const path = bench.path("pin")
    bpf.pin(bench.map(), path)
    const back = control.asUser(nobody, ["CAP_BPF"])
    assert.strictEqual(bpf.openPin(path), -13)
    back()
    assert.strictEqual(control.chmod(path, 0o644), 0)
    control.asUser(nobody, ["CAP_BPF"])
    assert.strictEqual(bpf.openPin(path), -13)
    const readOnly = bpf.openPin(path, Bpf.READ_ONLY)
    assert.isAbove(readOnly, 0)
    assert.strictEqual(bpf.update(readOnly, u32(1), u32(1), 0), -1)
    assert.strictEqual(bpf.lookup(readOnly, u32(1), u32(0)), -2)
    control.chmod(path, 0o666)
    assert.isAbove(bpf.openPin(path), 0)
    control.chmod(path, 0o600)
    control.chown(path, nobody, nobody)
    assert.isAbove(bpf.openPin(path), 0)
    control.asUser(1000, ["CAP_DAC_OVERRIDE"])
    assert.isAbove(bpf.openPin(path), 0)
  })
  it("a pin is given away with CAP_CHOWN only, and its mode is its owner's", () => {
    const { bench, bpf, control } = start()
    const path = bench.path("pin")
    bpf.pin(bench.map(), path)
    control.asUser(nobody)
    assert.deepStrictEqual(
      [bpf.chmod(path, 0o666), bpf.chown(path, nobody, nobody), bpf.chown(path, 0, 0)],
      [-1, -1, -1]
    )
    control.asUser(nobody, ["CAP_CHOWN"])
    assert.deepStrictEqual([bpf.chmod(path, 0o666), bpf.chown(path, nobody, 0)], [-1, 0])
    control.asUser(nobody)
    assert.deepStrictEqual(
      [bpf.chmod(path, 0o640), bpf.chown(path, nobody, nobody), bpf.chown(path, nobody, 7)],
      [0, 0, -1]
    )
    assert.deepInclude(bpf.stat(path), { uid: nobody, gid: nobody, mode: 0o640 })
  })
  it("a directory that cannot be entered hides what is in it", () => {
    const { bench, bpf, control } = start()
    bpf.makeDirectory(bench.path("private"))
    bpf.pin(bench.map(), bench.path("private/pin"))
    control.chmod(bench.path("private/pin"), 0o666)
    control.chmod(bench.path("private"), 0o700)
    control.asUser(nobody)
    assert.strictEqual(bpf.openPin(bench.path("private/pin")), -13)
    assert.strictEqual(bpf.stat(bench.path("private/pin")), -13)
    assert.strictEqual(bpf.listDirectory(bench.path("private")), -13)
    assert.isTrue(bpf.isBpfFs(bench.path("private/pin")))
  })
  it("in a sticky directory, pins of others stay", () => {
    const { bench, bpf, control } = start()
    bpf.pin(bench.map(), "/sys/fs/bpf/pin")
    const fd = bench.map()
    control.asUser(nobody)
    assert.strictEqual(bpf.unpin("/sys/fs/bpf/pin"), -1)
    assert.strictEqual(bpf.renamePin("/sys/fs/bpf/pin", "/sys/fs/bpf/mine"), -1)
    assert.strictEqual(bpf.pin(fd, "/sys/fs/bpf/mine"), 0)
    assert.strictEqual(bpf.unpin("/sys/fs/bpf/mine"), 0)
    assert.strictEqual(bpf.pin(fd, bench.path("pin")), -13)
  })
})

describe("programs", () => {
  /** Deletes the u32 key that the context names if the value is still the one it names; counts in an array. */
  const compareAndDelete: BpfMemory.Program = (kernel, context, { table, totals }) => {
    const [key, expected] = [context.slice(0, 4), readU32(context, 1)]
    const found = table?.lookup(key)
    if (found === undefined || readU32(found) !== expected) return 1
    table?.delete(key)
    totals?.lookup(u32(0))?.set(u32(Number(kernel.monotonic() / 1_000_000_000n)))
    context.set(u32(77), 8)
    return 0
  }
  const objects = {
    gc: {
      programs: { compare_and_delete: compareAndDelete },
      maps: {
        table: spec({ ...lru, maxEntries: 1 }),
        totals: spec({ type: mapType.array, maxEntries: 1, flags: MMAPABLE })
      }
    }
  }
  const load = (bpf: Bpf.Calls, reuse: Readonly<Record<string, number>>): Bpf.LoadedObject => {
    const programs = ["compare_and_delete", "not_there"]
    const loaded = bpf.loadObject({ name: "gc", elf: new Uint8Array(0), programs, reuse, maxEntries: { totals: 8 } })
    if ("errno" in loaded) throw new Error(loaded.log)
    return loaded
  }

  it("runs a twin on maps it is given and on maps it makes, and hands the context back", () => {
    const { bench, bpf, control } = start({ objects, time: 5_000_000_000n })
    const fd = bench.map()
    bench.fill(fd, 2)
    const { programs, maps } = load(bpf, { table: fd })
    assert.hasAllKeys(programs, ["compare_and_delete"])
    assert.strictEqual(bench.info(maps["totals"] ?? -1).maxEntries, 8)
    const view = bpf.mapMemory(maps["totals"] ?? -1, 8)
    const context = u32s(1, 3, 0)
    control.time = 42_000_000_000n
    assert.strictEqual(bpf.runProgram(programs["compare_and_delete"] ?? -1, context), 0)
    assert.deepStrictEqual(keysOf(bench, fd), [0])
    assert.strictEqual(readU32(context, 2), 77)
    assert.strictEqual(readU32(view as Uint8Array), 42)
  })
  it("closing an object closes its programs and maps, but not those it was given", () => {
    const { bench, bpf, control } = start({ objects })
    const fd = bench.map()
    const loaded = load(bpf, { table: fd })
    assert.lengthOf(control.openFds(), 4)
    loaded.close()
    assert.deepStrictEqual(
      control.openFds().map((open) => open.fd),
      [fd]
    )
    assert.lengthOf(control.living(), 1)
  })
  it("an object without a twin does not load, and the log says how to get one", () => {
    const { bpf } = start()
    const loaded = bpf.loadObject({ name: "gc", elf: new Uint8Array(0), programs: [] })
    assert.deepInclude(loaded, { errno: 95 })
    assert.match("log" in loaded ? loaded.log : "", /"gc" has no twin/)
  })
  it("walks and deletes in one go, as bpf_for_each_map_elem does", () => {
    const { bench, control } = start()
    const fd = bench.map({ maxEntries: 64 })
    bench.fill(fd, 50)
    const map = control.map(fd)
    const visited = map?.forEach((key) => {
      if (readU32(key) % 2 === 0) map.delete(key)
    })
    assert.deepStrictEqual([visited, map?.size()], [50, 25])
    assert.strictEqual(
      map?.forEach(() => true),
      1
    )
  })
})

describe("older kernels", () => {
  for (const [batch, errno] of [
    ["unknown command", 22],
    ["not for this map", 524]
  ] as const) {
    it(`batches, ${batch}: errno ${errno}`, () => {
      const { bench, bpf } = start({ features: { batch } })
      const fd = bench.map()
      assert.strictEqual(bench.batch(fd, null, 4).rc, -errno)
      assert.strictEqual(bpf.updateBatch(fd, u32(0), u32(0), Uint32Array.of(1)), -errno)
      assert.strictEqual(bpf.deleteBatch(fd, u32(0), Uint32Array.of(1)), -errno)
    })
  }
  it("no mmapable arrays, no programs", () => {
    const { bpf } = start({ features: { mmapable: false, programs: false } })
    assert.strictEqual(bpf.mapCreate(spec({ type: mapType.array, flags: MMAPABLE }), "x"), -22)
    assert.deepInclude(bpf.loadObject({ name: "gc", elf: new Uint8Array(0), programs: [] }), { errno: 22 })
  })
  it("as many CPUs as are asked for", () => {
    const { bench } = start({ possibleCpus: 5 })
    const fd = bench.map({ ...lru, maxEntries: 11, flags: MapSpec.NO_COMMON_LRU })
    assert.strictEqual(bench.info(fd).maxEntries, 15)
  })
})

describe("what Linux would not notice", () => {
  it("a buffer shorter than the kernel would copy is -EFAULT", () => {
    const { bench, bpf } = start()
    const fd = bench.map({ valueSize: 8 })
    const short = new Uint8Array(3)
    assert.strictEqual(bpf.lookup(fd, u32(0), u32(0)), -14)
    assert.strictEqual(bpf.update(fd, short, new Uint8Array(8), 0), -14)
    assert.strictEqual(bpf.delete(fd, short), -14)
    assert.strictEqual(bpf.nextKey(fd, null, short), -14)
    assert.strictEqual(bpf.lookupBatch(fd, null, u32(0), u32(0), new Uint8Array(8), Uint32Array.of(2)), -14)
  })
})

describe("several bpffs", () => {
  it("pins live on each, and do not move between them", () => {
    const { calls: bpf, control } = BpfMemory.make({ mounts: ["/sys/fs/bpf", "/run/cilium/bpffs"] })
    const fd = bpf.mapCreate(spec(), "x")
    assert.strictEqual(bpf.pin(fd, "/run/cilium/bpffs/x"), 0)
    assert.isTrue(bpf.isBpfFs("/run/cilium/bpffs/tc"))
    assert.isFalse(bpf.isBpfFs("/run/cilium"))
    assert.strictEqual(bpf.renamePin("/run/cilium/bpffs/x", "/sys/fs/bpf/x"), -18)
    assert.strictEqual(bpf.unpin("/sys/fs/bpf"), -16)
    assert.deepStrictEqual(control.pins(), ["/run/cilium/bpffs/x"])
  })
})

layer(BpfMemory.layerTest({ time: 7n }))("layerTest", (test) => {
  test.effect("gives the kernel and its control", () =>
    Effect.gen(function* () {
      const bpf = yield* Bpf.Bpf
      const control = yield* BpfMemory.Control
      assert.strictEqual(bpf.monotonic(), 7n)
      control.time = 8n
      assert.strictEqual(bpf.monotonic(), 8n)
    })
  )
})
