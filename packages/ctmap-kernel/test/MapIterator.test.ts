import { assert, describe, it } from "@effect/vitest"
import { Bpf, BpfMap, BpfMemory, MapIterator, RowScan } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import { KEY, VALUE } from "./churn.ts"

const array = (valueSize: number) => ({ type: 2, keySize: 4, valueSize, maxEntries: 1, flags: 0x400 }) as const
/** The words of `control`, as `bpf/copy.bpf.c` has them. */
const [next, limit, first, begin, end, again, missed, took] = [0, 1, 2, 3, 4, 5, 6, 7] as const
const CONTROL = 40
const RECORDS = 8192 * 96

/** What a read(2) of the iterator does to the words, and answers. */
type Read = (control: Uint32Array) => number

/** Fills so many records, and says so. */
const fills =
  (count: number): Read =>
  (control) => {
    control[next] = control[first]! + count
    return 1
  }
const ends: Read = () => 0

/** The twin, with iterators whose reads are given: the same for every iterator. */
const fake = (reads: ReadonlyArray<Read>, programs: ReadonlyArray<string> = ["exact_14_56", "copy_14_56"]) => {
  const twin = {
    programs: Object.fromEntries(programs.map((name) => [name, () => 0])),
    maps: { control: array(CONTROL), records: array(RECORDS) }
  }
  const { calls, control } = BpfMemory.make({ objects: { ctmap_copy: twin } })
  let words: Uint32Array = new Uint32Array()
  const left = new Map<number, Array<Read>>()
  /** Reads that are under way; where a test finishes them itself, they stay here until then. */
  const underWay: Array<() => void> = []
  const state = { loaded: 0, starts: 0, byHand: false, refuses: 0 }
  const kernel: Bpf.Calls = {
    ...calls,
    loadObject: (spec) => {
      const object = calls.loadObject(spec)
      if ("errno" in object) return object
      if (Object.keys(object.programs).length > 0) {
        state.loaded++
        return object
      }
      object.close()
      return { errno: 22, log: "no such program" }
    },
    mapMemory: (fd, bytes) => {
      const memory = calls.mapMemory(fd, bytes)
      if (typeof memory !== "number" && bytes === CONTROL) words = new Uint32Array(memory.buffer, memory.byteOffset, 10)
      return memory
    },
    iterate: (_, mapFd) => {
      if (state.refuses !== 0) return -state.refuses
      const info = calls.mapInfo(mapFd)
      const fd = typeof info === "number" ? info : calls.mapFdById(info.id)
      left.set(fd, [...reads])
      state.starts++
      return fd
    },
    readAsync: (fd, _, done) => {
      const read = left.get(fd)?.shift() ?? ends
      underWay.push(() => done(read(words)))
      if (!state.byHand) queueMicrotask(() => underWay.shift()?.())
    }
  }
  const layer = MapIterator.layer.pipe(Layer.provideMerge(Layer.succeed(Bpf.Bpf, kernel)))
  return { layer, control, state, underWay }
}

const create = (changes: { readonly flags?: number; readonly keySize?: number } = {}) =>
  BpfMap.create({ type: 1, keySize: KEY, valueSize: VALUE, maxEntries: 8, flags: 0, ...changes }, "m")

const scan = (map: BpfMap.BpfMap, options: RowScan.Options = {}) =>
  RowScan.forEach(map, () => Effect.void, { method: "iterator", ...options })

const run = (
  { layer }: ReturnType<typeof fake>,
  test: Effect.Effect<void, unknown, Bpf.Bpf | MapIterator.MapIterator | Scope.Scope>
) => Effect.scoped(test).pipe(Effect.provide(layer))

