/**
 * What the sweep and NAT clean-up promise, as cases for any kernel: the real one and its twin run the same.
 */
import { assert, describe, it } from "@effect/vitest"
import { CtColumns, CtEntryFlags, Family, NatEntry, Tuple, TupleFlags } from "ctmap-core"
import * as Bpf from "ctmap-kernel/Bpf"
import type { BpfError } from "ctmap-kernel/BpfError"
import type * as CompareAndDelete from "ctmap-kernel/CompareAndDelete"
import * as KernelSweep from "ctmap-kernel/KernelSweep"
import * as NatCleanUp from "ctmap-kernel/NatCleanUp"
import { Recorded } from "ctmap-testing"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"

const HASH = 1
const LRU_HASH = 9
const { verdict } = NatCleanUp
const { OUT, IN, SERVICE, RELATED } = TupleFlags
const DSR = CtEntryFlags.DSRInternal

/** A tuple in few words: hosts are numbers, ports are host order. */
export interface Flow {
  readonly daddr: number
  readonly saddr: number
  readonly dport: number
  readonly sport: number
  readonly flags: number
}

/** Client 1 at port 4001 to server 2 at port 80, as the CT map has it: addresses reversed, ports straight. */
export const ct = (flags: number = OUT, sport = 4001): Flow => ({ daddr: 1, saddr: 2, dport: 80, sport, flags })
/** The OUT half of its mapping: translated to host 9, port 5001. */
export const out: Flow = { daddr: 2, saddr: 1, dport: 80, sport: 4001, flags: OUT }
/** The IN half. */
export const back: Flow = { daddr: 9, saddr: 2, dport: 5001, sport: 80, flags: IN }
/** The mapping of direct server return. */
export const dsr: Flow = { daddr: 1, saddr: 2, dport: 4001, sport: 80, flags: OUT }

export const address = (family: Family.Family, host: number): Uint8Array =>
  Uint8Array.from({ length: Family.addressSize(family) }, (_, i) => (i === 0 ? 0xfd : i === 3 ? host : i))

export const key = (family: Family.Family, flow: Flow): Uint8Array => {
  const tuple = Tuple.shape(family)
  const bytes = new Uint8Array(tuple.size)
  const { daddr, saddr, ...rest } = flow
  const fields = { ...rest, daddr: address(family, daddr), saddr: address(family, saddr), nexthdr: 6 }
  Tuple.write(fields, tuple, new DataView(bytes.buffer), 0)
  return bytes
}

export const ctValue = (lifetime: number, flags = 0): Uint8Array => {
  const bytes = Uint8Array.from({ length: 56 }, (_, i) => i + 100)
  const view = new DataView(bytes.buffer)
  view.setUint32(32, lifetime, true)
  view.setUint16(36, flags, true)
  return bytes
}

export const natValue = (family: Family.Family, host: number, port: number): Uint8Array => {
  const nat = NatEntry.shape(family)
  const bytes = new Uint8Array(nat.size)
  bytes.set(address(family, host), nat.address)
  new DataView(bytes.buffer).setUint16(nat.port, port)
  return bytes
}

export interface Map {
  readonly table: CompareAndDelete.Table
  readonly put: (key: Uint8Array, value: Uint8Array) => void
  readonly has: (key: Uint8Array) => boolean
  readonly all: () => ReadonlyArray<string>
}

/** A map of a test. */
export const map = (
  name: string,
  keySize: number,
  valueSize: number,
  { type = LRU_HASH, maxEntries = 4096 } = {}
): Effect.Effect<Map, never, Bpf.Bpf | Scope.Scope> =>
  Effect.gen(function* () {
    const kernel = yield* Bpf.Bpf
    const fd = yield* Effect.acquireRelease(
      Effect.sync(() => kernel.mapCreate({ type, keySize, valueSize, maxEntries, flags: 0 }, name)),
      (opened) => Effect.sync(() => kernel.close(opened))
    )
    assert.isAtLeast(fd, 0)
    const value = new Uint8Array(valueSize)
    return {
      table: { fd, keySize, valueSize, name },
      put: (at, bytes) => assert.strictEqual(kernel.update(fd, at, bytes, Bpf.ANY), 0),
      has: (at) => kernel.lookup(fd, at, value) >= 0,
      all: () => {
        const found: Array<string> = []
        const next = new Uint8Array(keySize)
        for (let at: Uint8Array | null = null; kernel.nextKey(fd, at, next) === 0; at = next.slice()) {
          kernel.lookup(fd, next, value)
          found.push(`${hex(next)} ${hex(value)}`)
        }
        return found.toSorted()
      }
    }
  })

