import { assert, describe, it } from "@effect/vitest"
import { Bpf, BpfMap, BpfMemory, Scan } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { KEY, keysOf, VALUE, values } from "./churn.ts"

const [EPERM, EINTR, EIO, EAGAIN, EBUSY, EINVAL, ENOSPC, EOPNOTSUPP, ENOTSUPP] = [1, 4, 5, 11, 16, 22, 28, 95, 524]

const ENTRIES = 64

/** A map of 256 with 64 entries. */
const filled = Effect.gen(function* () {
  const bpf = yield* Bpf.Bpf
  const map = yield* BpfMap.create({ type: 9, keySize: KEY, valueSize: VALUE, maxEntries: 256, flags: 0 }, "m")
  bpf.updateBatch(map.fd, keysOf(0, ENTRIES), values(ENTRIES), Uint32Array.of(ENTRIES))
  return { map, control: yield* BpfMemory.Control }
})

type Needs = Bpf.Bpf | BpfMemory.Control | Scope.Scope

const test = (title: string, effect: Effect.Effect<unknown, unknown, Needs>, options?: BpfMemory.Options) =>
  it.effect(title, () => Effect.scoped(effect).pipe(Effect.provide(BpfMemory.layerTest(options))))

/** How often each entry was seen. */
const tally = (map: BpfMap.BpfMap, options?: Scan.Options) =>
  Effect.gen(function* () {
    const seen = new Uint8Array(ENTRIES)
    const report = yield* Scan.forEachSync(
      map,
      ({ rows }) => {
        for (let i = 0; i < rows.count; i++) seen[rows.keys.getUint32(rows.keyStart + i * rows.keyStride)]!++
      },
      options
    )
    return { report, seen: [...seen], once: seen.every((times) => times === 1) }
  })

const methods = ["batch", "next-key"] as const

describe("between two batches", () => {
  for (const method of methods) {
    for (const [form, scan] of [
      [
        "a scan",
        (map: BpfMap.BpfMap, use: Effect.Effect<void>) => Scan.forEach(map, () => use, { method, batchSize: 4 })
      ],
      [
        "a stream",
        (map: BpfMap.BpfMap, use: Effect.Effect<void>) =>
          Stream.runForEach(Scan.stream(map, { method, batchSize: 4 }), () => use)
      ]
    ] as const) {
      test(
        `${form} by ${method} lets a fiber that waits have its turn (G12)`,
        Effect.gen(function* () {
          const { map } = yield* filled
          const turns: Array<string> = []
          const note = (who: string) => Effect.sync(() => void turns.push(who))
          const other = Effect.forever(Effect.andThen(note("other"), Effect.yieldNow), { disableYield: true })
          const waiting = yield* Effect.forkChild(other)
          yield* scan(map, note("scan"))
          yield* Fiber.interrupt(waiting)
          assert.isAtLeast(turns.filter((who) => who === "scan").length, 16)
          const neighbours = turns.filter((who, i) => who === "scan" && turns[i + 1] === "scan")
          assert.deepStrictEqual(neighbours, [])
        })
      )

      test(
        `${form} by ${method} that is interrupted reads nothing more`,
        Effect.gen(function* () {
          const { map, control } = yield* filled
          const seen = { batches: 0 }
          const fiber = yield* Effect.forkChild(
            scan(
              map,
              Effect.sync(() => void seen.batches++)
            )
          )
          while (seen.batches < 3) yield* Effect.yieldNow
          yield* Fiber.interrupt(fiber)
          const before = { ...seen, calls: control.count() }
          for (let i = 0; i < 20; i++) yield* Effect.yieldNow
          assert.deepStrictEqual({ ...seen, calls: control.count() }, before)
          assert.isBelow(seen.batches, 6)
        })
      )
    }
  }
})

