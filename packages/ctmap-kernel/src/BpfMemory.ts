/**
 * The kernel in memory: the twin of {@link Bpf} over libbpf, for tests without privilege and for what a real kernel
 * does not do on demand.
 *
 * Owns a whole kernel per layer: maps with the bucket order, cursors and LRU eviction of Linux, fds and references, a
 * bpffs with permissions, a clock that stands until it is moved. One suite (`test/contract`) runs on it and on Linux.
 * {@link Control} is the tester's side: fail a call, play the datapath between two calls, look for what was left open.
 *
 * Not here: perf events other than the output of BPF programs, programs as ELF (see {@link ObjectTwin}), frozen maps, and
 * the approximations of Linux' LRU: the twin evicts exactly one element, the least recently used.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Bpf from "./Bpf.ts"
import { elementCalls } from "./internal/memoryCommands.ts"
import { Datagrams, type Receiver } from "./internal/memoryDatagrams.ts"
import { type Call, type Fallible, Faults, type Hook } from "./internal/memoryFaults.ts"
import { MemoryKernel } from "./internal/memoryKernel.ts"
import { PAGE_SIZE } from "./internal/memoryPerf.ts"
import {
  type Helpers,
  loadObject,
  type MapView,
  type ObjectTwin,
  type Program,
  viewOf
} from "./internal/memoryPrograms.ts"

export type {
  /** Somebody to whom datagrams can be sent. @since 0.1.0 */
  Receiver,
  /** A method of `Bpf.Calls`. @since 0.1.0 */
  Call,
  /** A method that can be made to fail. @since 0.1.0 */
  Fallible,
  /** What a program can ask besides its maps. @since 0.1.0 */
  Helpers,
  /** Hears of a call, before or after it. @since 0.1.0 */
  Hook,
  /** A map from inside the kernel. @since 0.1.0 */
  MapView,
  /** What stands for an ELF file. @since 0.1.0 */
  ObjectTwin,
  /** A BPF program written in TypeScript. @since 0.1.0 */
  Program
}

/**
 * What kind of kernel.
 *
 * @since 0.1.0
 */
export interface Options {
  /** Width of per-CPU values, and what the size of a distributed LRU is rounded by. Default 2. */
  readonly possibleCpus?: number
  /** CPUs that perf events can be opened on. Default all. */
  readonly onlineCpus?: ReadonlyArray<number>
  /** Of the hash function, hence of the order in maps. */
  readonly seed?: number
  /** Another hash function, for example one that collides. Takes the key, answers 32 bits. */
  readonly hash?: (key: Uint8Array, seed: number) => number
  /** Buckets of every hash, a power of two, instead of the next one at or above its size. */
  readonly buckets?: number
  /** Directories with a bpffs. Default `/sys/fs/bpf`. */
  readonly mounts?: ReadonlyArray<string>
  /** First fd number that -EMFILE is answered for. Default 1024. */
  readonly maxFds?: number
  /** Of the CPUs, as Node names it. Default `x64`. */
  readonly architecture?: string
  /** CLOCK_MONOTONIC in nanoseconds. Default 1000 s since boot. */
  readonly time?: bigint
  readonly features?: Features
  /** Twins of BPF objects, by the name they are loaded under. */
  readonly objects?: Readonly<Record<string, ObjectTwin>>
}

/**
 * What an older kernel lacks.
 *
 * @since 0.1.0
 */
export interface Features {
  /** Batch commands: of Linux 5.6 on. `unknown command` is -EINVAL, `not for this map` is -524. Default `yes`. */
  readonly batch?: "yes" | "unknown command" | "not for this map"
  /** Array maps in user memory: of Linux 5.5 on. Default true. */
  readonly mmapable?: boolean
  /** Programs run by BPF_PROG_TEST_RUN: of Linux 5.14 on. Default true. */
  readonly programs?: boolean
}

/**
 * An open fd, or an object that is alive.
 *
 * @since 0.1.0
 */
export interface Living {
  readonly kind: "map" | "program" | "event" | "lock"
  readonly id: number
  readonly name: string
}

/**
 * The tester's side of the kernel.
 *
 * @since 0.1.0
 */