export const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex")

export const pair = (family: Family.Family, type = LRU_HASH) =>
  Effect.all({
    ct: map("sweep_ct", Tuple.shape(family).size, 56, { type }),
    nat: map("sweep_nat", Tuple.shape(family).size, NatEntry.shape(family).size, { type })
  })

const totals = (counts: Partial<NatCleanUp.Totals>): NatCleanUp.Totals => ({
  egress: 0,
  ingress: 0,
  absent: 0,
  halves: 0,
  kept: 0,
  failed: 0,
  ...counts
})

interface NatCase {
  readonly title: string
  /** Tuple flags and entry flags of the CT entry that goes. */
  readonly flags?: number
  readonly entryFlags?: number
  /** NAT entries that are there, by flow, with where they lead. */
  readonly nat: ReadonlyArray<readonly [flow: Flow, host: number, port: number]>
  readonly verdict: NatCleanUp.Verdict
  readonly totals: Partial<NatCleanUp.Totals>
  /** Which of `nat` are there afterwards. */
  readonly left: ReadonlyArray<number>
}

const whole = [
  [out, 9, 5001],
  [back, 1, 4001]
] as const
const nothing = { verdict: "none", totals: {}, nat: whole, left: [0, 1] } as const

const natCases: ReadonlyArray<NatCase> = [
  {
    title: "both halves of a mapping go",
    nat: whole,
    verdict: "mapping",
    totals: { egress: 1, ingress: 1 },
    left: []
  },
  { title: "no mapping, nothing goes", nat: [], verdict: "absent", totals: { absent: 1 }, left: [] },
  {
    title: "an OUT half without its IN half goes",
    nat: [[out, 9, 5001]],
    verdict: "outOnly",
    totals: { egress: 1, halves: 1 },
    left: []
  },
  {
    title: "an IN half without its OUT half stays: nothing leads to it",
    nat: [[back, 1, 4001]],
    verdict: "absent",
    totals: { absent: 1 },
    left: [0]
  },
  {
    title: "an IN half that leads to another port stays",
    nat: [
      [out, 9, 5001],
      [back, 1, 4002]
    ],
    verdict: "outOnly",
    totals: { egress: 1, halves: 1 },
    left: [1]
  },
  {
    title: "an IN half that leads to another host stays",
    nat: [
      [out, 9, 5001],
      [back, 3, 4001]
    ],
    verdict: "outOnly",
    totals: { egress: 1, halves: 1 },
    left: [1]
  },
  {
    title: "of direct server return, the mapping with its ports exchanged goes, and no other",
    entryFlags: DSR,
    nat: [...whole, [dsr, 7, 8080]],
    verdict: "swapped",
    totals: { egress: 1 },
    left: [0, 1]
  },
  {
    title: "of direct server return without a mapping, nothing goes",
    entryFlags: DSR,
    nat: whole,
    verdict: "absent",
    totals: { absent: 1 },
    left: [0, 1]
  },
  {
    title: "other entry flags change nothing",
    entryFlags: 0xff7f,
    nat: [...whole, [dsr, 7, 8080]],
    verdict: "mapping",
    totals: { egress: 1, ingress: 1 },
    left: [2]
  },
  { title: "an ingress entry owns nothing", flags: IN, ...nothing },
  { title: "a service entry owns nothing", flags: SERVICE, ...nothing },
  { title: "a related entry owns nothing", flags: RELATED, ...nothing },
  { title: "a related ingress entry owns nothing", flags: RELATED | IN, ...nothing },
  { title: "tuple flags nobody knows own nothing, not even with DSR", flags: 0x80, entryFlags: DSR, ...nothing }
]

