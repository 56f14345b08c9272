/**
 * Reading a whole map inside the kernel: a program copies records into memory this process maps.
 *
 * Owns the committed programs (`bpf/copy.bpf.c`), their records, and the memory. Two and a half times as fast as batches:
 * no system call a batch and no copy to user space, and the cache misses of a whole group of buckets overlap. While one
 * half of the memory is being used, the kernel fills the other on another thread, so whoever formats what is read has it
 * for nothing. A run ends when its time is up, so that no CPU is held for long, and the next goes on at its bucket. Needs
 * Linux >= 6.2 with its own BTF, CAP_BPF and CAP_PERFMON; where that is missing, a scan uses batches.
 *
 * **How it finds the map.** A program is loaded once for all maps of the same sizes. It is told an fd of this process and
 * the map's id, looks the fd up among the open files of the thread that runs it, and reads nothing unless id, type and
 * sizes are right. How a hash map stands in memory is no promise of Linux: where its structures are is put in when the
 * program is loaded, and whether it then reads what is there is tried on a small map first.
 *
 * **Nothing is missed.** A bucket is walked without its lock, and looked at again once it has been copied: is the first
 * element still the first, does each still point to the next one and back to the one in front of it, is every hash the same,
 * and of this bucket, and does the last one still end this very bucket? New elements, replacements included, go in
 * front; so if the first is the same, none came. And an element whose next one is the end of this bucket, behind which
 * an entry x stands that was there throughout, would be in front of x in the same list: impossible, as lists are not
 * cut. So x stands in front of it, the element before it in the walk was in front of x or x itself, and so on back to
 * the first: x has been copied. The others are asked after because an element that a replacement sets free is used for
 * the next one: an entry that is replaced twice on one CPU is in its old element again, at the head of its bucket. A
 * bucket for which this does not hold is copied anew, up to eight times, and what no turn made right is told
 * (`isExact`), as is a bucket of more than 512 entries, which is read in pieces. Maps whose entries are not preallocated
 * are refused: their memory may be anything by the time it is read.
 *
 * **Nothing is seen twice.** The kernel replaces an entry by putting the new element in front of the bucket and then
 * taking out the old one, so a walk can meet both; that takes nanoseconds, or as long as a hypervisor keeps the CPU that
 * is at it. A record is kept if its element's hash is one of this bucket and no record of the bucket in front of it has
 * its key: of the two, the new one. So, but for a bucket that was read in pieces, no key comes twice.
 *
 * @since 0.1.0
 */
import { Rows } from "ctmap-core"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import * as Bpf from "./Bpf.ts"
import { BpfError, FeatureUnsupported, fromErrno } from "./BpfError.ts"
import { type BpfMap, notAHash } from "./BpfMap.ts"
import type { ObjectTwin } from "./BpfMemory.ts"
import * as ChunkSize from "./internal/chunkSize.ts"
import { loadObject } from "./internal/loadProgram.ts"
import { objectFile } from "./internal/objectFile.ts"
import { check } from "./internal/walkCheck.ts"
import * as Layout from "./internal/walkLayout.ts"
import { twin as memoryTwin } from "./internal/walkTwin.ts"

/**
 * A walk through a map under way.
 *
 * @since 0.1.0
 */
export interface Reader {
  /**
   * The next rows, `undefined` at the end. They are valid until the next call. At most 4096 rows, and fewer where the time
   * was up before.
   */
  readonly next: Effect.Effect<Rows.Rows | undefined, BpfError>
  /** So far, no entry that was there throughout can have been missed; asked at the end, in the whole map. */
  readonly isExact: () => boolean
  /** So many buckets changed while they were copied, and were copied anew. */
  readonly again: () => number
  /** The longest run of the program so far, in milliseconds, as it timed itself. */
  readonly longestCallMillis: () => number
}