export interface Controls {
  /** Fails the next `times` calls (default 1) of a method, or of any, after `skip` that succeed (default 0). */
  readonly failNext: (
    call: Fallible | "any",
    errno: number,
    options?: { readonly times?: number; readonly skip?: number }
  ) => void
  /** Fails every nth call of a method, or of any. */
  readonly failEvery: (n: number, call: Fallible | "any", errno: number) => void
  /** Forgets the faults that are left. */
  readonly clearFaults: () => void
  /**
   * Calls `hook` before or after every call, until the returned function is called. It may do to maps what the datapath
   * could; what it calls of `Bpf.Calls` itself is neither counted, nor failed, nor told to hooks.
   */
  readonly onCall: (hook: Hook, when?: "before" | "after") => () => void
  /** How often a method was called, or all of them together. */
  readonly count: (call?: Call) => number
  /** CLOCK_MONOTONIC in nanoseconds; it stands until it is set. */
  time: bigint
  /** Who calls from now on: root without a list has every capability, others those named. Returns the way back. */
  readonly asUser: (uid: number, capabilities?: ReadonlyArray<string>, gid?: number) => () => void
  /** Permission bits of a pin or directory; 0 or -errno. */
  readonly chmod: (path: string, mode: number) => number
  /** Owner of a pin or directory; 0 or -errno. */
  readonly chown: (path: string, uid: number, gid: number) => number
  /** Mounts a new bpffs over whatever is at a path. */
  readonly mount: (path: string) => void
  /** Unmounts a bpffs as `umount -l` does, with its pins unless it is locked; 0 or -errno. */
  readonly unmount: (path: string) => number
  /** Receives datagrams from now on, by path or abstract name. */
  readonly receive: (path: string) => Receiver
  /** A map from inside the kernel, by fd or by path of a pin. */
  readonly map: (fdOrPath: number | string) => MapView | undefined
  /** Every open fd. */
  readonly openFds: () => ReadonlyArray<Living & { readonly fd: number }>
  /** Maps, programs, perf events and locks that something holds. */
  readonly living: () => ReadonlyArray<Living>
  /** Paths of all pins. */
  readonly pins: () => ReadonlyArray<string>
}

/**
 * See {@link Controls}.
 *
 * @since 0.1.0
 */
export class Control extends Context.Service<Control, Controls>()("ctmap-kernel/BpfMemory/Control") {}

/**
 * A kernel and the tester's side of it.
 *
 * **Details**
 *
 * Errors: as Linux 6.18 answers, with two exceptions that help tests: a buffer shorter than the kernel would copy is
 * -EFAULT (Linux reads on, whatever stands there), and an object without a twin does not load, with a log that says so.
 * Ownership: copies keys and values; the memory of a mmapable array is shared, as it is meant to be.
 *
 * **Example** (The datapath between two calls)
 *
 * ```ts
 * import { BpfMemory } from "ctmap-kernel"
 *
 * const { calls, control } = BpfMemory.make()
 * const fd = calls.mapCreate({ type: 9, keySize: 1, valueSize: 1, maxEntries: 4, flags: 0 }, "tiny")
 * calls.update(fd, Uint8Array.of(7), Uint8Array.of(1), 0) // => 0
 * control.onCall((call) => call === "delete" && control.map(fd)?.delete(Uint8Array.of(7)))
 * calls.delete(fd, Uint8Array.of(7)) // => -2
 * ```
 *
 * @since 0.1.0
 */
export const make = (options: Options = {}): { readonly calls: Bpf.Calls; readonly control: Controls } => {
  const possibleCpus = options.possibleCpus ?? 2
  const kernel = new MemoryKernel({
    possibleCpus,
    architecture: options.architecture ?? "x64",
    onlineCpus: options.onlineCpus ?? Array.from({ length: possibleCpus }, (_, cpu) => cpu),
    seed: options.seed ?? 0,
    hash: options.hash,
    buckets: options.buckets,
    mounts: options.mounts ?? ["/sys/fs/bpf"],
    maxFds: options.maxFds ?? 1024,
    batch: options.features?.batch ?? "yes",
    mmapable: options.features?.mmapable ?? true,
    programs: options.features?.programs ?? true
  })
  const faults = new Faults()
  const datagrams = new Datagrams((path) => kernel.files.connect(path))
  const control = controlOf(kernel, faults, datagrams, options.time ?? 1_000_000_000_000n)
  const calls = { ...callsOf(kernel, control, options.objects ?? {}), sendDatagram: datagrams.send.bind(datagrams) }
  return { calls: faults.around(calls), control }
}

/**
 * A new kernel.
 *
 * @since 0.1.0
 */
export const layer: Layer.Layer<Bpf.Bpf> = Layer.effect(
  Bpf.Bpf,
  Effect.sync(() => make().calls)
)

