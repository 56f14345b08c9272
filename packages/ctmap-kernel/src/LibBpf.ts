/**
 * The kernel itself: {@link Bpf} over the system's libbpf.
 *
 * The one file that talks to native code. Every call is synchronous on the calling thread; libbpf 1.x answers `-errno`
 * itself, libc answers -1 and leaves errno behind, which is read before anything else is called. Refuses big-endian
 * hosts (the bit-field of a CT entry would read backwards there) and says which package brings a missing libbpf.
 *
 * @since 0.1.0
 */
import { endianness } from "node:os"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import koffi from "koffi"
import * as Bpf from "./Bpf.ts"
import { BpfError, KernelUnavailable } from "./BpfError.ts"
import { directoryLock, EIO, fileCalls } from "./internal/bpffs.ts"
import { datagrams } from "./internal/datagrams.ts"
import { captureLog } from "./internal/libbpfLog.ts"
import { createOptions, openOptions, readInfo } from "./internal/mapStructs.ts"
import { testRunOptions } from "./internal/testRun.ts"
import { mappings } from "./internal/mappings.ts"
import { outputAttributes, perfEventOpenNumber } from "./internal/perfEvent.ts"

const LIBBPF = "libbpf.so.1"
const EINVAL = -22

/**
 * Opens libbpf once per process.
 *
 * **Details**
 *
 * Errors: `BpfError` with reason `KernelUnavailable` where the host is big endian, not Linux, or has no libbpf. Kernel:
 * Linux >= 5.6 for batch commands, >= 5.14 for programs; each is probed where it is used.
 *
 * @since 0.1.0
 */
export const layer: Layer.Layer<Bpf.Bpf, BpfError> = Layer.effect(
  Bpf.Bpf,
  Effect.suspend(() => {
    const why = refusal(process.platform, endianness())
    if (why !== undefined) return Effect.fail(unavailable(why))
    return Effect.try({
      try: () => (opened ??= calls()),
      catch: (cause) => unavailable(missing(cause))
    })
  })
)

/**
 * Why a host cannot be used, or `undefined` where it can.
 *
 * @since 0.1.0
 */
export const refusal = (platform: string, byteOrder: "BE" | "LE"): string | undefined =>
  platform !== "linux"
    ? `eBPF is a part of Linux, and this is ${platform}`
    : byteOrder === "BE"
      ? "this host is big endian, where Cilium's flag words are laid out the other way round: ctmap refuses to read or delete what it would misread"
      : undefined

/**
 * What to do about a libbpf that cannot be loaded.
 *
 * @since 0.1.0
 */
export const missing = (cause: unknown): string =>
  `the system's ${LIBBPF} cannot be loaded (${cause instanceof Error ? cause.message : String(cause)}); ` +
  "install it: Debian and Ubuntu `apt install libbpf1`, Fedora `dnf install libbpf`, Alpine `apk add libbpf`"

const unavailable = (why: string): BpfError =>
  new BpfError({ operation: "open kernel", errno: 0, reason: new KernelUnavailable({ why }) })

/** The one set of calls of this process: types of koffi are global to it, and its handles are never closed. */
let opened: Bpf.Calls | undefined

const calls = (): Bpf.Calls => {
  const bpf = koffi.load(LIBBPF)
  const maps = mapCalls(bpf)
  return {
    ...maps,
    ...pinCalls(bpf),
    ...programCalls(bpf),
    ...perfCalls(maps.close),
    ...agentCalls(maps.close),
    monotonic: () => process.hrtime.bigint()
  }
}

type Library = ReturnType<typeof koffi.load>

/** A function of koffi's, and how it is called on another thread. */
type AsyncFunction<F extends (...args: never) => unknown> = F & {
  readonly async: (...args: [...Parameters<F>, done: (error: unknown, result: ReturnType<F>) => void]) => void
}

/** What the kernel reads or writes on another thread: nothing else may refer to it by then. */
const held = new Set<object>()

/** Calls on another thread. The buffers, and what they point to, are held until it has returned. */
const elsewhere = <F extends (...args: never) => number>(
  call: AsyncFunction<F>,
  args: Parameters<F>,
  done: (rc: number) => void,
  ...pointedTo: ReadonlyArray<unknown>
): void => {
  const hold = { args, pointedTo }
  held.add(hold)
  call.async(...args, (error, rc) => {
    held.delete(hold)
    done(error === null ? rc : EIO)
  })
}

