/**
 * The program: turns on Node's cache of compiled code, which saves a seventh of the start, and then is `run`. Where there
 * is no safe place for it, or with NODE_DISABLE_COMPILE_CACHE=1, there is no cache.
 *
 * @since 0.1.0
 */
import { writeSync } from "node:fs"
import { userInfo } from "node:os"
import { directoryOf } from "./CompileCache.ts"

/** A user that the password database does not know has no home. */
const cacheDirectory = (): string | undefined => {
  try {
    return directoryOf(userInfo())
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