/** @since 0.1.0 */
export interface Options {
  /** What a run may take: see `callTarget` of `Scan`. Default: 1.6 ms, 3.2 ms in maps of 4,000,000 entries and more. */
  readonly callTarget?: Duration.Input
}

/**
 * Starts to read maps.
 *
 * @since 0.1.0
 */
export class MapIterator extends Context.Service<
  MapIterator,
  {
    /**
     * Runs the program for the first time; what makes it useless here shows by then. Errors: `FeatureUnsupported` for a
     * map of other sizes, of another type or without preallocated entries, or a kernel that has not what it takes;
     * `NotPermitted`.
     */
    readonly start: (map: BpfMap, options?: Options) => Effect.Effect<Reader, BpfError, Scope.Scope>
  }
>()("ctmap-kernel/MapIterator") {}

/** The name under which the programs are loaded. @since 0.1.0 */
export const object = Layout.OBJECT

/**
 * The programs for a kernel in memory.
 *
 * **Example** (Reading a map of the twin's)
 *
 * ```ts
 * import { MapKind, MapSpec } from "ctmap-core"
 * import { Bpf, BpfMap, BpfMemory, MapIterator, RowScan } from "ctmap-kernel"
 * import * as Effect from "effect/Effect"
 * import * as Layer from "effect/Layer"
 *
 * const kernel = BpfMemory.layerTest({ objects: { [MapIterator.object]: MapIterator.twin } })
 * const program = Effect.gen(function* () {
 *   const map = yield* BpfMap.create({ ...MapSpec.ct(MapKind.globals[0]), maxEntries: 64 }, "ct4")
 *   const { update } = yield* Bpf.Bpf
 *   update(map.fd, new Uint8Array(14), new Uint8Array(56), Bpf.ANY)
 *   const { entries, exact } = yield* RowScan.forEach(map, () => Effect.void, { method: "iterator" })
 *   return [entries, exact]
 * }).pipe(Effect.scoped, Effect.provide(MapIterator.layer.pipe(Layer.provideMerge(kernel))))
 * await Effect.runPromise(program) // => [1, true]
 * ```
 *
 * @since 0.1.0
 */
export const twin: ObjectTwin = memoryTwin

const { word, state, HALF } = Layout
const EOPNOTSUPP = 95

const FEATURE = "programs that read maps where they stand (Linux 6.2, with BTF of its own)"

/** A loaded program with memory of its own: one scan at a time. */
interface Instance {
  readonly close: () => void
  readonly programFd: number
  readonly shape: Layout.Shape
  /** Written before a run, read after it. */
  readonly control: Uint32Array
  readonly records: Uint8Array
}

/**
 * Loads a program when it is first needed, which takes 30 to 50 ms on another thread and maps 0.8 MB, and keeps it for the
 * next scan; scans at the same time load one each.
 *
 * @since 0.1.0
 */
export const layer: Layer.Layer<MapIterator, never, Bpf.Bpf> = Layer.effect(
  MapIterator,
  Effect.gen(function* () {
    const bpf = yield* Bpf.Bpf
    const idle = new Map<Layout.Shape, Array<Instance>>()
    const refused = new Map<Layout.Shape, BpfError>()
    yield* Effect.addFinalizer(() =>
      Effect.sync(() => {
        for (const instance of [...idle.values()].flat()) instance.close()
      })
    )
    const take = (shape: Layout.Shape): Effect.Effect<Instance, BpfError> =>
      Effect.suspend(() => {
        const known = idle.get(shape)?.pop() ?? refused.get(shape)
        if (known instanceof BpfError) return Effect.fail(known)
        if (known !== undefined) return Effect.succeed(known)
        return Effect.tapError(load(bpf, shape), (error) =>
          Effect.sync(() => isFinal(error) && refused.set(shape, error))
        )
      })
    const giveBack = (instance: Instance): void => {
      const others = idle.get(instance.shape)
      if (others === undefined) idle.set(instance.shape, [instance])
      else others.push(instance)
    }
    return MapIterator.of({
      start: (map, options) => {
        const shape = Layout.shapes.find(
          ({ keySize, valueSize }) => keySize === map.info.keySize && valueSize === map.info.valueSize
        )
        // The proof that nothing is missed is one about loads in order.
        if (bpf.architecture() !== "x64")
          return Effect.fail(refusalOf(map, "programs that read maps by themselves, on x64"))
        const refusal = notAHash(map, "iterate") ?? (shape === undefined ? unknownSizes(map) : notPreallocated(map))
        if (shape === undefined || refusal !== undefined) return Effect.fail(refusal ?? unknownSizes(map))
        return Effect.flatMap(
          Effect.acquireRelease(take(shape), (instance) => Effect.sync(() => giveBack(instance))),
          (instance) => read(bpf, map, instance, options)
        )
      }
    })
  })
)

