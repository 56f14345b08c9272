/** What the six key classes share: their fields, their byte codec and the conversion to the fast form. */
import * as Effect from "effect/Effect"
import type * as NetAddress from "effect/net/NetAddress"
import * as Schema from "effect/Schema"
import * as Tuple from "../Tuple.ts"
import { ipBytes } from "./address.ts"
import { U16, U8 } from "./schemas.ts"

/** In which byte order the two port numbers of a key object are read. Codecs hand out `host`. */
export const PortOrder = Schema.Literals(["host", "network"])
export type PortOrder = typeof PortOrder.Type

export const tupleFields = <A extends Schema.Top>(address: A) => ({
  daddr: address,
  saddr: address,
  dport: U16,
  sport: U16,
  nexthdr: U8,
  flags: U8,
  portOrder: PortOrder.pipe(
    Schema.withConstructorDefault(Effect.succeed("host" as const)),
    Schema.withDecodingDefaultKey(Effect.succeed("host" as const))
  )
})

/** The parts of a key object that matter to codecs and renderers. */
export interface TupleLike {
  readonly daddr: NetAddress.IpAddress
  readonly saddr: NetAddress.IpAddress
  readonly dport: number
  readonly sport: number
  readonly nexthdr: number
  readonly flags: number
  readonly portOrder: PortOrder
}

export const swap16 = (port: number): number => ((port & 0xff) << 8) | (port >>> 8)

/** The same key with its ports in the other order, or the same ports where they already are in `order`. */
export const inOrder = (key: TupleLike, order: PortOrder): TupleLike =>
  key.portOrder === order ? key : { ...key, dport: swap16(key.dport), sport: swap16(key.sport), portOrder: order }

export const readTuple = <A extends NetAddress.IpAddress>(
  tuple: Tuple.Shape,
  addressAt: (view: DataView, at: number) => A,
  view: DataView
): TupleLike & { readonly daddr: A; readonly saddr: A } => ({
  daddr: addressAt(view, tuple.daddr),
  saddr: addressAt(view, tuple.saddr),
  dport: view.getUint16(tuple.dport),
  sport: view.getUint16(tuple.sport),
  nexthdr: view.getUint8(tuple.nexthdr),
  flags: view.getUint8(tuple.flags),
  portOrder: "host"
})

export const writeTuple = (key: TupleLike, tuple: Tuple.Shape, view: DataView): void => {
  const host = inOrder(key, "host")
  Tuple.write({ ...host, daddr: ipBytes(host.daddr), saddr: ipBytes(host.saddr) }, tuple, view, 0)
}
