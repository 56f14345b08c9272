/**
 * The program: turns on Node's cache of compiled code, which saves a seventh of the start, and then is `run`.
 *
 * The cache is code that a later run executes, as root more often than not. So it lives in a directory that nobody else
 * can write to, below the home that the password database names: what the environment says is not trusted. Where there is
 * no such place, or with NODE_DISABLE_COMPILE_CACHE=1, there is no cache.
 *
 * @since 0.1.0
 */
import { lstatSync, mkdirSync, writeSync } from "node:fs"
import { userInfo } from "node:os"

const cacheDirectory = (): string | undefined => {
  try {
    const { homedir, uid } = userInfo()
    const directory = `${homedir}/.cache/ctmap`
    mkdirSync(directory, { recursive: true, mode: 0o700 })
    const isOurs = [homedir, `${homedir}/.cache`, directory].every((path) => {
      const found = lstatSync(path)
      return found.isDirectory() && found.uid === uid && (found.mode & 0o022) === 0
    })
    return isOurs ? directory : undefined
  } catch {
    return undefined
  }
}

const directory = cacheDirectory()
// Node 22.8; before that, and in tests, there is nothing to turn on.
if (directory !== undefined) process.getBuiltinModule("node:module").enableCompileCache?.(directory)

try {
  await import("./run.ts")
} catch (error) {
  // Nothing else is there to say it. `Load` says the same of what is loaded later.
  const { message, stack } = error instanceof Error ? error : { message: String(error), stack: "" }
  const why = process.env["CTMAP_DEBUG"] ? `${message}\n${stack}` : message.split("\n")[0]
  writeSync(2, `ctmap: cannot load its own code: install ctmap again, or let this user read its files (${why})\n`)
  process.exitCode = 1
}
