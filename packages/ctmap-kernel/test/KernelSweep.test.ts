import { assert, describe, it } from "@effect/vitest"
import { TupleFlags } from "ctmap-core"
import * as Bpf from "ctmap-kernel/Bpf"
import * as BpfMemory from "ctmap-kernel/BpfMemory"
import * as KernelSweep from "ctmap-kernel/KernelSweep"
import * as NatCleanUp from "ctmap-kernel/NatCleanUp"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import type * as Scope from "effect/Scope"
import * as Layout from "../src/internal/sweepLayout.ts"
import { back, cases, ct, ctValue, key, natValue, out, pair } from "./sweepCases.ts"

const { object, twin } = KernelSweep

const kernel = (programs = twin, features: BpfMemory.Features = {}) =>
  BpfMemory.layerTest({ objects: { [object]: programs }, features })

describe("the sweep on the twin", () => {
  cases(kernel())
})

describe("making a sweep", () => {
  it.effect("finds out that it can be run without walking the table: that took 60 ms of half a million entries", () =>
    Effect.gen(function* () {
      const control = yield* BpfMemory.Control
      const { ct: table } = yield* pair("ipv4")
      table.put(key("ipv4", ct()), ctValue(5))
      // Of the program that is loaded first: the other one is tried on another map.
      const contexts: Array<ReadonlyArray<number>> = []
      let loads = 0
      control.onCall((call, args) => {
        if (call === "loadObjectAsync") loads++
        if (call === "runProgram" && loads === 1)
          contexts.push([...new Uint32Array((args[1] as Uint8Array).slice().buffer)])
      })
      yield* KernelSweep.make({ ct: table.table, nat: undefined, family: "ipv4" })
      const { idle } = Layout.option
      assert.deepStrictEqual(contexts, [Array.from({ length: 22 }, (_, i) => (i === Layout.sweep.options ? idle : 0))])
      assert.lengthOf(table.all(), 1)
    }).pipe(Effect.scoped, Effect.provide(kernel()))
  )
})

describe("the records of a large map", () => {
  const recordsOf = (options: { readonly cannotWalk: boolean }) =>
    Effect.gen(function* () {
      const { mapCreate } = yield* Bpf.Bpf
      const control = yield* BpfMemory.Control
      const sizes = { keySize: 14, valueSize: 56 }
      const fd = mapCreate({ type: 9, ...sizes, maxEntries: 4_194_304, flags: 0 }, "large")
      if (options.cannotWalk) control.failNext("loadObjectAsync", 22)
      const sweep = yield* KernelSweep.make({ ct: { fd, ...sizes, name: "large" }, nat: undefined, family: "ipv4" })
      return [sweep.resumes, sweep.capacity]
    }).pipe(Effect.scoped, Effect.provide(kernel()))

  it.effect(
    "are few where the next run goes on behind them: making 26 MiB of them held the event loop up for 50 ms",
    () => Effect.map(recordsOf({ cannotWalk: false }), (made) => assert.deepStrictEqual(made, [true, 32_768]))
  )

  it.effect("are many where a run begins anew at the start of the table", () =>
    Effect.map(recordsOf({ cannotWalk: true }), (made) => assert.deepStrictEqual(made, [false, 262_144]))
  )
})

/** A kernel whose maps stand otherwise in memory than the walk takes them to: this one sees lifetimes where there are none. */
const strange = (what: (value: Uint8Array) => Uint8Array): BpfMemory.ObjectTwin =>
  meanwhile(
    ({ table }) =>
      table === undefined
        ? {}
        : { table: { ...table, forEach: (visit) => table.forEach((at, value) => visit(at, what(value))) } },
    (name) => name.startsWith("walk")
  )

