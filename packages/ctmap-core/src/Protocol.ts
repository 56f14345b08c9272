/**
 * IP protocol numbers and the names Cilium gives them.
 *
 * @since 0.1.0
 */
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type { Release } from "./Release.ts"

/** The protocol whose entries live in the TCP maps; every other number lives in the Any maps. @since 0.1.0 */
export const TCP = 6
/** @since 0.1.0 */
export const UDP = 17
/** @since 0.1.0 */
export const ICMP = 1
/** @since 0.1.0 */
export const ICMPv6 = 58
/** @since 0.1.0 */
export const SCTP = 132

const names117: ReadonlyMap<number, string> = new Map([
  [0, "ANY"],
  [1, "ICMP"],
  [6, "TCP"],
  [17, "UDP"],
  [58, "ICMPv6"],
  [132, "SCTP"]
])

const names120: ReadonlyMap<number, string> = new Map([
  ...names117,
  [2, "IGMP"],
  [4, "IPIP"],
  [41, "IPv6"],
  [47, "GRE"],
  [50, "ESP"],
  [51, "AH"],
  [112, "VRRP"]
])

const namesOf = (release: Release): ReadonlyMap<number, string> => (release === "1.17" ? names117 : names120)

/**
 * The protocol is not one Cilium knows. `message` is Cilium's own wording.
 *
 * @since 0.1.0
 */
export class UnknownProtocol extends Schema.TaggedError<UnknownProtocol>()("UnknownProtocol", {
  /** The name as it was given, or the number. */
  value: Schema.Union([Schema.String, Schema.Number])
}) {
  override get message(): string {
    return typeof this.value === "string" ? `unknown protocol '${this.value}'` : `unknown protocol ${this.value}`
  }
}

/**
 * The name a release prints for a protocol number; numbers without a name print as decimals.
 *
 * **Example** (GRE has a name since 1.20)
 *
 * ```ts
 * import { Protocol } from "ctmap-core"
 *
 * Protocol.name(47, "1.17") // => "47"
 * Protocol.name(47, "1.20") // => "GRE"
 * ```
 *
 * @since 0.1.0
 */
export const name = (protocol: number, release: Release): string => namesOf(release).get(protocol) ?? String(protocol)

/**
 * Parses a protocol name, in any case. `all`, `any` and `none` are 0. Names of every release are known.
 *
 * **Example** (Parsing)
 *
 * ```ts
 * import { Protocol } from "ctmap-core"
 * import * as Result from "effect/Result"
 *
 * Result.getOrThrow(Protocol.fromName("ICMPv6")) // => 58
 * Result.isFailure(Protocol.fromName("tpc")) // => true
 * ```
 *
 * @since 0.1.0
 */
export const fromName = (text: string): Result.Result<number, UnknownProtocol> => {
  const protocol = byLowerName.get(text.toLowerCase())
  return protocol === undefined ? Result.fail(new UnknownProtocol({ value: text })) : Result.succeed(protocol)
}

/**
 * Accepts a number only if the release has a name for it.
 *
 * @since 0.1.0
 */
export const fromNumber = (value: number, release: Release): Result.Result<number, UnknownProtocol> =>
  namesOf(release).has(value) ? Result.succeed(value) : Result.fail(new UnknownProtocol({ value }))

const byLowerName: ReadonlyMap<string, number> = new Map([
  ...[...names120].map(([number, text]) => [text.toLowerCase(), number] as const),
  ["all", 0] as const,
  ["none", 0] as const
])
