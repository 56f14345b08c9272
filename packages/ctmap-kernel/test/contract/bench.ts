/** What the contract's tests work with: maps, fds and pins that are gone again when a test ends. */
import { readFileSync } from "node:fs"
import { assert } from "@effect/vitest"
import { MapSpec } from "ctmap-core"
import { Bpf, type BpfMemory } from "ctmap-kernel"
import * as Effect from "effect/Effect"

/** A key or value that is one u32. */
export const u32 = (value: number): Uint8Array<ArrayBuffer> => new Uint8Array(Uint32Array.of(value).buffer)

/** Several of them without gaps. */
export const u32s = (...values: ReadonlyArray<number>): Uint8Array<ArrayBuffer> =>
  new Uint8Array(Uint32Array.from(values).buffer)

export const readU32 = (bytes: Uint8Array, index = 0): number =>
  new DataView(bytes.buffer, bytes.byteOffset).getUint32(4 * index, true)

/** Properties of a small hash with u32 keys and values, but for what is named. */
export const spec = (changes: Partial<MapSpec.Properties> = {}): MapSpec.Properties => ({
  type: MapSpec.mapType.hash,
  keySize: 4,
  valueSize: 4,
  maxEntries: 4,
  flags: 0,
  ...changes
})

/** `BPF_F_RDONLY`: of the fd that the creator gets. */
export const RDONLY = 0x8
/** `BPF_F_MMAPABLE` */
export const MMAPABLE = 0x400

const OBJECT = "contract_object"
const PROGRAM = "probe_syscall"
const probes = new URL("../../bpf/probes.bpf.o", import.meta.url)

/** What a twin in memory needs to know of the object whose program the tests load. */
export const objects: Readonly<Record<string, BpfMemory.ObjectTwin>> = {
  [OBJECT]: { programs: { [PROGRAM]: () => 0 } }
}

const load = (bpf: Bpf.Calls): { readonly object: Bpf.LoadedObject; readonly fd: number } => {
  const object = bpf.loadObject({ name: OBJECT, elf: readFileSync(probes), programs: [PROGRAM] })
  if ("errno" in object) throw new Error(`load program: ${object.errno} ${object.log}`)
  return { object, fd: object.programs[PROGRAM] ?? -1 }
}

/** The fd of a program that does nothing, for the life of a scope. */
export const loadProgram = Effect.map(
  Effect.flatMap(Bpf.Bpf, (bpf) =>
    Effect.acquireRelease(
      Effect.sync(() => load(bpf)),
      ({ object }) => Effect.sync(() => object.close())
    )
  ),
  ({ fd }) => fd
)

/** One test's share of the kernel. */
export class Bench {
  readonly bpf: Bpf.Calls
  /** A directory on a bpffs that is this test's alone. */
  readonly directory: string
  readonly #fds: Array<number> = []
  readonly #objects: Array<Bpf.LoadedObject> = []

  constructor(bpf: Bpf.Calls, directory: string) {
    this.bpf = bpf
    this.directory = directory
    assert.strictEqual(bpf.makeDirectory(directory), 0)
  }

  /** A new map, closed when the test ends. */
  map(
    changes: Partial<MapSpec.Properties> = {},
    options: { readonly name?: string; readonly inner?: number } = {}
  ): number {
    return this.own(this.bpf.mapCreate(spec(changes), options.name ?? "contract", options.inner))
  }

  /** Closes an fd when the test ends; fails here and now where it is none. */
  own(fd: number): number {
    assert.isAtLeast(fd, 0)
    this.#fds.push(fd)
    return fd
  }

  /** The fd of a program that does nothing; unloaded when the test ends. */
  program(): number {
    const { object, fd } = load(this.bpf)
    this.#objects.push(object)
    return fd
  }

  /** Closes an fd before that. */
  close(fd: number): void {
    this.#fds.splice(this.#fds.indexOf(fd), 1)
    assert.strictEqual(this.bpf.close(fd), 0)
  }

  path(name: string): string {
    return `${this.directory}/${name}`
  }

  /** What is at a path; fails where nothing is. */
  readonly stat = (path: string): Bpf.PathInfo => {
    const info = this.bpf.stat(path)
    if (typeof info === "number") throw new Error(`stat ${path}: ${info}`)
    return info
  }

  info(fd: number): Bpf.MapInfo {
    const info = this.bpf.mapInfo(fd)
    if (typeof info === "number") throw new Error(`map info: ${info}`)
    return info
  }

  /** Puts `count` entries in, keys 0, 1, …, each with its key times 3 as value. */
  fill(fd: number, count: number): void {
    for (let i = 0; i < count; i++) assert.strictEqual(this.bpf.update(fd, u32(i), u32(3 * i), 0), 0)
  }

  /** Keys in the order of a walk by next key, and what ended it. */
  walk(fd: number): { readonly keys: ReadonlyArray<number>; readonly end: number } {
    const keys: Array<number> = []
    for (let at: Uint8Array | null = null; ;) {
      const next = u32(0)
      const end = this.bpf.nextKey(fd, at, next)
      if (end < 0) return { keys, end }
      keys.push(readU32(next))
      at = next
    }
  }

  /**
   * Whether an id is free again. Not always at once: a process that another test file starts has copies of all fds
   * between its fork and its exec.
   */
  isGone(id: number): boolean {
    for (let attempt = 0; attempt < 100; attempt++) {
      const fd = this.bpf.mapFdById(id)
      if (fd < 0) return fd === -2
      this.bpf.close(fd)
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 5)
    }
    return false
  }

  /** One batch read into buffers of the right size. */
  batch(fd: number, cursor: Uint8Array | null, room: number, valueBytes = 4) {
    const nextCursor = cursor ?? u32(0xffff_ffff)
    const keys = new Uint8Array(4 * room)
    const values = new Uint8Array(valueBytes * room)
    const count = Uint32Array.of(room)
    const rc = this.bpf.lookupBatch(fd, cursor, nextCursor, keys, values, count)
    return { rc, keys, values, count: count[0] ?? 0, cursor: nextCursor }
  }

  /** Reads a whole map by batches, doubling the room whenever a bucket does not fit. */
  batches(fd: number, startRoom: number) {
    const entries: Array<readonly [key: number, value: number]> = []
    const calls: Array<{ readonly rc: number; readonly count: number }> = []
    let cursor: Uint8Array | null = null
    for (let room = startRoom; ;) {
      const read = this.batch(fd, cursor, room)
      calls.push({ rc: read.rc, count: read.count })
      if (read.rc === -28) {
        room *= 2
        // A first call that fails has no cursor to go on from but the one it wrote.
        cursor = read.cursor
        continue
      }
      for (let i = 0; i < read.count; i++) entries.push([readU32(read.keys, i), readU32(read.values, i)])
      if (read.rc < 0) return { entries, calls }
      cursor = read.cursor
    }
  }

  /** Closes and removes what the test made. */
  release(): void {
    for (const fd of this.#fds.splice(0)) this.bpf.close(fd)
    for (const object of this.#objects.splice(0)) object.close()
    this.#remove(this.directory)
  }

  #remove(path: string): void {
    const names = this.bpf.listDirectory(path)
    if (typeof names !== "number") for (const name of names) this.#remove(`${path}/${name}`)
    this.bpf.unpin(path)
  }
}