describe("an iterator over a map", () => {
  it.effect("adds up its reads, alternates between the halves of its memory, and begins each read afresh", () => {
    const asked: Array<ReadonlyArray<number>> = []
    const asks =
      (read: Read): Read =>
      (control) => {
        asked.push([control[next]!, control[first]!, control[limit]!, control[end]!, control[begin]!])
        control[begin] = 0
        return read(control)
      }
    const made = fake([asks(fills(4000)), asks(fills(10)), asks(fills(0)), asks(fills(3)), asks(ends)])
    return run(
      made,
      Effect.gen(function* () {
        const starts: Array<number> = []
        const report = yield* RowScan.forEach(
          yield* create(),
          ({ keyStart, count }) => Effect.sync(() => starts.push(keyStart / 72, count)),
          { method: "iterator" }
        )
        assert.deepStrictEqual([report.entries, report.batches, report.exact], [4013, 3, true])
        const [low, high] = [
          [0, 0, 4032, 4096, 1],
          [4096, 4096, 8128, 8192, 1]
        ]
        // A read that found nothing that is still there is no end.
        assert.deepStrictEqual(asked, [low, high, low, high, low])
        assert.deepStrictEqual(starts, [0, 4000, 4096, 10, 4096, 3])
      })
    )
  })

  it.effect("reads fewer rows after a read that took too long, and tells the longest", () => {
    const asked: Array<number> = []
    const takes =
      (nanos: number): Read =>
      (control) => {
        asked.push(control[end]! - control[first]!)
        assert.strictEqual(control[limit]!, control[end]! - 64)
        assert.strictEqual(control[took]!, 0)
        control[took] = nanos
        return fills(10)(control)
      }
    const made = fake([takes(2_400_000), takes(1_920_000), takes(1_440_000), takes(320_000), takes(800_000), ends])
    return run(
      made,
      Effect.gen(function* () {
        const map = yield* create()
        const report = yield* scan(map)
        assert.deepStrictEqual([report.entries, report.longestCallMillis], [50, 2.4])
        assert.deepStrictEqual(asked, [4096, 2048, 1024, 1024, 2048])
        asked.length = 0
        yield* scan(map, { callTarget: "100 micros" })
        assert.deepStrictEqual(asked, [4096, 2048, 1024, 512, 256])
      })
    )
  })

  it.effect("leaves room for a long bucket, however long reads take", () => {
    const asked: Array<number> = []
    const slow: Read = (control) => {
      asked.push(control[end]! - control[first]!)
      control[took] = 9_000_000
      return fills(1)(control)
    }
    const made = fake([...Array.from({ length: 9 }, () => slow), ends])
    return run(
      made,
      Effect.gen(function* () {
        yield* scan(yield* create())
        assert.deepStrictEqual(asked.slice(-3), [128, 128, 128])
      })
    )
  })

  it.effect("a read that the kernel puts off is tried again", () => {
    const made = fake([() => -11, fills(2), () => -11, ends])
    return run(
      made,
      Effect.gen(function* () {
        assert.strictEqual((yield* scan(yield* create())).entries, 2)
      })
    )
  })

  it.effect("a read that fails is an error with its map, and closes the iterator", () => {
    const made = fake([fills(2), () => -12])
    return run(
      made,
      Effect.gen(function* () {
        const map = yield* create()
        const before = made.control.openFds().length
        const error = yield* Effect.flip(scan(map))
        assert.deepStrictEqual([error.operation, error.errno, error.map], ["iterate", 12, "m"])
        // The program is kept: its maps and itself.
        assert.lengthOf(made.control.openFds(), before + 3)
      })
    )
  })

  it.effect(
    "tells of buckets that were copied anew or may lack entries, in this scan and not in the one before",
    () => {
      let misses = 1
      const made = fake([
        (control) => {
          control[again]! += 5
          control[missed]! += misses
          return fills(1)(control)
        },
        ends
      ])
      return run(
        made,
        Effect.gen(function* () {
          const map = yield* create()
          const inexact = yield* scan(map)
          assert.deepStrictEqual([inexact.exact, inexact.again], [false, 5])
          misses = 0
          const exact = yield* scan(map)
          assert.deepStrictEqual([exact.exact, exact.again], [true, 5])
        })
      )
    }
  )

  it.effect("promises nothing where the kernel takes only the older program, or entries are not preallocated", () => {
    const older = fake([fills(1), ends], ["copy_14_56"])
    const newer = fake([fills(1), ends])
    return Effect.gen(function* () {
      yield* run(
        older,
        Effect.gen(function* () {
          const { exact, entries } = yield* scan(yield* create())
          assert.deepStrictEqual([exact, entries], [false, 1])
        })
      )
      yield* run(
        newer,
        Effect.gen(function* () {
          const map = yield* create()
          const loose = yield* create({ flags: 1 })
          assert.deepStrictEqual([(yield* scan(map)).exact, (yield* scan(loose)).exact], [true, false])
        })
      )
    })
  })

  it.effect("loads a program once for scans one after the other, and one each for scans at the same time", () => {
    const made = fake([fills(1), ends])
    return run(
      made,
      Effect.gen(function* () {
        const map = yield* create()
        for (let i = 0; i < 3; i++) yield* scan(map)
        assert.deepStrictEqual([made.state.loaded, made.state.starts], [1, 3])
        yield* Effect.all([scan(map), scan(map), scan(map)], { concurrency: 3 })
        assert.deepStrictEqual([made.state.loaded, made.state.starts], [3, 6])
      })
    )
  })

  it.effect("a kernel that refuses the programs is asked once", () => {
    const made = fake([], [])
    return run(
      made,
      Effect.gen(function* () {
        const map = yield* create()
        const before = made.control.count("loadObject")
        for (let i = 0; i < 3; i++) yield* Effect.flip(scan(map))
        assert.strictEqual(made.control.count("loadObject") - before, 2)
      })
    )
  })

  it.effect("an iterator that cannot be started is an error with its map, and its program stays usable", () => {
    const made = fake([fills(1), ends])
    return run(
      made,
      Effect.gen(function* () {
        const map = yield* create()
        made.state.refuses = 1
        const error = yield* Effect.flip(scan(map))
        assert.deepStrictEqual([error.reason._tag, error.map], ["NotPermitted", "m"])
        made.state.refuses = 0
        assert.strictEqual((yield* scan(map)).entries, 1)
        assert.strictEqual(made.state.loaded, 1)
      })
    )
  })

  it.effect("closing waits for the read under way, for it writes to memory that the next scan uses", () => {
    const made = fake([fills(1), fills(1), ends])
    return run(
      made,
      Effect.gen(function* () {
        const map = yield* create()
        made.state.byHand = true
        const fiber = yield* Effect.forkChild(scan(map), { startImmediately: true })
        assert.lengthOf(made.underWay, 1)
        const closing = yield* Effect.forkChild(Fiber.interrupt(fiber), { startImmediately: true })
        for (let i = 0; i < 10; i++) yield* Effect.yieldNow
        assert.isUndefined(closing.pollUnsafe())
        const before = made.control.openFds().length
        made.underWay.shift()!()
        yield* Fiber.join(closing)
        assert.lengthOf(made.control.openFds(), before - 1)
        // The program was given back.
        made.state.byHand = false
        yield* scan(map)
        assert.strictEqual(made.state.loaded, 1)
      })
    )
  })

  for (const { title, skip } of [
    { title: "the words", skip: 0 },
    { title: "the records", skip: 1 }
  ]) {
    it.effect(`leaves nothing open or mapped where the memory of ${title} cannot be mapped`, () => {
      const made = fake([fills(1), ends])
      return run(
        made,
        Effect.gen(function* () {
          const map = yield* create()
          const before = made.control.living()
          made.control.failNext("mapMemory", 12, { skip })
          made.control.failNext("mapMemory", 12, { skip: skip + 1, times: 9 })
          const error = yield* Effect.flip(scan(map))
          assert.deepStrictEqual([error.operation, error.errno], ["map memory", 12])
          assert.deepStrictEqual(made.control.living(), before)
        })
      )
    })
  }

  it.effect("lets go of programs, maps and memory with its layer", () =>
    Effect.gen(function* () {
      const made = fake([fills(1), ends])
      const scope = yield* Scope.make()
      const context = yield* Layer.buildWithScope(made.layer, scope)
      yield* Effect.scoped(Effect.flatMap(create(), (map) => scan(map))).pipe(Effect.provide(context))
      assert.lengthOf(made.control.living(), 3)
      yield* Scope.close(scope, Exit.void)
      assert.deepStrictEqual([made.control.living(), made.control.openFds()], [[], []])
    })
  )

  it.effect("is refused by name for entries of other sizes", () => {
    const made = fake([])
    return run(
      made,
      Effect.gen(function* () {
        const error = yield* Effect.flip(scan(yield* create({ keySize: 16 })))
        assert.include(error.message, "an iterator for keys of 16 and values of 56 bytes")
        assert.strictEqual(made.control.count("loadObject"), 0)
      })
    )
  })
})
