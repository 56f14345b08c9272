/** Between address values of effect/net and network-order bytes. */
import * as NetAddress from "effect/net/NetAddress"

export const ipBytes = (ip: NetAddress.IpAddress): Uint8Array =>
  Uint8Array.from(NetAddress.isIpv4Address(ip) ? NetAddress.ipv4ToOctets(ip) : NetAddress.ipv6ToOctets(ip))

export const ipFromBytes = (view: DataView, at: number, size: 4 | 16): NetAddress.IpAddress => {
  const bytes = new Uint8Array(size)
  for (let i = 0; i < size; i++) bytes[i] = view.getUint8(at + i)
  return size === 4 ? NetAddress.ipv4FromBytesUnsafe(bytes) : NetAddress.ipv6FromBytesUnsafe(bytes)
}