const natCase = (family: Family.Family, type: number, by: "sweep" | NatCleanUp.NatCleanUp["engine"], of: NatCase) =>
  Effect.gen(function* () {
    const { flags = OUT, entryFlags = 0 } = of
    const maps = yield* pair(family, type)
    const bystander: Flow = { ...out, sport: 4999 }
    for (const [flow, host, port] of [...of.nat, [bystander, 9, 5999] as const])
      maps.nat.put(key(family, flow), natValue(family, host, port))
    const gone = key(family, ct(flags))
    if (by === "sweep") {
      const sweep = yield* KernelSweep.make({ ct: maps.ct.table, nat: maps.nat.table, family })
      maps.ct.put(gone, ctValue(99, entryFlags))
      const dry = yield* sweep.run({ now: 100, dryRun: true })
      assert.deepStrictEqual([dry.nat, dry.natVerdict(0)], [totals(of.totals), verdict[of.verdict]], "dry")
      const run = yield* sweep.run({ now: 100 })
      assert.deepStrictEqual([run.nat, run.natVerdict(0)], [totals(of.totals), verdict[of.verdict]])
      assert.strictEqual(run.deleted, 1)
    } else {
      const cleanUp = yield* NatCleanUp.make({ ct: maps.ct.table, nat: maps.nat.table, family }, { engine: by })
      assert.strictEqual(cleanUp.engine, by)
      const deleted = { keys: gone, flags: Uint32Array.of(entryFlags), verdicts: new Uint8Array(1).fill(255) }
      assert.deepStrictEqual(cleanUp.run(deleted, 1, { dryRun: true }), totals(of.totals), "dry")
      assert.deepStrictEqual([...deleted.verdicts], [verdict[of.verdict]], "dry")
      assert.deepStrictEqual(cleanUp.run(deleted, 1), totals(of.totals))
      assert.deepStrictEqual([...deleted.verdicts], [verdict[of.verdict]])
    }
    const left = of.nat.flatMap(([flow], i) => (maps.nat.has(key(family, flow)) ? [i] : []))
    assert.deepStrictEqual(left, of.left)
    assert.isTrue(maps.nat.has(key(family, bystander)))
  })

const connectionBack = (family: Family.Family, engine: NatCleanUp.NatCleanUp["engine"]) =>
  Effect.gen(function* () {
    const maps = yield* pair(family)
    for (const [flow, host, port] of [...whole, [dsr, 7, 8080] as const])
      maps.nat.put(key(family, flow), natValue(family, host, port))
    maps.ct.put(key(family, ct()), ctValue(1))
    const cleanUp = yield* NatCleanUp.make({ ct: maps.ct.table, nat: maps.nat.table, family }, { engine })
    const size = Tuple.shape(family).size
    const deleted = { keys: new Uint8Array(3 * size), flags: Uint16Array.of(0, DSR, 0), verdicts: new Uint8Array(3) }
    deleted.keys.set(key(family, ct()))
    deleted.keys.set(key(family, ct()), size)
    deleted.keys.set(key(family, ct(OUT, 4002)), 2 * size)
    assert.deepStrictEqual(cleanUp.run(deleted, 2, { from: 1 }), totals({ kept: 1, absent: 1 }))
    assert.deepStrictEqual(cleanUp.run(deleted, 1), totals({ kept: 1 }))
    assert.deepStrictEqual([...deleted.verdicts], [verdict.kept, verdict.kept, verdict.absent])
    assert.lengthOf(maps.nat.all(), 3)
  })

