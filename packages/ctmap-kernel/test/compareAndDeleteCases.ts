/**
 * What compare-and-delete promises, as cases for any kernel: the real one and its twin run the same.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import type * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import * as Exit from "effect/Exit"
import * as Bpf from "ctmap-kernel/Bpf"
import type { BpfError } from "ctmap-kernel/BpfError"
import * as CompareAndDelete from "ctmap-kernel/CompareAndDelete"

const { verdict } = CompareAndDelete
const LRU_HASH = 9
const HASH = 1

export interface Shape {
  readonly title: string
  readonly type: number
  readonly keySize: number
  readonly valueSize: number
  readonly compared: "lifetime" | "created"
}

export const shapes: ReadonlyArray<Shape> = (
  [
    ["IPv4 CT", 14, 56, "lifetime"],
    ["IPv6 CT", 38, 56, "lifetime"],
    ["IPv4 NAT", 14, 40, "created"],
    ["IPv6 NAT", 38, 56, "created"]
  ] as const
).flatMap(([title, keySize, valueSize, compared]) => [
  { title: `${title}, LRU_HASH`, type: LRU_HASH, keySize, valueSize, compared },
  { title: `${title}, HASH`, type: HASH, keySize, valueSize, compared }
])

/** Engines that a kernel is expected to offer. */
export const engines = ["program", "portable"] as const

/** A map of a test with its entries: entry `i` has key `i` and a value that begins as `word`. */
export interface Fixture {
  readonly table: CompareAndDelete.Table
  readonly key: (i: number) => Uint8Array
  readonly put: (i: number, word: number, other?: number) => void
  readonly remove: (i: number) => void
  /** The value of entry `i`, `undefined` where there is none. */
  readonly get: (i: number) => Uint8Array | undefined
  /** Candidates 0 to count - 1, read with this word. */
  readonly candidates: (count: number, word: number | ((i: number) => number)) => CompareAndDelete.Candidates
}

export const fixture = (shape: Shape, maxEntries = 8192): Effect.Effect<Fixture, never, Bpf.Bpf | Scope.Scope> =>
  Effect.gen(function* () {
    const kernel = yield* Bpf.Bpf
    const { keySize, valueSize, type, compared } = shape
    const fd = yield* Effect.acquireRelease(
      Effect.sync(() => kernel.mapCreate({ type, keySize, valueSize, maxEntries, flags: 0 }, "cad_test")),
      (opened) => Effect.sync(() => kernel.close(opened))
    )
    assert.isAtLeast(fd, 0)
    const key = (i: number): Uint8Array => {
      const bytes = new Uint8Array(keySize).fill(0xa5)
      new DataView(bytes.buffer).setUint32(0, i)
      new DataView(bytes.buffer).setUint32(keySize - 4, ~i >>> 0)
      return bytes
    }
    const value = (word: number, other: number): Uint8Array => {
      const bytes = new Uint8Array(valueSize).fill(other)
      new DataView(bytes.buffer).setUint32(compared === "lifetime" ? 32 : 0, word, true)
      return bytes
    }
    return {
      table: { fd, keySize, valueSize, name: "cad_test" },
      key,
      put: (i, word, other = 7) => assert.strictEqual(kernel.update(fd, key(i), value(word, other), Bpf.ANY), 0),
      remove: (i) => assert.strictEqual(kernel.delete(fd, key(i)), 0),
      get: (i) => {
        const bytes = new Uint8Array(valueSize)
        return kernel.lookup(fd, key(i), bytes) < 0 ? undefined : bytes
      },
      candidates: (count, word) => {
        const keys = new Uint8Array(count * keySize)
        for (let i = 0; i < count; i++) keys.set(key(i), i * keySize)
        return {
          keys,
          expected: Uint32Array.from({ length: count }, (_, i) => (typeof word === "number" ? word : word(i))),
          verdicts: new Uint8Array(count).fill(255)
        }
      }
    }
  })

const totals = (counts: Partial<CompareAndDelete.Totals>): CompareAndDelete.Totals => ({
  deleted: 0,
  refreshed: 0,
  vanished: 0,
  restored: 0,
  busy: 0,
  ...counts
})

const verdictsOfEach = (shape: Shape, engine: "program" | "portable") =>
  Effect.gen(function* () {
    const { table, put, remove, get, candidates } = yield* fixture(shape)
    const cad = yield* CompareAndDelete.make(table, { engine })
    assert.strictEqual(cad.engine, engine)
    const read = candidates(5, 0x8000_0005)
    for (let i = 0; i < 6; i++) put(i, 0x8000_0005)
    put(1, 0x8000_0006) // refreshed
    remove(2) // vanished
    put(3, 0x8000_0005, 9) // changed elsewhere only
    const refreshed = get(1)
    assert.strictEqual(cad.run(read, shape.compared, 0, 5), 3)
    const { deleted, vanished } = verdict
    assert.deepStrictEqual([...read.verdicts], [deleted, verdict.refreshed, vanished, deleted, deleted])
    assert.deepStrictEqual(cad.totals, totals({ deleted: 3, refreshed: 1, vanished: 1 }))
    assert.deepStrictEqual([0, 2, 3, 4].map(get), [undefined, undefined, undefined, undefined])
    assert.deepStrictEqual(get(1), refreshed)
    assert.isDefined(get(5))
  })

