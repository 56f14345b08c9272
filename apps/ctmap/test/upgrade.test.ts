import { assert, describe, it } from "@effect/vitest"
import { CtEntry, MapKind, MapName, MapSpec } from "ctmap-core"
import { type Bpf, BpfMemory } from "ctmap-kernel"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as TestClock from "effect/testing/TestClock"
import { BrokenPipe } from "../src/Failure.ts"
import { run } from "./harness.ts"

const root = "/sys/fs/bpf"
const [tcp4, any4] = MapKind.globals
const tcpPath = MapName.pinPath(root, "cilium_ct4_global")
const anyPath = MapName.pinPath(root, "cilium_ct_any4_global")
/** Seconds since boot: what `BpfMemory` starts with. */
const NOW = 1000

const keyOf = (i: number): Uint8Array<ArrayBuffer> => {
  const key = new Uint8Array(14)
  new DataView(key.buffer).setUint32(0, i + 1)
  return key
}

const valueOf = (lifetime: number): Uint8Array<ArrayBuffer> => {
  const value = new Uint8Array(CtEntry.SIZE)
  new DataView(value.buffer).setUint32(CtEntry.offset.lifetime, lifetime, true)
  return value
}

/** Pins a map of 1024 entries, `live` of them alive and `expired` not; the fd is closed. */
const pinTable = (calls: Bpf.Calls, kind: MapKind.MapKind, live: number, expired = 0, changes = {}): void => {
  const path = MapName.pinPath(root, MapName.global(kind))
  const fd = calls.mapCreate({ ...MapSpec.ct(kind), maxEntries: 1024, ...changes }, "table")
  for (let i = 0; i < live + expired; i++) {
    assert.strictEqual(calls.update(fd, keyOf(i), valueOf(i < live ? NOW + 100 + i : NOW - 1), 0), 0)
  }
  calls.makeDirectory(path.slice(0, path.lastIndexOf("/")))
  assert.strictEqual(calls.pin(fd, path), 0)
  calls.close(fd)
}

const withTables = (live: number, expired = 0) => {
  const memory = BpfMemory.make()
  pinTable(memory.calls, tcp4, live, expired)
  return memory
}

const sizes = ["--bpf-ct-global-tcp-max", "4096", "--bpf-ct-global-any-max", "4096"]
const migrate = ["upgrade", "--migrate", "--yes", ...sizes]
const atOnce = ["--settle", "0s"]

/** Lets time pass until the program ends. */
const inTime = <A, E>(program: Effect.Effect<A, E>): Effect.Effect<A, E> =>
  Effect.gen(function* () {
    const fiber = yield* Effect.forkChild(program)
    while (fiber.pollUnsafe() === undefined) yield* TestClock.adjust(Duration.millis(100))
    return yield* Fiber.join(fiber)
  })