describe("a walk that does not see what is in a map", () => {
  const strangers = [
    { title: "lifetimes that are something else", what: (value: Uint8Array) => new Uint8Array(value.length) },
    {
      title: "values that begin elsewhere",
      what: (value: Uint8Array) => Uint8Array.of(...value.subarray(8), ...value.subarray(0, 8))
    },
    { title: "nothing that has expired", what: (value: Uint8Array) => new Uint8Array(value.length).fill(0xff) }
  ]
  for (const { title, what } of strangers)
    it.effect(`is never let near a table: ${title}`, () =>
      Effect.gen(function* () {
        const { ct: table } = yield* pair("ipv4")
        const target = { ct: table.table, nat: undefined, family: "ipv4" } as const
        for (let i = 0; i < 10; i++) table.put(key("ipv4", ct(TupleFlags.OUT, i)), ctValue(i < 5 ? 99 : 100))
        const error = yield* Effect.flip(KernelSweep.make({ ...target, mustResume: true }))
        assert.strictEqual(error.reason._tag, "FeatureUnsupported")
        const sweep = yield* KernelSweep.make(target)
        assert.isFalse(sweep.resumes)
        assert.strictEqual((yield* sweep.run({ now: 100 })).deleted, 5)
        assert.lengthOf(table.all(), 5)
      }).pipe(Effect.scoped, Effect.provide(kernel(strange(what))))
    )

  it.effect("is tried once for each family", () =>
    Effect.gen(function* () {
      const control = yield* BpfMemory.Control
      const loads = (family: "ipv4" | "ipv6") =>
        Effect.gen(function* () {
          const { ct: table } = yield* pair(family)
          let created = 0
          control.onCall((call, args) => {
            if (call === "mapCreate" && args[1] === "ctmap_walk") created++
          }, "after")
          yield* KernelSweep.make({ ct: table.table, nat: undefined, family })
          return created > 0
        })
      assert.deepStrictEqual([yield* loads("ipv4"), yield* loads("ipv4"), yield* loads("ipv6")], [true, false, true])
    }).pipe(Effect.scoped, Effect.provide(kernel()))
  )
})

describe("a sweep on CPUs that may see writes in another order", () => {
  const arm = BpfMemory.layerTest({ objects: { [object]: twin }, architecture: "arm64" })

  it.effect("does not walk by itself: the kernel calls it back", () =>
    Effect.gen(function* () {
      const { ct: table } = yield* pair("ipv4")
      const target = { ct: table.table, nat: undefined, family: "ipv4" } as const
      assert.isFalse((yield* KernelSweep.make(target)).resumes)
      const { reason } = yield* Effect.flip(KernelSweep.make({ ...target, mustResume: true }))
      assert.strictEqual(reason._tag, "FeatureUnsupported")
    }).pipe(Effect.scoped, Effect.provide(arm))
  )
})

describe("a sweep that is loaded late", () => {
  /** The map is closed, and its fd stands for another one, once the kernel is asked for the program. */
  const replacedAt = (call: "mapCreate" | "loadObjectAsync") =>
    Effect.gen(function* () {
      const bpf = yield* Bpf.Bpf
      const control = yield* BpfMemory.Control
      const [meant, other] = [yield* pair("ipv4"), yield* pair("ipv4")]
      other.ct.put(key("ipv4", ct()), ctValue(5))
      const { fd } = meant.ct.table
      const { id } = bpf.mapInfo(fd) as Bpf.MapInfo
      let isDone = false
      control.onCall((name) => {
        if (name !== call || isDone) return
        isDone = true
        // What close(2), and an open that is given the number, come to.
        bpf.close(fd)
        assert.strictEqual(bpf.pin(other.ct.table.fd, "/sys/fs/bpf/other"), 0)
        assert.strictEqual(bpf.openPin("/sys/fs/bpf/other"), fd)
      }, "before")
      const target = { ct: { ...meant.ct.table, id }, nat: undefined, family: "ipv4" } as const
      const error = yield* Effect.flip(KernelSweep.make(target))
      assert.isTrue(isDone)
      assert.deepStrictEqual([error.operation, error.errno], ["load program", 9])
      assert.lengthOf(other.ct.all(), 1)
    }).pipe(Effect.scoped)

  it.effect("is bound to the map that was meant or to none", () =>
    replacedAt("mapCreate").pipe(Effect.provide(kernel()))
  )

  it.effect("is not bound to another one after the walk was refused", () =>
    Effect.gen(function* () {
      const control = yield* BpfMemory.Control
      control.failNext("loadObjectAsync", 22)
      yield* replacedAt("loadObjectAsync")
    }).pipe(Effect.provide(kernel()))
  )
})

/** A map on which a walk is tried is smaller, and nobody else's. */
const isOfDatapath = (_: string, { table }: Readonly<Record<string, BpfMemory.MapView>>): boolean =>
  table !== undefined && table.properties.maxEntries > 512