const presence = (shape: Shape, engine: "program" | "portable") =>
  Effect.gen(function* () {
    const { table, put, get, candidates } = yield* fixture(shape)
    const cad = yield* CompareAndDelete.make(table, { engine })
    for (let i = 0; i < 3; i++) put(i, i)
    const { keys, verdicts } = candidates(4, 0)
    assert.strictEqual(cad.run({ keys, verdicts, expected: new Uint32Array(0) }, "presence", 1, 3), 2)
    assert.deepStrictEqual([...verdicts], [255, verdict.deleted, verdict.deleted, verdict.vanished])
    assert.isDefined(get(0))
  })

/** Entry `i` is refreshed where 3 divides it, else gone where 5 divides it. */
const many = (shape: Shape, engine: "program" | "portable") =>
  Effect.gen(function* () {
    const count = 2 * 1024 + 452
    const { table, put, get, candidates } = yield* fixture(shape)
    const cad = yield* CompareAndDelete.make(table, { engine })
    const expected = (i: number) => (i % 3 === 0 ? verdict.refreshed : i % 5 === 0 ? verdict.vanished : verdict.deleted)
    for (let i = 0; i < count; i++) if (expected(i) !== verdict.vanished) put(i, i % 3 === 0 ? i + 1 : i)
    const read = candidates(count, (i) => i)
    const sum = yield* cad.deleteAll(read, shape.compared, count)
    const verdicts = Array.from({ length: count }, (_, i) => expected(i))
    assert.deepStrictEqual([...read.verdicts], verdicts)
    const of = (wanted: number) => verdicts.filter((each) => each === wanted).length
    assert.deepStrictEqual(sum, totals({ deleted: of(0), refreshed: of(1), vanished: of(2) }))
    for (let i = 0; i < count; i++) assert.strictEqual(get(i) !== undefined, expected(i) === verdict.refreshed)
  })

const agree = (shape: Shape) =>
  Effect.gen(function* () {
    const count = 1024
    const outcomes = yield* Effect.forEach(engines, (engine) =>
      Effect.scoped(
        Effect.gen(function* () {
          const { table, put, get, candidates } = yield* fixture(shape)
          const cad = yield* CompareAndDelete.make(table, { engine })
          // The same numbers for both: the low bits of a linear congruential generator.
          let state = 12_345
          const next = (n: number) => ((state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0) >>> 8) % n
          for (let i = 0; i < count; i++) if (next(4) > 0) put(i, next(3))
          const read = candidates(count, () => next(3))
          const deleted = cad.run(read, shape.compared, 0, count)
          return {
            deleted,
            totals: { ...cad.totals },
            verdicts: [...read.verdicts],
            left: Array.from({ length: count }, (_, i) => get(i))
          }
        })
      )
    )
    assert.isAbove(outcomes[0]?.deleted ?? 0, 100)
    assert.deepStrictEqual(outcomes[0], outcomes[1])
  })

const refusals = (shape: Shape, engine: "program" | "portable") =>
  Effect.gen(function* () {
    const { table, put, get, candidates } = yield* fixture(shape)
    const cad = yield* CompareAndDelete.make(table, { engine })
    put(0, 1)
    const read = candidates(cad.capacity + 1, 1)
    assert.isAtLeast(cad.capacity, 1024)
    assert.strictEqual(cad.run(read, shape.compared, 0, cad.capacity + 1), -22)
    assert.strictEqual(cad.run(read, shape.compared, 2, cad.capacity), -22)
    assert.strictEqual(cad.run(read, shape.compared, -1, 1), -22)
    assert.strictEqual(cad.run({ ...read, verdicts: new Uint8Array(1) }, shape.compared, 0, 2), -22)
    assert.strictEqual(cad.run({ ...read, expected: new Uint32Array(1) }, shape.compared, 0, 2), -22)
    assert.strictEqual(cad.run(read, shape.compared, 0, 0), 0)
    assert.isDefined(get(0))
  })

const sharing = Effect.gen(function* () {
  const tables = yield* Effect.forEach(shapes, (shape) =>
    Effect.gen(function* () {
      const made = yield* fixture(shape)
      return { ...made, shape, cad: yield* CompareAndDelete.make(made.table, { engine: "program" }) }
    })
  )
  for (let round = 1; round < 4; round++) {
    for (const [at, { put, candidates, cad, shape }] of tables.entries()) {
      for (let i = 0; i < 10; i++) put(i, i < at ? 1 : 2)
      assert.strictEqual(cad.run(candidates(10, 1), shape.compared, 0, 10), at)
    }
  }
})

