/**
 * Which BPF objects this process has open, to see what a test left behind.
 *
 * Owns the reading of `/proc/self/fd`. That table belongs to the process, and test files run in threads of one: compare
 * by the ids of the objects a test made, or run such files one after the other.
 *
 * @since 0.1.0
 */
import { readdirSync, readFileSync, readlinkSync } from "node:fs"

/**
 * An open fd of a BPF object.
 *
 * @since 0.1.0
 */
export interface Handle {
  readonly fd: number
  readonly kind: Kind
  /** The kernel's number of the object; 0 for what has none. */
  readonly id: number
}

/**
 * What an fd can stand for.
 *
 * @since 0.1.0
 */
export type Kind = "map" | "prog" | "link" | "iter" | "btf"

/**
 * Every open fd of a BPF object, by rising fd.
 *
 * @since 0.1.0
 */
export const handles = (): ReadonlyArray<Handle> =>
  readdirSync("/proc/self/fd")
    .map(Number)
    .toSorted((a, b) => a - b)
    .flatMap((fd) => handleOf(fd) ?? [])

/**
 * Handles that are there now and were not before: those of objects that `isMine` claims, by default of any.
 *
 * **Details**
 *
 * Compares objects, not numbers: an fd that was closed and handed out again for something else is a new handle.
 *
 * @since 0.1.0
 */
export const since = (
  before: ReadonlyArray<Handle>,
  isMine: (handle: Handle) => boolean = () => true
): ReadonlyArray<Handle> => {
  const known = new Set(before.map(keyOf))
  return handles().filter((handle) => isMine(handle) && !known.has(keyOf(handle)))
}

const keyOf = ({ fd, kind, id }: Handle): string => `${fd} ${kind} ${id}`

/** A map's link reads `anon_inode:bpf-map`, an iterator's `anon_inode:bpf_iter`, some with brackets. */
const handleOf = (fd: number): Handle | undefined => {
  try {
    const kind = /^anon_inode:\[?bpf[-_](map|prog|link|iter)\]?$/.exec(readlinkSync(`/proc/self/fd/${fd}`))?.[1]
    const isBtf = kind === undefined && /^anon_inode:\[?btf\]?$/.test(readlinkSync(`/proc/self/fd/${fd}`))
    if (kind === undefined && !isBtf) return undefined
    const info = readFileSync(`/proc/self/fdinfo/${fd}`, "latin1")
    const id = /^(?:map|prog|link|btf)_id:\s*(\d+)$/m.exec(info)?.[1]
    return { fd, kind: (kind ?? "btf") as Kind, id: Number(id ?? 0) }
  } catch {
    // Closed while we looked.
    return undefined
  }
}