/** The answer will be the same next time. */
const isFinal = ({ reason }: BpfError): boolean =>
  reason._tag === "FeatureUnsupported" || reason._tag === "NotPermitted"

const refusalOf = (map: BpfMap, feature: string): BpfError =>
  new BpfError({ operation: "iterate", errno: 0, map: map.name, reason: new FeatureUnsupported({ feature }) })

const unknownSizes = (map: BpfMap): BpfError =>
  refusalOf(map, `an iterator for keys of ${map.info.keySize} and values of ${map.info.valueSize} bytes`)

/** `BPF_F_NO_PREALLOC`: deleted entries are given back to the kernel, so nothing can be said of their memory. */
const NO_PREALLOC = 1

const notPreallocated = (map: BpfMap): BpfError | undefined =>
  (map.info.flags & NO_PREALLOC) === 0
    ? undefined
    : refusalOf(map, "an iterator for maps whose entries are not preallocated")

const load = Effect.fnUntraced(function* (bpf: Bpf.Calls, shape: Layout.Shape): Effect.fn.Return<Instance, BpfError> {
  const elf = objectFile(Layout.OBJECT)
  if (elf instanceof BpfError) return yield* Effect.fail(elf)
  const program = Layout.programOf(shape)
  const loaded = yield* loadObject(bpf, { name: Layout.OBJECT, elf, programs: [program] })
  if ("errno" in loaded) return yield* Effect.fail(failure("load program", loaded.errno))
  const control = bpf.mapMemory(loaded.maps["control"]!, Layout.CONTROL_BYTES)
  const records = bpf.mapMemory(loaded.maps["records"]!, Layout.RECORDS_BYTES)
  const close = (): void => {
    for (const memory of [control, records]) if (typeof memory !== "number") bpf.unmapMemory(memory)
    loaded.close()
  }
  if (typeof control === "number" || typeof records === "number") {
    close()
    return yield* Effect.fail(failure("map memory", -(typeof control === "number" ? control : Number(records))))
  }
  const words = new Uint32Array(control.buffer, control.byteOffset, Layout.CONTROL_BYTES / 4)
  const programFd = loaded.programs[program]!
  const rc = check(bpf, shape, programFd, words, records)
  if (rc === 0) return { close, programFd, shape, control: words, records }
  close()
  return yield* Effect.fail(failure("run program", -rc))
})

const failure = (operation: BpfError["operation"], errno: number): BpfError =>
  fromErrno({ operation, errno, feature: FEATURE })

