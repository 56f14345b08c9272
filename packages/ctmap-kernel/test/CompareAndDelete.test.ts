import { assert, describe, it } from "@effect/vitest"
import * as Bpf from "ctmap-kernel/Bpf"
import * as BpfMemory from "ctmap-kernel/BpfMemory"
import * as CompareAndDelete from "ctmap-kernel/CompareAndDelete"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import { cases, type Fixture, fixture, shapes } from "./compareAndDeleteCases.ts"

const { object, twin, verdict } = CompareAndDelete

const kernel = (objects = { [object]: twin }, features: BpfMemory.Features = {}) =>
  BpfMemory.layerTest({ objects, features })

describe("compare-and-delete on the twin", () => {
  cases(kernel())
})

type Step = (table: BpfMemory.MapView, key: Uint8Array) => void

/** The twin, with what the datapath does right before each deletion in the table, and right after it. */
const racing = (before: Step, after: Step = () => {}): BpfMemory.ObjectTwin => ({
  programs: Object.fromEntries(
    Object.entries(twin.programs).map(([name, program]): [string, BpfMemory.Program] => [
      name,
      (helpers, context, maps) => {
        const { table } = maps
        if (table === undefined) return -22
        const remove: BpfMemory.MapView["delete"] = (key) => {
          before(table, key)
          const rc = table.delete(key)
          after(table, key)
          return rc
        }
        return program(helpers, context, { ...maps, table: { ...table, delete: remove } })
      }
    ])
  )
})

/** The datapath's refresh: one word, written in place. */
const refresh = (value: Uint8Array | undefined): void => {
  if (value !== undefined) new DataView(value.buffer, value.byteOffset).setUint32(32, 500, true)
}
const refreshing: Step = (table, key) => refresh(table.lookup(key))

const [shape] = shapes
if (shape === undefined) throw new Error("there are no shapes")

const one = ({ put, candidates }: Fixture): CompareAndDelete.Candidates => {
  put(0, 100)
  return candidates(1, 100)
}

describe("an entry that is refreshed between comparison and deletion", () => {
  it.effect("is put back as the datapath left it", () =>
    Effect.gen(function* () {
      const made = yield* fixture(shape)
      const read = one(made)
      const before = made.get(0)
      const cad = yield* CompareAndDelete.make(made.table)
      assert.isTrue(cad.restores)
      assert.strictEqual(cad.run(read, "lifetime", 0, 1), 0)
      assert.deepStrictEqual([...read.verdicts], [verdict.restored])
      refresh(before)
      assert.deepStrictEqual(made.get(0), before)
    }).pipe(Effect.provide(kernel({ [object]: racing(refreshing) })))
  )

  it.effect("is lost where the program cannot read its key, and says so", () =>
    Effect.gen(function* () {
      const made = yield* fixture(shape)
      const read = one(made)
      const cad = yield* CompareAndDelete.make(made.table, { engine: "program" })
      assert.deepStrictEqual([cad.engine, cad.restores, cad.refusal?.operation], ["program", false, "run program"])
      assert.strictEqual(cad.run(read, "lifetime", 0, 1), 1)
      assert.isUndefined(made.get(0))
    }).pipe(
      Effect.provide(
        kernel({
          [object]: {
            programs: {
              compare_delete: racing(refreshing).programs["compare_delete"] ?? (() => -22)
            }
          }
        })
      )
    )
  )

  it.effect("is not put back over one that the datapath has made anew", () =>
    Effect.gen(function* () {
      const made = yield* fixture(shape)
      const read = one(made)
      const cad = yield* CompareAndDelete.make(made.table)
      assert.strictEqual(cad.run(read, "lifetime", 0, 1), 1)
      assert.deepStrictEqual([...read.verdicts], [verdict.deleted])
      assert.deepStrictEqual(made.get(0), new Uint8Array(56).fill(3))
    }).pipe(
      Effect.provide(
        kernel({ [object]: racing(refreshing, (table, key) => void table.update(key, new Uint8Array(56).fill(3))) })
      )
    )
  )

  it.effect("is refreshed, not lost, when it happens between reading and running", () =>
    Effect.gen(function* () {
      const made = yield* fixture(shape)
      const read = one(made)
      const control = yield* BpfMemory.Control
      for (const engine of ["program", "portable"] as const) {
        const cad = yield* CompareAndDelete.make(made.table, { engine })
        refresh(control.map(made.table.fd)?.lookup(made.key(0)))
        assert.strictEqual(cad.run(read, "lifetime", 0, 1), 0)
        assert.deepStrictEqual([...read.verdicts], [verdict.refreshed])
      }
    }).pipe(Effect.provide(kernel()))
  )
})

