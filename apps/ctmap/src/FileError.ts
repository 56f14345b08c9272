/**
 * What an error of the file system means to whoever named the file.
 *
 * @since 0.1.0
 */
import type { PlatformError } from "effect/PlatformError"
import { FileFailed } from "./Failure.ts"

/** The sentence for an error of a file that was to be read or written. @since 0.1.0 */
export const fileFailed = (path: string, action: FileFailed["action"], error: PlatformError): FileFailed => {
  const { cause } = error.reason
  const code = cause instanceof Error && "code" in cause ? String(cause.code) : ""
  const why = (action === "write" ? writing[code] : reading[code]) ?? either[code]
  return new FileFailed({ path, action, why: why ?? (cause instanceof Error ? cause.message : error.message) })
}

type Reasons = Readonly<Record<string, string>>

const either: Reasons = {
  EACCES: "permission denied: run as a user who may, or name another file",
  EPERM: "permission denied: run as a user who may, or name another file",
  ENOTDIR: "a part of the path is no directory: check the path",
  ELOOP: "its symbolic links go in circles: check the path",
  ENAMETOOLONG: "the name is too long: name another file",
  EIO: "the device reports an error: look at the kernel's log",
  EMFILE: "too many files are open: raise the limit with `ulimit -n`"
}

const writing: Reasons = {
  ENOENT: "its directory does not exist: make it first, or check the path",
  EISDIR: "it is a directory: name a file",
  ENOSPC: "no space is left on the device: free some, or name a file on another",
  EDQUOT: "the quota is used up: free some space, or name a file elsewhere",
  EFBIG: "the file would be larger than allowed: raise the limit with `ulimit -f`",
  EROFS: "the file system is read-only: name a file on another",
  EBUSY: "it is in use: name another file",
  ETXTBSY: "it is a program that runs: name another file"
}

const reading: Reasons = {
  ENOENT: "no such file or directory: check the path",
  EISDIR: "it is a directory: name a file"
}
