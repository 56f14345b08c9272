import { assert, describe, it } from "@effect/vitest"
import { Bpf, BpfMap, BpfMemory, MapIterator, RowScan } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import { KEY, keysOf, VALUE, values } from "./churn.ts"

/** The words of `control`, as `bpf/copy.bpf.c` has them. */
const [next, first, end, state, bucket, , again, missed, took, time, mapFd, mapId] = [
  0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11
] as const
const WORDS = 12
const [STRANGE, MORE, END] = [0, 1, 2] as const

/** What a run of the program does to the words, and answers. */
type Run = (control: Uint32Array) => number

/** Fills so many records, and says that there are more. */
const fills =
  (count: number): Run =>
  (control) => {
    control[next] = control[first]! + count
    control[state] = MORE
    return 0
  }
const ends: Run = (control) => {
  control[state] = END
  return 0
}

/** The twin, whose runs on another thread are given: the same for every scan. */
const fake = (
  runs: ReadonlyArray<Run>,
  programs: Readonly<Record<string, BpfMemory.Program>> = MapIterator.twin.programs
) => {
  const { calls, control } = BpfMemory.make({ objects: { [MapIterator.object]: { ...MapIterator.twin, programs } } })
  /** By the program that is run. */
  const words = new Map<number, Uint32Array>()
  const left = new Map<number, Array<Run>>()
  /** Runs that are under way; where a test finishes them itself, they stay here until then. */
  const underWay: Array<() => void> = []
  const kept = { loaded: 0, starts: 0, byHand: false }
  let mapped: Uint32Array = new Uint32Array()
  const kernel: Bpf.Calls = {
    ...calls,
    loadObjectAsync: (spec, done) =>
      calls.loadObjectAsync(spec, (object) => {
        if (!("errno" in object)) kept.loaded++
        done(object)
      }),
    mapMemory: (fd, bytes) => {
      const memory = calls.mapMemory(fd, bytes)
      if (typeof memory !== "number" && bytes === WORDS * 4)
        mapped = new Uint32Array(memory.buffer, memory.byteOffset, WORDS)
      return memory
    },
    runProgram: (fd, context) => {
      words.set(fd, mapped)
      return calls.runProgram(fd, context)
    },
    runProgramAsync: (fd, _context, done) => {
      const own = words.get(fd)!
      if (own[bucket] === 0 && own[next] === 0 && !left.has(fd)) {
        left.set(fd, [...runs])
        kept.starts++
      }
      underWay.push(() => {
        const rc = (left.get(fd)?.shift() ?? ends)(own)
        if (rc < 0 || own[state] !== MORE) left.delete(fd)
        done(rc)
      })
      if (!kept.byHand) queueMicrotask(() => underWay.shift()?.())
    }
  }
  const layer = MapIterator.layer.pipe(Layer.provideMerge(Layer.succeed(Bpf.Bpf, kernel)))
  return { layer, control, kept, underWay }
}

const create = (changes: { readonly flags?: number; readonly keySize?: number; readonly maxEntries?: number } = {}) =>
  BpfMap.create({ type: 1, keySize: KEY, valueSize: VALUE, maxEntries: 8, flags: 0, ...changes }, "m")

const scan = (map: BpfMap.BpfMap, options: RowScan.Options = {}) =>
  RowScan.forEach(map, () => Effect.void, { method: "iterator", ...options })

const run = (
  { layer }: ReturnType<typeof fake>,
  test: Effect.Effect<void, unknown, Bpf.Bpf | MapIterator.MapIterator | Scope.Scope>
) => Effect.scoped(test).pipe(Effect.provide(layer))