describe("when the kernel is in the way", () => {
  it.effect("a bucket that cannot be locked keeps its entry and is counted", () =>
    Effect.gen(function* () {
      const made = yield* fixture(shape)
      const control = yield* BpfMemory.Control
      const read = one(made)
      const cad = yield* CompareAndDelete.make(made.table, { engine: "portable" })
      for (const errno of [16, 35, 110]) {
        control.failNext("lookupAndDelete", errno)
        assert.strictEqual(cad.run(read, "lifetime", 0, 1), 0)
        assert.deepStrictEqual([...read.verdicts], [verdict.busy])
        assert.strictEqual(cad.totals.busy, 1)
      }
      assert.isDefined(made.get(0))
    }).pipe(Effect.provide(kernel()))
  )

  it.effect("an entry that is refreshed between look-up and deletion is put back as it went", () =>
    Effect.gen(function* () {
      const made = yield* fixture(shape)
      const control = yield* BpfMemory.Control
      const read = one(made)
      const cad = yield* CompareAndDelete.make(made.table, { engine: "portable" })
      control.onCall((call) => call === "lookupAndDelete" && made.put(0, 777))
      assert.strictEqual(cad.run(read, "lifetime", 0, 1), 0)
      assert.deepStrictEqual([...read.verdicts], [verdict.restored])
      assert.strictEqual(cad.totals.restored, 1)
      assert.strictEqual(new DataView(made.get(0)!.slice().buffer).getUint32(32, true), 777)
    }).pipe(Effect.provide(kernel()))
  )

  it.effect("what the datapath made anew before it could be put back is the datapath's", () =>
    Effect.gen(function* () {
      const made = yield* fixture(shape)
      const control = yield* BpfMemory.Control
      const read = one(made)
      const cad = yield* CompareAndDelete.make(made.table, { engine: "portable" })
      control.onCall((call) => {
        if (call === "lookupAndDelete") made.put(0, 777)
        if (call === "update") made.put(0, 888)
      })
      assert.strictEqual(cad.run(read, "lifetime", 0, 1), 0)
      assert.deepStrictEqual([...read.verdicts], [verdict.restored])
      assert.strictEqual(new DataView(made.get(0)!.slice().buffer).getUint32(32, true), 888)
    }).pipe(Effect.provide(kernel()))
  )

  for (const errno of [524, 95, 22]) {
    it.effect(`a kernel that cannot take an entry (${errno}) is asked once, and deletes`, () =>
      Effect.gen(function* () {
        const made = yield* fixture(shape)
        const control = yield* BpfMemory.Control
        const cad = yield* CompareAndDelete.make(made.table, { engine: "portable" })
        for (let i = 0; i < 3; i++) made.put(i, 100)
        control.failNext("lookupAndDelete", errno)
        const before = control.count("lookupAndDelete")
        const totals = yield* cad.deleteAll(made.candidates(3, 100), "lifetime", 3)
        assert.strictEqual(totals.deleted, 3)
        assert.strictEqual(control.count("lookupAndDelete") - before, 1)
      }).pipe(Effect.provide(kernel()))
    )
  }

  it.effect("entries that vanish between look-up and deletion are vanished, not failures (G9)", () =>
    Effect.gen(function* () {
      const made = yield* fixture(shape)
      const control = yield* BpfMemory.Control
      const read = one(made)
      const cad = yield* CompareAndDelete.make(made.table, { engine: "portable" })
      control.onCall((call) => call === "lookupAndDelete" && control.map(made.table.fd)?.delete(made.key(0)))
      assert.strictEqual(cad.run(read, "lifetime", 0, 1), 0)
      assert.deepStrictEqual([...read.verdicts], [verdict.vanished])
    }).pipe(Effect.provide(kernel()))
  )

  for (const [engine, call, operation] of [
    ["portable", "lookup", "delete"],
    ["portable", "lookupAndDelete", "delete"],
    ["program", "runProgram", "run program"]
  ] as const) {
    it.effect(`a failing ${call} is an error of the ${engine} engine that names the map`, () =>
      Effect.gen(function* () {
        const made = yield* fixture(shape)
        const control = yield* BpfMemory.Control
        const cad = yield* CompareAndDelete.make(made.table, { engine })
        for (let i = 0; i < 3; i++) made.put(i, 100)
        const read = made.candidates(3, 100)
        control.failNext(call, 1, { skip: engine === "portable" ? 1 : 0 })
        const error = yield* Effect.flip(cad.deleteAll(read, "lifetime", 3))
        assert.deepStrictEqual([error.operation, error.map, error.reason._tag], [operation, "cad_test", "NotPermitted"])
        // What was judged before stands.
        assert.strictEqual(cad.totals.deleted, engine === "portable" ? 1 : 0)
        assert.deepStrictEqual(
          [...read.verdicts],
          engine === "portable" ? [verdict.deleted, 255, 255] : [255, 255, 255]
        )
      }).pipe(Effect.provide(kernel()))
    )
  }

  it.effect("is interruptible between slices, and what was judged stands", () =>
    Effect.gen(function* () {
      const made = yield* fixture(shape)
      const cad = yield* CompareAndDelete.make(made.table)
      for (let i = 0; i < 3000; i++) made.put(i, 100)
      const read = made.candidates(3000, 100)
      const fiber = yield* Effect.forkChild(cad.deleteAll(read, "lifetime", 3000), { startImmediately: true })
      yield* Fiber.interrupt(fiber)
      assert.deepStrictEqual([read.verdicts[0], read.verdicts[2999]], [verdict.deleted, 255])
      assert.deepStrictEqual([made.get(0), made.get(2999) === undefined], [undefined, false])
    }).pipe(Effect.provide(kernel()))
  )
})