/** Buffers go in by address for the duration of the call; nothing below keeps a pointer. */
const mapCalls = (bpf: Library) => {
  const mapCreate = bpf.func(
    "int bpf_map_create(int type, const char *name, uint32_t ks, uint32_t vs, uint32_t max, const void *opts)"
  ) as (type: number, name: string, ks: number, vs: number, max: number, opts: Uint8Array) => number
  const infoByFd = bpf.func("int bpf_obj_get_info_by_fd(int fd, void *info, uint32_t *len)") as (
    fd: number,
    info: Uint8Array,
    length: Uint32Array
  ) => number
  const lookup = bpf.func("int bpf_map_lookup_elem(int fd, const void *key, void *value)") as (
    ...args: [fd: number, key: Uint8Array | null, value: Uint8Array | null]
  ) => number
  const update = bpf.func(
    "int bpf_map_update_elem(int fd, const void *key, const void *value, uint64_t flags)"
  ) as AsyncFunction<Bpf.Calls["update"]>
  const remove = bpf.func("int bpf_map_delete_elem(int fd, const void *key)") as AsyncFunction<Bpf.Calls["delete"]>
  const lookupBatch = bpf.func(
    "int bpf_map_lookup_batch(int fd, void *in, void *out, void *keys, void *values, uint32_t *count, const void *opts)"
  ) as (...args: [...Parameters<Bpf.Calls["lookupBatch"]>, opts: null]) => number
  const updateBatch = bpf.func(
    "int bpf_map_update_batch(int fd, const void *keys, const void *values, uint32_t *count, const void *opts)"
  ) as (...args: [...Parameters<Bpf.Calls["updateBatch"]>, opts: null]) => number
  const deleteBatch = bpf.func(
    "int bpf_map_delete_batch(int fd, const void *keys, uint32_t *count, const void *opts)"
  ) as (...args: [...Parameters<Bpf.Calls["deleteBatch"]>, opts: null]) => number
  const lookupAndDelete = bpf.func("int bpf_map_lookup_and_delete_elem(int fd, const void *key, void *value)")
  const closeFd = koffi.load("libc.so.6").func("int close(int fd)") as (fd: number) => number
  const close = (fd: number): number => (closeFd(fd) === 0 ? 0 : -koffi.errno())
  return {
    mapCreate: (spec, name, innerFd) =>
      // The kernel takes 15 bytes of [A-Za-z0-9_.]; libbpf does not cut the name.
      mapCreate(
        spec.type,
        name.slice(0, 15),
        spec.keySize,
        spec.valueSize,
        spec.maxEntries,
        createOptions(spec.flags, innerFd)
      ),
    mapInfo: (fd) => {
      const info = new Uint8Array(88)
      const rc = infoByFd(fd, info, Uint32Array.of(info.byteLength))
      // It answers for programs and links too. Without a key, only what is no map says that the argument is wrong.
      return rc < 0 ? rc : lookup(fd, null, null) === EINVAL ? EINVAL : readInfo(info)
    },
    lookup,
    update,
    updateAsync: (fd, key, value, flags, done) => elsewhere(update, [fd, key, value, flags], done),
    delete: remove,
    lookupAndDelete: lookupAndDelete as Bpf.Calls["lookupAndDelete"],
    deleteAsync: (fd, key, done) => elsewhere(remove, [fd, key], done),
    nextKey: bpf.func("int bpf_map_get_next_key(int fd, const void *key, void *next)") as Bpf.Calls["nextKey"],
    lookupBatch: (fd, cursor, next, keys, values, count) => lookupBatch(fd, cursor, next, keys, values, count, null),
    updateBatch: (fd, keys, values, count) => updateBatch(fd, keys, values, count, null),
    deleteBatch: (fd, keys, count) => deleteBatch(fd, keys, count, null),
    mapFdById: bpf.func("int bpf_map_get_fd_by_id(uint32_t id)") as Bpf.Calls["mapFdById"],
    close,
    possibleCpus: bpf.func("int libbpf_num_possible_cpus()") as Bpf.Calls["possibleCpus"]
  } satisfies Partial<Bpf.Calls>
}

const openPinOf = (bpf: Library): Bpf.Calls["openPin"] => {
  const objGet = bpf.func("int bpf_obj_get_opts(const char *path, const void *opts)") as (
    path: string,
    opts: Uint8Array
  ) => number
  return (path, flags = 0) => objGet(path, openOptions(flags))
}

const pinCalls = (bpf: Library) => ({
  ...fileCalls,
  openPin: openPinOf(bpf),
  pin: bpf.func("int bpf_obj_pin(int fd, const char *path)") as Bpf.Calls["pin"]
})