describe("a call that fails for a moment", () => {
  for (const errno of [EINTR, EAGAIN, EBUSY]) {
    test(
      `is tried 16 times more, errno ${errno}, and after a batch as often again`,
      Effect.gen(function* () {
        const { map, control } = yield* filled
        const rounds = 5
        // Of 17 calls the last succeeds.
        const stop = control.onCall((call) => {
          if (call === "lookupBatch" && (control.count("lookupBatch") - 1) % 17 < 16) control.failNext(call, errno)
        })
        const { report, once } = yield* tally(map, { batchSize: 8 })
        stop()
        assert.isTrue(once)
        assert.strictEqual(report.method, "batch")
        assert.isAtLeast(report.batches, rounds)
        assert.strictEqual(control.count("lookupBatch") % 17, 0)
      })
    )

    test(
      `is an error in the end, errno ${errno}`,
      Effect.gen(function* () {
        const { map, control } = yield* filled
        control.failEvery(1, "lookupBatch", errno)
        const error = yield* Effect.flip(Scan.forEachSync(map, () => undefined))
        assert.deepStrictEqual([error.reason._tag, error.errno, error.map], ["Busy", errno, "m"])
        assert.strictEqual(control.count("lookupBatch"), 17)
      })
    )
  }
})

describe("a bucket that does not fit", () => {
  test(
    "makes the buffers grow up to the size of the map, and is an error if it does not fit there: no loop for ever (G4)",
    Effect.gen(function* () {
      const { map, control } = yield* filled
      control.failEvery(1, "lookupBatch", ENOSPC)
      for (const options of [{ batchSize: 8 }, { batchSize: 8, method: "batch" }] as const) {
        const before = control.count("lookupBatch")
        const error = yield* Effect.flip(Scan.forEachSync(map, () => undefined, options))
        assert.deepStrictEqual([error.reason._tag, error.errno, error.map], ["BatchTooSmall", ENOSPC, "m"])
        // 8, 16, 32, 64, 128, 256.
        assert.strictEqual(control.count("lookupBatch") - before, 6)
      }
    })
  )

  for (const [title, batchSize, grown] of [
    ["grows by doubling, sees every entry once, and leaves no error behind (G4)", 1, 6],
    ["never asks for more than the map can hold", 48, 1]
  ] as const) {
    test(
      title,
      Effect.gen(function* () {
        const { map } = yield* filled
        const { report, once } = yield* tally(map, { batchSize })
        assert.isTrue(once)
        assert.deepStrictEqual([report.grown, report.batches, report.completed], [grown, 1, true])
      }),
      { hash: () => 0 }
    )
  }

  test(
    "is given room for the whole map and no more",
    Effect.gen(function* () {
      const { map } = yield* filled
      const bpf = yield* Bpf.Bpf
      bpf.updateBatch(map.fd, keysOf(0, 256), values(256), Uint32Array.of(256))
      const rooms: Array<number> = []
      yield* Scan.forEachSync(map, ({ keys, count }) => void rooms.push(keys.byteLength / KEY, count), {
        batchSize: 200
      })
      assert.deepStrictEqual(rooms, [256, 256])
    }),
    { hash: () => 0 }
  )

  test(
    "is tried again at the place where it stands, not at the start of the map",
    Effect.gen(function* () {
      const { map } = yield* filled
      const { report, once } = yield* tally(map, { batchSize: 4 })
      assert.isTrue(once)
      assert.strictEqual(report.grown, 3)
      assert.isAtLeast(report.batches, 3)
    }),
    // Entries below 32 have a bucket each, the others share one behind them.
    { hash: (key) => Math.min(32, key[3] ?? 0) }
  )
})