const manyCandidates = (family: Family.Family) =>
  Effect.gen(function* () {
    const count = 1024
    const outcomes = yield* Effect.forEach(["program", "portable"] as const, (engine) =>
      Effect.scoped(
        Effect.gen(function* () {
          const maps = yield* pair(family)
          const cleanUp = yield* NatCleanUp.make({ ct: maps.ct.table, nat: maps.nat.table, family }, { engine })
          assert.strictEqual(cleanUp.capacity, count)
          let state = 4711
          const next = (n: number): number => ((state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0) >>> 8) % n
          const size = Tuple.shape(family).size
          const deleted = {
            keys: new Uint8Array(count * size),
            flags: new Uint32Array(count),
            verdicts: new Uint8Array(count)
          }
          for (let i = 0; i < count; i++) {
            const sport = 10_000 + i
            const flags = [OUT, OUT, OUT, IN, SERVICE][next(5)]!
            deleted.keys.set(key(family, ct(flags, sport)), i * size)
            deleted.flags[i] = next(4) === 0 ? DSR : 0
            if (next(6) === 0) maps.ct.put(key(family, ct(flags, sport)), ctValue(5))
            if (next(4) > 0) maps.nat.put(key(family, { ...out, sport }), natValue(family, 9, sport))
            if (next(4) > 0)
              maps.nat.put(key(family, { ...back, dport: sport }), natValue(family, 1, next(3) > 0 ? sport : 1))
            if (next(2) > 0) maps.nat.put(key(family, { ...dsr, dport: sport }), natValue(family, 7, 8080))
          }
          const sums = cleanUp.run(deleted, count)
          return { sums, verdicts: [...deleted.verdicts], nat: maps.nat.all() }
        })
      )
    )
    const seen = new Set(outcomes[0]?.verdicts)
    assert.sameMembers([...seen], [0, 1, 2, 3, 4, 5])
    assert.deepStrictEqual(outcomes[0], outcomes[1])
  })

const natRefusals = (engine: NatCleanUp.NatCleanUp["engine"]) =>
  Effect.gen(function* () {
    const maps = yield* pair("ipv4")
    const target = { ct: maps.ct.table, nat: maps.nat.table, family: "ipv4" } as const
    const cleanUp = yield* NatCleanUp.make(target, { engine })
    const of = (n: number) => ({
      keys: new Uint8Array(14 * n),
      flags: new Uint32Array(n),
      verdicts: new Uint8Array(n)
    })
    assert.strictEqual(cleanUp.run(of(1025), 1025), -22)
    assert.strictEqual(cleanUp.run(of(4), 5), -22)
    assert.strictEqual(cleanUp.run(of(4), 1, { from: -1 }), -22)
    assert.strictEqual(cleanUp.run(of(4), 2, { from: 3 }), -22)
    assert.strictEqual(cleanUp.run({ ...of(4), flags: new Uint32Array(1) }, 2), -22)
    assert.strictEqual(cleanUp.run({ ...of(4), verdicts: new Uint8Array(1) }, 2), -22)
    assert.deepStrictEqual(cleanUp.run(of(4), 0), totals({}))
  })

const counts = ({ seen, kept, deleted, refreshed, vanished, restored, busy, stopped }: KernelSweep.Run) => ({
  seen,
  kept,
  deleted,
  refreshed,
  vanished,
  restored,
  busy,
  stopped
})

export const noCounts = counts({
  seen: 0,
  kept: 0,
  deleted: 0,
  refreshed: 0,
  vanished: 0,
  restored: 0,
  busy: 0,
  stopped: false
} as KernelSweep.Run)

const byLifetime = (family: Family.Family, type: number) =>
  Effect.gen(function* () {
    const { ct: table } = yield* pair(family, type)
    const lifetimes = [0, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_fffe, 0xffff_ffff]
    const sweep = yield* KernelSweep.make({ ct: table.table, nat: undefined, family })
    assert.deepInclude(counts(yield* sweep.run({ now: 5 })), noCounts, "an empty map")
    for (const now of [0, 1, 2, 0x8000_0000, 0x8000_0001, 0xffff_ffff]) {
      for (const [i, lifetime] of lifetimes.entries()) table.put(key(family, ct(OUT, i)), ctValue(lifetime))
      const expired = lifetimes.filter((lifetime) => lifetime < now)
      const run = yield* sweep.run({ now })
      assert.deepStrictEqual(counts(run), {
        ...noCounts,
        seen: lifetimes.length,
        kept: lifetimes.length - expired.length,
        deleted: expired.length
      })
      assert.deepStrictEqual(
        lifetimes.filter((_, i) => table.has(key(family, ct(OUT, i)))),
        lifetimes.filter((lifetime) => lifetime >= now)
      )
    }
  })