/** What an agent needs of libc besides. */
const agentCalls = (close: Bpf.Calls["close"]) => {
  const libc = koffi.load("libc.so.6")
  const { errno } = koffi
  const open = libc.func("int open(const char *path, int flags)")
  const flock = libc.func("int flock(int fd, int operation)")
  const socket = libc.func("int socket(int domain, int type, int protocol)")
  const sendto = libc.func("long sendto(int fd, const void *at, size_t size, int flags, const void *to, uint32_t room)")
  return { ...directoryLock({ open, flock, close, errno }), ...datagrams({ socket, sendto, close, errno }) }
}

/** An object that is not loaded yet, with its maps by name. */
interface Opened {
  readonly object: bigint
  readonly maps: ReadonlyArray<readonly [name: string, map: bigint]>
}

type Loaded = ReturnType<Bpf.Calls["loadObject"]>

const programCalls = (bpf: Library) => {
  const libc = koffi.load("libc.so.6")
  const openMem = bpf.func("void *bpf_object__open_mem(const void *elf, size_t size, const void *opts)") as (
    elf: Uint8Array,
    size: number,
    opts: null
  ) => bigint | null
  const load = bpf.func("int bpf_object__load(void *object)") as AsyncFunction<(object: bigint) => number>
  const closeObject = bpf.func("void bpf_object__close(void *object)") as (object: bigint) => void
  const nextProgram = bpf.func("void *bpf_object__next_program(void *object, void *previous)") as (
    object: bigint,
    previous: bigint | null
  ) => bigint | null
  const programName = bpf.func("const char *bpf_program__name(void *program)") as (program: bigint) => string
  const programFd = bpf.func("int bpf_program__fd(void *program)") as (program: bigint) => number
  const setAutoload = bpf.func("int bpf_program__set_autoload(void *program, bool load)") as (
    program: bigint,
    load: boolean
  ) => number
  const nextMap = bpf.func("void *bpf_object__next_map(void *object, void *previous)") as (
    object: bigint,
    previous: bigint | null
  ) => bigint | null
  const mapName = bpf.func("const char *bpf_map__name(void *map)") as (map: bigint) => string
  const mapFd = bpf.func("int bpf_map__fd(void *map)") as (map: bigint) => number
  const reuseFd = bpf.func("int bpf_map__reuse_fd(void *map, int fd)") as (map: bigint, fd: number) => number
  const setMaxEntries = bpf.func("int bpf_map__set_max_entries(void *map, uint32_t n)") as (
    map: bigint,
    entries: number
  ) => number
  const testRun = bpf.func("int bpf_prog_test_run_opts(int fd, void *opts)") as AsyncFunction<
    (fd: number, opts: Uint8Array) => number
  >
  const runOptions = testRunOptions(koffi.address)
  const Print = koffi.proto("int ctmap_libbpf_print(int level, const char *format, void *args)")
  const log = captureLog({
    setPrint: bpf.func("void *libbpf_set_print(void *print)"),
    vsnprintf: libc.func("int vsnprintf(_Out_ void *to, size_t room, const char *format, void *args)"),
    hook: (print) => {
      const address = koffi.register(print, koffi.pointer(Print))
      return { address, letGo: () => koffi.unregister(address) }
    }
  })

  const each = (object: bigint, next: (object: bigint, previous: bigint | null) => bigint | null): Array<bigint> => {
    const found: Array<bigint> = []
    for (let at = next(object, null); at !== null; at = next(object, at)) found.push(at)
    return found
  }
  const prepare = (object: bigint, spec: Bpf.ObjectSpec): number => {
    for (const program of each(object, nextProgram)) setAutoload(program, spec.programs.includes(programName(program)))
    for (const map of each(object, nextMap)) {
      const name = mapName(map)
      const reused = spec.reuse?.[name]
      const entries = spec.maxEntries?.[name]
      const rc = reused !== undefined ? reuseFd(map, reused) : entries !== undefined ? setMaxEntries(map, entries) : 0
      if (rc < 0) return rc
    }
    return 0
  }
  /** What is not yet the kernel's; an errno where there is nothing to load. */
  const open = (spec: Bpf.ObjectSpec): Opened | number => {
    const object = openMem(spec.elf, spec.elf.byteLength, null)
    if (object === null) return koffi.errno()
    // Before anything is reused: libbpf then renames the map of the object to what the kernel calls the other one.
    const maps = each(object, nextMap).map((map) => [mapName(map), map] as const)
    const rc = prepare(object, spec)
    if (rc >= 0) return { object, maps }
    closeObject(object)
    return -rc
  }
  const loaded = (spec: Bpf.ObjectSpec, { object, maps }: Opened, rc: number, print: () => string): Loaded => {
    if (rc < 0) {
      closeObject(object)
      return { errno: -rc, log: print() }
    }
    const programs = each(object, nextProgram).filter((program) => spec.programs.includes(programName(program)))
    return {
      programs: Object.fromEntries(programs.map((program) => [programName(program), programFd(program)])),
      maps: Object.fromEntries(maps.map(([name, map]) => [name, mapFd(map)])),
      close: () => closeObject(object)
    }
  }
  return {
    loadObject: (spec: Bpf.ObjectSpec) => {
      const lines: Array<string> = []
      return log.captured(lines, () => {
        const made = open(spec)
        return typeof made === "number"
          ? { errno: made, log: lines.join("") }
          : loaded(spec, made, load(made.object), () => lines.join(""))
      })
    },
    loadObjectAsync: (spec: Bpf.ObjectSpec, done: (answer: Loaded) => void) => {
      const made = open(spec)
      if (typeof made === "number") return void setImmediate(() => done({ errno: made, log: "" }))
      const speak = log.silence()
      elsewhere(load, [made.object], (rc) => {
        speak()
        done(loaded(spec, made, rc, () => ""))
      })
    },
    runProgram: (fd: number, context: Uint8Array, cpu?: number) => testRun(fd, runOptions(context, cpu)),
    runProgramAsync: (fd: number, context: Uint8Array, done: (rc: number) => void) =>
      elsewhere(testRun, [fd, runOptions(context)], done, context),
    ...mappings({
      mmap: libc.func("void *mmap(void *at, size_t length, int protection, int flags, int fd, long offset)"),
      munmap: libc.func("int munmap(void *at, size_t length)"),
      view: koffi.view,
      errno: koffi.errno
    })
  } satisfies Partial<Bpf.Calls>
}