const afterClosing = (shape: Shape) =>
  Effect.gen(function* () {
    const { table, put, get, candidates } = yield* fixture(shape)
    const scope = yield* Scope.make()
    const cad = yield* CompareAndDelete.make(table, { engine: "program" }).pipe(Scope.provide(scope))
    put(0, 1)
    yield* Scope.close(scope, Exit.void)
    assert.strictEqual(cad.run(candidates(1, 1), shape.compared, 0, 1), -9)
    // Its fd is that of another program by now, and its memory another mapping.
    yield* CompareAndDelete.make(table, { engine: "program" })
    assert.strictEqual(cad.run(candidates(1, 1), shape.compared, 0, 1), -9)
    assert.isDefined(get(0))
  })

const closingOne = (shape: Shape) =>
  Effect.gen(function* () {
    const { table, put, get, candidates } = yield* fixture(shape)
    const scope = yield* Scope.make()
    yield* CompareAndDelete.make(table, { engine: "program" }).pipe(Scope.provide(scope))
    const other = yield* CompareAndDelete.make(table, { engine: "program" })
    yield* Scope.close(scope, Exit.void)
    put(0, 1)
    assert.strictEqual(other.run(candidates(1, 1), shape.compared, 0, 1), 1)
    assert.isUndefined(get(0))
  })

const wrongSizes = Effect.gen(function* () {
  const sizes = [
    { keySize: 16, valueSize: 56 },
    { keySize: 14, valueSize: 8 }
  ]
  for (const size of sizes) {
    const error = yield* Effect.flip(CompareAndDelete.make({ fd: 0, name: "odd", ...size }))
    assert.strictEqual(error.reason._tag, "InvalidArgument")
  }
})

/** While the kernel loads the program, the map is closed, and its fd becomes another one's. */
const replacedMeanwhile = (shape: Shape) =>
  Effect.gen(function* () {
    const kernel = yield* Bpf.Bpf
    /** Whether another map has got the number of the fd: the thread that loads opens some of its own, and may be faster. */
    const attempt = Effect.gen(function* () {
      const meant = yield* fixture(shape)
      const { fd } = meant.table
      const info = kernel.mapInfo(fd)
      if (typeof info === "number") return assert.fail(`map info: ${info}`)
      const second = yield* Effect.acquireRelease(
        Effect.sync(() => kernel.mapFdById(info.id)),
        (opened) => Effect.sync(() => kernel.close(opened))
      )
      assert.isAbove(second, 0)
      meant.put(0, 1)
      const loading = yield* Effect.forkChild(
        CompareAndDelete.make({ ...meant.table, id: info.id }, { engine: "program" }),
        { startImmediately: true }
      )
      kernel.close(fd)
      // Numbers are given again from the lowest on: the fixture closes the one that is meant.
      let other = yield* fixture(shape)
      while (other.table.fd < fd) other = yield* fixture(shape)
      const cad = yield* Fiber.join(loading)
      if (other.table.fd !== fd) return false
      other.put(0, 1)
      assert.strictEqual(cad.run(meant.candidates(1, 1), shape.compared, 0, 1), 1)
      assert.isDefined(other.get(0))
      assert.strictEqual(kernel.lookup(second, meant.key(0), new Uint8Array(shape.valueSize)), -2)
      return true
    })
    while (!(yield* Effect.scoped(attempt)));
  })

/** Runs every case on a kernel. */
export const cases = (kernel: Layer.Layer<Bpf.Bpf, BpfError>): void => {
  const test = (title: string, effect: Effect.Effect<unknown, unknown, Bpf.Bpf | Scope.Scope>) =>
    it.effect(title, () => effect.pipe(Effect.provide(kernel)))

  describe.each(engines)("%s", (engine) => {
    for (const shape of shapes) {
      describe(`on ${shape.title}`, () => {
        test(
          "deletes what is as it was read, keeps what was refreshed, counts what is gone",
          verdictsOfEach(shape, engine)
        )
        test("asked for presence only, deletes whatever is there", presence(shape, engine))
        test("judges more candidates than fit one call", many(shape, engine))
        test("refuses ranges that reach beyond the candidates, and touches nothing", refusals(shape, engine))
      })
    }
  })
  for (const shape of shapes) test(`both engines agree: ${shape.title}`, agree(shape))
  for (const shape of shapes.slice(0, 1)) test("refuses to run after its scope has closed", afterClosing(shape))
  for (const shape of shapes.slice(0, 1)) test("goes on when another of its map has closed", closingOne(shape))
  test("maps of all kinds side by side do not disturb one another", sharing)
  for (const shape of shapes.slice(0, 1))
    test(
      "works on the map that was meant, though its fd is another one's once the program is loaded",
      replacedMeanwhile(shape)
    )
  test("refuses sizes that no CT or NAT map has", wrongSizes)
}