const recordsAsRead = (family: Family.Family) =>
  Effect.gen(function* () {
    const { ct: table } = yield* pair(family)
    const sweep = yield* KernelSweep.make({ ct: table.table, nat: undefined, family })
    for (let i = 0; i < 50; i++) table.put(key(family, ct(i % 3, i)), ctValue(i, i))
    const before = table.all()
    const { records, natVerdict } = yield* sweep.run({ now: 40 })
    assert.strictEqual(records.count, 40)
    const columns = new CtColumns.CtColumns({ family, release: "1.17" }).bind(records)
    const shown = Array.from({ length: 40 }, (_, i) => {
      const { keys, values, keyStart, keyStride, valueStart, valueStride } = records
      const at = (view: DataView, from: number, size: number) =>
        new Uint8Array(view.buffer, view.byteOffset + from, size)
      const bytes = at(keys, keyStart + i * keyStride, Tuple.shape(family).size)
      return `${hex(bytes)} ${hex(at(values, valueStart + i * valueStride, 56))}`
    })
    assert.deepStrictEqual([...shown, ...table.all()].toSorted(), before)
    const lifetimes = Array.from({ length: 40 }, (_, i) => columns.lifetime(i)).toSorted((a, b) => a - b)
    assert.deepStrictEqual(
      lifetimes,
      Array.from({ length: 40 }, (_, i) => i)
    )
    for (let i = 0; i < 40; i++) assert.strictEqual(natVerdict(i), verdict.none)
  })

const fullRecords = (family: Family.Family) =>
  Effect.gen(function* () {
    const maps = yield* pair(family)
    const sweep = yield* KernelSweep.make({ ct: maps.ct.table, nat: maps.nat.table, family, capacity: 8 })
    assert.strictEqual(sweep.capacity, 8)
    for (let i = 0; i < 20; i++) maps.ct.put(key(family, ct(OUT, i)), ctValue(i < 3 ? 100 : 1))
    const dry = yield* sweep.run({ now: 50, dryRun: true })
    assert.deepStrictEqual(counts(dry), { ...noCounts, seen: 20, kept: 3, deleted: 17 })
    assert.deepStrictEqual([dry.records.count, dry.nat.absent], [8, 17])
    assert.lengthOf(maps.ct.all(), 20)
    const runs: Array<[deleted: number, stopped: boolean, records: number]> = []
    for (let from: number | undefined = 0; from !== undefined;) {
      const run: KernelSweep.Run = yield* sweep.run({ now: 50, from })
      const { seen, kept, deleted, stopped, records } = run
      assert.strictEqual(seen, kept + deleted)
      assert.strictEqual(records.count, deleted)
      runs.push([deleted, stopped, records.count])
      from = run.next
    }
    if (sweep.resumes) assert.isTrue(runs.every(([deleted]) => deleted <= 8))
    else
      assert.deepStrictEqual(runs, [
        [8, true, 8],
        [8, true, 8],
        [1, false, 1]
      ])
    assert.strictEqual(
      runs.reduce((sum, [deleted]) => sum + deleted, 0),
      17
    )
    assert.lengthOf(maps.ct.all(), 3)
  })

