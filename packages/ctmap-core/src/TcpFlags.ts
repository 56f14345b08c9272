/**
 * Names of the TCP flag bits that `tx_flags_seen` and `rx_flags_seen` collect.
 *
 * @since 0.1.0
 */

/** Names by bit number, lowest first. @since 0.1.0 */
export const all: ReadonlyArray<string> = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"]

/**
 * Names of the flags that were seen.
 *
 * **Example** (A handshake and some data)
 *
 * ```ts
 * import { TcpFlags } from "ctmap-core"
 *
 * TcpFlags.names(0x1a) // => ["SYN", "PSH", "ACK"]
 * ```
 *
 * @since 0.1.0
 */
export const names = (seen: number): Array<string> => all.filter((_, bit) => (seen & (1 << bit)) !== 0)