describe("the size of a batch", () => {
  /** Has every call that asks for `count` entries take `nanos(count)`, and notes what is asked for. */
  const timed = (control: BpfMemory.Controls, nanos: (count: number) => number) => {
    const asked: Array<number> = []
    control.onCall((call, args) => {
      if (call !== "lookupBatch") return
      const count = (args[5] as Uint32Array)[0]!
      asked.push(count)
      control.time += BigInt(nanos(count))
    })
    return asked
  }
  const full = Effect.gen(function* () {
    const bpf = yield* Bpf.Bpf
    const maxEntries = 16_384
    const map = yield* BpfMap.create({ type: 1, keySize: KEY, valueSize: VALUE, maxEntries, flags: 0 }, "full")
    bpf.updateBatch(map.fd, keysOf(0, maxEntries), values(maxEntries), Uint32Array.of(maxEntries))
    return { map, control: yield* BpfMemory.Control }
  })

  test(
    "is halved until calls take no longer than a millisecond, and the longest of them is told (G23)",
    Effect.gen(function* () {
      const { map, control } = yield* full
      const asked = timed(control, (count) => count * 5000)
      const report = yield* Scan.forEach(map, () => Effect.void, { batchSize: 1024 })
      assert.deepStrictEqual(asked.slice(0, 5), [1024, 512, 256, 128, 128])
      assert.deepStrictEqual([report.entries, report.completed, report.grown], [16_384, true, 0])
      assert.strictEqual(report.longestCallMillis, 5.12)
    })
  )

  test(
    "goes by the target of the caller",
    Effect.gen(function* () {
      const { map, control } = yield* full
      const asked = timed(control, (count) => count * 5000)
      yield* Scan.forEach(map, () => Effect.void, { batchSize: 1024, callTarget: "3 millis" })
      assert.deepStrictEqual(asked.slice(0, 4), [1024, 512, 512, 512])
    })
  )

  test(
    "grows where calls are short: to 4096, or to what the caller asked for",
    Effect.gen(function* () {
      const { map, control } = yield* full
      const asked = timed(control, () => 10)
      const report = yield* Scan.forEach(map, () => Effect.void)
      assert.deepStrictEqual(asked.slice(0, 6), [256, 512, 1024, 2048, 4096, 4096])
      assert.deepStrictEqual([report.entries, report.grown], [16_384, 0])
      asked.length = 0
      yield* Scan.forEach(map, () => Effect.void, { batchSize: 512 })
      assert.deepStrictEqual([...new Set(asked)], [512])
    })
  )

  test(
    "is not halved below what the largest bucket has needed",
    Effect.gen(function* () {
      const { map, control } = yield* full
      const asked = timed(control, (count) => count * 100_000)
      const report = yield* Scan.forEach(map, () => Effect.void, { batchSize: 1024 })
      assert.deepStrictEqual([report.entries, report.completed], [16_384, true])
      assert.deepStrictEqual(asked.slice(0, 4), [1024, 512, 256, 128])
      assert.deepStrictEqual([...new Set(asked.slice(4))], [256])
    }),
    // Buckets of 256 entries.
    { hash: (key) => ((key[2] ?? 0) * 256 + (key[3] ?? 0)) >> 8 }
  )

  test(
    "by next key goes by the time of all calls of a batch",
    Effect.gen(function* () {
      const { map, control } = yield* full
      control.onCall((call) => {
        if (call === "lookup") control.time += 5000n
      })
      const sizes: Array<number> = []
      const report = yield* Scan.forEachSync(map, ({ count }) => void sizes.push(count), {
        method: "next-key",
        batchSize: 1024
      })
      assert.deepStrictEqual(sizes.slice(0, 5), [1024, 512, 256, 128, 128])
      assert.deepStrictEqual([report.entries, report.longestCallMillis], [16_384, 5.12])
    })
  )
})

describe("a kernel without batches", () => {
  for (const errno of [EINVAL, EOPNOTSUPP, ENOTSUPP]) {
    test(
      `is read key by key, unless batches were asked for (errno ${errno})`,
      Effect.gen(function* () {
        const { map, control } = yield* filled
        control.failEvery(1, "lookupBatch", errno)
        const { report, once } = yield* tally(map)
        assert.isTrue(once)
        assert.deepStrictEqual([report.method, report.entries, report.completed], ["next-key", ENTRIES, true])
        const error = yield* Effect.flip(Scan.forEachSync(map, () => undefined, { method: "batch" }))
        assert.strictEqual(error.reason._tag, "FeatureUnsupported")
      })
    )
  }

  test(
    "is one that refuses the first batch; a later refusal is an error (G4)",
    Effect.gen(function* () {
      const { map, control } = yield* filled
      control.failNext("lookupBatch", EINVAL, { skip: 2 })
      const error = yield* Effect.flip(Scan.forEachSync(map, () => undefined, { batchSize: 4 }))
      assert.deepStrictEqual(
        [error.operation, error.errno, error.reason._tag],
        ["lookup batch", EINVAL, "InvalidArgument"]
      )
    })
  )

  test(
    "has the batch size that was asked for, too",
    Effect.gen(function* () {
      const { map, control } = yield* filled
      control.failEvery(1, "lookupBatch", EINVAL)
      assert.strictEqual((yield* tally(map, { batchSize: 4 })).report.batches, 16)
    })
  )
})