describe("choosing an engine", () => {
  const chosen = (options?: CompareAndDelete.Options) =>
    Effect.gen(function* () {
      const { table } = yield* fixture(shape)
      return yield* CompareAndDelete.make(table, options)
    })

  it.effect("takes the program that restores where it can", () =>
    Effect.gen(function* () {
      const cad = yield* chosen()
      assert.deepStrictEqual([cad.engine, cad.restores, cad.refusal], ["program", true, undefined])
    }).pipe(Effect.provide(kernel()))
  )

  it.effect("has its program although signals interrupted the verifier again and again, up to a limit", () =>
    Effect.gen(function* () {
      const control = yield* BpfMemory.Control
      control.failNext("loadObjectAsync", 11, { times: 7 })
      const patient = yield* chosen()
      assert.deepStrictEqual([patient.engine, patient.restores], ["program", true])
      assert.strictEqual(control.count("loadObjectAsync"), 8)
      control.failNext("loadObjectAsync", 11, { times: 8 })
      const error = yield* Effect.flip(chosen({ engine: "restoring" }))
      assert.strictEqual(error.reason._tag, "Busy")
    }).pipe(Effect.provide(kernel()))
  )

  it.effect("is portable where no program may put back, as single calls lose less than a program that does not", () =>
    Effect.gen(function* () {
      const control = yield* BpfMemory.Control
      control.failNext("loadObjectAsync", 1)
      const auto = yield* chosen()
      assert.deepStrictEqual([auto.engine, auto.refusal?.reason._tag], ["portable", "NotPermitted"])
      control.failNext("loadObjectAsync", 1)
      const demanded = yield* chosen({ engine: "program" })
      assert.deepStrictEqual([demanded.engine, demanded.restores], ["program", false])
      control.failNext("loadObjectAsync", 1)
      const error = yield* Effect.flip(chosen({ engine: "restoring" }))
      assert.strictEqual(error.reason._tag, "NotPermitted")
    }).pipe(Effect.provide(kernel()))
  )

  it.effect("takes the program that does not put back where single calls could not delete", () =>
    Effect.gen(function* () {
      const bpf = yield* Bpf.Bpf
      const { table } = yield* fixture(shape)
      const path = "/sys/fs/bpf/read_only"
      assert.strictEqual(bpf.pin(table.fd, path), 0)
      const readOnly = { ...table, fd: bpf.openPin(path, Bpf.READ_ONLY) }
      assert.deepStrictEqual(
        [table, readOnly].map((each) => CompareAndDelete.isWritable(bpf, each)),
        [true, false]
      )
      const forbidden = ({ programs }: Bpf.ObjectSpec) => programs.includes("compare_delete_restore")
      const bound: Bpf.Calls = {
        ...bpf,
        loadObjectAsync: (spec, done) =>
          forbidden(spec) ? void setImmediate(() => done({ errno: 1, log: "" })) : bpf.loadObjectAsync(spec, done)
      }
      const cad = yield* CompareAndDelete.make(readOnly).pipe(Effect.provideService(Bpf.Bpf, bound))
      assert.deepStrictEqual([cad.engine, cad.restores, cad.refusal?.reason._tag], ["program", false, "NotPermitted"])
    }).pipe(Effect.provide(kernel()))
  )

  it.effect("takes no worse program for one that only did not load this time", () =>
    Effect.gen(function* () {
      const control = yield* BpfMemory.Control
      control.failNext("loadObjectAsync", 12)
      const error = yield* Effect.flip(chosen({ engine: "program" }))
      assert.strictEqual(error.reason._tag, "OutOfMemory")
    }).pipe(Effect.provide(kernel()))
  )

  it.effect("is portable where asked to be, without a reason", () =>
    Effect.gen(function* () {
      const cad = yield* chosen({ engine: "portable" })
      assert.deepStrictEqual([cad.engine, cad.restores, cad.refusal], ["portable", false, undefined])
    }).pipe(Effect.provide(kernel()))
  )

  it.effect("is portable on a kernel without programs, and keeps the reason", () =>
    Effect.gen(function* () {
      const cad = yield* chosen()
      assert.strictEqual(cad.engine, "portable")
      assert.strictEqual(
        cad.refusal?.message,
        "load program of map cad_test: this kernel lacks programs of type syscall (Linux 5.14) (errno 22)"
      )
    }).pipe(Effect.provide(kernel({ [object]: twin }, { programs: false })))
  )

  it.effect("is portable without CAP_BPF, and says so", () =>
    Effect.gen(function* () {
      const control = yield* BpfMemory.Control
      const { table } = yield* fixture(shape)
      const back = control.asUser(1000)
      const cad = yield* CompareAndDelete.make(table)
      back()
      assert.deepStrictEqual([cad.engine, cad.refusal?.reason._tag], ["portable", "NotPermitted"])
    }).pipe(Effect.provide(kernel()))
  )

  it.effect("is portable on a kernel without mmapable arrays", () =>
    Effect.gen(function* () {
      const cad = yield* chosen()
      assert.deepStrictEqual([cad.engine, cad.refusal?.operation], ["portable", "map create"])
    }).pipe(Effect.provide(kernel({ [object]: twin }, { mmapable: false })))
  )

  it.effect("fails with the reason where a program is demanded and not to be had", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(chosen({ engine: "program" }))
      assert.strictEqual(error.reason._tag, "FeatureUnsupported")
    }).pipe(Effect.provide(kernel({ [object]: twin }, { programs: false })))
  )

  it.effect("does not try the second program on what the fd stands for once the first was refused", () =>
    Effect.gen(function* () {
      const control = yield* BpfMemory.Control
      const bpf = yield* Bpf.Bpf
      const meant = yield* fixture(shape)
      const { fd } = meant.table
      const { id } = bpf.mapInfo(fd) as Bpf.MapInfo
      control.failNext("loadObjectAsync", 1)
      const loading = yield* Effect.forkChild(CompareAndDelete.make({ ...meant.table, id }, { engine: "program" }), {
        startImmediately: true
      })
      bpf.close(fd)
      const other = yield* fixture(shape)
      assert.strictEqual(other.table.fd, fd)
      const error = yield* Effect.flip(Fiber.join(loading))
      assert.deepStrictEqual([error.operation, error.reason._tag], ["load program", "NotPermitted"])
      assert.strictEqual(control.count("loadObjectAsync"), 1)
    }).pipe(Effect.provide(kernel()))
  )

  it.effect("leaves nothing open when it is interrupted while a program is loaded", () =>
    Effect.gen(function* () {
      const control = yield* BpfMemory.Control
      const { table } = yield* fixture(shape)
      const before = control.living().length
      const loading = yield* Effect.forkChild(Effect.scoped(CompareAndDelete.make(table)), { startImmediately: true })
      assert.isAbove(control.living().length, before)
      yield* Fiber.interrupt(loading)
      assert.deepStrictEqual([control.living().length, control.openFds().length], [before, 1])
      assert.strictEqual(control.count("loadObject"), 0)
    }).pipe(Effect.provide(kernel()))
  )

  for (const call of ["mapCreate", "mapMemory", "loadObjectAsync", "runProgram"] as const) {
    it.effect(`leaves nothing open, whatever fails: ${call}`, () =>
      Effect.gen(function* () {
        const control = yield* BpfMemory.Control
        const kernelCalls = yield* Bpf.Bpf
        const sizes = { keySize: 14, valueSize: 56 }
        const fd = kernelCalls.mapCreate({ type: 9, ...sizes, maxEntries: 8, flags: 0 }, "cad_test")
        for (const times of [1, 2, 9]) {
          control.failNext(call, 1, { times })
          yield* Effect.scoped(CompareAndDelete.make({ fd, ...sizes, name: "cad_test" }))
          control.clearFaults()
          assert.lengthOf(control.openFds(), 1)
          assert.lengthOf(control.living(), 1)
        }
      }).pipe(Effect.provide(kernel()))
    )
  }
})
