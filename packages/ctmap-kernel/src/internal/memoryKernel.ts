/**
 * The in-memory kernel behind {@link Bpf.Calls}: fds, ids, references, permissions.
 *
 * Owns the life of objects: a map or program lives while an fd, a pin, a program, an outer map or mapped memory holds it.
 */
import { MapSpec } from "ctmap-core"
import { READ_ONLY } from "../Bpf.ts"
import type * as Bpf from "../Bpf.ts"
import { MMAPABLE } from "./memoryArrayMap.ts"
import { commandsOf } from "./memoryCreate.ts"
import { EACCES, EBADF, EBADFD, EINVAL, EMFILE, ENODEV, ENOENT, ENOTSUPP, EPERM } from "./memoryErrno.ts"
import { FileTree, type Identity } from "./memoryFs.ts"
import { hashWith } from "./memoryHash.ts"
import type { KernelObject, MemoryMap, MemoryProgram, Owner } from "./memoryMap.ts"
import { MemoryPerfEvent } from "./memoryPerf.ts"

/** What can be set of a kernel. */
export interface Settings {
  readonly possibleCpus: number
  readonly architecture: string
  readonly onlineCpus: ReadonlyArray<number>
  readonly seed: number
  readonly hash: ((key: Uint8Array, seed: number) => number) | undefined
  readonly buckets: number | undefined
  readonly mounts: ReadonlyArray<string>
  readonly maxFds: number
  readonly batch: "yes" | "unknown command" | "not for this map"
  readonly mmapable: boolean
  readonly programs: boolean
}

/** An open file: what it stands for, and what it may do. */
interface Open {
  readonly object: KernelObject
  readonly canRead: boolean
  readonly canWrite: boolean
}

const FIRST_FD = 3
/** `BPF_F_RDONLY`, `BPF_F_WRONLY`: of the fd, not of the map. */
const RDONLY = 0x8
const WRONLY = 0x10
const NAME_LENGTH = 15
const allCapabilities = [
  "CAP_BPF",
  "CAP_SYS_ADMIN",
  "CAP_PERFMON",
  "CAP_NET_ADMIN",
  "CAP_DAC_OVERRIDE",
  "CAP_DAC_READ_SEARCH",
  "CAP_FOWNER",
  "CAP_CHOWN"
]
const ROOT: Identity = { uid: 0, gid: 0, capabilities: new Set(allCapabilities) }

