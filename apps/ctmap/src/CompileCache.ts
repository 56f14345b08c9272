/**
 * Where Node may keep compiled code.
 *
 * The cache is code that a later run executes, as root more often than not. So it lives in a directory that nobody else
 * can write to, below the home that the password database names: what the environment says is not trusted.
 *
 * @since 0.1.0
 */
import { lstatSync, mkdirSync } from "node:fs"

/** The directory of a user, made where it is missing; `undefined` where somebody else could put code in it. @since 0.1.0 */
export const directoryOf = ({
  homedir,
  uid
}: {
  readonly homedir: string
  readonly uid: number
}): string | undefined => {
  try {
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
