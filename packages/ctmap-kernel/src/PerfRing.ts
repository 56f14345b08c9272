/**
 * Reads what BPF programs put into a perf event array: one ring of shared memory for each CPU, read in plain JavaScript.
 *
 * Owns the perf events, their rings and the slots of the map. No thread but this one is involved: the event loop tells
 * when a ring has something. Refuses maps of another type.
 *
 * A slot has one owner: whoever fills it takes the output of that CPU from whoever had it, and nobody can ask who that
 * was. Read a datapath's array only in the place of its own agent. When the fd of the map is closed, the kernel empties
 * the slots that were filled through it.
 *
 * @since 0.1.0
 */
import { MapSpec } from "ctmap-core"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Bpf from "./Bpf.ts"
import { type BpfError, fromErrno } from "./BpfError.ts"
import { type BpfMap, failure } from "./BpfMap.ts"
import { PerfRecords, type Sink } from "./internal/perfRecords.ts"

export type {
  /**
   * Hears of records. `sample` gets the bytes that were sent and the kernel's padding after them, valid during the call
   * only; `lost` how many samples a CPU had no room for since the record before. @since 0.1.0
   */
  Sink
}

/**
 * A ring held something that is no record, so that everything in it was given up.
 *
 * @since 0.1.0
 */
export class PerfRingDamaged extends Schema.TaggedError<PerfRingDamaged>()("PerfRingDamaged", {
  map: Schema.String,
  cpu: Schema.Int,
  /** Where in the ring, and what stands for a size there. */
  at: Schema.Int,
  size: Schema.Int
}) {
  override get message(): string {
    return `the ring of CPU ${this.cpu} of map ${this.map} holds no record at byte ${this.at} (size ${this.size}): what was in it is lost; it goes on with what comes. Somebody else writes to this memory`
  }
}

/**
 * How to read.
 *
 * @since 0.1.0
 */
export interface Options {
  /** Pages of data for each CPU, a power of two. Default 1, as Cilium has: 170 messages of 8 bytes. */
  readonly pages?: number
}

/**
 * The rings of a perf event array. One reader at a time.
 *
 * @since 0.1.0
 */
export interface PerfRing {
  /** CPUs with a ring: those that were online when it was opened. */
  readonly cpus: ReadonlyArray<number>
  /**
   * Fills the slots: from now on programs' output is taken. Tries every CPU. Errors: `NotPermitted` where the map is open
   * for reading only.
   */
  readonly resume: Effect.Effect<void, BpfError>
  /** Empties the slots: programs are refused with -ENOENT and nothing is queued. What is in the rings stays. */
  readonly pause: Effect.Effect<void, BpfError>
  /**
   * Waits until there are records, hands them to the sink and says how many there were: per CPU in the order they were
   * sent, at most as many as fit the rings. Errors: `PerfRingDamaged`, after the others' records were handed out.
   */
  readonly read: (sink: Sink) => Effect.Effect<number, PerfRingDamaged>
}

/**
 * Opens a ring for every CPU that is online. It starts paused.
 *
 * **Details**
 *
 * Slots are numbered by CPU, whichever are online. Errors: `NotPermitted` without CAP_PERFMON, `OutOfMemory` or
 * `NotPermitted` where rings exceed the limit on locked memory, `FeatureUnsupported` for a map that is no perf event
 * array. Ownership: events and rings go with the scope; the map must outlive them. Kernel: Linux >= 4.4, CAP_PERFMON
 * (before 5.8 CAP_SYS_ADMIN) unless the sysctl kernel.perf_event_paranoid is 0 or less.
 *
 * **Example** (What a program on CPU 1 sends)
 *
 * ```ts
 * import { MapSpec } from "ctmap-core"
 * import { BpfMap, BpfMemory, PerfRing } from "ctmap-kernel"
 * import * as Effect from "effect/Effect"
 *
 * const program = Effect.gen(function* () {
 *   const map = yield* BpfMap.create(MapSpec.signals(2), "signals")
 *   const ring = yield* PerfRing.open(map)
 *   yield* ring.resume
 *   const control = yield* BpfMemory.Control
 *   control.map(map.fd)?.output(1, Uint8Array.of(7))
 *   const seen: Array<string> = []
 *   yield* ring.read({ sample: (cpu, bytes) => seen.push(`${cpu}: ${bytes[0]}`), lost: () => {} })
 *   return seen
 * })
 * await Effect.runPromise(Effect.scoped(Effect.provide(program, BpfMemory.layerTest()))) // => ["1: 7"]
 * ```
 *
 * @since 0.1.0
 */
export const open = (
  map: BpfMap,
  { pages = 1 }: Options = {}
): Effect.Effect<PerfRing, BpfError, Bpf.Bpf | Scope.Scope> =>
  Effect.flatMap(Bpf.Bpf, (bpf) =>
    Effect.acquireRelease(
      Effect.suspend(() => {
        if (map.info.type !== MapSpec.mapType.perfEventArray) return Effect.fail(notAnArray(map))
        const rings = new Rings(bpf, map)
        const error = rings.open(pages)
        if (error === undefined) return Effect.succeed(rings)
        rings.close()
        return Effect.fail(error)
      }),
      (rings) => Effect.sync(() => rings.close())
    ).pipe(
      Effect.map((rings) => ({
        cpus: rings.cpus,
        resume: Effect.suspend(() => rings.fill()),
        pause: Effect.suspend(() => rings.empty()),
        read: (sink) => rings.read(sink)
      }))
    )
  )

