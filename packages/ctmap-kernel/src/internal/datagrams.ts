/**
 * Datagrams to sockets of the file system or of the abstract namespace: what node:net has not.
 */
import type * as Bpf from "../Bpf.ts"

const AF_UNIX = 1
const SOCK_DGRAM = 2
const SOCK_CLOEXEC = 0o2_000_000
const MSG_DONTWAIT = 0x40
const MSG_NOSIGNAL = 0x4000

/** The calls of libc. */
export interface Native {
  readonly socket: (domain: number, type: number, protocol: number) => number
  readonly sendto: (
    fd: number,
    bytes: Uint8Array,
    size: number,
    flags: number,
    to: Uint8Array,
    length: number
  ) => number
  readonly close: (fd: number) => number
  /** Of the last call. */
  readonly errno: () => number
}

/** `struct sockaddr_un` of a path, or with a leading `@` of an abstract name; the kernel judges its length. */
const unixAddress = (path: string): Uint8Array => {
  const name = new TextEncoder().encode(path)
  const bytes = new Uint8Array(2 + name.byteLength)
  new DataView(bytes.buffer).setUint16(0, AF_UNIX, true)
  bytes.set(name, 2)
  if (path.startsWith("@")) bytes[2] = 0
  return bytes
}

/** `sendDatagram` of `Bpf.Calls`. */
export const datagrams = ({ socket, sendto, close, errno }: Native): Pick<Bpf.Calls, "sendDatagram"> => ({
  sendDatagram: (path, bytes) => {
    const to = unixAddress(path)
    const fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)
    if (fd < 0) return -errno()
    const sent = sendto(fd, bytes, bytes.byteLength, MSG_DONTWAIT | MSG_NOSIGNAL, to, to.byteLength)
    const rc = sent < 0 ? -errno() : 0
    close(fd)
    return rc
  }
})
