/** File operations on a bpffs, which are ordinary system calls: answered like the others, `>= 0` or `-errno`. */
import {
  chmodSync,
  chownSync,
  constants,
  lstatSync,
  mkdirSync,
  readdirSync,
  renameSync,
  rmdirSync,
  statfsSync,
  statSync,
  unlinkSync
} from "node:fs"
import { dirname } from "node:path"
import type * as Bpf from "../Bpf.ts"

const BPF_FS_MAGIC = 0xcafe_4a11
const ENOENT = -2
const O_CLOEXEC = 0o2_000_000
const LOCK_EX = 2
const LOCK_NB = 4
export const EIO = -5

/** The result of a call of node:fs, or the `-errno` of what it throws. */
const onPath = <A>(call: () => A): A | number => {
  try {
    return call()
  } catch (error) {
    return typeof error === "object" && error !== null && "errno" in error ? Number(error.errno) : EIO
  }
}

const onFile = (call: () => void): number => {
  const result = onPath(call)
  return typeof result === "number" ? result : 0
}

export const fileCalls = {
  unpin: (path) => onFile(() => (lstatSync(path).isDirectory() ? rmdirSync(path) : unlinkSync(path))),
  chmod: (path, mode) => onFile(() => chmodSync(path, mode)),
  chown: (path, uid, gid) => onFile(() => chownSync(path, uid, gid)),
  renamePin: (from, to) => onFile(() => renameSync(from, to)),
  makeDirectory: (path) => onFile(() => void mkdirSync(path, { recursive: true, mode: 0o755 })),
  listDirectory: (path) => onPath(() => readdirSync(path)),
  stat: (path) =>
    onPath((): Bpf.PathInfo => {
      const stats = statSync(path)
      const kind = stats.isDirectory() ? "directory" : stats.isFile() ? "pin" : "other"
      const { uid, gid, dev, ino } = stats
      return { kind, uid, gid, mode: stats.mode & 0o7777, device: dev, inode: ino }
    }),
  isBpfFs: (path) => {
    for (let at = path; ; at = dirname(at)) {
      const type = onPath(() => ({ type: statfsSync(at).type }))
      if (typeof type !== "number") return type.type === BPF_FS_MAGIC
      // Only what is not there yet is on the file system of its parent. What must not be looked at may well be one: the
      // operation itself will say what is wrong.
      if (type !== ENOENT || at === dirname(at)) return type !== ENOENT
    }
  }
} satisfies Partial<Bpf.Calls>

/** The calls of libc. node:fs will not do: a worker thread of Node closes what it opened, again, when it ends. */
export interface NativeLock {
  readonly open: (path: string, flags: number) => number
  readonly flock: (fd: number, operation: number) => number
  readonly close: (fd: number) => number
  /** Of the last call. */
  readonly errno: () => number
}

/** `lockDirectory` of `Bpf.Calls`. */
export const directoryLock = ({ open, flock, close, errno }: NativeLock): Pick<Bpf.Calls, "lockDirectory"> => ({
  lockDirectory: (path) => {
    const fd = open(path, constants.O_RDONLY | constants.O_DIRECTORY | O_CLOEXEC)
    if (fd < 0) return -errno()
    if (flock(fd, LOCK_EX | LOCK_NB) === 0) return fd
    const refused = -errno()
    close(fd)
    return refused
  }
})