/** The walk through one map; closing it waits for the run under way, for that writes to memory others will use. */
const read = (
  bpf: Bpf.Calls,
  map: BpfMap,
  instance: Instance,
  { callTarget = ChunkSize.iteratorTargetOf(map.info.maxEntries) }: Options = {}
): Effect.Effect<Reader, BpfError, Scope.Scope> => {
  const { control, shape } = instance
  const walk = Effect.acquireRelease(
    Effect.sync(() => new Walk(bpf, map, instance, callTarget)),
    (it) => it.close
  )
  return Effect.flatMap(walk, (it) => {
    const take: Effect.Effect<Rows.Rows | undefined, BpfError> = Effect.flatMap(it.take, (rc) => {
      if (typeof rc === "number")
        return Effect.fail(
          fromErrno({ operation: "iterate", errno: -rc, map: map.name, path: map.path, feature: FEATURE })
        )
      const { first, count, isEnd } = rc
      if (count === 0) return isEnd ? Effect.succeed(undefined) : take
      const at = first * shape.stride
      return Effect.succeed(
        Rows.interleaved(instance.records, {
          stride: shape.stride,
          keyAt: at,
          valueAt: at + shape.valueAt,
          count
        })
      )
    })
    return Effect.map(take, (first): Reader => {
      let ready: { readonly rows: Rows.Rows | undefined } | undefined = { rows: first }
      return {
        next: Effect.suspend(() => {
          if (ready === undefined) return take
          const { rows } = ready
          ready = undefined
          return Effect.succeed(rows)
        }),
        isExact: () => control[word.missed] === 0,
        again: () => control[word.again]!,
        longestCallMillis: () => it.longest / 1e6
      }
    })
  })
}

/** Records that a run copied. */
interface Part {
  readonly first: number
  readonly count: number
  /** The map has been read. */
  readonly isEnd: boolean
}

const U32 = 0xffff_ffff
const nothing: Part = { first: 0, count: 0, isEnd: true }

/** One run at a time, started ahead of being asked for. */
class Walk {
  /** Nanoseconds. */
  longest = 0
  readonly #bpf: Bpf.Calls
  readonly #instance: Instance
  readonly #context = new Uint8Array(0)
  /** What the run under way came to, and who waits for it. */
  #result: Part | number | undefined
  #isUnderWay = false
  #waiting: (() => void) | undefined
  #half: 0 | 1 = 0

  constructor(bpf: Bpf.Calls, map: BpfMap, instance: Instance, callTarget: Duration.Input) {
    this.#bpf = bpf
    this.#instance = instance
    const { control } = instance
    control.fill(0)
    control[word.fd] = map.fd
    control[word.id] = map.info.id
    control[word.time] = Math.min(Math.ceil(Duration.toMillis(callTarget) * 1e6), U32)
    this.#ahead()
  }

  /** Begins to fill a half. */
  #ahead(): void {
    const { control, programFd } = this.#instance
    control[word.next] = control[word.first] = this.#half * HALF
    control[word.end] = control[word.first]! + HALF
    control[word.state] = state.strange
    this.#result = undefined
    this.#isUnderWay = true
    this.#bpf.runProgramAsync(programFd, this.#context, (rc) => {
      this.#isUnderWay = false
      this.#result = rc < 0 ? rc : this.#came()
      const waiting = this.#waiting
      this.#waiting = undefined
      waiting?.()
    })
  }

  #came(): Part | number {
    const { control } = this.#instance
    if (control[word.state] === state.strange) return -EOPNOTSUPP
    this.longest = Math.max(this.longest, control[word.took]!)
    const first = control[word.first]!
    return { first, count: control[word.next]! - first, isEnd: control[word.state] === state.end }
  }

  /** Waits for what the run under way copies, and begins the next one; `-errno` where it failed. */
  get take(): Effect.Effect<Part | number> {
    return Effect.callback<Part | number>((resume) => {
      const take = (): void => {
        const result = this.#result!
        if (typeof result === "object") {
          if (result.isEnd) this.#result = nothing
          else {
            this.#half = this.#half === 0 ? 1 : 0
            this.#ahead()
          }
        }
        resume(Effect.succeed(result))
      }
      if (this.#isUnderWay) this.#waiting = take
      else take()
    })
  }

  /** Once no run is under way. */
  get close(): Effect.Effect<void> {
    return Effect.callback<void>((resume) => {
      if (this.#isUnderWay) this.#waiting = () => resume(Effect.void)
      else resume(Effect.void)
    })
  }
}
