/**
 * Files of the in-memory kernel: directories, some of them on a bpffs, and pins.
 *
 * Owns paths and permissions, with the errors of Linux 6.18. Links, time stamps and ordinary files do not exist here.
 */
import type * as Bpf from "../Bpf.ts"
import type { KernelObject } from "./memoryMap.ts"
import {
  EACCES,
  EAGAIN,
  EBUSY,
  ECONNREFUSED,
  EEXIST,
  EINVAL,
  EISDIR,
  ENAMETOOLONG,
  ENOENT,
  ENOTDIR,
  ENOTEMPTY,
  EPERM,
  EXDEV
} from "./memoryErrno.ts"

/** Who asks. */
export interface Identity {
  readonly uid: number
  readonly gid: number
  readonly capabilities: ReadonlySet<string>
}

interface Inode {
  uid: number
  gid: number
  mode: number
}

/** A mounted bpffs; two at one path, one after the other, are two. */
interface Mount {
  readonly device: number
}

interface Directory extends Inode {
  readonly kind: "directory"
  /** The bpffs it is on, or `undefined`. */
  readonly mount: Mount | undefined
  readonly inode: number
  parent: Directory | undefined
  readonly entries: Map<string, Directory | Pin>
  isLocked: boolean
}

interface Pin extends Inode {
  readonly kind: "pin"
  readonly inode: number
  readonly object: KernelObject
}

const READ = 4
const WRITE = 2
const EXECUTE = 1
const STICKY = 0o1000
/** The file system that is none of bpf. */
const PLAIN = 1

/** What a path names: a place in a directory, and what is there. */
interface Place {
  readonly directory: Directory
  readonly name: string
  readonly found: Directory | Pin | undefined
}

/** A tree of directories. `release` hears of every pin that goes. */
export class FileTree {
  #lastInode = 1
  #lastDevice = PLAIN
  readonly #root: Directory = this.#directory(undefined, undefined, { uid: 0, gid: 0 }, 0o755)
  readonly #identity: () => Identity
  readonly #release: (object: KernelObject) => void

  /** `mounts` are paths of bpffs; they and their parents exist from the start, and so does `/tmp`. */
  constructor(mounts: ReadonlyArray<string>, identity: () => Identity, release: (object: KernelObject) => void) {
    this.#identity = identity
    this.#release = release
    this.#ensure("/tmp", undefined).mode = 0o1777
    for (const mount of mounts) this.mount(mount)
  }

  /** A new bpffs at a path, over whatever is there. */
  mount(path: string): void {
    this.#ensure(path, { device: ++this.#lastDevice }).mode = 0o1777
  }