describe("upgrade", () => {
  for (const [args, says] of [
    [["--bpffs-root", "/nope"], /^ctmap: \/nope does not exist: --bpffs-root names/],
    [["--bpffs-root", "/"], /^ctmap: \/ is not a bpffs: mount one/],
    [[], /^ctmap: no global CT map is pinned in \/sys\/fs\/bpf\/tc\/globals: /],
    [["--endpoint", "7"], /^ctmap: no CT map of endpoint 7 is pinned in \/sys\/fs\/bpf\/tc\/globals: /]
  ] as const) {
    for (const how of ["--dry-run", "--yes"]) {
      it.effect(`says where it looked where there is nothing to upgrade: ${args.join(" ")} ${how}`, () =>
        Effect.gen(function* () {
          const { code, stdout, stderr } = yield* run(["upgrade", ...args, how], { bpf: BpfMemory.make().calls })
          assert.match(stderr, says)
          assert.deepStrictEqual([code, stdout], [1, ""])
        })
      )
    }
  }

  for (const flags of [[], ["--migrate"]]) {
    it.effect(`asks nobody: without a terminal it refuses and touches nothing: ${flags.join()}`, () =>
      Effect.gen(function* () {
        const { calls, control } = withTables(5)
        const { id } = control.map(tcpPath)!
        const { code, stdout, stderr } = yield* run(["upgrade", ...flags], { bpf: calls })
        assert.strictEqual(code, 3)
        assert.include(stdout, "cilium_ct4_global: maxEntries is 1024, wanted 524288; ")
        assert.include(stdout, flags.length === 0 ? "unpin it" : "copy its entries")
        assert.include(stdout, "cilium_ct6_global: not pinned, nothing to do")
        assert.match(stderr, /add --yes/)
        assert.deepStrictEqual([control.pins(), control.map(tcpPath)?.id], [[tcpPath], id])
      })
    )

    it.effect(`changes nothing in a dry run: ${flags.join()}`, () =>
      Effect.gen(function* () {
        const { calls, control } = withTables(5)
        const { id } = control.map(tcpPath)!
        const { code } = yield* run(["upgrade", "--dry-run", "--yes", ...flags], { bpf: calls })
        assert.deepStrictEqual([code, control.pins(), control.map(tcpPath)?.id], [0, [tcpPath], id])
      })
    )

    it.effect(`says what is no map, and touches nothing: ${flags.join()}`, () =>
      Effect.gen(function* () {
        const { calls, control } = BpfMemory.make({ objects: { o: { programs: { p: () => 0 } } } })
        const loaded = calls.loadObject({ name: "o", elf: new Uint8Array(0), programs: ["p"] })
        pinTable(calls, tcp4, 5)
        assert.strictEqual(calls.pin("programs" in loaded ? loaded.programs["p"]! : -1, anyPath), 0)
        const { code, stderr } = yield* run(["upgrade", "--yes", ...flags], { bpf: calls })
        assert.strictEqual(code, 1)
        assert.include(stderr, `${anyPath}: what is pinned there is a program or a link, not a map`)
        assert.deepStrictEqual(control.pins(), [tcpPath, anyPath])
      })
    )
  }

  it.effect("unpins what differs, as Cilium does", () =>
    Effect.gen(function* () {
      const { calls, control } = withTables(5)
      const { code } = yield* run(["upgrade", "--yes"], { bpf: calls })
      assert.deepStrictEqual([code, control.pins()], [0, []])
    })
  )

  it.effect("fails where a pin cannot be removed, and says which", () =>
    Effect.gen(function* () {
      const { calls, control } = withTables(5)
      control.failNext("unpin", 5)
      const { code, stderr } = yield* run(["upgrade", "--yes"], { bpf: calls })
      assert.strictEqual(code, 1)
      assert.match(stderr, /unpin .*cilium_ct4_global.*errno 5/)
    })
  )
})

