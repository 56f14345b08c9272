/**
 * The key of one connection, from what people know of it: two ends, a protocol, a direction.
 *
 * Owns the way from `address:port` texts to a CT key and Cilium's error texts for them. Cilium quietly looks up
 * something else where the ends are of two families or an address has a zone; here both are errors.
 *
 * @see `pkg/maps/ctmap/utils.go` of Cilium, `Lookup`; Go's `netip.ParseAddrPort`
 * @since 0.1.0
 */
import * as NetAddress from "effect/net/NetAddress"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as CtKey from "./CtKey.ts"
import type { Family } from "./Family.ts"
import * as TupleFlags from "./TupleFlags.ts"

/** Which end of a flow. @since 0.1.0 */
export type Side = "source" | "destination"

/**
 * What to look for.
 *
 * @since 0.1.0
 */
export interface Flow {
  /** Who sent the first packet: `addr:port`, an IPv6 address in brackets, or both parts. */
  readonly source: string | CtKey.End
  /** To whom. */
  readonly destination: string | CtKey.End
  /** IP protocol number. */
  readonly protocol: number
  /** The entry that was made by the packet entering an endpoint; otherwise the one made by leaving. Default `false`. */
  readonly ingress?: boolean
}

/**
 * An end of a flow is no address and port. `message` is Cilium's wording.
 *
 * @since 0.1.0
 */
export class InvalidEnd extends Schema.TaggedError<InvalidEnd>()("InvalidEnd", {
  side: Schema.Literals(["source", "destination"]),
  input: Schema.String,
  why: Schema.String
}) {
  override get message(): string {
    return `invalid ${this.side} address '${this.input}': ${this.why}`
  }
}

/**
 * One end is IPv4 and the other IPv6: no packet has such ends, and no map such keys.
 *
 * @since 0.1.0
 */
export class MixedFamilies extends Schema.TaggedError<MixedFamilies>()("MixedFamilies", {
  source: Schema.String,
  destination: Schema.String
}) {
  override get message(): string {
    return (
      `source address '${this.source}' and destination address '${this.destination}' are of two families: ` +
      `no connection has both; an IPv4-mapped address such as [::ffff:10.0.0.1] counts as IPv6`
    )
  }
}

/**
 * A protocol is one byte.
 *
 * @since 0.1.0
 */
export class InvalidProtocol extends Schema.TaggedError<InvalidProtocol>()("InvalidProtocol", {
  protocol: Schema.Number
}) {
  override get message(): string {
    return `invalid protocol ${this.protocol}: an IP protocol number is between 0 and 255, TCP is 6 and UDP is 17`
  }
}

/** @since 0.1.0 */
export type LookupKeyError = InvalidEnd | MixedFamilies | InvalidProtocol

/**
 * The key under which a flow's entry stands.
 *
 * **Details**
 *
 * Shape: addresses are stored reversed and ports are not, so the source is `daddr:sport` and the destination
 * `saddr:dport`; the flag byte is `IN` or `OUT`, never related or service. An IPv4-mapped IPv6 address is looked up in
 * the IPv6 maps, as by Cilium. Errors: see {@link LookupKeyError}; the source is looked at first.
 *
 * **Example** (Leaving over IPv4, entering over IPv6)
 *
 * ```ts
 * import { CtKey, LookupKey } from "ctmap-core"
 * import * as Hex from "effect/encoding/Hex"
 * import * as Result from "effect/Result"
 *
 * const hex = (flow: LookupKey.Flow) => Hex.encode(CtKey.toBytes(Result.getOrThrow(LookupKey.make(flow))))
 * hex({ source: "10.0.0.1:34520", destination: "1.1.1.1:80", protocol: 6 })
 * // => "0a00000101010101005086d80600"
 * hex({ source: "[fd00::1]:40000", destination: "[2001:db8::5]:53", protocol: 17, ingress: true })
 * // => "fd00000000000000000000000000000120010db800000000000000000000000500359c401101"
 * ```
 *
 * @since 0.1.0
 */