describe("an iterator over a map", () => {
  it.effect("adds up its runs, alternates between the halves of its memory, and begins each run afresh", () => {
    const asked: Array<ReadonlyArray<number>> = []
    const asks =
      (what: Run): Run =>
      (control) => {
        asked.push([control[next]!, control[first]!, control[end]!, control[state]!])
        return what(control)
      }
    const last: Run = (control) => {
      fills(3)(control)
      return ends(control)
    }
    const made = fake([asks(fills(4000)), asks(fills(10)), asks(fills(0)), asks(last)])
    return run(
      made,
      Effect.gen(function* () {
        const starts: Array<number> = []
        const map = yield* create()
        const report = yield* RowScan.forEach(
          map,
          ({ keyStart, count }) => Effect.sync(() => starts.push(keyStart / 72, count)),
          { method: "iterator" }
        )
        assert.deepStrictEqual([report.entries, report.batches, report.exact], [4013, 3, true])
        const [low, high] = [
          [0, 0, 4096, STRANGE],
          [4096, 4096, 8192, STRANGE]
        ]
        // A run that found nothing is no end.
        assert.deepStrictEqual(asked, [low, high, low, high])
        assert.deepStrictEqual(starts, [0, 4000, 4096, 10, 4096, 3])
      })
    )
  })

  it.effect("says which map is meant, and how long a run may take, and tells the longest", () => {
    const asked: Array<ReadonlyArray<number>> = []
    const takes =
      (nanos: number): Run =>
      (control) => {
        asked.push([control[mapFd]!, control[mapId]!, control[time]!])
        control[took] = nanos
        return fills(10)(control)
      }
    const made = fake([takes(1_400_000), takes(1_700_000), takes(20), ends])
    return run(
      made,
      Effect.gen(function* () {
        const map = yield* create()
        const report = yield* scan(map)
        assert.deepStrictEqual([report.entries, report.longestCallMillis], [30, 1.7])
        yield* scan(map, { callTarget: "100 micros" })
        const large = yield* create({ maxEntries: 4_000_000 })
        yield* scan(large)
        yield* scan(large, { callTarget: "1 hour" })
        const times = [1_600_000, 100_000, 3_200_000, 0xffff_ffff]
        assert.deepStrictEqual(
          asked.filter((_, i) => i % 3 === 0),
          [map, map, large, large].map(({ fd, info }, i) => [fd, info.id, times[i]!])
        )
      })
    )
  })

  it.effect("a run that fails is an error with its map, and the program is kept", () => {
    const made = fake([fills(2), () => -12])
    return run(
      made,
      Effect.gen(function* () {
        const map = yield* create()
        const before = made.control.openFds().length
        for (let i = 0; i < 2; i++) {
          const error = yield* Effect.flip(scan(map))
          assert.deepStrictEqual([error.operation, error.errno, error.map], ["iterate", 12, "m"])
        }
        assert.strictEqual(made.kept.loaded, 1)
        // Its maps and itself.
        assert.lengthOf(made.control.openFds(), before + 3)
      })
    )
  })

  it.effect("a map that the program does not find is an error by name, and read by batch unasked", () => {
    const made = fake([() => 0])
    return run(
      made,
      Effect.gen(function* () {
        const map = yield* create({ maxEntries: 65_536 })
        const bpf = yield* Bpf.Bpf
        bpf.updateBatch(map.fd, keysOf(0, 30_000), values(30_000), Uint32Array.of(30_000))
        const error = yield* Effect.flip(scan(map))
        assert.include(error.message, "iterate of map m: this kernel lacks programs that read maps where they stand")
        const report = yield* RowScan.forEach(map, () => Effect.void)
        assert.deepStrictEqual([report.method, report.entries, made.kept.starts], ["batch", 30_000, 2])
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

  it.effect("loads a program once for scans one after the other, and one each for scans at the same time", () => {
    const made = fake([fills(1), ends])
    return run(
      made,
      Effect.gen(function* () {
        const map = yield* create()
        for (let i = 0; i < 3; i++) yield* scan(map)
        assert.deepStrictEqual([made.kept.loaded, made.kept.starts], [1, 3])
        yield* Effect.all([scan(map), scan(map), scan(map)], { concurrency: 3 })
        assert.deepStrictEqual([made.kept.loaded, made.kept.starts], [3, 6])
      })
    )
  })

  it.effect("a kernel that refuses the programs is asked once, one that has no fd to give again", () => {
    const made = fake([fills(1), ends])
    return run(
      made,
      Effect.gen(function* () {
        const map = yield* create()
        made.control.failNext("loadObjectAsync", 24)
        assert.strictEqual((yield* Effect.flip(scan(map))).errno, 24)
        assert.strictEqual((yield* scan(map)).entries, 1)
      })
    ).pipe(
      Effect.andThen(() => {
        const older = fake([])
        return run(
          older,
          Effect.gen(function* () {
            const map = yield* create()
            older.control.failEvery(1, "loadObjectAsync", 22)
            for (let i = 0; i < 3; i++) {
              const error = yield* Effect.flip(scan(map))
              assert.deepStrictEqual([error.operation, error.reason._tag], ["load program", "FeatureUnsupported"])
            }
            assert.strictEqual(older.control.count("loadObjectAsync"), 1)
          })
        )
      })
    )
  })

  it.effect("interrupted while its program is loaded, keeps it for the next scan", () => {
    const made = fake([fills(1), ends])
    return run(
      made,
      Effect.gen(function* () {
        const map = yield* create()
        const loading = yield* Effect.forkChild(scan(map), { startImmediately: true })
        yield* Fiber.interrupt(loading)
        assert.strictEqual(made.kept.loaded, 1)
        assert.strictEqual((yield* scan(map)).entries, 1)
        assert.strictEqual(made.kept.loaded, 1)
      })
    ).pipe(Effect.tap(() => Effect.sync(() => assert.deepStrictEqual(made.control.living(), []))))
  })

  it.effect("is not used on CPUs that may see writes in another order: maps are read by batch", () =>
    Effect.gen(function* () {
      const bpf = yield* Bpf.Bpf
      const map = yield* create()
      assert.strictEqual(bpf.update(map.fd, new Uint8Array(KEY), new Uint8Array(VALUE), Bpf.ANY), 0)
      assert.strictEqual((yield* Effect.flip(scan(map))).reason._tag, "FeatureUnsupported")
      assert.deepInclude(yield* RowScan.forEach(map, () => Effect.void), { entries: 1, completed: true })
    }).pipe(
      Effect.scoped,
      Effect.provide(
        Layer.provideMerge(
          MapIterator.layer,
          BpfMemory.layerTest({ objects: { [MapIterator.object]: MapIterator.twin }, architecture: "arm64" })
        )
      )
    )
  )

  /** The twin's program, and what is done to its work. */
  const wrong = (
    spoil: (control: Uint32Array, records: Uint8Array) => void
  ): Readonly<Record<string, BpfMemory.Program>> =>
    Object.fromEntries(
      Object.entries(MapIterator.twin.programs).map(([name, program]) => [
        name,
        (kernel, context, maps) => {
          program(kernel, context, maps)
          const words = maps["control"]!.lookup(new Uint8Array(4))!
          spoil(new Uint32Array(words.buffer, words.byteOffset, WORDS), maps["records"]!.lookup(new Uint8Array(4))!)
          return 0
        }
      ])
    )
  it.effect.each([
    { title: "a byte that is not there", spoil: (_: Uint32Array, records: Uint8Array) => records[50]!++ },
    { title: "less than there is", spoil: (control: Uint32Array) => control[next]!-- },
    {
      title: "a record twice",
      spoil: (_: Uint32Array, records: Uint8Array) => records.copyWithin(72, 0, 72)
    },
    { title: "what it calls not exact", spoil: (control: Uint32Array) => control[missed]!++ },
    {
      title: "no end",
      spoil: (control: Uint32Array) => {
        control[state] = MORE
      }
    }
  ])("a program that reads $title of a known map is not used, and leaves nothing open", ({ spoil }) => {
    const made = fake([fills(1), ends], wrong(spoil))
    return run(
      made,
      Effect.gen(function* () {
        const map = yield* create()
        const before = made.control.living()
        const error = yield* Effect.flip(scan(map))
        assert.deepStrictEqual([error.operation, error.reason._tag], ["run program", "FeatureUnsupported"])
        assert.deepStrictEqual(made.control.living(), before)
      })
    )
  })

  it.effect("closing waits for the run under way, for it writes to memory that the next scan uses", () => {
    const made = fake([fills(1), fills(1), ends])
    return run(
      made,
      Effect.gen(function* () {
        const map = yield* create()
        yield* scan(map)
        made.kept.byHand = true
        const fiber = yield* Effect.forkChild(scan(map), { startImmediately: true })
        assert.lengthOf(made.underWay, 1)
        const closing = yield* Effect.forkChild(Fiber.interrupt(fiber), { startImmediately: true })
        for (let i = 0; i < 10; i++) yield* Effect.yieldNow
        assert.isUndefined(closing.pollUnsafe())
        made.underWay.shift()!()
        yield* Fiber.join(closing)
        // The program was given back.
        made.kept.byHand = false
        yield* scan(map)
        assert.strictEqual(made.kept.loaded, 1)
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

  it.effect.each([
    { changes: { keySize: 16 }, lacks: "an iterator for keys of 16 and values of 56 bytes" },
    { changes: { flags: 1 }, lacks: "an iterator for maps whose entries are not preallocated" }
  ])("is refused by name: $lacks", ({ changes, lacks }) => {
    const made = fake([])
    return run(
      made,
      Effect.gen(function* () {
        const error = yield* Effect.flip(scan(yield* create(changes)))
        assert.include(error.message, lacks)
        assert.strictEqual(made.control.count("loadObjectAsync"), 0)
      })
    )
  })
})
