/** Address text of a release: RFC 5952, except that 1.17 prints an IPv4-mapped IPv6 address as a bare dotted quad. */
import * as Option from "effect/Option"
import * as NetAddress from "effect/net/NetAddress"
import type { Release } from "../Release.ts"

export const addressText = (ip: NetAddress.IpAddress, release: Release): string =>
  NetAddress.formatIp(
    release === "1.17" && NetAddress.isIpv6Address(ip)
      ? Option.getOrElse(NetAddress.fromIpv4Mapped(ip), (): NetAddress.IpAddress => ip)
      : ip
  )

/** In brackets for IPv6, whatever the address prints as. */
export const bracketed = (ip: NetAddress.IpAddress, release: Release): string =>
  NetAddress.isIpv6Address(ip) ? `[${addressText(ip, release)}]` : addressText(ip, release)