/** Objects and their holders. */
export class MemoryKernel {
  readonly settings: Settings
  readonly files: FileTree
  readonly #objects = new Map<KernelObject["kind"], Map<number, KernelObject>>([
    ["map", new Map()],
    ["program", new Map()],
    ["event", new Map()],
    ["lock", new Map()]
  ])
  readonly #fds: Array<Open | undefined> = []
  /** What mmap(2) handed out and nobody gave back; it holds what it shows. */
  readonly #mapped = new Map<Uint8Array, MemoryMap | MemoryPerfEvent>()
  readonly #owner: Owner
  #lastId = 0
  identity: Identity = ROOT

  constructor(settings: Settings) {
    this.settings = settings
    this.files = new FileTree(
      settings.mounts,
      () => this.identity,
      (object) => this.release(object)
    )
    const { hash, seed } = settings
    this.#owner = {
      mapOf: (fd) => this.mapOf(fd),
      eventOf: (fd) => this.eventOf(fd),
      hold: (object) => this.hold(object),
      release: (object) => this.release(object),
      possibleCpus: settings.possibleCpus,
      hash: hash === undefined ? hashWith(seed) : (key, size) => hash(key.subarray(0, size), seed),
      buckets: settings.buckets
    }
  }

  /** Whether the caller has one of the capabilities. */
  can(...capabilities: ReadonlyArray<string>): boolean {
    return capabilities.some((capability) => this.identity.capabilities.has(capability))
  }

  /** Root again, or somebody else. */
  become(identity: Identity = ROOT): void {
    this.identity = identity
  }

  createMap(spec: MapSpec.Properties, name: string, innerFd: number | undefined): number {
    if (!/^[\w.]*$/.test(name.slice(0, NAME_LENGTH))) return -EINVAL
    if ((spec.flags & MMAPABLE) !== 0 && !this.settings.mmapable) return -EINVAL
    if ((spec.flags & (RDONLY | WRONLY)) === (RDONLY | WRONLY)) return -EINVAL
    if ((spec.flags & 0x180) === 0x180) return -EINVAL
    if (!this.can("CAP_BPF", "CAP_SYS_ADMIN")) return -EPERM
    const isOuter = spec.type === MapSpec.mapType.arrayOfMaps || spec.type === MapSpec.mapType.hashOfMaps
    const inner = innerFd === undefined || !isOuter ? undefined : this.mapOf(innerFd)
    if (typeof inner === "number") return inner
    const rounded = { ...spec, maxEntries: this.#rounded(spec) }
    const commands = commandsOf(rounded, inner?.properties, this.#owner)
    if (typeof commands === "number") return commands
    const map: MemoryMap = {
      ...commands,
      kind: "map",
      id: ++this.#lastId,
      name: name.slice(0, NAME_LENGTH),
      properties: { ...rounded, flags: spec.flags & ~(RDONLY | WRONLY) },
      holders: 0
    }
    return this.open(map, (spec.flags & WRONLY) === 0, (spec.flags & RDONLY) === 0)
  }

  /** A program as an fd; it lets go of its maps when it goes. */
  createProgram(name: string, run: MemoryProgram["run"], maps: ReadonlyArray<MemoryMap>): number {
    for (const map of maps) this.hold(map)
    const destroy = (): void => {
      for (const map of maps) this.release(map)
    }
    return this.open({ kind: "program", id: ++this.#lastId, name, run, destroy, holders: 0 })
  }

  /** A new fd for an object, the lowest that is free. */
  open(object: KernelObject, canRead = true, canWrite = true): number {
    this.hold(object)
    const fd = this.#freeFd()
    if (fd >= this.settings.maxFds) {
      this.release(object)
      return -EMFILE
    }
    this.#fds[fd] = { object, canRead, canWrite }
    return fd
  }

  close(fd: number): number {
    const open = this.#fds[fd]
    if (open === undefined) return -EBADF
    this.#fds[fd] = undefined
    if (open.object.kind === "map") open.object.closed?.(fd)
    this.release(open.object)
    return 0
  }

  hold(object: KernelObject): void {
    object.holders += 1
    this.#objects.get(object.kind)?.set(object.id, object)
  }

  release(object: KernelObject): void {
    object.holders -= 1
    if (object.holders > 0) return
    this.#objects.get(object.kind)?.delete(object.id)
    object.destroy()
  }

  /** What an fd stands for. */
  object(fd: number): KernelObject | undefined {
    return this.#fds[fd]?.object
  }

  /** The map behind an fd, or what a command about a map answers to it. */
  mapOf(fd: number, access?: "read" | "write"): MemoryMap | number {
    const open = this.#fds[fd]
    if (open === undefined) return -EBADF
    if (open.object.kind !== "map") return -EINVAL
    if (access === undefined || (access === "read" ? open.canRead : open.canWrite)) return open.object
    return -EPERM
  }

  /** perf_event_open(2) of the output of BPF programs on a CPU. */
  openEvent(cpu: number): number {
    if (!this.can("CAP_PERFMON", "CAP_SYS_ADMIN")) return -EACCES
    if (cpu < 0 || cpu >= this.settings.possibleCpus) return -EINVAL
    if (!this.settings.onlineCpus.includes(cpu)) return -ENODEV
    return this.open(new MemoryPerfEvent(++this.#lastId, cpu))
  }

  /** The perf event behind an fd, or -errno. */
  eventOf(fd: number): MemoryPerfEvent | number {
    const object = this.object(fd)
    return object?.kind === "event" ? object : -EBADF
  }

  /** The map with an id, or what BPF_MAP_GET_FD_BY_ID answers. */
  fdById(id: number): number {
    if (!this.can("CAP_SYS_ADMIN")) return -EPERM
    const map = this.#objects.get("map")?.get(id)
    return map === undefined ? -ENOENT : this.open(map)
  }

  info(fd: number): Bpf.MapInfo | number {
    const map = this.mapOf(fd)
    if (typeof map === "number") return map === -EBADF ? -EBADFD : map
    return { ...map.properties, id: map.id, name: map.name }
  }

  run(fd: number, context: Uint8Array, cpu = 0): number {
    const object = this.object(fd)
    if (object === undefined) return -EBADF
    if (object.kind !== "program" || context.byteLength > 0xffff) return -EINVAL
    object.run(context, cpu)
    return 0
  }

  memory(fd: number, bytes: number): Uint8Array | number {
    const event = this.eventOf(fd)
    if (typeof event !== "number") {
      const ring = event.map(bytes)
      if (typeof ring === "number") return ring
      this.hold(event)
      this.#mapped.set(ring, event)
      return ring
    }
    const map = this.mapOf(fd)
    if (typeof map === "number") return map
    if (map.memory === undefined) return map.properties.type === MapSpec.mapType.array ? -EINVAL : -ENOTSUPP
    if (bytes === 0 || bytes > map.memory.byteLength) return -EINVAL
    const memory = map.memory.subarray(0, bytes)
    this.hold(map)
    this.#mapped.set(memory, map)
    return memory
  }

  unmap(memory: Uint8Array): number {
    const object = this.#mapped.get(memory)
    if (object === undefined) return -EINVAL
    this.#mapped.delete(memory)
    if (object.kind === "event") object.unmap()
    this.release(object)
    return 0
  }

  pin(fd: number, path: string): number {
    const object = this.object(fd)
    if (object === undefined || object.kind === "lock") return -EINVAL
    const rc = this.files.pin(object, path)
    if (rc === 0) this.hold(object)
    return rc
  }

  openPin(path: string, flags: number): number {
    if (flags !== 0 && flags !== READ_ONLY) return -EINVAL
    const object = this.files.open(path, flags === READ_ONLY)
    return typeof object === "number" ? object : this.open(object, true, flags !== READ_ONLY)
  }

  lockDirectory(path: string): number {
    const unlock = this.files.lock(path)
    if (typeof unlock === "number") return unlock
    return this.open({ kind: "lock", id: ++this.#lastId, name: path, destroy: unlock, holders: 0 })
  }

  /** Everything that is alive. */
  objects(kind: KernelObject["kind"]): ReadonlyArray<KernelObject> {
    return [...(this.#objects.get(kind)?.values() ?? [])]
  }

  /** Every open fd. */
  openFds(): ReadonlyArray<{ readonly fd: number; readonly object: KernelObject }> {
    return this.#fds.flatMap((open, fd) => (open === undefined ? [] : [{ fd, object: open.object }]))
  }

  #freeFd(): number {
    for (let fd = FIRST_FD; ; fd++) if (this.#fds[fd] === undefined) return fd
  }

  /** With LRU lists per CPU, each CPU gets as many elements as the others. */
  #rounded({ type, maxEntries, flags }: MapSpec.Properties): number {
    if (type !== MapSpec.mapType.lruHash || (flags & MapSpec.NO_COMMON_LRU) === 0) return maxEntries
    return Math.ceil(maxEntries / this.settings.possibleCpus) * this.settings.possibleCpus
  }
}
