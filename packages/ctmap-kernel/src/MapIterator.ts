/**
 * Reading a whole map through an iterator: the kernel copies records into memory that this process maps.
 *
 * Owns the committed iterator programs (`bpf/copy.bpf.c`), their records, and the memory. A quarter faster than batches,
 * and nothing is copied a second time; while one half of the memory is being used, the kernel fills the other on another
 * thread, so whoever formats what is read has it for nothing. Needs Linux >= 5.9 with its own BTF, CAP_BPF and
 * CAP_PERFMON; where that is missing, a scan uses batches.
 *
 * **Nothing is missed.** The kernel's own iterator misses entries where others delete: it resumes at the nth element of
 * a bucket, and it walks buckets without their lock, so that it strays into another bucket when the element it stands
 * on is deleted and used again there. It was seen to miss one to six of a million entries of a table under heavy
 * change. On Linux >= 6.2 the program ends a read between two buckets only, and looks at each bucket again once it has
 * been copied: was every element still in this bucket when it had been copied, is the first one still the first, with
 * the second behind it, and does the last one still end this very bucket? New elements, replacements included, go in
 * front; so if the first is the same, none came. And an element whose next one is the end of this bucket, behind which
 * an entry x stands that was there throughout, would be in front of x in the same list: impossible, as lists are not
 * cut. So x stands in front of it, the element before it in the walk was in front of x or x itself, and so on back to
 * the first: x has been copied. The second is asked after because an element that a replacement sets free is used for
 * the next one: an entry that is replaced twice on one CPU is in its old element again, at the head of its bucket. A
 * bucket for which this does not hold is copied anew, up to eight times, and what no turn made right is told
 * (`isExact`). Older kernels, and maps whose entries are not preallocated, get no such promise.
 *
 * **Nothing is seen twice.** The kernel replaces an entry by putting the new element in front of the bucket and then
 * taking out the old one, so a walk can meet both; that takes nanoseconds, or as long as a hypervisor keeps the CPU that
 * is at it. A record is kept if its element's hash is one of this bucket and no record of the bucket in front of it has
 * its key: of the two, the new one. So, but for a bucket that was read in two (`isExact` says no), no key comes twice.
 *
 * @since 0.1.0
 */
import { readFileSync } from "node:fs"
import { Rows } from "ctmap-core"
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import * as Bpf from "./Bpf.ts"
import { BpfError, FeatureUnsupported, fromErrno } from "./BpfError.ts"
import type { BpfMap } from "./BpfMap.ts"
import * as ChunkSize from "./internal/chunkSize.ts"

/**
 * An iterator under way.
 *
 * @since 0.1.0
 */
export interface Reader {
  /**
   * The next rows, `undefined` at the end. They are valid until the next call. At most 4096 rows, and fewer after a read
   * that took longer than the target; empty buckets take 17 ns each, so a nearly empty map is better read by batch.
   */
  readonly next: Effect.Effect<Rows.Rows | undefined, BpfError>
  /** So far, no entry that was there throughout can have been missed; asked at the end, in the whole map. */
  readonly isExact: () => boolean
  /** So many buckets changed while they were copied, and were copied anew. */
  readonly again: () => number
  /**
   * The longest read so far, in milliseconds. The program times itself, from the first element it is shown: what stands
   * before that, and the way to this thread and back, is not in it.
   */
  readonly longestCallMillis: () => number
}

/** @since 0.1.0 */
export interface Options {
  /** What a read may take: see `callTarget` of `Scan`. Default: 1.6 ms, 3.2 ms in maps of 4,000,000 entries and more. */
  readonly callTarget?: Duration.Input
}

/**
 * Starts iterators.
 *
 * @since 0.1.0
 */
export class MapIterator extends Context.Service<
  MapIterator,
  {
    /** Errors: `FeatureUnsupported` for a map of other sizes or a kernel without iterators, `NotPermitted`. */
    readonly start: (map: BpfMap, options?: Options) => Effect.Effect<Reader, BpfError, Scope.Scope>
  }
>()("ctmap-kernel/MapIterator") {}