/** What BPF programs put out: one perf event for each CPU, whose readiness libuv tells of on this thread. */
const perfCalls = (close: Bpf.Calls["close"]) => {
  const libc = koffi.load("libc.so.6")
  const number = perfEventOpenNumber(process.arch)
  // Not variadic here: the types of the arguments are those of perf_event_open(2).
  const perfEventOpen = libc.func(
    "long syscall(long number, const void *attributes, int pid, int cpu, int group, unsigned long flags)"
  ) as (number: number, attributes: Uint8Array, pid: number, cpu: number, group: number, flags: number) => number
  const epollCreate = libc.func("int epoll_create1(int flags)") as (flags: number) => number
  const epollAdd = libc.func("int epoll_ctl(int epoll, int operation, int fd, void *event)") as (
    epoll: number,
    operation: number,
    fd: number,
    event: Uint8Array
  ) => number
  /** libuv takes an fd once; a handle that nobody refers to stops. */
  const watched = new Map<number, unknown>()
  return {
    perfEvent: (cpu: number) => {
      if (number === undefined) return -ENOSYS
      const fd = perfEventOpen(number, outputAttributes(), -1, cpu, -1, PERF_FLAG_FD_CLOEXEC)
      return fd < 0 ? -koffi.errno() : fd
    },
    watch: (fd: number, ready: () => void) => {
      // koffi 3.3 ends the process where libuv refuses an fd, so the kernel is asked first.
      const epoll = epollCreate(0)
      if (epoll < 0) return -koffi.errno()
      const rc = watched.has(fd) ? -EEXIST : epollAdd(epoll, 1, fd, new Uint8Array(16)) < 0 ? -koffi.errno() : 0
      close(epoll)
      if (rc < 0) return rc
      const handle = koffi.node.poll(fd, { readable: true }, () => ready())
      watched.set(fd, handle)
      // libuv begins to wait in the loop's next turn, and in doing so takes from a perf event what it had to tell by then.
      const begun = setImmediate(ready)
      return () => {
        if (watched.get(fd) !== handle) return
        clearImmediate(begun)
        watched.delete(fd)
        handle.close()
      }
    },
    architecture: () => process.arch,
    pageSize: libc.func("int getpagesize()") as Bpf.Calls["pageSize"]
  } satisfies Partial<Bpf.Calls>
}

const PERF_FLAG_FD_CLOEXEC = 8
const EEXIST = 17
const ENOSYS = 38
