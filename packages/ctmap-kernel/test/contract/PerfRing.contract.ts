/**
 * What {@link PerfRing} promises, of whatever kernel. Signals are sent by a BPF program, on the CPU of the test's choice.
 */
import { assert, describe, layer } from "@effect/vitest"
import { MapSpec } from "ctmap-core"
import { Bpf, BpfMap, PerfRing } from "ctmap-kernel"
import { MOST } from "ctmap-testing/SignalSender"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import type * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import { sender } from "../signalTwin.ts"

/** What was read, as text: `1: 01000000 01000000` for a sample of CPU 1, `1 lost 7`. */
export class Heard implements PerfRing.Sink {
  readonly records: Array<{ readonly cpu: number; readonly bytes: Uint8Array | undefined; readonly lost: number }> = []
  sample(cpu: number, bytes: Uint8Array): void {
    this.records.push({ cpu, bytes: bytes.slice(), lost: 0 })
  }
  lost(cpu: number, count: number): void {
    this.records.push({ cpu, bytes: undefined, lost: count })
  }
  words(cpu: number): ReadonlyArray<ReadonlyArray<number>> {
    return this.records.flatMap((record) =>
      record.cpu === cpu && record.bytes !== undefined ? [[...new Uint32Array(record.bytes.buffer, 0, 2)]] : []
    )
  }
  get lostInAll(): number {
    return this.records.reduce((sum, { lost }) => sum + lost, 0)
  }
  get samples(): number {
    return this.records.filter(({ bytes }) => bytes !== undefined).length
  }
}

const open = Effect.gen(function* () {
  const bpf = yield* Bpf.Bpf
  const map = yield* BpfMap.create(MapSpec.signals(bpf.possibleCpus()), "signals")
  const ring = yield* PerfRing.open(map)
  const send = yield* sender(map.fd)
  return { bpf, map, ring, send }
})