/** The whole table, piece by piece. */
const pieces = (family: Family.Family, type: number) =>
  Effect.gen(function* () {
    const maps = yield* pair(family, type)
    const sweep = yield* KernelSweep.make({ ct: maps.ct.table, nat: maps.nat.table, family, mustResume: true })
    assert.isTrue(sweep.resumes)
    for (let i = 0; i < 3000; i++) maps.ct.put(key(family, ct(OUT, i)), ctValue(i % 3 === 0 ? 100 : 1))
    const sums = { seen: 0, kept: 0, deleted: 0, absent: 0, told: 0 }
    let runs = 0
    for (let from: number | undefined = 0; from !== undefined; runs++) {
      const run: KernelSweep.Run = yield* sweep.run({ now: 50, from, callTarget: "1 nanos" })
      assert.isFalse(run.stopped)
      assert.isAbove(run.millis, 0)
      assert.isBelow(run.deleted, 1024)
      sums.seen += run.seen
      sums.kept += run.kept
      sums.deleted += run.deleted
      sums.absent += run.nat.absent
      sums.told += run.records.count
      from = run.next
    }
    assert.isAbove(runs, 8)
    assert.deepStrictEqual(sums, { seen: 3000, kept: 1000, deleted: 2000, absent: 2000, told: 2000 })
    assert.lengthOf(maps.ct.all(), 1000)
    const rest = yield* sweep.run({ now: 200, records: false })
    assert.deepStrictEqual([rest.deleted, rest.next, rest.records.count], [1000, undefined, 0])
    assert.lengthOf(maps.ct.all(), 0)
  })

/** Elements whose memory comes and goes with them. */
const notPreallocated = Effect.gen(function* () {
  const kernel = yield* Bpf.Bpf
  const sizes = { keySize: 14, valueSize: 56 }
  const fd = yield* Effect.acquireRelease(
    Effect.sync(() => kernel.mapCreate({ type: HASH, ...sizes, maxEntries: 64, flags: 1 }, "sweep_malloc")),
    (opened) => Effect.sync(() => kernel.close(opened))
  )
  const target = { ct: { fd, ...sizes, name: "sweep_malloc" }, nat: undefined, family: "ipv4" } as const
  kernel.update(fd, key("ipv4", ct()), ctValue(1), Bpf.ANY)
  const error = yield* Effect.flip(KernelSweep.make({ ...target, mustResume: true }))
  assert.strictEqual(error.reason._tag, "FeatureUnsupported")
  const sweep = yield* KernelSweep.make(target)
  assert.isFalse(sweep.resumes)
  assert.strictEqual((yield* sweep.run({ now: 2 })).deleted, 1)
})

const limited = (family: Family.Family) =>
  Effect.gen(function* () {
    const { ct: table } = yield* pair(family)
    const sweep = yield* KernelSweep.make({ ct: table.table, nat: undefined, family })
    assert.strictEqual(sweep.capacity, 1024)
    for (let i = 0; i < 10; i++) table.put(key(family, ct(OUT, i)), ctValue(1))
    const ran = (limit: number) => Effect.map(sweep.run({ now: 2, limit }), (run) => [run.deleted, run.stopped])
    assert.deepStrictEqual(yield* ran(0), [0, true])
    assert.deepStrictEqual(yield* ran(4), [4, true])
    assert.deepStrictEqual(yield* ran(6), [6, false], "as many as there are")
    assert.deepStrictEqual(yield* ran(0), [0, false])
    for (let i = 0; i < 500; i++) table.put(key(family, ct(OUT, i)), ctValue(1))
    for (const limit of [100, 33, 64, 1]) {
      const run = yield* sweep.run({ now: 2, limit })
      assert.deepStrictEqual([run.deleted, run.records.count, run.stopped], [limit, limit, true], `${limit} at most`)
    }
    assert.lengthOf(table.all(), 500 - 198)
  })