export const make = (flow: Flow, scope: CtKey.Scope = "global"): Result.Result<CtKey.CtKey, LookupKeyError> => {
  const source = endOf("source", flow.source)
  if (Result.isFailure(source)) return Result.fail(source.failure)
  const destination = endOf("destination", flow.destination)
  if (Result.isFailure(destination)) return Result.fail(destination.failure)
  const { protocol } = flow
  if (!(Number.isInteger(protocol) && protocol >= 0 && protocol <= 255)) {
    return Result.fail(new InvalidProtocol({ protocol }))
  }
  const { address: daddr, port: sport } = source.success
  const { address: saddr, port: dport } = destination.success
  const rest = { dport, sport, nexthdr: protocol, flags: flow.ingress === true ? TupleFlags.IN : TupleFlags.OUT, scope }
  if (NetAddress.isIpv4Address(daddr) && NetAddress.isIpv4Address(saddr)) {
    return Result.succeed(new CtKey.CtKey4({ daddr, saddr, ...rest }))
  }
  if (NetAddress.isIpv6Address(daddr) && NetAddress.isIpv6Address(saddr)) {
    return Result.succeed(new CtKey.CtKey6({ daddr, saddr, ...rest }))
  }
  return Result.fail(new MixedFamilies({ source: textOf(flow.source), destination: textOf(flow.destination) }))
}

/**
 * An end of a flow from its text, as Go's `netip.ParseAddrPort` reads it, but without zones.
 *
 * **Details**
 *
 * Shape: `addr:port`; an IPv6 address stands in brackets and an IPv4 address does not. The port is decimal, 0 to 65535,
 * and may have leading zeros; octets of an IPv4 address may not. Errors: `InvalidEnd`.
 *
 * **Example** (What is refused)
 *
 * ```ts
 * import { LookupKey } from "ctmap-core"
 * import * as Result from "effect/Result"
 *
 * const why = (text: string) => Result.getOrThrow(Result.flip(LookupKey.parseEnd("source", text))).message
 * why("1.2.3.4") // => "invalid source address '1.2.3.4': not an ip:port"
 * why("1.2.3.4:99999")
 * // => "invalid source address '1.2.3.4:99999': invalid port \"99999\" parsing \"1.2.3.4:99999\""
 * ```
 *
 * @since 0.1.0
 */
export const parseEnd = (side: Side, input: string): Result.Result<CtKey.End, InvalidEnd> => {
  const refuse = (why: string) => Result.fail(new InvalidEnd({ side, input, why }))
  const colon = input.lastIndexOf(":")
  if (colon < 0) return refuse("not an ip:port")
  const host = input.slice(0, colon)
  const port = input.slice(colon + 1)
  if (host === "") return refuse("no IP")
  if (port === "") return refuse("no port")
  const bracketed = host.startsWith("[")
  if (bracketed && (host.length < 2 || !host.endsWith("]"))) return refuse("missing ]")
  if (!(/^[0-9]+$/.test(port) && Number(port) <= 0xffff)) {
    return refuse(`invalid port ${quote(port)} parsing ${quote(input)}`)
  }
  const bare = bracketed ? host.slice(1, -1) : host
  const address = NetAddress.ipFromString(bare)
  if (Result.isFailure(address))
    return refuse(`ParseAddr(${quote(bare)}): ${unparsable(bare, address.failure.message)}`)
  const isIpv4 = familyOf(address.success) === "ipv4"
  if (bracketed && isIpv4) {
    return refuse(`invalid ip:port ${quote(input)}, square brackets can only be used with IPv6 addresses`)
  }
  if (!bracketed && !isIpv4) {
    return refuse(`invalid ip:port ${quote(input)}, IPv6 addresses must be surrounded by square brackets`)
  }
  return Result.succeed({ address: address.success, port: Number(port) })
}

const endOf = (side: Side, end: string | CtKey.End): Result.Result<CtKey.End, InvalidEnd> => {
  if (typeof end === "string") return parseEnd(side, end)
  const { port } = end
  return Number.isInteger(port) && port >= 0 && port <= 0xffff
    ? Result.succeed(end)
    : Result.fail(
        new InvalidEnd({ side, input: textOf(end), why: `invalid port ${port}, a port is between 0 and 65535` })
      )
}

const unparsable = (host: string, why: string): string =>
  host.includes("%") ? "an address in a map has no zone, leave out what follows the %" : why

const familyOf = (address: NetAddress.IpAddress): Family => (NetAddress.isIpv4Address(address) ? "ipv4" : "ipv6")

const textOf = (end: string | CtKey.End): string => {
  if (typeof end === "string") return end
  const host = NetAddress.formatIp(end.address)
  return NetAddress.isIpv4Address(end.address) ? `${host}:${end.port}` : `[${host}]:${end.port}`
}

/** As Go's `%q` for everything that can be typed. */
const quote = (text: string): string => JSON.stringify(text)
