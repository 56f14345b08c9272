/**
 * A unix datagram socket to receive on, as a service manager has one; Node has none.
 *
 * @since 0.1.0
 */
import { rmSync } from "node:fs"
import koffi from "koffi"

/**
 * Somebody to whom datagrams can be sent.
 *
 * @since 0.1.0
 */
export interface DatagramSocket {
  /** What has come since the last time; does not wait. */
  readonly read: () => ReadonlyArray<Uint8Array>
  /** Closes the socket and removes its path. */
  readonly close: () => void
}

const AF_UNIX = 1
const SOCK_DGRAM = 2
const SOCK_CLOEXEC = 0o2_000_000
const MSG_DONTWAIT = 0x40

/**
 * Receives at a path or, with a leading `@`, under an abstract name. Throws where that is not possible.
 *
 * @since 0.1.0
 */
export const bind = (path: string): DatagramSocket => {
  calls ??= open()
  const { socket, bindTo, receive, close } = calls
  const fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)
  const name = Buffer.from(path)
  const address = Buffer.concat([Uint8Array.of(AF_UNIX, 0), name])
  if (path.startsWith("@")) address[2] = 0
  if (fd < 0 || bindTo(fd, address, address.byteLength) < 0) {
    const errno = koffi.errno()
    if (fd >= 0) close(fd)
    throw new Error(`no datagram socket at ${path}: errno ${errno}`)
  }
  const buffer = new Uint8Array(1 << 16)
  return {
    read: () => {
      const received: Array<Uint8Array> = []
      for (;;) {
        const bytes = receive(fd, buffer, buffer.byteLength, MSG_DONTWAIT)
        if (bytes < 0) return received
        received.push(buffer.slice(0, bytes))
      }
    },
    close: () => {
      close(fd)
      if (!path.startsWith("@")) rmSync(path, { force: true })
    }
  }
}

// internal

const open = () => {
  const libc = koffi.load("libc.so.6")
  return {
    socket: libc.func("int socket(int domain, int type, int protocol)"),
    bindTo: libc.func("int bind(int fd, const void *address, uint32_t length)"),
    receive: libc.func("long recv(int fd, void *into, size_t room, int flags)"),
    close: libc.func("int close(int fd)")
  }
}

/** Types of koffi are global to the process. */
let calls: ReturnType<typeof open> | undefined
