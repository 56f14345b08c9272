/**
 * The only door to the kernel: one method per bpf(2) command that ctmap uses, the file operations of a bpffs, and the two
 * calls of an agent that Node lacks.
 *
 * Owns the contract, not an implementation. `LibBpf.layer` is the kernel itself, `BpfMemory.layer` its twin in memory;
 * one suite (`test/contract`) holds both to the same answers. Calls are plain synchronous functions on raw bytes that
 * return a number at or above zero, or minus an errno, so that a loop over thousands of keys costs no Effect per key.
 * {@link BpfMap} wraps them for everybody else: scoped, typed, with errors that name the situation.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import type { MapSpec } from "ctmap-core"

/** Insert or replace. @since 0.1.0 */
export const ANY = 0
/** Insert only. @since 0.1.0 */
export const NOEXIST = 1
/** Replace only. @since 0.1.0 */
export const EXIST = 2

/** `BPF_F_RDONLY`: open a pin for reading. @since 0.1.0 */
export const READ_ONLY = 8

/**
 * What the kernel says of an open map.
 *
 * @since 0.1.0
 */
export interface MapInfo extends MapSpec.Properties {
  /** The kernel's number of the map. */
  readonly id: number
  /** Object name, cut to 15 bytes by the kernel: never identify a map by it. */
  readonly name: string
}

/**
 * What stands at a path.
 *
 * @since 0.1.0
 */
export interface PathInfo {
  readonly kind: "directory" | "pin" | "other"
  readonly uid: number
  readonly gid: number
  /** Permission bits. */
  readonly mode: number
  /** Number of the file system, as stat(2) gives it: another bpffs at the same path has another, as long as both live. */
  readonly device: number
  readonly inode: number
}

/**
 * A loaded BPF object: its programs and maps by name, as file descriptors. Closing it closes them all.
 *
 * @since 0.1.0
 */
export interface LoadedObject {
  readonly programs: Readonly<Record<string, number>>
  readonly maps: Readonly<Record<string, number>>
  readonly close: () => void
}

/**
 * What to load.
 *
 * @since 0.1.0
 */
export interface ObjectSpec {
  readonly name: string
  /** The ELF file. */
  readonly elf: Uint8Array
  /** Programs to load; others of the object are left out. */
  readonly programs: ReadonlyArray<string>
  /** Maps of the object that stand for maps which are open already: fd by name. */
  readonly reuse?: Readonly<Record<string, number>>
  /** Maps of the object to make of another size: entries by name. */
  readonly maxEntries?: Readonly<Record<string, number>>
}

/**
 * What a batch of lookups is given besides its map: see {@link Calls.lookupBatch}.
 *
 * @since 0.1.0
 */
export type LookupBatch = [
  cursor: Uint8Array | null,
  nextCursor: Uint8Array,
  keys: Uint8Array,
  values: Uint8Array,
  count: Uint32Array
]

/**
 * One method per command. All return `>= 0`, or `-errno`; none throws.
 *
 * **Details**
 *
 * Shape: keys and values are as large as the map says; batch buffers hold `count[0]` of each without gaps. Ownership:
 * buffers are read or written during the call only; a returned fd is the caller's to close. Every call blocks the
 * calling thread for as long as the kernel takes.
 *
 * @since 0.1.0
 */
export interface Calls {
  /** BPF_MAP_CREATE: an fd. `innerFd` is the template of an outer map. */
  readonly mapCreate: (spec: MapSpec.Properties, name: string, innerFd?: number) => number
  /** BPF_OBJ_GET_INFO_BY_FD. -EINVAL for a program or a link, whose information is another. */
  readonly mapInfo: (fd: number) => MapInfo | number
  /** BPF_MAP_LOOKUP_ELEM. A per-CPU map writes 8-byte aligned values of every possible CPU. */
  readonly lookup: (fd: number, key: Uint8Array, value: Uint8Array) => number
  /** BPF_MAP_UPDATE_ELEM with {@link ANY}, {@link NOEXIST} or {@link EXIST}. */
  readonly update: (fd: number, key: Uint8Array, value: Uint8Array, flags: number) => number
  /** BPF_MAP_DELETE_ELEM. */
  readonly delete: (fd: number, key: Uint8Array) => number
  /**
   * BPF_MAP_LOOKUP_AND_DELETE_ELEM of a hash: the value as it was in the moment it went. Hashes have it since Linux 5.14;
   * older kernels and other maps answer -EINVAL, -EOPNOTSUPP or -524.
   */
  readonly lookupAndDelete: (fd: number, key: Uint8Array, value: Uint8Array) => number
  /**
   * {@link Calls.update} on another thread, for outer maps: a change of a slot waits out an RCU grace period, 10 ms and
   * more. Calls back with 0 or `-errno`, never before it has returned. It cannot be called off; until then key and value
   * are the kernel's, and the fds, that of an inner map too, have to stay open.
   */
  readonly updateAsync: (
    fd: number,
    key: Uint8Array,
    value: Uint8Array,
    flags: number,
    done: (rc: number) => void
  ) => void
  /** {@link Calls.delete} on another thread, as {@link Calls.updateAsync}. */
  readonly deleteAsync: (fd: number, key: Uint8Array, done: (rc: number) => void) => void
  /** BPF_MAP_GET_NEXT_KEY: `null` asks for the first; -ENOENT is the end. A key that is gone answers the first key. */
  readonly nextKey: (fd: number, key: Uint8Array | null, next: Uint8Array) => number
  /**
   * BPF_MAP_LOOKUP_BATCH. `cursor` is `null` at first and then what the call before wrote to `nextCursor`; both may be
   * one buffer of at least max(key size, 4) bytes. `count` is room on entry and entries on return. -ENOENT is the end,
   * **with valid entries**; -ENOSPC reads nothing and writes the cursor of the bucket that did not fit.
   */
  readonly lookupBatch: (fd: number, ...batch: LookupBatch) => number
  /** BPF_MAP_UPDATE_BATCH: `count` is how many to write on entry, how many were written on return. */
  readonly updateBatch: (fd: number, keys: Uint8Array, values: Uint8Array, count: Uint32Array) => number
  /** BPF_MAP_DELETE_BATCH: stops with -ENOENT at the first key that is gone; `count` says how many went before it. */
  readonly deleteBatch: (fd: number, keys: Uint8Array, count: Uint32Array) => number
  /** BPF_MAP_GET_FD_BY_ID: needs CAP_SYS_ADMIN, so nothing depends on it. */
  readonly mapFdById: (id: number) => number
  /** close(2). */
  readonly close: (fd: number) => number