describe("upgrade --migrate", () => {
  it.effect("carries every entry over", () =>
    Effect.gen(function* () {
      const { calls } = withTables(200)
      const before = yield* run(["list"], { bpf: calls })
      const { code, stdout, stderr } = yield* run([...migrate, ...atOnce], { bpf: calls })
      assert.strictEqual(code, 0)
      assert.include(stdout, "cilium_ct4_global: migrated, 200 entries copied\n")
      assert.include(stdout, "cilium_ct4_global: old map quiet for 0 s; 0 entries carried over\n")
      assert.match(stderr, /^ctmap: the pins name the new maps: reload the datapath's programs now\.[^\n]*\n$/)
      const after = yield* run(["list"], { bpf: calls })
      assert.deepStrictEqual(after.stdout.split("\n").toSorted(), before.stdout.split("\n").toSorted())
      assert.include((yield* run(["maps"], { bpf: calls })).stdout, " 4096 ")
    })
  )

  it.effect("leaves expired entries behind, and says how many", () =>
    Effect.gen(function* () {
      const { calls, control } = withTables(20, 7)
      const { code, stdout } = yield* run([...migrate, ...atOnce, "--clock", "ktime"], { bpf: calls })
      assert.strictEqual(code, 0)
      assert.include(stdout, "cilium_ct4_global: migrated, 20 entries copied, 7 expired left behind\n")
      assert.strictEqual(control.map(tcpPath)?.size(), 20)
    })
  )

  it.effect("copies expired entries too where the clock is in doubt, and says so", () =>
    Effect.gen(function* () {
      const { calls, control } = withTables(20, 7)
      const { code, stderr } = yield* run([...migrate, ...atOnce, "--now", "9000000"], { bpf: calls })
      assert.strictEqual(code, 0)
      assert.include(
        stderr,
        "expired entries of cilium_ct4_global were copied too: its times do not fit the ktime clock"
      )
      assert.strictEqual(control.map(tcpPath)?.size(), 27)
    })
  )

  it.effect("swaps all pins, says once that programs are to be reloaded, and waits until the old maps are quiet", () =>
    Effect.gen(function* () {
      const { calls, control } = withTables(20)
      pinTable(calls, any4, 10)
      const old = calls.openPin(tcpPath)
      const told: Array<ReadonlyArray<number | undefined>> = []
      const onNote = () => {
        told.push([tcpPath, anyPath].map((path) => control.map(path)?.properties.maxEntries))
        // A program that is still to be reloaded.
        calls.update(old, keyOf(99), valueOf(NOW + 500), 0)
      }
      const start = yield* Effect.clockWith((clock) => clock.currentTimeMillis)
      const { code, stdout } = yield* inTime(run([...migrate, "--settle", "30s"], { bpf: calls, onNote }))
      assert.strictEqual(code, 0)
      assert.deepStrictEqual(told, [[4096, 4096]])
      assert.include(stdout, "cilium_ct4_global: old map quiet for 30 s; 1 entry carried over\n")
      assert.include(stdout, "cilium_ct_any4_global: old map quiet for 30 s; 0 entries carried over\n")
      assert.isAtLeast((yield* Effect.clockWith((clock) => clock.currentTimeMillis)) - start, 30_000)
      assert.strictEqual(control.map(tcpPath)?.size(), 21)
    })
  )

  it.effect("gives up on programs that are never reloaded, says so and fails", () =>
    Effect.gen(function* () {
      const { calls, control } = withTables(20)
      const old = calls.openPin(tcpPath)
      let writes = 0
      control.onCall((call) => {
        if (call === "lookupBatch") calls.update(old, keyOf(1), valueOf(NOW + 500 + writes++), 0)
      })
      const times = ["--settle", "5s", "--give-up-after", "20s"]
      const { code, stdout, stderr } = yield* inTime(run([...migrate, ...times], { bpf: calls }))
      assert.strictEqual(code, 1)
      assert.match(stdout, /cilium_ct4_global: gave up after 20s, programs still write to the old map; \d+ entries/)
      assert.include(stderr, "1 of 1 old maps may still be in use")
      assert.strictEqual(control.map(tcpPath)?.properties.maxEntries, 4096)
    })
  )

  it.effect("interrupted while it waits, leaves the new maps pinned and says what that means", () =>
    Effect.gen(function* () {
      const { calls, control } = withTables(20)
      const notes: Array<string> = []
      const fiber = yield* Effect.forkChild(
        run([...migrate, "--settle", "1h"], { bpf: calls, onNote: (line) => void notes.push(line) })
      )
      while (notes.length === 0) yield* TestClock.adjust(Duration.millis(100))
      yield* Fiber.interrupt(fiber)
      assert.match(
        notes.at(-1) ?? "",
        /interrupted: the new maps stay pinned.*cilium_ct4_global; .*reload them at once$/
      )
      assert.deepStrictEqual([control.pins(), control.openFds()], [[tcpPath], []])
      assert.strictEqual(control.map(tcpPath)?.properties.maxEntries, 4096)
      assert.strictEqual(control.map(tcpPath)?.size(), 20)
    })
  )

  it.effect("interrupted before a swap, says that nothing was changed", () =>
    Effect.gen(function* () {
      const { calls, control } = withTables(20)
      const notes: Array<string> = []
      const fiber = yield* Effect.forkChild(run(migrate, { bpf: calls, onNote: (line) => void notes.push(line) }))
      while (control.count("mapCreate") < 2) yield* TestClock.adjust(Duration.millis(0))
      yield* Fiber.interrupt(fiber)
      assert.deepStrictEqual(notes, ["ctmap: interrupted: the old maps are pinned as before, and nothing was changed"])
      assert.deepStrictEqual([control.pins(), control.openFds()], [[tcpPath], []])
      assert.strictEqual(control.map(tcpPath)?.properties.maxEntries, 1024)
    })
  )

  it.effect("fails with 1 where a map was not migrated, goes on with the others, and names what is left", () =>
    Effect.gen(function* () {
      const { calls, control } = withTables(20)
      pinTable(calls, any4, 10)
      control.failNext("renamePin", 5)
      const { code, stdout, stderr } = yield* run([...migrate, ...atOnce], { bpf: calls })
      assert.strictEqual(code, 1)
      assert.match(stderr, /rename pin .*cilium_ct4_global.*errno 5/)
      assert.include(stderr, "ctmap: 1 of 2 maps were not migrated\n")
      assert.include(stdout, "cilium_ct_any4_global: migrated, 10 entries copied")
      assert.deepStrictEqual(
        [tcpPath, anyPath].map((path) => control.map(path)?.properties.maxEntries),
        [1024, 4096]
      )
      assert.deepStrictEqual([control.pins(), control.openFds()], [[tcpPath, anyPath], []])
    })
  )

  it.effect("fails where nothing was migrated, and does not speak of reloading", () =>
    Effect.gen(function* () {
      const { calls, control } = withTables(20)
      control.failNext("mapCreate", 12)
      const { code, stderr } = yield* run([...migrate, ...atOnce], { bpf: calls })
      assert.strictEqual(code, 1)
      assert.include(stderr, "no memory")
      assert.notInclude(stderr, "reload")
      assert.strictEqual(control.map(tcpPath)?.properties.maxEntries, 1024)
    })
  )

  it.effect("says that the new map is pinned where carrying over fails", () =>
    Effect.gen(function* () {
      const { calls, control } = withTables(20)
      const onNote = () => control.failNext("lookupBatch", 5)
      const { code, stderr } = yield* inTime(run(migrate, { bpf: calls, onNote }))
      assert.strictEqual(code, 1)
      assert.match(stderr, /cilium_ct4_global: the new map is pinned and whole.*errno 5.*reload them now/)
      assert.strictEqual(control.map(tcpPath)?.properties.maxEntries, 4096)
    })
  )

  it.effect("refuses a map that is too small for what is alive", () =>
    Effect.gen(function* () {
      const memory = BpfMemory.make()
      pinTable(memory.calls, tcp4, 1500, 0, { maxEntries: 4096 })
      const { id } = memory.control.map(tcpPath)!
      const small = ["upgrade", "--migrate", "--yes", "--bpf-ct-global-tcp-max", "1024"]
      const { code, stderr } = yield* run(small, { bpf: memory.calls })
      assert.strictEqual(code, 1)
      assert.include(
        stderr,
        "1500 live entries do not fit into a map of 1024; nothing was changed: choose a larger size"
      )
      assert.strictEqual(memory.control.map(tcpPath)?.id, id)
    })
  )

  it.effect("refuses a map of other keys before it touches any, and says what it takes to drop it", () =>
    Effect.gen(function* () {
      const { calls, control } = withTables(20)
      pinTable(calls, any4, 0, 0, { keySize: 16 })
      const ids = () => [tcpPath, anyPath].map((path) => control.map(path)?.id)
      const before = ids()
      const { code, stdout, stderr } = yield* run(migrate, { bpf: calls })
      assert.strictEqual(code, 3)
      assert.include(stdout, "cannot be carried over: its keys are of 16 bytes, wanted are 14")
      assert.match(stderr, /cilium_ct_any4_global: .*nothing was changed; without --migrate it is unpinned/)
      assert.deepStrictEqual(ids(), before)
    })
  )

  it.effect("rewrites entries for another release, and refuses a table that is of neither", () =>
    Effect.gen(function* () {
      const { calls, control } = withTables(20)
      const put = (i: number, change: (value: Uint8Array) => void) => {
        const value = valueOf(NOW + 100)
        change(value)
        assert.strictEqual(control.map(tcpPath)?.update(keyOf(i), value), 0)
      }
      // An interface number: of 1.17.
      put(3, (value) => value.fill(9, 40, 42))
      const to = (release: string) => run([...migrate, ...atOnce, "--to-release", release], { bpf: calls })
      assert.strictEqual((yield* to("1.20")).code, 0)
      assert.deepStrictEqual(control.map(tcpPath)?.lookup(keyOf(3)), valueOf(NOW + 100))

      calls.unpin(tcpPath)
      pinTable(calls, tcp4, 20)
      put(3, (value) => value.fill(9, 40, 42))
      assert.strictEqual((yield* to("1.17")).code, 0)
      assert.strictEqual(control.map(tcpPath)?.lookup(keyOf(3))?.[40], 9)

      calls.unpin(tcpPath)
      pinTable(calls, tcp4, 20)
      put(3, (value) => value.fill(9, 40, 42))
      put(4, (value) => value.fill(9, 0, 4))
      const { code, stderr } = yield* to("1.20")
      assert.strictEqual(code, 3)
      assert.include(stderr, "the table is of neither layout")
    })
  )

  it.effect("finishes what it has begun where its output cannot be written, and ends as its reader did", () =>
    Effect.gen(function* () {
      const { calls, control } = withTables(20)
      let isGone = false
      const unwritable = () => (isGone ? new BrokenPipe() : undefined)
      control.onCall((call) => (isGone ||= call === "renamePin"))
      const { code } = yield* run([...migrate, ...atOnce], { bpf: calls, unwritable })
      assert.strictEqual(code, 0)
      assert.isAbove(control.count("lookupBatch"), 5)
      assert.strictEqual(control.map(tcpPath)?.properties.maxEntries, 4096)
    })
  )

  for (const [flag, time] of [
    ["--settle", "soon"],
    ["--give-up-after", "10"]
  ] as const) {
    it.effect(`takes ${time} for no length of time`, () =>
      Effect.gen(function* () {
        const { code, stderr } = yield* run(["upgrade", "--migrate", flag, time], { bpf: BpfMemory.make().calls })
        assert.strictEqual(code, 2)
        assert.include(stderr, `"${time}" is no length of time: write 500ms, 10s, 5m or 1h`)
      })
    )
  }
})