/** The twin, with other views of its maps: what the datapath does meanwhile. */
const meanwhile = (
  change: (maps: Readonly<Record<string, BpfMemory.MapView>>) => Readonly<Record<string, BpfMemory.MapView>>,
  isChanged: (program: string, maps: Readonly<Record<string, BpfMemory.MapView>>) => boolean = isOfDatapath
): BpfMemory.ObjectTwin => ({
  programs: Object.fromEntries(
    Object.entries(twin.programs).map(([name, program]): [string, BpfMemory.Program] => [
      name,
      (helpers, context, maps) => program(helpers, context, isChanged(name, maps) ? { ...maps, ...change(maps) } : maps)
    ])
  )
})

type Step = (table: BpfMemory.MapView, at: Uint8Array) => number | void

/** Steps right before and right after the deletion of a CT entry; one that answers an errno is the deletion. */
const around = (before: Step, after: Step = () => {}): BpfMemory.ObjectTwin =>
  meanwhile(({ table }) =>
    table === undefined
      ? {}
      : {
          table: {
            ...table,
            delete: (at) => {
              const instead = before(table, at)
              if (typeof instead === "number") return instead
              const rc = table.delete(at)
              after(table, at)
              return rc
            }
          }
        }
  )

const write = (value: Uint8Array | undefined, lifetime: number): void => {
  if (value !== undefined) new DataView(value.buffer, value.byteOffset).setUint32(32, lifetime, true)
}
const refresh =
  (lifetime: number): Step =>
  (table, at) =>
    write(table.lookup(at), lifetime)

/** Sweeps one expired entry with its mapping at 100: counts, what is left of it, NAT entries that are left. */
const sweepOne = Effect.gen(function* () {
  const maps = yield* pair("ipv4")
  maps.ct.put(key("ipv4", ct()), ctValue(50))
  maps.nat.put(key("ipv4", out), natValue("ipv4", 9, 5001))
  maps.nat.put(key("ipv4", back), natValue("ipv4", 1, 4001))
  const sweep = yield* KernelSweep.make({ ct: maps.ct.table, nat: maps.nat.table, family: "ipv4" })
  const { seen, kept, deleted, refreshed, vanished, restored, busy, records, nat } = yield* sweep.run({ now: 100 })
  assert.strictEqual(seen, kept + deleted + refreshed + vanished + busy)
  assert.strictEqual(records.count, deleted)
  return {
    counts: { deleted, refreshed, vanished, restored, busy },
    ct: maps.ct.all(),
    nat: maps.nat.all().length,
    natKept: nat.kept
  }
})

const none = { deleted: 0, refreshed: 0, vanished: 0, restored: 0, busy: 0 }
const entry = (lifetime: number): string =>
  [key("ipv4", ct()), ctValue(lifetime)].map((bytes) => Buffer.from(bytes).toString("hex")).join(" ")

interface Race {
  readonly title: string
  readonly twin: BpfMemory.ObjectTwin
  readonly counts: Partial<typeof none>
  readonly ct: ReadonlyArray<string>
  readonly nat: number
  readonly natKept?: number
}

const races: ReadonlyArray<Race> = [
  {
    title: "that is refreshed between comparison and deletion is put back as the datapath left it, with its mapping",
    twin: around(refresh(500)),
    counts: { refreshed: 1, restored: 1 },
    ct: [entry(500)],
    nat: 2
  },
  {
    title: "that is refreshed right after its deletion, by a datapath that had found it, is put back",
    twin: meanwhile(({ table }) => {
      if (table === undefined) return {}
      const remove: BpfMemory.MapView["delete"] = (at) => {
        const value = table.lookup(at)
        const rc = table.delete(at)
        write(value, 500)
        return rc
      }
      return { table: { ...table, delete: remove } }
    }),
    counts: { refreshed: 1, restored: 1 },
    ct: [entry(500)],
    nat: 2
  },
  {
    title: "that is refreshed after it was looked at, and before it is to go, stays",
    twin: meanwhile(({ table, records }) => {
      if (table === undefined || records === undefined) return {}
      const lookup: BpfMemory.MapView["lookup"] = (at) => {
        write(table.lookup(key("ipv4", ct())), 500)
        return records.lookup(at)
      }
      return { records: { ...records, lookup } }
    }),
    counts: { refreshed: 1 },
    ct: [entry(500)],
    nat: 2
  },
  {
    title: "that changes, and is as expired as before, goes",
    twin: around(refresh(99)),
    counts: { deleted: 1 },
    ct: [],
    nat: 0
  },
  {
    title: "that the datapath makes anew is not overwritten, and keeps its mapping (G2)",
    twin: around(refresh(500), (table, at) => void table.update(at, ctValue(700))),
    counts: { deleted: 1 },
    ct: [entry(700)],
    nat: 2,
    natKept: 1
  },
  {
    title: "that somebody else deletes first counts as vanished, and leaves NAT alone (G9)",
    twin: around((table, at) => void table.delete(at)),
    counts: { vanished: 1 },
    ct: [],
    nat: 2
  },
  {
    title: "whose bucket cannot be locked stays",
    twin: around(() => -16),
    counts: { busy: 1 },
    ct: [entry(50)],
    nat: 2
  }
]

