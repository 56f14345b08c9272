/** Errno values the twin answers, as Linux numbers them. Calls return them negated. */
export const EPERM = 1
export const ENOENT = 2
export const EBADF = 9
export const EAGAIN = 11
export const ENOMEM = 12
export const E2BIG = 7
export const EACCES = 13
export const EFAULT = 14
export const EBUSY = 16
export const EEXIST = 17
export const EXDEV = 18
export const ENODEV = 19
export const ENOTDIR = 20
export const EISDIR = 21
export const EINVAL = 22
export const EMFILE = 24
export const ENOSPC = 28
export const ENAMETOOLONG = 36
export const ENOTEMPTY = 39
/** What a command about an object answers to an fd that is none. */
export const EBADFD = 77
export const EMSGSIZE = 90
export const EOPNOTSUPP = 95
export const ECONNREFUSED = 111
/** Not meant for user space, yet it is what map operations answer that a type lacks. */
export const ENOTSUPP = 524
