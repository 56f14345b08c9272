/**
 * Whether the programs of `bpf/walk.bpf.c` see and delete what they should: tried on a map of our own with known content,
 * once for each family. How a hash map stands in memory is an implementation detail of Linux; a program that took something
 * else for a lifetime would delete what is alive.
 */
import { type Family, Tuple } from "ctmap-core"
import * as Effect from "effect/Effect"
import type * as Bpf from "../Bpf.ts"
import type { BpfError } from "../BpfError.ts"
import * as Layout from "./sweepLayout.ts"
import * as Program from "./sweepProgram.ts"

const HASH = 1
const ARRAY = 2
const MMAPABLE = 1024
const ENTRIES = 300
/** Of the map and of the records. */
const SLOTS = 512
const ALIVE = 100
const U32 = 0xffff_ffff

/** What is known of a kernel: whether its walks can be trusted. What could not be tried is tried again. */
const known = new WeakMap<Bpf.Calls, Map<Family.Family, boolean>>()

/** Fails for a program that cannot be had, and for one that does something else to a map than it should. */
export const check = (kernel: Bpf.Calls, target: Program.Target, idle: Uint8Array): Effect.Effect<void, BpfError> =>
  Effect.suspend(() => {
    const families = known.get(kernel) ?? new Map<Family.Family, boolean>()
    known.set(kernel, families)
    const before = families.get(target.family)
    const isRight =
      before === undefined
        ? Effect.tap(tryOut(kernel, target, idle), (it) => Effect.sync(() => families.set(target.family, it)))
        : Effect.succeed(before)
    return Effect.flatMap(isRight, (it) => (it ? Effect.void : Effect.fail(Program.unsupported("walk", target.ct))))
  })

const tryOut = (
  kernel: Bpf.Calls,
  { ct, family }: Program.Target,
  idle: Uint8Array
): Effect.Effect<boolean, BpfError> =>
  Effect.scoped(
    Effect.gen(function* () {
      const create = (type: number, keySize: number, valueSize: number, flags: number) =>
        Effect.acquireRelease(
          Effect.suspend(() => {
            const fd = kernel.mapCreate({ type, keySize, valueSize, maxEntries: SLOTS, flags }, "ctmap_walk")
            return fd < 0 ? Effect.fail(Program.failure("map create", -fd, ct)) : Effect.succeed(fd)
          }),
          (fd) => Effect.sync(() => kernel.close(fd))
        )
      const { size } = Tuple.shape(family)
      const fd = yield* create(HASH, size, Layout.CT_VALUE, 0)
      const recordsFd = yield* create(ARRAY, 4, Layout.record.size, MMAPABLE)
      const records = yield* Effect.acquireRelease(
        Effect.suspend(() => {
          const memory = kernel.mapMemory(recordsFd, SLOTS * Layout.record.size)
          return typeof memory === "number"
            ? Effect.fail(Program.failure("map memory", -memory, ct))
            : Effect.succeed(memory)
        }),
        (memory) => Effect.sync(() => kernel.unmapMemory(memory))
      )
      const entries = Array.from({ length: ENTRIES }, (_, number) => recordOf(size, number))
      const [keys, values] = [new Uint8Array(ENTRIES * size), new Uint8Array(ENTRIES * Layout.CT_VALUE)]
      for (const [i, entry] of entries.entries()) {
        keys.set(entry.subarray(0, size), i * size)
        values.set(entry.subarray(Layout.record.value, Layout.record.nat), i * Layout.CT_VALUE)
      }
      const put = kernel.updateBatch(fd, keys, values, Uint32Array.of(ENTRIES))
      if (put < 0) return yield* Effect.fail(Program.failure("update batch", -put, ct))
      const { name, keySize, valueSize } = ct
      const own = { ct: { fd, name, keySize, valueSize }, nat: undefined, family }
      const loaded = yield* Effect.acquireRelease(
        Program.load(kernel, own, "walk", { records: recordsFd }, idle),
        (it) => Effect.sync(() => it.close())
      )
      // What has expired, which is every other one, then the rest.
      for (const [now, alive, parity] of [
        [ALIVE, ENTRIES / 2, 0],
        [U32, 0, 1]
      ] as const) {
        const context = new Uint32Array(Layout.sweep.words)
        context[Layout.sweep.now] = now
        context[Layout.sweep.limit] = context[Layout.sweep.enough] = SLOTS
        const rc = kernel.runProgram(loaded.fd, new Uint8Array(context.buffer))
        if (rc < 0) return yield* Effect.fail(Program.failure("run program", -rc, ct))
        const expected = entries.filter((_, i) => i % 2 === parity)
        if (!isAsExpected(context, alive, expected, records)) return false
      }
      return true
    })
  )

const isAsExpected = (
  context: Uint32Array,
  alive: number,
  expected: ReadonlyArray<Uint8Array>,
  records: Uint8Array
): boolean => {
  const { sweep, record } = Layout
  const { length } = expected
  const counts = [sweep.seen, sweep.kept, sweep.deleted, sweep.records, sweep.stopped, sweep.bucket]
  const wanted = [alive + length, alive, length, length, 0, 0]
  if (counts.some((at, i) => context[at] !== wanted[i])) return false
  const text = (bytes: Uint8Array): string => Buffer.from(bytes.subarray(0, record.nat)).toString("latin1")
  const found = new Set(
    Array.from({ length }, (_, i) => text(records.subarray(i * record.size, (i + 1) * record.size)))
  )
  return expected.every((entry) => found.has(text(entry)))
}

/** The record of an entry: every byte depends on its number, and entries of even number expire before the others. */
const recordOf = (keySize: number, number: number): Uint8Array => {
  const { value, nat } = Layout.record
  const bytes = new Uint8Array(nat)
  for (let i = 0; i < keySize; i++) bytes[i] = number * 7 + i * 13 + 1
  for (let i = value; i < nat; i++) bytes[i] = number * 11 + i * 5 + 3
  const view = new DataView(bytes.buffer)
  view.setUint16(0, number)
  view.setUint32(value + Layout.LIFETIME, number % 2 === 0 ? ALIVE - 1 : ALIVE, true)
  return bytes
}