describe("an expired entry", () => {
  for (const { title, twin: racing, counts, natKept = 0, ...left } of races)
    it.effect(title, () =>
      Effect.gen(function* () {
        assert.deepStrictEqual(yield* sweepOne, { counts: { ...none, ...counts }, natKept, ...left })
      }).pipe(Effect.provide(kernel(racing)))
    )
})

describe("NAT clean-up whose bucket cannot be locked", () => {
  const busy = meanwhile(({ nat }) => (nat === undefined ? {} : { nat: { ...nat, delete: () => -16 } }))
  it.effect("fails for that entry, in a sweep", () =>
    Effect.gen(function* () {
      const { counts, nat } = yield* sweepOne
      assert.deepStrictEqual([counts.deleted, nat], [1, 2])
    }).pipe(Effect.provide(kernel(busy)))
  )
  it.effect(
    "fails for that entry and goes on to the next, by single calls; without the right to, it fails as a whole",
    () =>
      Effect.gen(function* () {
        const control = yield* BpfMemory.Control
        const maps = yield* pair("ipv4")
        maps.nat.put(key("ipv4", out), natValue("ipv4", 9, 5001))
        const target = { ct: maps.ct.table, nat: maps.nat.table, family: "ipv4" } as const
        const cleanUp = yield* NatCleanUp.make(target, { engine: "portable" })
        const deleted = { keys: new Uint8Array(28), flags: new Uint32Array(2), verdicts: new Uint8Array(2) }
        deleted.keys.set(key("ipv4", ct()))
        deleted.keys.set(key("ipv4", ct(TupleFlags.IN)), 14)
        control.failNext("delete", 16)
        assert.deepInclude(cleanUp.run(deleted, 2), { failed: 1, egress: 0 })
        assert.deepStrictEqual([...deleted.verdicts], [NatCleanUp.verdict.failed, NatCleanUp.verdict.none])
        control.failNext("delete", 1)
        assert.strictEqual(cleanUp.run(deleted, 2), -1)
        control.failNext("lookup", 9)
        assert.strictEqual(cleanUp.run(deleted, 2), -9)
      }).pipe(Effect.provide(kernel()))
  )
})

describe("a kernel that does not let us", () => {
  const refused = Effect.gen(function* () {
    const control = yield* BpfMemory.Control
    const maps = yield* pair("ipv4")
    const target = { ct: maps.ct.table, nat: maps.nat.table, family: "ipv4" } as const
    const asked = (back_: () => void) =>
      Effect.gen(function* () {
        const error = yield* Effect.flip(KernelSweep.make(target))
        const demanded = yield* Effect.flip(NatCleanUp.make(target, { engine: "program" }))
        const { engine, refusal } = yield* NatCleanUp.make(target)
        back_()
        assert.deepStrictEqual([engine, refusal], ["portable", demanded])
        return error
      })
    return { control, asked }
  })

  it.effect("is named: it has no such programs", () =>
    Effect.gen(function* () {
      const { asked } = yield* refused
      const error = yield* asked(() => {})
      assert.strictEqual(
        error.message,
        "load program of map sweep_ct: this kernel lacks programs of type syscall that walk a map (Linux 5.14) (errno 22)"
      )
    }).pipe(Effect.provide(kernel(twin, { programs: false })))
  )
  it.effect("is named: it has no shared arrays", () =>
    Effect.gen(function* () {
      const { asked } = yield* refused
      assert.strictEqual((yield* asked(() => {})).reason._tag, "FeatureUnsupported")
    }).pipe(Effect.provide(kernel(twin, { mmapable: false })))
  )
  it.effect("is named: CAP_BPF is missing", () =>
    Effect.gen(function* () {
      const { asked, control } = yield* refused
      assert.strictEqual((yield* asked(control.asUser(1000))).reason._tag, "NotPermitted")
    }).pipe(Effect.provide(kernel()))
  )
})