/** Defines the suite. Time must pass where the kernel's does. */
export const contract = <E>(name: string, kernel: Layer.Layer<Bpf.Bpf, E>): void => {
  describe(`${name}, by the contract`, () => {
    layer(kernel, { excludeTestServices: true })((it) => {
      it.effect("hears of every signal of every CPU, in the order of that CPU", () =>
        Effect.gen(function* () {
          const { ring, send } = yield* open
          yield* ring.resume
          const heard = new Heard()
          for (let round = 0; round < 5; round++) {
            for (const cpu of ring.cpus) {
              assert.deepStrictEqual(send({ cpu, words: [round % 2, 0] }), { cpu, sent: 1, failed: 0, error: 0 })
              send({ cpu, words: [1, 1] })
            }
            yield* ring.read(heard)
          }
          while (heard.records.length < 10 * ring.cpus.length) yield* ring.read(heard)
          assert.isAbove(ring.cpus.length, 0)
          const expected = [0, 1, 2, 3, 4].flatMap((round) => [
            [round % 2, 0],
            [1, 1]
          ])
          for (const cpu of ring.cpus) assert.deepStrictEqual(heard.words(cpu), expected)
          assert.strictEqual(heard.lostInAll, 0)
        })
      )

      it.effect("wakes a reader that waits already, again and again", () =>
        Effect.gen(function* () {
          const { ring, send } = yield* open
          yield* ring.resume
          const heard = new Heard()
          for (let i = 0; i < 20; i++) {
            const reading = yield* Effect.forkChild(ring.read(heard), { startImmediately: true })
            yield* Effect.yieldNow
            send({ cpu: ring.cpus[i % ring.cpus.length]!, words: [0, i] })
            assert.strictEqual(yield* Fiber.join(reading), 1)
          }
          assert.strictEqual(heard.samples, 20)
        })
      )

      it.effect("hands out samples of any size whole, with the kernel's padding behind them", () =>
        Effect.gen(function* () {
          const { ring, send } = yield* open
          yield* ring.resume
          const heard = new Heard()
          const sizes = Array.from({ length: 64 }, (_, i) => i + 1)
          // Three rounds of these are more than a ring holds: many records go on at its start.
          for (const size of [...sizes, ...sizes, ...sizes]) {
            send({ cpu: 0, words: [0x0403_0201, 0x0807_0605], size })
            yield* ring.read(heard)
            const bytes = heard.records.at(-1)?.bytes
            assert.strictEqual(bytes?.byteLength, Math.ceil((4 + size) / 8) * 8 - 4, `size ${size}`)
            const expected = Array.from({ length: size }, (_, i) => (i % 8) + 1)
            assert.deepStrictEqual([...bytes!.subarray(0, size)], expected, `size ${size}`)
          }
          assert.strictEqual(heard.lostInAll, 0)
        })
      )

      it.effect("keeps the first signals of a flood, tells how many were lost, and goes on", () =>
        Effect.gen(function* () {
          const { ring, send } = yield* open
          yield* ring.resume
          const cpu = ring.cpus.at(-1)!
          const heard = new Heard()
          const flood = send({ cpu, count: MOST, numbered: true })
          assert.deepStrictEqual([flood.sent + flood.failed, flood.error], [MOST, -28])
          while (heard.samples < flood.sent) yield* ring.read(heard)
          assert.deepStrictEqual(
            heard.words(cpu).map(([, number]) => number),
            Array.from({ length: flood.sent }, (_, i) => i)
          )
          // Told with the next that fits.
          send({ cpu })
          while (heard.samples <= flood.sent) yield* ring.read(heard)
          assert.strictEqual(heard.lostInAll, flood.failed)
          assert.strictEqual(heard.records.at(-2)?.lost, flood.failed)
        })
      )

      it.effect("refuses programs while it is paused, hears nothing, and keeps what was there", () =>
        Effect.gen(function* () {
          const { ring, send } = yield* open
          const cpu = ring.cpus[0]!
          assert.strictEqual(send({ cpu }).error, -2)
          yield* ring.resume
          yield* ring.resume
          assert.strictEqual(send({ cpu, words: [0, 1] }).sent, 1)
          yield* ring.pause
          yield* ring.pause
          for (const each of ring.cpus) assert.strictEqual(send({ cpu: each, words: [0, 2] }).error, -2)
          yield* ring.resume
          assert.strictEqual(send({ cpu, words: [0, 3] }).sent, 1)
          const heard = new Heard()
          while (heard.samples < 2) yield* ring.read(heard)
          assert.deepStrictEqual(heard.words(cpu), [
            [0, 1],
            [0, 3]
          ])
        })
      )

      it.effect("takes an output only on the CPU of its slot", () =>
        Effect.gen(function* () {
          const { bpf, map, ring, send } = yield* open
          const [first, second] = ring.cpus
          if (first === undefined || second === undefined) return
          const key = new Uint8Array(Uint32Array.of(first).buffer)
          const event = bpf.perfEvent(second)
          yield* Effect.addFinalizer(() => Effect.sync(() => bpf.close(event)))
          assert.strictEqual(bpf.update(map.fd, key, new Uint8Array(Uint32Array.of(event).buffer), 0), 0)
          assert.strictEqual(send({ cpu: first }).error, -95)
        })
      )

      it.effect("leaves empty slots behind when the fd of its map is closed, whoever else holds the map", () =>
        Effect.gen(function* () {
          const bpf = yield* Bpf.Bpf
          const map = yield* BpfMap.create(MapSpec.signals(bpf.possibleCpus()), "signals")
          const send = yield* sender(map.fd)
          const info = bpf.mapInfo(map.fd)
          if (typeof info === "number") throw new Error(`info: ${info}`)
          const scope = yield* Scope.make()
          const again = bpf.mapFdById(info.id)
          const ring = yield* PerfRing.open({ ...map, info: map.info, fd: again }).pipe(Scope.provide(scope))
          yield* ring.resume
          const cpu = ring.cpus[0]!
          assert.strictEqual(send({ cpu }).sent, 1)
          // The ring is gone, its event is still in the slot.
          yield* Scope.close(scope, Exit.void)
          assert.strictEqual(send({ cpu }).error, -28)
          bpf.close(again)
          assert.strictEqual(send({ cpu }).error, -2)
        })
      )

      it.effect("is refused for a map of another type", () =>
        Effect.gen(function* () {
          const map = yield* BpfMap.create(MapSpec.natRetries, "retries")
          const error = yield* Effect.flip(PerfRing.open(map))
          assert.strictEqual(error.reason._tag, "FeatureUnsupported")
          assert.include(error.message, "perf events in a map of type 6, only in a perf event array (4)")
        })
      )

      it.effect("lets one watch an event at a time", () =>
        Effect.gen(function* () {
          const bpf = yield* Bpf.Bpf
          const event = bpf.perfEvent(0)
          yield* Effect.addFinalizer(() => Effect.sync(() => bpf.close(event)))
          const watch = (): (() => void) | number => bpf.watch(event, () => {})
          const first = watch()
          if (typeof first === "number") throw new Error(`watch: ${first}`)
          assert.strictEqual(watch(), -17)
          first()
          const second = watch()
          if (typeof second === "number") throw new Error(`watch again: ${second}`)
          // Stopping twice stops nobody else.
          first()
          assert.strictEqual(watch(), -17)
          second()
        })
      )

      it.effect("answers for CPUs, events and fds that are none", () =>
        Effect.gen(function* () {
          const bpf = yield* Bpf.Bpf
          assert.strictEqual(bpf.perfEvent(100_000), -22)
          assert.strictEqual(
            bpf.watch(999_999, () => {}),
            -9
          )
          const map = yield* BpfMap.create(MapSpec.signals(2), "signals")
          const put = (fd: number) => bpf.update(map.fd, new Uint8Array(4), new Uint8Array(Int32Array.of(fd).buffer), 0)
          assert.deepStrictEqual([put(999_999), put(map.fd)], [-9, -9])
          const event = bpf.perfEvent(0)
          yield* Effect.addFinalizer(() => Effect.sync(() => bpf.close(event)))
          assert.isAtLeast(event, 0)
          const page = bpf.pageSize()
          assert.strictEqual(Math.log2(page) % 1, 0)
          // Data is a power of two of pages; two mappings of an event are of one size.
          assert.strictEqual(bpf.mapMemory(event, 4 * page), -22)
          const ring = bpf.mapMemory(event, 3 * page)
          if (typeof ring === "number") throw new Error(`map: ${ring}`)
          assert.strictEqual(ring.byteLength, 3 * page)
          assert.strictEqual(bpf.mapMemory(event, 2 * page), -22)
          assert.strictEqual(bpf.unmapMemory(ring), 0)
        })
      )
    })
  })
}