const notAnArray = (map: BpfMap): BpfError =>
  failure(map, "open perf event", -95, `perf events in a map of type ${map.info.type}, only in a perf event array (4)`)

const ENOENT = -2
const ENODEV = -19
const EINVAL = -22

/** How long a record can lie unnoticed, at most, should a wake-up be lost. */
const RECHECK = "1 second"
/** Wake-ups without a record, one after the other, until a ring is looked at only now and then. */
const BARREN = 64

interface Ring {
  readonly cpu: number
  readonly fd: number
  memory: Uint8Array | undefined
  records: PerfRecords | undefined
  unwatch: (() => void) | undefined
  barren: number
}

/** What is open, by CPU. */
class Rings {
  readonly #bpf: Bpf.Calls
  readonly #map: BpfMap
  #rings: Array<Ring> = []
  #isReady = false
  #waiting: (() => void) | undefined

  constructor(bpf: Bpf.Calls, map: BpfMap) {
    this.#bpf = bpf
    this.#map = map
  }

  get cpus(): ReadonlyArray<number> {
    return this.#rings.map(({ cpu }) => cpu)
  }

  /** Opens everything, or says why not; then what is open is to be closed. */
  open(pages: number): BpfError | undefined {
    const possible = this.#bpf.possibleCpus()
    for (let cpu = 0; cpu < this.#map.info.maxEntries; cpu++) {
      const fd = this.#bpf.perfEvent(cpu)
      // Maps may have more slots than there can be CPUs.
      if (fd === ENODEV || (fd === EINVAL && cpu >= possible)) continue
      if (fd < 0) return this.#error("open perf event", fd)
      const ring: Ring = { cpu, fd, memory: undefined, records: undefined, unwatch: undefined, barren: 0 }
      this.#rings.push(ring)
      const memory = this.#bpf.mapMemory(fd, (1 + pages) * this.#bpf.pageSize())
      if (typeof memory === "number") return this.#error("map perf ring", memory)
      ring.memory = memory
      ring.records = new PerfRecords(cpu, memory)
      const watch = this.#bpf.watch(fd, () => this.#ready(ring))
      if (typeof watch === "number") return this.#error("watch", watch)
      ring.unwatch = watch
    }
    return undefined
  }

  /** Neither memory nor fd is used after this. */
  close(): void {
    for (const { fd, memory, unwatch } of this.#rings) {
      unwatch?.()
      if (memory !== undefined) this.#bpf.unmapMemory(memory)
      this.#bpf.close(fd)
    }
    this.#rings = []
  }

  fill(): Effect.Effect<void, BpfError> {
    return this.#each((key, fd) => this.#bpf.update(this.#map.fd, key, word(fd), Bpf.ANY), "update")
  }

  empty(): Effect.Effect<void, BpfError> {
    return this.#each((key) => {
      const rc = this.#bpf.delete(this.#map.fd, key)
      return rc === ENOENT ? 0 : rc
    }, "delete")
  }

  read(sink: Sink): Effect.Effect<number, PerfRingDamaged> {
    return Effect.suspend(() => {
      this.#isReady = false
      const { records, error } = this.#drain(sink)
      if (error !== undefined) return Effect.fail(error)
      // Others get their turn, however fast records come.
      return records > 0 ? Effect.as(Effect.yieldNow, records) : Effect.andThen(this.#wait, this.read(sink))
    })
  }

  readonly #wait: Effect.Effect<unknown> = Effect.callback<void>((resume) => {
    if (this.#isReady) {
      resume(Effect.void)
      return
    }
    this.#waiting = () => resume(Effect.void)
    return Effect.sync(() => {
      this.#waiting = undefined
    })
  }).pipe(Effect.timeoutOption(RECHECK))

  #ready(ring: Ring): void {
    ring.barren = ring.records?.isEmpty === true ? ring.barren + 1 : 0
    if (ring.barren > BARREN) {
      // Readable for another reason than records, and for good: the event loop would do nothing else.
      ring.unwatch?.()
      ring.unwatch = undefined
    }
    this.#isReady = true
    const waiting = this.#waiting
    this.#waiting = undefined
    waiting?.()
  }

  #drain(sink: Sink): { readonly records: number; readonly error: PerfRingDamaged | undefined } {
    let total = 0
    let error: PerfRingDamaged | undefined
    for (const { cpu, records: ring } of this.#rings) {
      if (ring === undefined || ring.isEmpty) continue
      const { records, damage } = ring.drain(sink)
      total += records
      if (damage !== undefined) error ??= new PerfRingDamaged({ map: this.#map.name, cpu, ...damage })
    }
    return { records: total, error }
  }

  /** Every slot is tried; the first failure is told. */
  #each(call: (key: Uint8Array, fd: number) => number, operation: "update" | "delete"): Effect.Effect<void, BpfError> {
    let first = 0
    for (const { cpu, fd } of this.#rings) {
      const rc = call(word(cpu), fd)
      if (rc < 0 && first === 0) first = rc
    }
    return first < 0 ? Effect.fail(failure(this.#map, operation, first)) : Effect.void
  }

  #error(operation: "open perf event" | "map perf ring" | "watch", rc: number): BpfError {
    return fromErrno({ operation, errno: -rc, map: this.#map.name, path: this.#map.path })
  }
}

const word = (value: number): Uint8Array => new Uint8Array(Uint32Array.of(value).buffer)