  /** BPF_OBJ_GET: an fd for what is pinned. With `READ_ONLY`, read permission is enough, and the fd only reads. */
  readonly openPin: (path: string, flags?: number) => number
  /** BPF_OBJ_PIN. */
  readonly pin: (fd: number, path: string) => number
  /** unlink(2), or rmdir(2) for an empty directory. */
  readonly unpin: (path: string) => number
  /** rename(2): replaces what is pinned at `to` in one step. */
  readonly renamePin: (from: string, to: string) => number
  /** chmod(2): permission bits of a pin or directory. */
  readonly chmod: (path: string, mode: number) => number
  /** chown(2): another user needs CAP_CHOWN. */
  readonly chown: (path: string, uid: number, gid: number) => number
  /** mkdir(2) with all parents, mode 0755. Existing directories are fine. */
  readonly makeDirectory: (path: string) => number
  /** Names in a directory. */
  readonly listDirectory: (path: string) => ReadonlyArray<string> | number
  /** stat(2). */
  readonly stat: (path: string) => PathInfo | number
  /** Whether the path, or the nearest parent that exists, is on a bpffs. */
  readonly isBpfFs: (path: string) => boolean
  /**
   * flock(2) of a directory, exclusive, without waiting: an fd that holds it until it is closed or the process ends.
   * -EAGAIN while somebody else does, in whatever mount, network or pid namespace: the lock is the directory's. Reading
   * the directory must be permitted. While it is held, its file system cannot be unmounted but lazily, and lives on then.
   */
  readonly lockDirectory: (path: string) => number

  /** Loads programs of a BPF object. On failure the verifier's last words are in `log`. */
  readonly loadObject: (spec: ObjectSpec) => LoadedObject | { readonly errno: number; readonly log: string }
  /**
   * The same on another thread, for programs that the verifier takes long over: never calls back before it has returned.
   * It cannot be called off. What the spec reuses is bound before it returns, and may be closed from then on. There is no
   * log.
   */
  readonly loadObjectAsync: (spec: ObjectSpec, done: (answer: ReturnType<Calls["loadObject"]>) => void) => void
  /**
   * BPF_PROG_TEST_RUN of a syscall program; `context` is read and written. With `cpu`, of a raw tracepoint program, on
   * that CPU (Linux >= 5.10); its `context` is read only.
   */
  readonly runProgram: (fd: number, context: Uint8Array, cpu?: number) => number
  /**
   * The same on another thread, for runs that take long: calls back with 0 or `-errno`, never before it has returned. It
   * cannot be called off; until then the context is the kernel's, and the fd has to stay open.
   */
  readonly runProgramAsync: (fd: number, context: Uint8Array, done: (rc: number) => void) => void
  /** mmap(2) of a mmapable array map: a view of all of it, which holds the map until {@link Calls.unmapMemory}. */
  readonly mapMemory: (fd: number, bytes: number) => Uint8Array | number
  /**
   * munmap(2) of a view that `mapMemory` answered. Nobody may look at it, nor at another view of its buffer, afterwards;
   * where the JavaScript engine can (Node >= 22), they are emptied. -EINVAL for anything else, and the second time.
   */
  readonly unmapMemory: (memory: Uint8Array) => number

  /**
   * perf_event_open(2) of what BPF programs on a CPU put out: an fd for that CPU's slot of a perf event array, and to map
   * a ring from (`mapMemory` of 1 + 2^n pages). -ENODEV for a CPU that is offline, -EINVAL for one that cannot be,
   * -EACCES without CAP_PERFMON.
   */
  readonly perfEvent: (cpu: number) => number
  /**
   * Calls back on this thread whenever an fd becomes readable, and now and then without need, until what it returns is
   * called, which must be before the fd is closed. -EEXIST where somebody watches it already.
   */
  readonly watch: (fd: number, ready: () => void) => (() => void) | number
  /** Bytes of a page, the unit of mapped memory. */
  readonly pageSize: () => number
  /** Of the CPUs, as Node names it. Programs that read kernel memory by themselves rely on the order of loads of `x64`. */
  readonly architecture: () => string

  /** Possible CPUs, the width of a per-CPU value. */
  readonly possibleCpus: () => number
  /** CLOCK_MONOTONIC in nanoseconds. */
  readonly monotonic: () => bigint

  /**
   * sendto(2) of one datagram to a unix socket, by path or, with a leading `@`, by abstract name: 0 once it is in the
   * receiver's queue, -EAGAIN where that is full, -ECONNREFUSED where nobody receives. Node has no such sockets, and
   * service managers listen on them.
   */
  readonly sendDatagram: (path: string, bytes: Uint8Array) => number
}

/**
 * The kernel, or its twin.
 *
 * @since 0.1.0
 */
export class Bpf extends Context.Service<Bpf, Calls>()("ctmap-kernel/Bpf") {}
