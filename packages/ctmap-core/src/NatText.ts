/**
 * NAT entries as Cilium prints them, one string at a time.
 *
 * @see `pkg/maps/nat` of Cilium
 * @since 0.1.0
 */
import type { DumpOptions } from "./CtKey.ts"
import { tupleString } from "./CtText.ts"
import { addressText, bracketed } from "./internal/addressText.ts"
import { swap16 } from "./internal/tupleSchema.ts"
import type { NatEntry } from "./NatEntry.ts"
import type { NatKey } from "./NatKey.ts"
import * as Protocol from "./Protocol.ts"
import type { Release } from "./Release.ts"
import * as TupleFlags from "./TupleFlags.ts"

/** Cilium's `String` of a NAT key: as a global CT key prints. @since 0.1.0 */
export const keyString = (key: NatKey, release: Release = "1.17"): string => tupleString(key, release)

/**
 * The head of a NAT line with a trailing space, or `undefined` where the protocol is 0.
 *
 * **Details**
 *
 * Unlike a CT line: IPv6 addresses stand in brackets, there is no service form, and the service bit is named at the end.
 *
 * @since 0.1.0
 */
export const keyDump = (key: NatKey, options: DumpOptions): string | undefined => {
  if (key.nexthdr === 0) return undefined
  const release = options.release ?? "1.17"
  const [from, to] = options.reverse ? [key.daddr, key.saddr] : [key.saddr, key.daddr]
  const direction = (key.flags & TupleFlags.IN) !== 0 ? "IN" : "OUT"
  const related = TupleFlags.isRelated(key.flags) ? "related " : ""
  const service = (key.flags & TupleFlags.SERVICE) !== 0 ? "service " : ""
  return `${Protocol.name(key.nexthdr, release)} ${direction} ${bracketed(from, release)}:${key.sport} -> ${bracketed(to, release)}:${key.dport} ${related}${service}`
}

/** Cilium's `String` of a NAT value: the port as a little-endian host loads it, no brackets. @since 0.1.0 */
export const entryString = (value: NatEntry, release: Release = "1.17"): string =>
  `Addr=${addressText(value.address, release)} Port=${swap16(value.port)} Created=${value.created} NeedsCT=${value.needsCt}\n`

/**
 * One whole NAT line, or `undefined` for an entry that the dump leaves out (protocol 0).
 *
 * **Details**
 *
 * `age` turns the raw creation time into whole seconds before now; without it the raw time is printed, as Cilium does
 * without a clock.
 *
 * **Example** (With and without a clock)
 *
 * ```ts
 * import { NatEntry, NatKey, NatText } from "ctmap-core"
 * import * as Hex from "effect/encoding/Hex"
 * import * as Result from "effect/Result"
 *
 * const bytes = Result.getOrThrow(Hex.decode("010101010a000163005086d80600"))
 * const key = Result.getOrThrow(NatKey.fromBytes("ipv4", bytes))
 * NatText.line(key, NatEntry.zero("ipv4"), { age: () => 42n })
 * // => "TCP OUT 10.0.1.99:34520 -> 1.1.1.1:80 XLATE_SRC 0.0.0.0:0 Created=42sec ago NeedsCT=0\n"
 * NatText.line(key, NatEntry.zero("ipv4"))
 * // => "TCP OUT 10.0.1.99:34520 -> 1.1.1.1:80 XLATE_SRC 0.0.0.0:0 Created=? (raw 0) NeedsCT=0\n"
 * ```
 *
 * @since 0.1.0
 */
export const line = (
  key: NatKey,
  value: NatEntry,
  options: { readonly release?: Release; readonly age?: (created: bigint) => bigint } = {}
): string | undefined => {
  const release = options.release ?? "1.17"
  const head = keyDump(key.toHost(), { reverse: false, release })
  if (head === undefined) return undefined
  const side = (key.flags & TupleFlags.IN) !== 0 ? "XLATE_DST" : "XLATE_SRC"
  const created = options.age === undefined ? `? (raw ${value.created})` : `${options.age(value.created)}sec ago`
  return `${head}${side} ${bracketed(value.address, release)}:${value.port} Created=${created} NeedsCT=${value.needsCt}\n`
}
