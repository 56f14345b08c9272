/** Datagram sockets of the in-memory kernel: who receives, and what has come. */
import { ECONNREFUSED, EINVAL, EMSGSIZE } from "./memoryErrno.ts"

/** Bytes of `sun_path`. */
const NAME_LENGTH = 108
/** What a socket sends at once on Linux, unless told otherwise. */
const SEND_BUFFER = 212_992 - 32

/** Somebody to whom datagrams can be sent. */
export interface Receiver {
  /** What has come since the last time. */
  readonly read: () => ReadonlyArray<Uint8Array>
  readonly close: () => void
}

/** Receivers by path or abstract name. `look` answers what sending to a path without one does. */
export class Datagrams {
  readonly #received = new Map<string, Array<Uint8Array>>()
  readonly #look: (path: string) => number

  constructor(look: (path: string) => number) {
    this.#look = look
  }

  receive(path: string): Receiver {
    const received: Array<Uint8Array> = []
    this.#received.set(path, received)
    return { read: () => received.splice(0), close: () => void this.#received.delete(path) }
  }

  send(path: string, bytes: Uint8Array): number {
    const length = new TextEncoder().encode(path).byteLength
    if (length === 0 || length > NAME_LENGTH) return -EINVAL
    if (bytes.byteLength > SEND_BUFFER) return -EMSGSIZE
    const received = this.#received.get(path)
    if (received === undefined) return path.startsWith("@") ? -ECONNREFUSED : this.#look(path)
    received.push(bytes.slice())
    return 0
  }
}