  /** As `umount -l`: an empty directory is left, and pins go unless a lock keeps their file system alive. */
  unmount(path: string): number {
    const place = this.#resolve(path, false, ROOT)
    if (typeof place === "number") return place
    const { found } = place
    if (found?.kind !== "directory" || found.mount === undefined || !isMountPoint(found)) return -EINVAL
    place.directory.entries.set(place.name, this.#directory(place.directory, place.directory.mount, ROOT, 0o755))
    found.parent = undefined
    this.#abandon(found)
    return 0
  }

  /** Locks a directory: what unlocks it, or -errno. */
  lock(path: string): (() => void) | number {
    const found = this.#find(path)
    if (typeof found === "number") return found
    if (found.kind !== "directory") return -ENOTDIR
    if (!this.#may(found, READ)) return -EACCES
    if (found.isLocked) return -EAGAIN
    found.isLocked = true
    return () => {
      found.isLocked = false
      let top = found
      while (top.parent !== undefined) top = top.parent
      this.#abandon(top)
    }
  }

  /** What is pinned at a path, if it may be read, and written unless it is opened for reading. */
  open(path: string, isReadOnly: boolean): KernelObject | number {
    const place = this.#resolve(path)
    if (typeof place === "number") return place
    if (place.found === undefined) return -ENOENT
    if (place.found.kind === "directory" || !this.#may(place.found, isReadOnly ? READ : READ | WRITE)) return -EACCES
    return place.found.object
  }

  /** Pins an object that the caller has taken hold of. */
  pin(object: KernelObject, path: string): number {
    const place = this.#resolve(path, true)
    if (typeof place === "number") return place
    if (place.found !== undefined) return -EEXIST
    if (place.directory.mount === undefined) return -EPERM
    if (!this.#may(place.directory, WRITE | EXECUTE)) return -EACCES
    const { uid, gid } = this.#identity()
    const pin: Pin = { kind: "pin", object, uid, gid, mode: 0o600, inode: ++this.#lastInode }
    place.directory.entries.set(place.name, pin)
    return 0
  }

  remove(path: string): number {
    const place = this.#resolve(path)
    if (typeof place === "number") return place
    if (place.found === undefined) return -ENOENT
    if (place.found.kind === "directory" && isMountPoint(place.found)) return -EBUSY
    const refused = this.#mayReplace(place.directory, place.found)
    if (refused !== 0) return refused
    if (place.found.kind === "directory" && place.found.entries.size > 0) return -ENOTEMPTY
    place.directory.entries.delete(place.name)
    this.#released(place.found)
    return 0
  }

  rename(from: string, to: string): number {
    const source = this.#resolve(from)
    if (typeof source === "number") return source
    const target = this.#resolve(to)
    if (typeof target === "number") return target
    const moved = source.found
    if (moved === undefined) return -ENOENT
    if (source.directory.mount !== target.directory.mount) return -EXDEV
    if (moved === target.found) return 0
    if (moved.kind === "directory" && isInside(target.directory, moved)) return -EINVAL
    const refused = this.#mayReplace(source.directory, moved) || this.#mayReplace(target.directory, target.found)
    if (refused !== 0) return refused
    if (target.found !== undefined) {
      if (moved.kind === "directory" && target.found.kind !== "directory") return -ENOTDIR
      if (moved.kind !== "directory" && target.found.kind === "directory") return -EISDIR
      if (target.found.kind === "directory" && target.found.entries.size > 0) return -ENOTEMPTY
    }
    source.directory.entries.delete(source.name)
    target.directory.entries.set(target.name, moved)
    if (moved.kind === "directory") moved.parent = target.directory
    if (target.found !== undefined) this.#released(target.found)
    return 0
  }

  /** Permission bits: for the owner, and who may act as such. */
  chmod(path: string, mode: number): number {
    const found = this.#find(path)
    if (typeof found === "number") return found
    const { uid, capabilities } = this.#identity()
    if (found.uid !== uid && !capabilities.has("CAP_FOWNER")) return -EPERM
    found.mode = mode & 0o7777
    return 0
  }

  /** Owner: without the capability, an owner may choose among the groups that are its own. */
  chown(path: string, uid: number, gid: number): number {
    const found = this.#find(path)
    if (typeof found === "number") return found
    const caller = this.#identity()
    const isOwn = found.uid === caller.uid && uid === found.uid && (gid === found.gid || gid === caller.gid)
    if (!isOwn && !caller.capabilities.has("CAP_CHOWN")) return -EPERM
    found.uid = uid
    found.gid = gid
    return 0
  }

  makeDirectory(path: string): number {
    const names = split(path)
    if (names === undefined) return -ENOENT
    let at = this.#root
    for (const [depth, name] of names.entries()) {
      const place = this.#step(at, name)
      if (typeof place === "number") return place
      const isLast = depth === names.length - 1
      if (place.found?.kind === "pin") return isLast ? -EEXIST : -ENOTDIR
      if (place.found === undefined && !this.#may(at, WRITE | EXECUTE)) return -EACCES
      at = place.found ?? this.#create(at, name)
    }
    return 0
  }

  list(path: string): ReadonlyArray<string> | number {
    const place = this.#resolve(path)
    if (typeof place === "number") return place
    if (place.found === undefined) return -ENOENT
    if (place.found.kind !== "directory") return -ENOTDIR
    return this.#may(place.found, READ) ? [...place.found.entries.keys()].toSorted() : -EACCES
  }

  stat(path: string): Bpf.PathInfo | number {
    const place = this.#resolve(path)
    if (typeof place === "number") return place
    if (place.found === undefined) return -ENOENT
    const { kind, uid, gid, mode, inode } = place.found
    const { mount } = place.found.kind === "directory" ? place.found : place.directory
    return { kind, uid, gid, mode, device: mount?.device ?? PLAIN, inode }
  }

  /** What a datagram to a path is answered, where no socket is. */
  connect(path: string): number {
    const found = this.#find(path)
    return typeof found === "number" ? found : this.#may(found, WRITE) ? -ECONNREFUSED : -EACCES
  }

  isBpfFs(path: string): boolean {
    let at: Directory | Pin = this.#root
    let mount = at.mount
    for (const name of split(path) ?? []) {
      if (at.kind !== "directory") break
      const found: Directory | Pin | undefined = at.entries.get(name)
      if (found === undefined) break
      at = found
      if (at.kind === "directory") mount = at.mount
    }
    return mount !== undefined
  }

  /** What is pinned at a path, whoever asks. */
  at(path: string): KernelObject | undefined {
    const place = this.#resolve(path, false, ROOT)
    return typeof place === "number" || place.found?.kind !== "pin" ? undefined : place.found.object
  }

  /** Owner or permission bits of what is at a path, whoever asks. */
  change(path: string, change: Partial<Inode>): number {
    const place = this.#resolve(path, false, ROOT)
    if (typeof place === "number") return place
    if (place.found === undefined) return -ENOENT
    Object.assign(place.found, change)
    return 0
  }

  /** Paths of all pins. */
  pins(): ReadonlyArray<string> {
    const paths: Array<string> = []
    const walk = (directory: Directory, prefix: string): void => {
      for (const [name, entry] of directory.entries) {
        if (entry.kind === "directory") walk(entry, `${prefix}/${name}`)
        else paths.push(`${prefix}/${name}`)
      }
    }
    walk(this.#root, "")
    return paths.toSorted()
  }

  #ensure(path: string, mount: Mount | undefined): Directory {
    let at = this.#root
    const names = split(path) ?? []
    for (const [depth, name] of names.entries()) {
      const found = at.entries.get(name)
      if (found?.kind === "directory" && (depth < names.length - 1 || mount === undefined)) at = found
      else {
        const made = this.#directory(at, depth === names.length - 1 ? mount : at.mount, ROOT, 0o755)
        at.entries.set(name, made)
        at = made
      }
    }
    return at
  }

  #create(parent: Directory, name: string): Directory {
    const made = this.#directory(parent, parent.mount, this.#identity(), 0o755)
    parent.entries.set(name, made)
    return made
  }

  #find(path: string): Directory | Pin | number {
    const place = this.#resolve(path)
    return typeof place === "number" ? place : (place.found ?? -ENOENT)
  }

  /** To the place a path names. `isNew`: a trailing slash is -ENOENT, not -ENOTDIR. */
  #resolve(path: string, isNew = false, identity = this.#identity()): Place | number {
    const names = split(path)
    if (names === undefined) return -ENOENT
    let at = this.#root
    let place: Place = { directory: at, name: "", found: at }
    for (const name of names) {
      if (place.found === undefined) return -ENOENT
      if (place.found.kind !== "directory") return -ENOTDIR
      at = place.found
      const next = this.#step(at, name, identity)
      if (typeof next === "number") return next
      place = next
    }
    if (!path.endsWith("/") || place.found?.kind === "directory") return place
    return place.found === undefined || isNew ? -ENOENT : -ENOTDIR
  }

  #step(directory: Directory, name: string, identity = this.#identity()): Place | number {
    if (!this.#may(directory, EXECUTE, identity)) return -EACCES
    if (name.length > 255) return -ENAMETOOLONG
    if (name === "..") return { directory, name, found: directory.parent ?? directory }
    const found = directory.entries.get(name)
    // A bpffs keeps names with a dot for itself: it does not even look for them.
    if (found === undefined && directory.mount !== undefined && name.includes(".")) return -EPERM
    return { directory, name, found }
  }

  #may(inode: Directory | Pin, wanted: number, identity = this.#identity()): boolean {
    if (identity.capabilities.has("CAP_DAC_OVERRIDE")) return true
    const readable = inode.kind === "directory" ? READ | EXECUTE : READ
    if ((wanted & ~readable) === 0 && identity.capabilities.has("CAP_DAC_READ_SEARCH")) return true
    const shift = inode.uid === identity.uid ? 6 : inode.gid === identity.gid ? 3 : 0
    return ((inode.mode >> shift) & wanted) === wanted
  }

  /** 0 where an entry of a directory may be removed or replaced, or -errno. */
  #mayReplace(directory: Directory, entry: Inode | undefined): number {
    const { uid, capabilities } = this.#identity()
    if (!this.#may(directory, WRITE | EXECUTE)) return -EACCES
    if (entry === undefined || (directory.mode & STICKY) === 0 || capabilities.has("CAP_FOWNER")) return 0
    return entry.uid === uid || directory.uid === uid ? 0 : -EPERM
  }

  #released(entry: Directory | Pin): void {
    if (entry.kind === "pin") this.#release(entry.object)
  }

  /** Lets go of what is in a file system that is not mounted any more, unless somebody holds a part of it. */
  #abandon(top: Directory): void {
    if (top === this.#root || isHeld(top)) return
    for (const entry of top.entries.values()) {
      if (entry.kind === "directory") this.#abandon(entry)
      else this.#release(entry.object)
    }
    top.entries.clear()
  }

  #directory(
    parent: Directory | undefined,
    mount: Mount | undefined,
    { uid, gid }: { readonly uid: number; readonly gid: number },
    mode: number
  ): Directory {
    const inode = ++this.#lastInode
    return { kind: "directory", mount, inode, parent, uid, gid, mode, entries: new Map(), isLocked: false }
  }
}

const ROOT: Identity = { uid: 0, gid: 0, capabilities: new Set(["CAP_DAC_OVERRIDE", "CAP_FOWNER"]) }

const isMountPoint = ({ mount, parent }: Directory): boolean => parent === undefined || parent.mount !== mount

const isHeld = (directory: Directory): boolean =>
  directory.isLocked || [...directory.entries.values()].some((entry) => entry.kind === "directory" && isHeld(entry))

const isInside = (directory: Directory, outer: Directory): boolean => {
  for (let at: Directory | undefined = directory; at !== undefined; at = at.parent) if (at === outer) return true
  return false
}

/** Names of an absolute path; there is no working directory. */
const split = (path: string): ReadonlyArray<string> | undefined =>
  path.startsWith("/") ? path.split("/").filter((name) => name !== "" && name !== ".") : undefined
