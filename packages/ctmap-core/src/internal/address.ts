/** Between address values of effect/net and network-order bytes. */
import * as NetAddress from "effect/net/NetAddress"
import type { Family } from "../Family.ts"

export const ipBytes = (ip: NetAddress.IpAddress): Uint8Array =>
  Uint8Array.from(NetAddress.isIpv4Address(ip) ? NetAddress.ipv4ToOctets(ip) : NetAddress.ipv6ToOctets(ip))

export const ipv4At = (view: DataView, at: number): NetAddress.Ipv4Address =>
  NetAddress.ipv4FromBytesUnsafe(bytesAt(view, at, 4))

export const ipv6At = (view: DataView, at: number): NetAddress.Ipv6Address =>
  NetAddress.ipv6FromBytesUnsafe(bytesAt(view, at, 16))

export const ipAt = (view: DataView, at: number, family: Family): NetAddress.IpAddress =>
  family === "ipv4" ? ipv4At(view, at) : ipv6At(view, at)

/** The address classes keep what they are given, so they are given a copy. */
const bytesAt = (view: DataView, at: number, size: number): Uint8Array =>
  new Uint8Array(view.buffer, view.byteOffset + at, size).slice()