const recorded = (set: Recorded.SetName, now: number) =>
  Effect.gen(function* () {
    const before = Recorded.tables(set, "before")
    const after = Recorded.tables(set, "after-gc")
    const rows = (table: Recorded.Table | undefined): ReadonlyArray<string> =>
      Array.from({ length: table?.count ?? 0 }, (_, i) => {
        const { keys, values, keySize, valueSize } = table!
        const at = (bytes: Uint8Array, size: number) => hex(bytes.subarray(i * size, (i + 1) * size))
        return `${at(keys, keySize)} ${at(values, valueSize)}`
      }).toSorted()
    const load = (name: string, keySize: number, valueSize: number) =>
      Effect.map(map(name.slice(0, 15), keySize, valueSize, { type: HASH, maxEntries: 65_536 }), (made) => {
        const table = before.get(name)
        for (let i = 0; i < (table?.count ?? 0); i++)
          made.put(
            table!.keys.subarray(i * keySize, (i + 1) * keySize),
            table!.values.subarray(i * valueSize, (i + 1) * valueSize)
          )
        return made
      })
    let deleted = 0
    for (const family of Family.all) {
      const number = family === "ipv4" ? 4 : 6
      const size = Tuple.shape(family).size
      const natName = `cilium_snat_v${number}_external`
      const nat = yield* load(natName, size, NatEntry.shape(family).size)
      for (const name of [`cilium_ct${number}_global`, `cilium_ct_any${number}_global`]) {
        const table = yield* load(name, size, 56)
        const sweep = yield* KernelSweep.make({ ct: table.table, nat: nat.table, family, capacity: 65_536 })
        deleted += (yield* sweep.run({ now })).deleted
        assert.deepStrictEqual(table.all(), rows(after.get(name)), name)
      }
      assert.deepStrictEqual(nat.all(), rows(after.get(natName)), natName)
    }
    assert.isAbove(deleted, 100)
  })

const interrupted = Effect.gen(function* () {
  const { ct: table } = yield* pair("ipv4")
  for (let i = 0; i < 10; i++) table.put(key("ipv4", ct(OUT, i)), ctValue(1))
  const scope = yield* Scope.make()
  const sweep = yield* KernelSweep.make({ ct: table.table, nat: undefined, family: "ipv4" }).pipe(Scope.provide(scope))
  const running = yield* Effect.forkDetach(sweep.run({ now: 2 }), { startImmediately: true })
  assert.isUndefined(running.pollUnsafe(), "the caller goes on")
  yield* Scope.close(scope, Exit.void)
  assert.isDefined(running.pollUnsafe(), "the scope waits for the run")
  assert.strictEqual((yield* Fiber.join(running)).deleted, 10)
  const error = yield* Effect.flip(sweep.run({ now: 2 }))
  assert.deepStrictEqual([error.operation, error.errno], ["run program", 9])
})

const oddNow = Effect.gen(function* () {
  const { ct: table } = yield* pair("ipv4")
  table.put(key("ipv4", ct()), ctValue(1))
  const sweep = yield* KernelSweep.make({ ct: table.table, nat: undefined, family: "ipv4" })
  for (const now of [-1, 0.5, 2 ** 32, Number.NaN]) {
    const error = yield* Effect.flip(sweep.run({ now }))
    assert.strictEqual(error.reason._tag, "InvalidArgument")
  }
  assert.lengthOf(table.all(), 1)
})

const wrongSizes = Effect.gen(function* () {
  const four = yield* pair("ipv4")
  const six = yield* pair("ipv6")
  for (const target of [
    { ct: six.ct.table, nat: undefined, family: "ipv4" },
    { ct: four.nat.table, nat: undefined, family: "ipv4" },
    { ct: four.ct.table, nat: six.nat.table, family: "ipv4" },
    { ct: six.ct.table, nat: four.nat.table, family: "ipv6" },
    { ct: four.ct.table, nat: four.ct.table, family: "ipv4" }
  ] as const) {
    const error = yield* Effect.flip(KernelSweep.make(target))
    assert.strictEqual(error.reason._tag, "InvalidArgument")
    if (target.nat !== undefined) {
      const other = yield* Effect.flip(NatCleanUp.make({ ...target, nat: target.nat }, { engine: "portable" }))
      assert.strictEqual(other.reason._tag, "InvalidArgument")
    }
  }
})