describe("a walk by next key", () => {
  for (const [call, skip] of [
    ["nextKey", 0],
    ["nextKey", 1],
    ["nextKey", 7],
    ["lookup", 0],
    ["lookup", 7]
  ] as const) {
    test(
      `fails with the error of ${call} number ${skip + 1}`,
      Effect.gen(function* () {
        const { map, control } = yield* filled
        control.failNext(call, call === "lookup" ? EIO : EPERM, { skip })
        const error = yield* Effect.flip(Scan.forEachSync(map, () => undefined, { method: "next-key" }))
        assert.deepStrictEqual(
          [error.operation, error.errno, error.map],
          call === "lookup" ? ["lookup", EIO, "m"] : ["next key", EPERM, "m"]
        )
      })
    )
  }

  test(
    "goes back one key where the current one is deleted, and sees nothing twice",
    Effect.gen(function* () {
      const { map, control } = yield* filled
      let lookups = 0
      control.onCall((call, args) => {
        if (call === "lookup" && ++lookups % 9 === 5) control.map(map.fd)!.delete(args[1] as Uint8Array)
      })
      const { report, seen } = yield* tally(map, { method: "next-key" })
      assert.isAtLeast(report.fallbacks, 5)
      assert.deepStrictEqual([report.restarts, report.completed], [0, true])
      assert.strictEqual(seen.filter((times) => times === 0).length, report.fallbacks)
      assert.strictEqual(Math.max(...seen), 1)
      assert.strictEqual(report.entries, ENTRIES - report.fallbacks)
    })
  )

  test(
    "ends where the last key is deleted under it",
    Effect.gen(function* () {
      const { map, control } = yield* filled
      let lookups = 0
      control.onCall((call, args) => {
        if (call === "lookup" && ++lookups === ENTRIES) control.map(map.fd)!.delete(args[1] as Uint8Array)
      })
      const { report } = yield* tally(map, { method: "next-key" })
      assert.deepStrictEqual([report.entries, report.completed, report.restarts], [ENTRIES - 1, true, 0])
    })
  )

  test(
    "ends where everything is deleted under it",
    Effect.gen(function* () {
      const { map, control } = yield* filled
      let lookups = 0
      const inside = control.map(map.fd)!
      control.onCall((call) => {
        if (call === "lookup" && ++lookups === 1) inside.forEach((key) => void inside.delete(key))
      })
      // What followed is not there either, and nothing follows it.
      const { report } = yield* tally(map, { method: "next-key" })
      assert.deepStrictEqual([report.entries, report.completed, lookups], [0, true, 2])
    })
  )

  test(
    "starts again where the way back is gone as well, and misses nothing that stayed",
    Effect.gen(function* () {
      const { map, control } = yield* filled
      let lookups = 0
      let previous: Uint8Array | undefined
      control.onCall((call, args) => {
        if (call !== "lookup") return
        const key = args[1] as Uint8Array
        if (++lookups === 10) for (const gone of [key, previous!]) control.map(map.fd)!.delete(gone)
        previous = key.slice()
      })
      const { report, seen } = yield* tally(map, { method: "next-key" })
      assert.deepStrictEqual([report.fallbacks, report.restarts, report.completed], [1, 1, true])
      // The one that was never seen is the one that went first; those before it were seen twice.
      assert.strictEqual(seen.filter((times) => times === 0).length, 1)
      assert.strictEqual(seen.filter((times) => times === 2).length, 8)
    })
  )

  /** A datapath that is always faster: every key that the walk stands on is gone, and has been replaced by another. */
  const chased = Effect.gen(function* () {
    const { map, control } = yield* filled
    let number = ENTRIES
    control.onCall((call, args) => {
      if (call !== "nextKey" || args[1] === null) return
      const inside = control.map(map.fd)!
      inside.delete(args[1] as Uint8Array)
      inside.update(keysOf(++number, 1), values(1))
    })
    return { map, control }
  })

  test(
    "gives up on a map that changes faster than it can be walked, and says so",
    Effect.gen(function* () {
      const { map, control } = yield* chased
      const before = control.count("lookup")
      const report = yield* Scan.forEach(map, () => Effect.void, { method: "next-key" })
      assert.deepStrictEqual([report.completed, report.entries], [false, 0])
      assert.isAbove(report.restarts, 0)
      // Four steps for every entry that the map can hold.
      assert.strictEqual(control.count("lookup") - before, 4 * 256 + 4)
    })
  )

  test(
    "that gave up ends a stream, and fails one that is to be complete",
    Effect.gen(function* () {
      const { map } = yield* chased
      yield* Stream.runDrain(Scan.stream(map, { method: "next-key" }))
      const error = yield* Effect.flip(Stream.runDrain(Scan.streamComplete(map, { method: "next-key" })))
      assert.strictEqual(error._tag, "Incomplete")
      assert.include(error.message, "map m changed faster")
    })
  )
})