describe("when any one call to the kernel fails", () => {
  const target = Effect.map(
    pair("ipv4"),
    (maps) => ({ ct: maps.ct.table, nat: maps.nat.table, family: "ipv4" }) as const
  )
  const actions = {
    "a sweep": Effect.gen(function* () {
      const sweep = yield* KernelSweep.make(yield* target)
      yield* sweep.run({ now: 5 })
    }),
    "a sweep without NAT": Effect.gen(function* () {
      const sweep = yield* KernelSweep.make({ ...(yield* target), nat: undefined })
      yield* sweep.run({ now: 5 })
    }),
    "NAT clean-up": Effect.gen(function* () {
      const cleanUp = yield* NatCleanUp.make(yield* target)
      cleanUp.run({ keys: new Uint8Array(14), flags: new Uint32Array(1), verdicts: new Uint8Array(1) }, 1)
    })
  }
  // What cannot be loaded is done without, as long as there is another.
  const steps = ["map create", "map memory", "run program"]
  const operations: Readonly<Record<string, ReadonlyArray<string>>> = {
    "a sweep": ["map info", ...steps],
    "a sweep without NAT": ["map info", ...steps]
  }
  for (const [name, action] of Object.entries(actions))
    it.effect(`${name} fails with an error or not at all, and leaves nothing open`, () =>
      Effect.gen(function* () {
        const control = yield* BpfMemory.Control
        const bpf = yield* Bpf.Bpf
        const failures = new Set<string>()
        // Memory that the kernel does not take back stays.
        let isMapped = false
        control.onCall((call, _, result) => (isMapped ||= call === "unmapMemory" && result === -5), "after")
        // The first two make the maps.
        for (let skip = 2; skip < 80; skip++) {
          const [before, living] = [control.count(), control.living().length]
          isMapped = false
          control.failNext("any", 5, { skip })
          // A kernel that nothing is known of yet.
          const again = Effect.provideService(Effect.scoped(action), Bpf.Bpf, { ...bpf })
          const result = yield* Effect.result(again)
          const calls = control.count() - before
          control.clearFaults()
          if (result._tag === "Failure") failures.add(result.failure.operation)
          assert.deepStrictEqual(control.openFds(), [], `call ${skip + 1}`)
          assert.lengthOf(control.living(), living + (isMapped ? 1 : 0), `call ${skip + 1}`)
          if (calls <= skip) return assert.deepStrictEqual([...failures], operations[name] ?? [])
        }
        return assert.fail("it never succeeded")
      }).pipe(Effect.provide(kernel()))
    )
})

describe("interrupted while a program is loaded", () => {
  for (const what of ["a sweep", "NAT clean-up"] as const)
    it.effect(`${what} leaves nothing open`, () =>
      Effect.gen(function* () {
        const control = yield* BpfMemory.Control
        const maps = yield* pair("ipv4")
        const target = { ct: maps.ct.table, nat: maps.nat.table, family: "ipv4" } as const
        const before = [control.living().length, control.openFds().length]
        const make: Effect.Effect<unknown, unknown, Bpf.Bpf | Scope.Scope> =
          what === "a sweep" ? KernelSweep.make(target) : NatCleanUp.make(target)
        const loading = yield* Effect.forkChild(Effect.scoped(make), { startImmediately: true })
        assert.isAbove(control.living().length, before[0]!)
        yield* Fiber.interrupt(loading)
        assert.deepStrictEqual([control.living().length, control.openFds().length], before)
        assert.strictEqual(control.count("loadObject"), 0)
      }).pipe(Effect.scoped, Effect.provide(kernel()))
    )
})