/**
 * A new kernel, and the tester's side of it.
 *
 * **Example** (A call that fails)
 *
 * ```ts
 * import { Bpf, BpfMemory } from "ctmap-kernel"
 * import * as Effect from "effect/Effect"
 *
 * const program = Effect.gen(function* () {
 *   const bpf = yield* Bpf.Bpf
 *   const control = yield* BpfMemory.Control
 *   control.failNext("openPin", 13)
 *   return [bpf.openPin("/sys/fs/bpf/ct"), bpf.openPin("/sys/fs/bpf/ct")]
 * })
 * Effect.runSync(program.pipe(Effect.provide(BpfMemory.layerTest()))) // => [-13, -2]
 * ```
 *
 * @since 0.1.0
 */
export const layerTest = (options?: Options): Layer.Layer<Bpf.Bpf | Control> =>
  Layer.effectContext(
    Effect.sync(() => {
      const { calls, control } = make(options)
      return Context.make(Bpf.Bpf, calls).pipe(Context.add(Control, control))
    })
  )

const callsOf = (
  kernel: MemoryKernel,
  control: Controls,
  objects: Readonly<Record<string, ObjectTwin>>
): Omit<Bpf.Calls, "sendDatagram"> => {
  const { files } = kernel
  const monotonic = (): bigint => control.time
  return {
    ...elementCalls(kernel),
    mapCreate: (spec, name, innerFd) => kernel.createMap(spec, name, innerFd),
    mapInfo: (fd) => kernel.info(fd),
    mapFdById: (id) => kernel.fdById(id),
    close: (fd) => kernel.close(fd),
    openPin: (path, flags = 0) => kernel.openPin(path, flags),
    pin: (fd, path) => kernel.pin(fd, path),
    unpin: (path) => files.remove(path),
    renamePin: (from, to) => files.rename(from, to),
    chmod: (path, mode) => files.chmod(path, mode),
    chown: (path, uid, gid) => files.chown(path, uid, gid),
    makeDirectory: (path) => files.makeDirectory(path),
    listDirectory: (path) => files.list(path),
    stat: (path) => files.stat(path),
    isBpfFs: (path) => files.isBpfFs(path),
    lockDirectory: (path) => kernel.lockDirectory(path),
    loadObject: loadObject(kernel, objects, { monotonic }),
    loadObjectAsync: (spec, done) => {
      const answer = loadObject(kernel, objects, { monotonic })(spec)
      setImmediate(() => done(answer))
    },
    runProgram: (fd, context, cpu) => kernel.run(fd, context, cpu),
    runProgramAsync: (fd, context, done) => void setImmediate(() => done(kernel.run(fd, context))),
    mapMemory: (fd, bytes) => kernel.memory(fd, bytes),
    unmapMemory: (memory) => kernel.unmap(memory),
    perfEvent: (cpu) => kernel.openEvent(cpu),
    watch: (fd, ready) => {
      const event = kernel.eventOf(fd)
      return typeof event === "number" ? event : event.watch(ready)
    },
    pageSize: () => PAGE_SIZE,
    architecture: () => kernel.settings.architecture,
    possibleCpus: () => kernel.settings.possibleCpus,
    monotonic
  }
}

const controlOf = (kernel: MemoryKernel, faults: Faults, datagrams: Datagrams, time: bigint): Controls => ({
  failNext: (call, errno, options) => faults.failNext(call, errno, options),
  failEvery: (n, call, errno) => faults.failEvery(n, call, errno),
  clearFaults: () => faults.clear(),
  onCall: (hook, when) => faults.onCall(hook, when),
  count: (call) => faults.count(call),
  time,
  asUser: (uid, capabilities = [], gid = uid) => {
    const before = kernel.identity
    if (uid === 0 && capabilities.length === 0) kernel.become()
    else kernel.become({ uid, gid, capabilities: new Set(capabilities) })
    return () => kernel.become(before)
  },
  chmod: (path, mode) => kernel.files.change(path, { mode }),
  chown: (path, uid, gid) => kernel.files.change(path, { uid, gid }),
  mount: (path) => kernel.files.mount(path),
  unmount: (path) => kernel.files.unmount(path),
  receive: (path) => datagrams.receive(path),
  map: (fdOrPath) => {
    const map = typeof fdOrPath === "number" ? kernel.object(fdOrPath) : kernel.files.at(fdOrPath)
    return map?.kind === "map" ? viewOf(map) : undefined
  },
  openFds: () => kernel.openFds().map(({ fd, object: { kind, id, name } }) => ({ fd, kind, id, name })),
  living: () => kinds.flatMap((kind) => kernel.objects(kind)).map(livingOf),
  pins: () => kernel.files.pins()
})

const kinds = ["map", "program", "event", "lock"] as const

const livingOf = ({ kind, id, name }: Living): Living => ({ kind, id, name })