/** The same kernel, which has no program that resumes. */
const withoutWalk = (kernel: Layer.Layer<Bpf.Bpf, BpfError>): Layer.Layer<Bpf.Bpf, BpfError> =>
  Layer.effect(
    Bpf.Bpf,
    Effect.map(Bpf.Bpf, (bpf) => ({
      ...bpf,
      loadObjectAsync: (spec, done) =>
        spec.programs.some((name) => name.startsWith("walk"))
          ? void setImmediate(() => done({ errno: 22, log: "" }))
          : bpf.loadObjectAsync(spec, done)
    }))
  ).pipe(Layer.provide(kernel))

/** Runs every case on a kernel. */
export const cases = (kernel: Layer.Layer<Bpf.Bpf, BpfError>): void => {
  sweepCases(kernel, true)
  describe("in one stretch", () => {
    sweepCases(withoutWalk(kernel), false)
  })
  otherCases(kernel)
}

/** What a sweep does, by the program that resumes and by the one that does not. */
const sweepCases = (kernel: Layer.Layer<Bpf.Bpf, BpfError>, resumes: boolean): void => {
  const test = (title: string, effect: Effect.Effect<unknown, unknown, Bpf.Bpf | Scope.Scope>) =>
    it.effect(title, () => effect.pipe(Effect.provide(kernel)))
  const types = { HASH, LRU_HASH }

  test(
    "takes the program that it can have",
    Effect.gen(function* () {
      const { ct: table } = yield* pair("ipv4")
      const sweep = yield* KernelSweep.make({ ct: table.table, nat: undefined, family: "ipv4" })
      assert.strictEqual(sweep.resumes, resumes)
    })
  )
  for (const family of Family.all) {
    describe(`NAT clean-up, ${family}, by a sweep`, () => {
      for (const [name, type] of Object.entries(types))
        for (const of of natCases) test(`${of.title}, ${name}`, natCase(family, type, "sweep", of))
    })
    describe(`a sweep, ${family}`, () => {
      for (const [name, type] of Object.entries(types)) {
        test(`deletes what is one unit past its lifetime, and nothing at it, ${name}`, byLifetime(family, type))
        if (resumes) test(`goes on where it was told to stop, ${name}`, pieces(family, type))
      }
      test("records keys and values as they were read", recordsAsRead(family))
      test("stops before its records are full, and goes on when it is run again", fullRecords(family))
      test("deletes no more than it is allowed to", limited(family))
    })
  }
  test("leaves of the recorded tables what Cilium's own collector left: pods-ktime", recorded("pods-ktime", 5462))
  test(
    "leaves of the recorded tables what Cilium's own collector left: nat-orphans-ktime",
    recorded("nat-orphans-ktime", 5495)
  )
  test("does not walk elements that are not preallocated", notPreallocated)
  test("a scope waits for the run that is under way, and none begins after it", interrupted)
  test("refuses a time that is no u32, and touches nothing", oddNow)
}

const otherCases = (kernel: Layer.Layer<Bpf.Bpf, BpfError>): void => {
  const test = (title: string, effect: Effect.Effect<unknown, unknown, Bpf.Bpf | Scope.Scope>) =>
    it.effect(title, () => effect.pipe(Effect.provide(kernel)))
  const types = { HASH, LRU_HASH }

  for (const family of Family.all) {
    describe.each(["program", "portable"] as const)(`NAT clean-up, ${family}, by %s`, (by) => {
      for (const [name, type] of Object.entries(types))
        for (const of of natCases) test(`${of.title}, ${name}`, natCase(family, type, by, of))
    })
    for (const engine of ["program", "portable"] as const)
      test(`a connection that is back keeps its mapping (G2), ${family}, by ${engine}`, connectionBack(family, engine))
    test(`program and portable do the same to many, ${family}`, manyCandidates(family))
  }
  for (const engine of ["program", "portable"] as const)
    test(`refuses ranges that reach beyond the candidates: ${engine}`, natRefusals(engine))
  test("leaves of the recorded tables what Cilium's own collector left: pods-ktime", recorded("pods-ktime", 5462))
  test("refuses maps of another family and maps in each other's place", wrongSizes)
}
