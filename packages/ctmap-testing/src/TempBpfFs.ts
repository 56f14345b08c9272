/**
 * A bpffs of a test's own: mounted on a temporary directory, unmounted and removed at the end.
 *
 * Owns the mount. Tests must not touch `/sys/fs/bpf`: a datapath may be using it, and on many machines it is no bpffs.
 *
 * @since 0.1.0
 */
import { spawnSync } from "node:child_process"
import { randomBytes } from "node:crypto"
import { mkdirSync, rmdirSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"

/**
 * A bpffs that can be mounted.
 *
 * @since 0.1.0
 */
export interface TempBpfFs {
  /** Known before the mount, so that suites can be defined with it. */
  readonly path: string
  /** Mounts. For `beforeAll`. Throws where mount(8) fails, with its words. */
  readonly start: () => void
  /** Unmounts and removes; pins go with it. For `afterAll`. Harmless twice, or before `start`. */
  readonly stop: () => void
}

/**
 * A bpffs that is not mounted yet; nothing is touched before `start`.
 *
 * @since 0.1.0
 */
export const make = (): TempBpfFs => {
  const path = join(tmpdir(), `ctmap-bpffs-${process.pid}-${randomBytes(6).toString("hex")}`)
  let isMade = false
  let isMounted = false
  const stop = (): void => {
    process.off("exit", stop)
    // Lazily where somebody still stands in it: a test must not leave a mount behind.
    if (isMounted && run("umount", path) !== undefined) run("umount", "-l", path)
    isMounted = false
    if (isMade) rmdirSync(path)
    isMade = false
  }
  return {
    path,
    stop,
    start: () => {
      mkdirSync(path, { mode: 0o700 })
      isMade = true
      const problem = run("mount", "-t", "bpf", "bpf", path)
      if (problem !== undefined) {
        stop()
        throw new Error(`a bpffs cannot be mounted: ${problem}`)
      }
      isMounted = true
      process.on("exit", stop)
    }
  }
}

/** What a command complains of, or `undefined` where it succeeded. */
const run = (command: string, ...args: ReadonlyArray<string>): string | undefined => {
  const { error, status, stderr } = spawnSync(command, args, { encoding: "utf8" })
  return error !== undefined ? error.message : status === 0 ? undefined : stderr.trim()
}
