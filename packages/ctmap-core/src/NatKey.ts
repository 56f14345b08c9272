/**
 * The key of a NAT map, typed, for the edges. The same bytes as a CT key, read in packet order: `saddr:sport` is the
 * packet's source, `daddr:dport` its destination.
 *
 * @see `bpf/lib/nat.h` of Cilium; `pkg/maps/nat/types.go`, `NatKey4` and `NatKey6`
 * @since 0.1.0
 */
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { checkSize, type CodecError } from "./CodecError.ts"
import type { DumpOptions } from "./CtKey.ts"
import type { Family } from "./Family.ts"
import { ipv4At, ipv6At } from "./internal/address.ts"
import { bytesCodec, Ipv4, Ipv6, viewOf } from "./internal/schemas.ts"
import { inOrder, readTuple, tupleFields, writeTuple } from "./internal/tupleSchema.ts"
import * as NatText from "./NatText.ts"
import * as Tuple from "./Tuple.ts"

/**
 * An IPv4 NAT key: 14 bytes, `struct ipv4_ct_tuple` in packet order.
 *
 * **Example** (An outgoing mapping)
 *
 * ```ts
 * import { NatKey } from "ctmap-core"
 * import * as Hex from "effect/encoding/Hex"
 * import * as Result from "effect/Result"
 *
 * const bytes = Result.getOrThrow(Hex.decode("010101010a000163005086d80600"))
 * Result.getOrThrow(NatKey.fromBytes("ipv4", bytes)).dump({ reverse: false })
 * // => "TCP OUT 10.0.1.99:34520 -> 1.1.1.1:80 "
 * ```
 *
 * @since 0.1.0
 */
export class NatKey4 extends Schema.Class<NatKey4>("ctmap-core/NatKey4")(tupleFields(Ipv4)) {
  get family(): "ipv4" {
    return "ipv4"
  }
  /** The head of a NAT line with a trailing space, or `undefined` where the protocol is 0. */
  dump(options: DumpOptions): string | undefined {
    return NatText.keyDump(this, options)
  }
  /** This key with its ports in host order. */
  toHost(): NatKey4 {
    return this.portOrder === "host" ? this : new NatKey4(inOrder(this, "host") as NatKey4)
  }
  /** This key with its ports as a little-endian host loads them from the map. */
  toNetwork(): NatKey4 {
    return this.portOrder === "network" ? this : new NatKey4(inOrder(this, "network") as NatKey4)
  }
  /** Source and destination, protocol, flags; as a global CT key prints. */
  override toString(): string {
    return NatText.keyString(this)
  }
}

/**
 * An IPv6 NAT key: 38 bytes, `struct ipv6_ct_tuple` in packet order. As {@link NatKey4} in all else.
 *
 * @since 0.1.0
 */
export class NatKey6 extends Schema.Class<NatKey6>("ctmap-core/NatKey6")(tupleFields(Ipv6)) {
  get family(): "ipv6" {
    return "ipv6"
  }
  /** The head of a NAT line with a trailing space, or `undefined` where the protocol is 0. */
  dump(options: DumpOptions): string | undefined {
    return NatText.keyDump(this, options)
  }
  /** This key with its ports in host order. */
  toHost(): NatKey6 {
    return this.portOrder === "host" ? this : new NatKey6(inOrder(this, "host") as NatKey6)
  }
  /** This key with its ports as a little-endian host loads them from the map. */
  toNetwork(): NatKey6 {
    return this.portOrder === "network" ? this : new NatKey6(inOrder(this, "network") as NatKey6)
  }
  /** Source and destination, protocol, flags; as a global CT key prints. */
  override toString(): string {
    return NatText.keyString(this)
  }
}

/**
 * A key of either width; `family` tells them apart.
 *
 * @since 0.1.0
 */
export type NatKey = NatKey4 | NatKey6

/**
 * Between 14 bytes and {@link NatKey4}, as a schema.
 *
 * @since 0.1.0
 */
export const Bytes4: Schema.Codec<NatKey4, Uint8Array> = bytesCodec(NatKey4, {
  fromBytes: (bytes) => fromBytes("ipv4", bytes),
  toBytes: (key) => toBytes(key)
})

/**
 * Between 38 bytes and {@link NatKey6}, as a schema.
 *
 * @since 0.1.0
 */
export const Bytes6: Schema.Codec<NatKey6, Uint8Array> = bytesCodec(NatKey6, {
  fromBytes: (bytes) => fromBytes("ipv6", bytes),
  toBytes: (key) => toBytes(key)
})

/**
 * Decodes one key. Errors: `CodecError` unless there are exactly 14 or 38 bytes. Ownership: copies.
 *
 * @since 0.1.0
 */
export const fromBytes: {
  (family: "ipv4", bytes: Uint8Array): Result.Result<NatKey4, CodecError>
  (family: "ipv6", bytes: Uint8Array): Result.Result<NatKey6, CodecError>
  (family: Family, bytes: Uint8Array): Result.Result<NatKey, CodecError>
} = (family: Family, bytes: Uint8Array): Result.Result<never, CodecError> =>
  Result.try({
    try: () => {
      checkSize(`${family} tuple`, bytes, Tuple.shape(family).size)
      const view = viewOf(bytes)
      return (
        family === "ipv4"
          ? new NatKey4(readTuple(Tuple.v4, ipv4At, view), { disableChecks: true })
          : new NatKey6(readTuple(Tuple.v6, ipv6At, view), { disableChecks: true })
      ) as never
    },
    catch: (error) => error as CodecError
  })

/**
 * Encodes one key into fresh bytes, ports in network order.
 *
 * @since 0.1.0
 */
export const toBytes = (key: NatKey): Uint8Array<ArrayBuffer> => {
  const tuple = Tuple.shape(key.family)
  const bytes = new Uint8Array(tuple.size)
  writeTuple(key, tuple, viewOf(bytes))
  return bytes
}
