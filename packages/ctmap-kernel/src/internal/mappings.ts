/**
 * Memory of maps, mapped into this process, and the way back.
 *
 * An `ArrayBuffer` over memory that is not its own must not be there when the memory goes. Where a buffer can be taken
 * from all its views (`transfer`, Node >= 22) it is, and the mapping is undone. Where it cannot, the mapping is replaced
 * by empty pages, so that the map is let go and nobody can crash on what is left; the next mapping of the same length
 * takes its place, so that at most as many stay as were in use at one time.
 */

const PROT_READ_WRITE = 3
const MAP_SHARED = 1
const MAP_PRIVATE = 2
const MAP_FIXED = 0x10
const MAP_ANONYMOUS = 0x20
const MAP_FAILED = 0xffff_ffff_ffff_ffffn
const EINVAL = 22

/** The calls of libc, and what makes a buffer of an address. */
export interface Native {
  readonly mmap: (
    at: bigint | null,
    length: number,
    protection: number,
    flags: number,
    fd: number,
    offset: number
  ) => bigint
  readonly munmap: (at: bigint, length: number) => number
  readonly view: (at: bigint, length: number) => ArrayBuffer
  /** Of the last call. */
  readonly errno: () => number
}

interface Mapping {
  readonly at: bigint
  readonly buffer: ArrayBuffer
}

/** `mapMemory` and `unmapMemory` of `Bpf.Calls`. */
export const mappings = ({ mmap, munmap, view, errno }: Native) => {
  const mapped = new WeakMap<Uint8Array, Mapping>()
  const spare = new Map<number, Array<Mapping>>()
  return {
    mapMemory: (fd: number, bytes: number): Uint8Array | number => {
      const again = spare.get(bytes)?.pop()
      const flags = again === undefined ? MAP_SHARED : MAP_SHARED | MAP_FIXED
      const at = mmap(again?.at ?? null, bytes, PROT_READ_WRITE, flags, fd, 0)
      if (at === MAP_FAILED) {
        const failed = -errno()
        if (again !== undefined) spare.get(bytes)?.push(again)
        return failed
      }
      const mapping = again ?? { at, buffer: view(at, bytes) }
      const memory = new Uint8Array(mapping.buffer)
      mapped.set(memory, mapping)
      return memory
    },
    unmapMemory: (memory: Uint8Array): number => {
      const mapping = mapped.get(memory)
      if (mapping === undefined) return -EINVAL
      mapped.delete(memory)
      const { at, buffer } = mapping
      const bytes = buffer.byteLength
      if ("transfer" in buffer) {
        buffer.transfer(0)
        return munmap(at, bytes) === 0 ? 0 : -errno()
      }
      const flags = MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS
      if (mmap(at, bytes, PROT_READ_WRITE, flags, -1, 0) === MAP_FAILED) return -errno()
      const others = spare.get(bytes)
      if (others === undefined) spare.set(bytes, [mapping])
      else others.push(mapping)
      return 0
    }
  }
}