/** Rows of one half of the memory: see `CAPACITY` in `bpf/copy.bpf.c`. */
const HALF = 4096
const RECORDS_BYTES = 2 * HALF * 96
/** `struct control` of `bpf/copy.bpf.c`, in words. */
const word = { next: 0, limit: 1, first: 2, begin: 3, end: 4, again: 5, missed: 6, took: 7 } as const
const CONTROL_BYTES = 40
/** A bucket that was begun may fill so many rows. */
const LONGEST = 64
/** Rows of a read at least: half of them are left when a bucket as long as that is begun. */
const LEAST = 2 * LONGEST
const EAGAIN = -11
/** `BPF_F_NO_PREALLOC`: deleted entries are given back to the kernel, so nothing can be said of their memory. */
const NO_PREALLOC = 1

const FEATURE = "iterators over map elements (Linux 5.9, with BTF of its own)"

/** A loaded program with memory of its own: one scan at a time. */
interface Instance {
  readonly close: () => void
  readonly programFd: number
  /** The program is one of those that miss nothing. */
  readonly isExact: boolean
  /** See {@link word}: written before a read, read after it. */
  readonly control: Uint32Array
  readonly records: Uint8Array
}

/**
 * Loads a program when it is first needed, which takes some 20 ms and maps 0.8 MB, and keeps it for the next scan; scans
 * at the same time load one each.
 *
 * @since 0.1.0
 */
export const layer: Layer.Layer<MapIterator, never, Bpf.Bpf> = Layer.effect(
  MapIterator,
  Effect.gen(function* () {
    const bpf = yield* Bpf.Bpf
    const idle = new Map<string, Array<Instance>>()
    const refused = new Map<string, BpfError>()
    yield* Effect.addFinalizer(() =>
      Effect.sync(() => {
        for (const instance of [...idle.values()].flat()) instance.close()
      })
    )
    const take = (program: string): Effect.Effect<Instance, BpfError> =>
      Effect.suspend(() => {
        const instance = idle.get(program)?.pop() ?? refused.get(program) ?? load(bpf, program)
        if (!(instance instanceof BpfError)) return Effect.succeed(instance)
        refused.set(program, instance)
        return Effect.fail(instance)
      })
    const giveBack = (program: string, instance: Instance): void => {
      const others = idle.get(program)
      if (others === undefined) idle.set(program, [instance])
      else others.push(instance)
    }
    return MapIterator.of({
      start: (map, options) => {
        const { keySize, valueSize } = map.info
        const program = `${keySize}_${valueSize}`
        if (!sizes.has(program)) return Effect.fail(unknownSizes(map))
        return Effect.flatMap(
          Effect.acquireRelease(take(program), (instance) => Effect.sync(() => giveBack(program, instance))),
          (instance) => read(bpf, map, instance, options)
        )
      }
    })
  })
)

const sizes: ReadonlySet<string> = new Set(["14_56", "38_56", "14_40"])

const unknownSizes = (map: BpfMap): BpfError =>
  new BpfError({
    operation: "iterate",
    errno: 0,
    map: map.name,
    reason: new FeatureUnsupported({
      feature: `an iterator for keys of ${map.info.keySize} and values of ${map.info.valueSize} bytes`
    })
  })

/** The program that misses nothing; where the kernel does not take it, the one that every kernel with iterators does. */
const load = (bpf: Bpf.Calls, of: string): Instance | BpfError => {
  const best = loadProgram(bpf, `exact_${of}`, true)
  return best instanceof BpfError ? loadProgram(bpf, `copy_${of}`, false) : best
}

const loadProgram = (bpf: Bpf.Calls, program: string, isExact: boolean): Instance | BpfError => {
  const elf = readFileSync(new URL("../bpf/copy.bpf.o", import.meta.url))
  const object = bpf.loadObject({ name: "ctmap_copy", elf, programs: [program] })
  if ("errno" in object) return fromErrno({ operation: "load program", errno: object.errno, feature: FEATURE })
  const control = bpf.mapMemory(object.maps["control"]!, CONTROL_BYTES)
  const records = bpf.mapMemory(object.maps["records"]!, RECORDS_BYTES)
  const close = (): void => {
    for (const memory of [control, records]) if (typeof memory !== "number") bpf.unmapMemory(memory)
    object.close()
  }
  if (typeof control !== "number" && typeof records !== "number") {
    const words = new Uint32Array(control.buffer, control.byteOffset, CONTROL_BYTES / 4)
    return { close, programFd: object.programs[program]!, isExact, control: words, records }
  }
  close()
  const errno = typeof control === "number" ? control : typeof records === "number" ? records : 0
  return fromErrno({ operation: "map memory", errno: -errno, feature: FEATURE })
}