describe("a count", () => {
  test(
    "that gave up is an error, not a number",
    Effect.gen(function* () {
      const { map, control } = yield* filled
      let number = ENTRIES
      control.onCall((call, args) => {
        if (call !== "nextKey" || args[1] === null) return
        const inside = control.map(map.fd)!
        inside.delete(args[1] as Uint8Array)
        inside.update(keysOf(++number, 1), values(1))
      })
      const error = yield* Effect.flip(Scan.count(map, { method: "next-key" }))
      assert.deepStrictEqual([error._tag, error.map], ["Incomplete", "m"])
    })
  )
})

describe("an empty map", () => {
  for (const method of methods) {
    test(
      `has no batch, by ${method}, and is complete`,
      Effect.gen(function* () {
        const map = yield* BpfMap.create({ type: 9, keySize: KEY, valueSize: VALUE, maxEntries: 8, flags: 0 }, "empty")
        const report = yield* Scan.forEach(map, () => Effect.die("a batch"), { method })
        assert.deepStrictEqual([report.completed, report.entries, report.batches], [true, 0, 0])
        assert.deepStrictEqual(yield* Stream.runCollect(Scan.streamComplete(map, { method })), [])
      })
    )
  }
})

describe("a look at some entries", () => {
  test(
    "is one batch of at most as many",
    Effect.gen(function* () {
      const { map, control } = yield* filled
      const before = control.count("lookupBatch")
      const { count, rows } = yield* Scan.first(map, 8)
      assert.isAtLeast(count, 1)
      assert.isAtMost(count, 8)
      assert.strictEqual(rows.count, count)
      assert.strictEqual(control.count("lookupBatch") - before, 1)
    })
  )
})

describe("buffers", () => {
  test(
    "are as large as Cilium's batches to start with, and never larger than the map",
    Effect.gen(function* () {
      const { map } = yield* filled
      for (const method of methods) {
        const sizes: Array<number> = []
        for (const batchSize of [undefined, 0, 10, 1_000_000]) {
          yield* Scan.forEachSync(map, ({ keys }) => void sizes.push(keys.byteLength / KEY), {
            method,
            ...(batchSize === undefined ? {} : { batchSize })
          })
        }
        assert.deepStrictEqual([...new Set(sizes)].toSorted((a, b) => a - b).at(-1), 256)
        assert.strictEqual(sizes[0], 32)
        assert.include(sizes, 10)
      }
    })
  )
})
