/**
 * CT entries as Cilium prints them, one string at a time.
 *
 * Owns the wording of keys and values in both releases. Written to be read: {@link CtLineWriter} makes the same bytes
 * thirty times faster, and property tests hold the two together.
 *
 * @see `pkg/maps/ctmap/types.go` and `pkg/tuple` of Cilium
 * @since 0.1.0
 */
import type { CtEntry } from "./CtEntry.ts"
import * as CtEntryFlags from "./CtEntryFlags.ts"
import type { CtKey, DumpOptions } from "./CtKey.ts"
import { addressText, bracketed } from "./internal/addressText.ts"
import type { TupleLike } from "./internal/tupleSchema.ts"
import * as Protocol from "./Protocol.ts"
import type { Release } from "./Release.ts"
import * as TupleFlags from "./TupleFlags.ts"

/**
 * Cilium's `String` of a CT key: fields as stored, ports in the order the object holds them in.
 *
 * **Details**
 *
 * Global keys: `source:sport --> destination:dport, protocol, flags`. Local keys: `destination:sport, dport, protocol,
 * flags`. IPv6 addresses stand in brackets. Because CT maps store addresses reversed and ports straight, the
 * addresses look swapped against the ports.
 *
 * @since 0.1.0
 */
export const keyString = (key: CtKey, release: Release = "1.17"): string =>
  key.scope === "global"
    ? tupleString(key, release)
    : `${bracketed(key.daddr, release)}:${key.sport}, ${key.dport}, ${key.nexthdr}, ${key.flags}`

/** The `String` of a global CT key and of a NAT key. @since 0.1.0 */
export const tupleString = (key: TupleLike, release: Release): string =>
  `${bracketed(key.saddr, release)}:${key.sport} --> ${bracketed(key.daddr, release)}:${key.dport}, ${key.nexthdr}, ${key.flags}`

/**
 * Cilium's `Dump` of a CT key: the head of a dump line with a trailing space, or `undefined` where the protocol is 0
 * and Cilium prints nothing.
 *
 * **Details**
 *
 * The service bit is looked at first, then the ingress bit; service lines ignore `reverse`; a related entry says so
 * at the end. IPv6 addresses have no brackets here.
 *
 * @since 0.1.0
 */
export const keyDump = (key: CtKey, options: DumpOptions): string | undefined => {
  if (key.nexthdr === 0) return undefined
  const release = options.release ?? "1.17"
  const head =
    key.scope === "global" ? globalDump(key, options.reverse, release) : localDump(key, options.reverse, release)
  return TupleFlags.isRelated(key.flags) ? `${head}related ` : head
}

const globalDump = (key: CtKey, reverse: boolean, release: Release): string => {
  const protocol = Protocol.name(key.nexthdr, release)
  const daddr = addressText(key.daddr, release)
  const saddr = addressText(key.saddr, release)
  const direction = TupleFlags.direction(key.flags)
  if (direction === "service") return `${protocol} SVC ${saddr}:${key.dport} -> ${daddr}:${key.sport} `
  const [from, to] = reverse ? [daddr, saddr] : [saddr, daddr]
  return `${protocol} ${direction === "in" ? "IN" : "OUT"} ${from}:${key.sport} -> ${to}:${key.dport} `
}

const localDump = (key: CtKey, reverse: boolean, release: Release): string => {
  const protocol = Protocol.name(key.nexthdr, release)
  const daddr = addressText(key.daddr, release)
  const direction = TupleFlags.direction(key.flags)
  if (direction === "service") return `${protocol} SVC ${daddr} ${key.dport}:${key.sport} `
  const peer = reverse ? addressText(key.saddr, release) : daddr
  return direction === "in"
    ? `${protocol} IN ${peer} ${key.sport}:${key.dport} `
    : `${protocol} OUT ${peer} ${key.dport}:${key.sport} `
}

/**
 * The value part of a dump line, with its newline.
 *
 * **Details**
 *
 * `describe`, where given, turns the raw lifetime into what stands in parentheses behind it: Cilium's
 * `StringWithTimeDiff`. Ports and revNAT print in host order.
 *
 * @since 0.1.0
 */
export const entry = (value: CtEntry, describe?: (lifetime: number) => string): string =>
  `expires=${value.lifetime}${describe === undefined ? "" : ` (${describe(value.lifetime)})`}` +
  ` Packets=${value.packets} Bytes=${value.bytes}` +
  ` RxFlagsSeen=0x${hex2(value.rxFlagsSeen)} LastRxReport=${value.lastRxReport}` +
  ` TxFlagsSeen=0x${hex2(value.txFlagsSeen)} LastTxReport=${value.lastTxReport}` +
  ` ${CtEntryFlags.format(value.flags)} RevNAT=${value.revNat} SourceSecurityID=${value.sourceSecurityId}` +
  (value.release === "1.17"
    ? ` IfIndex=${value.ifindex} BackendID=${value.backendId} \n`
    : ` BackendID=${value.backendId} NatPort=${value.natPort} \n`)

/**
 * One whole dump line, or `undefined` for an entry that Cilium's dump leaves out (protocol 0).
 *
 * **Example** (A line of `cilium bpf ct list`)
 *
 * ```ts
 * import { CtEntry, CtKey, CtText } from "ctmap-core"
 *
 * const key = new CtKey.CtKey4({ ...CtKey.zero("ipv4"), nexthdr: 6, dport: 80, flags: 1 } as CtKey.CtKey4)
 * CtText.line(key, CtEntry.zero("1.17"))?.startsWith("TCP IN 0.0.0.0:0 -> 0.0.0.0:80 expires=0 Packets=0 ") // => true
 * ```
 *
 * @since 0.1.0
 */
export const line = (key: CtKey, value: CtEntry, describe?: (lifetime: number) => string): string | undefined => {
  const head = keyDump(key.toHost(), { reverse: true, release: value.release })
  return head === undefined ? undefined : head + entry(value, describe)
}

const hex2 = (n: number): string => n.toString(16).padStart(2, "0")
