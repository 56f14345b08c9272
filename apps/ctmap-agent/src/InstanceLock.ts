/**
 * One agent on a bpffs: a lock on its root directory, for as long as this one runs.
 *
 * Owns the lock and what is the matter with it: there may be no bpffs yet, another one may take its place, somebody else
 * may hold it. The lock is the inode's, so that agents on the host and in containers see each other's; it goes with the
 * process, however that ends. Its price: a bpffs that is locked is busy for umount(8), and can only be unmounted lazily.
 *
 * @since 0.1.0
 */
import { readFileSync } from "node:fs"
import { Bpf, BpfError } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"

/** Another process has locked the bpffs. `holder` is what is known of it: nothing where it is in another pid namespace. */
class AlreadyRunning extends Schema.TaggedError<AlreadyRunning>()("AlreadyRunning", {
  root: Schema.String,
  holder: Schema.optionalKey(Schema.Struct({ pid: Schema.Int, command: Schema.String }))
}) {
  override get message(): string {
    const who =
      this.holder === undefined
        ? `a process that cannot be seen from here: run \`fuser -v ${this.root}\` on the host`
        : `process ${this.holder.pid}${this.holder.command === "" ? "" : ` (${this.holder.command})`}`
    return `another agent works on the bpffs at ${this.root}: ${who}; stop it, or give this one another --bpffs-root`
  }
}

/** How things stand. */
type Standing = "held" | "no bpffs"

/** @since 0.1.0 */
export interface InstanceLock {
  /**
   * Takes the lock, unless it is held already; of another bpffs if another one is mounted there by now, and gives back
   * that of one that is gone. Errors: `BpfError` where the directory may not be read.
   */
  readonly ensure: Effect.Effect<Standing, AlreadyRunning | BpfError.BpfError>
}

interface Held {
  readonly fd: number
  readonly device: number
  readonly inode: number
}

/** A mount may change while it is looked at, but not for ever. */
const ATTEMPTS = 3

/**
 * A lock that is not taken yet. Given back with the scope.
 *
 * @since 0.1.0
 */
export const make = (root: string, locks: () => string = readLocks) =>
  Effect.gen(function* (): Effect.fn.Return<InstanceLock, never, Bpf.Bpf | Scope.Scope> {
    const bpf = yield* Bpf.Bpf
    let held: Held | undefined
    const hold = (next: Held | undefined): void => {
      if (held !== undefined) bpf.close(held.fd)
      held = next
    }
    yield* Effect.addFinalizer(() => Effect.sync(() => hold(undefined)))

    const failed = (rc: number) =>
      Effect.fail(BpfError.fromErrno({ operation: "lock directory", errno: -rc, path: root }))

    const ensure = Effect.suspend((): InstanceLock["ensure"] => {
      for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
        const info = bpf.stat(root)
        if (info === -ENOENT || (typeof info !== "number" && !bpf.isBpfFs(root))) {
          hold(undefined)
          return Effect.succeed("no bpffs")
        }
        if (typeof info === "number") return failed(info)
        const { device, inode } = info
        // While it is held, its numbers are nobody else's.
        if (held?.device === device && held.inode === inode) return Effect.succeed("held")
        const fd = bpf.lockDirectory(root)
        if (fd === -EAGAIN) {
          return Effect.fail(new AlreadyRunning({ root, ...holderOf(locks(), device, inode) }))
        }
        if (fd < 0) return failed(fd)
        hold({ fd, device, inode })
      }
      return Effect.succeed("held")
    })
    return { ensure }
  })

/** The process that has an inode locked, by a line of /proc/locks such as `1: FLOCK  ADVISORY  WRITE 8278 00:28:1 0 EOF`. */
const holderOf = (locks: string, device: number, inode: number) => {
  // As the kernel packs both parts into st_dev.
  const [major, minor] = [(device >>> 8) & 0xfff, (device & 0xff) | ((device >>> 12) & 0xfff00)]
  const hex = (number: number): string => number.toString(16).padStart(2, "0")
  const line = new RegExp(`^\\d+: FLOCK +ADVISORY +WRITE +(\\d+) +${hex(major)}:${hex(minor)}:${inode} `, "m")
  const pid = Number(line.exec(locks)?.[1] ?? 0)
  return pid > 0 ? { holder: { pid, command: commandOf(pid) } } : {}
}

/** As it was started; what it was given as a token is nobody's business. */
const commandOf = (pid: number): string => {
  try {
    const given = readFileSync(`/proc/${pid}/cmdline`, "utf8")
    const words = given
      .replaceAll(/(--[\w-]*token[=\0])[^\0]*/g, "$1…")
      .split("\0")
      .join(" ")
      .trim()
    return words.length > COMMAND_LENGTH ? `${words.slice(0, COMMAND_LENGTH)}…` : words
  } catch {
    // It has gone by now, or is nobody's business.
    return ""
  }
}

const readLocks = (): string => {
  try {
    return readFileSync("/proc/locks", "utf8")
  } catch {
    return ""
  }
}

const COMMAND_LENGTH = 120
const ENOENT = 2
const EAGAIN = 11