/** An iterator's fd and the read that is under way; closing waits for it, for it writes to memory others will use. */
const read = (
  bpf: Bpf.Calls,
  map: BpfMap,
  instance: Instance,
  { callTarget = ChunkSize.iteratorTargetOf(map.info.maxEntries) }: Options = {}
): Effect.Effect<Reader, BpfError, Scope.Scope> => {
  const { control, records } = instance
  const chunk = ChunkSize.make(HALF, LEAST, HALF, callTarget)
  const failed = (rc: number): BpfError =>
    fromErrno({ operation: "iterate", errno: -rc, map: map.name, path: map.path, feature: FEATURE })
  return Effect.map(
    Effect.acquireRelease(
      Effect.suspend(() => {
        const fd = bpf.iterate(instance.programFd, map.fd)
        return fd < 0 ? Effect.fail(failed(fd)) : Effect.succeed(new Reading(bpf, fd, control, chunk))
      }),
      (reading) => reading.close
    ),
    (reading) => {
      const valueAt = Math.ceil(map.info.keySize / 8) * 8
      const shape = { stride: valueAt + map.info.valueSize, valueAt: valueAt }
      let half: 0 | 1 = 0
      control[word.again] = control[word.missed] = 0
      const next: Reader["next"] = Effect.flatMap(reading.start(half), (rc) => {
        if (rc === EAGAIN) return next
        if (rc < 0) return Effect.fail(failed(rc))
        if (rc === 0) return Effect.succeed(undefined)
        const first = control[word.first]!
        const count = control[word.next]! - first
        half = half === 0 ? 1 : 0
        reading.ahead(half)
        if (count === 0) return next
        const at = first * shape.stride
        return Effect.succeed(
          Rows.interleaved(records, { stride: shape.stride, keyAt: at, valueAt: at + shape.valueAt, count })
        )
      })
      const isExact = instance.isExact && (map.info.flags & NO_PREALLOC) === 0
      return {
        next,
        isExact: () => isExact && control[word.missed] === 0,
        again: () => control[word.again]!,
        longestCallMillis: () => chunk.longest / 1e6
      }
    }
  )
}

/** One read at a time, started ahead of being asked for. */
class Reading {
  readonly #bpf: Bpf.Calls
  readonly #fd: number
  readonly #control: Uint32Array
  readonly #chunk: ChunkSize.ChunkSize
  readonly #byte = new Uint8Array(64)
  /** What the read under way came to, and who waits for it. */
  #result: number | undefined
  #isUnderWay = false
  #waiting: ((rc: number) => void) | undefined

  constructor(bpf: Bpf.Calls, fd: number, control: Uint32Array, chunk: ChunkSize.ChunkSize) {
    this.#bpf = bpf
    this.#fd = fd
    this.#control = control
    this.#chunk = chunk
  }

  /** Begins to fill a half, or as much of it as is read at a time. */
  ahead(half: 0 | 1): void {
    const control = this.#control
    control[word.next] = control[word.first] = half * HALF
    control[word.end] = control[word.first]! + this.#chunk.count
    control[word.limit] = control[word.end]! - LONGEST
    control[word.begin] = 1
    control[word.took] = 0
    this.#isUnderWay = true
    this.#result = undefined
    this.#bpf.readAsync(this.#fd, this.#byte, (rc) => {
      this.#isUnderWay = false
      this.#result = rc
      if (rc > 0) ChunkSize.called(this.#chunk, control[word.took]!)
      const waiting = this.#waiting
      this.#waiting = undefined
      waiting?.(rc)
    })
  }

  /** Waits for the read under way, or for one that fills this half. */
  start(half: 0 | 1): Effect.Effect<number> {
    return Effect.callback<number>((resume) => {
      const take = (rc: number): void => {
        this.#result = undefined
        resume(Effect.succeed(rc))
      }
      if (!this.#isUnderWay && this.#result === undefined) this.ahead(half)
      if (this.#isUnderWay) this.#waiting = take
      else take(this.#result!)
    })
  }

  /** Closes the fd once no read is under way. */
  get close(): Effect.Effect<void> {
    return Effect.callback<void>((resume) => {
      const close = (): void => {
        this.#bpf.close(this.#fd)
        resume(Effect.void)
      }
      if (this.#isUnderWay) this.#waiting = close
      else close()
    })
  }
}
