/**
 * The key of a CT map, typed, for the edges: configuration, API, tests, one-off look-ups.
 *
 * Owns the schema classes and their byte codecs. One class per address width: keys of global and of per-endpoint
 * (local) maps are the same bytes and differ only in how they print, which `scope` says. The hot path uses
 * {@link Tuple} and {@link CtColumns} instead; property tests keep the two forms equal.
 *
 * @see `pkg/maps/ctmap/types.go` of Cilium, `CtKey4`, `CtKey4Global`, `CtKey6`, `CtKey6Global`
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import type * as NetAddress from "effect/net/NetAddress"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { checkSize, type CodecError } from "./CodecError.ts"
import * as CtText from "./CtText.ts"
import type { Family } from "./Family.ts"
import { ipv4At, ipv6At } from "./internal/address.ts"
import { bytesCodec, Ipv4, Ipv6, viewOf } from "./internal/schemas.ts"
import { inOrder, readTuple, tupleFields, writeTuple } from "./internal/tupleSchema.ts"
import type { Release } from "./Release.ts"
import * as Tuple from "./Tuple.ts"
import * as TupleFlags from "./TupleFlags.ts"

/**
 * Whether a key belongs to a map of one endpoint or to a global one. It changes the text, never the bytes.
 *
 * @since 0.1.0
 */
export const Scope = Schema.Literals(["global", "local"])

/**
 * See {@link Scope}.
 *
 * @since 0.1.0
 */
export type Scope = typeof Scope.Type

const scope = Scope.pipe(
  Schema.withConstructorDefault(Effect.succeed("global" as const)),
  Schema.withDecodingDefaultKey(Effect.succeed("global" as const))
)

/**
 * How a key prints as the head of a dump line.
 *
 * @since 0.1.0
 */
export interface DumpOptions {
  /** Print the addresses as stored in reverse, which is the way of the packet: what every CT dump does. */
  readonly reverse: boolean
  /** Protocol names and address texts of this release. Default `"1.17"`. */
  readonly release?: Release
}

/**
 * An IPv4 CT key: 14 bytes, `struct ipv4_ct_tuple`.
 *
 * **Details**
 *
 * `daddr` holds the originator and `saddr` the responder (service entries: the virtual address and the client), while
 * `dport` and `sport` are straight: addresses are stored reversed, ports are not. Ports are host order unless
 * `portOrder` says `"network"`; {@link toNetwork} and {@link toHost} convert, and converting twice changes nothing.
 *
 * **Example** (Text forms of one key)
 *
 * ```ts
 * import { CtKey } from "ctmap-core"
 * import * as Hex from "effect/encoding/Hex"
 * import * as Result from "effect/Result"
 *
 * const key = Result.getOrThrow(
 *   CtKey.fromBytes("ipv4", Result.getOrThrow(Hex.decode("0a00016301010101005086d80600")))
 * )
 * key.dump({ reverse: true }) // => "TCP OUT 10.0.1.99:34520 -> 1.1.1.1:80 "
 * key.toString() // => "1.1.1.1:34520 --> 10.0.1.99:80, 6, 0"
 * key.toNetwork().dport // => 20480
 * ```
 *
 * @since 0.1.0
 */
export class CtKey4 extends Schema.Class<CtKey4>("ctmap-core/CtKey4")({ ...tupleFields(Ipv4), scope }) {
  get family(): "ipv4" {
    return "ipv4"
  }
  /** Cilium's `Dump`: the head of a dump line with a trailing space, or `undefined` where the protocol is 0. */
  dump(options: DumpOptions): string | undefined {
    return CtText.keyDump(this, options)
  }
  /** This key with its ports in host order. */
  toHost(): CtKey4 {
    return this.portOrder === "host" ? this : new CtKey4(inOrder(this, "host") as CtKey4)
  }
  /** This key with its ports as a little-endian host loads them from the map. */
  toNetwork(): CtKey4 {
    return this.portOrder === "network" ? this : new CtKey4(inOrder(this, "network") as CtKey4)
  }
  /** Cilium's `String`: source and destination as stored, so the addresses look swapped against the ports. */
  override toString(): string {
    return CtText.keyString(this)
  }
}

/**
 * An IPv6 CT key: 38 bytes, `struct ipv6_ct_tuple`. As {@link CtKey4} in all else.
 *
 * **Example** (Dump lines have no brackets, strings have)
 *
 * ```ts
 * import { CtKey } from "ctmap-core"
 * import * as Hex from "effect/encoding/Hex"
 * import * as Result from "effect/Result"
 *
 * const bytes = "fd00000000000000000000000000000120010db800000000000000000000000500359c401101"
 * const key = Result.getOrThrow(CtKey.fromBytes("ipv6", Result.getOrThrow(Hex.decode(bytes))))
 * key.dump({ reverse: true }) // => "UDP IN fd00::1:40000 -> 2001:db8::5:53 "
 * key.toString() // => "[2001:db8::5]:40000 --> [fd00::1]:53, 17, 1"
 * ```
 *
 * @since 0.1.0
 */
export class CtKey6 extends Schema.Class<CtKey6>("ctmap-core/CtKey6")({ ...tupleFields(Ipv6), scope }) {
  get family(): "ipv6" {
    return "ipv6"
  }
  /** Cilium's `Dump`: the head of a dump line with a trailing space, or `undefined` where the protocol is 0. */
  dump(options: DumpOptions): string | undefined {
    return CtText.keyDump(this, options)
  }
  /** This key with its ports in host order. */
  toHost(): CtKey6 {
    return this.portOrder === "host" ? this : new CtKey6(inOrder(this, "host") as CtKey6)
  }
  /** This key with its ports as a little-endian host loads them from the map. */
  toNetwork(): CtKey6 {
    return this.portOrder === "network" ? this : new CtKey6(inOrder(this, "network") as CtKey6)
  }
  /** Cilium's `String`: source and destination as stored, so the addresses look swapped against the ports. */
  override toString(): string {
    return CtText.keyString(this)
  }
}

/**
 * A key of either width; `family` tells them apart.
 *
 * @since 0.1.0
 */
export type CtKey = CtKey4 | CtKey6

/**
 * Between 14 bytes and {@link CtKey4}, as a schema: composes with others, reports a wrong size as a `SchemaError`.
 *
 * @since 0.1.0
 */
export const Bytes4: Schema.Codec<CtKey4, Uint8Array> = bytesCodec(CtKey4, {
  fromBytes: (bytes) => fromBytes("ipv4", bytes),
  toBytes: (key) => toBytes(key)
})

/**
 * Between 38 bytes and {@link CtKey6}, as a schema.
 *
 * @since 0.1.0
 */
export const Bytes6: Schema.Codec<CtKey6, Uint8Array> = bytesCodec(CtKey6, {
  fromBytes: (bytes) => fromBytes("ipv6", bytes),
  toBytes: (key) => toBytes(key)
})

/**
 * Decodes one key.
 *
 * **Details**
 *
 * Shape: 14 or 38 bytes. Errors: `CodecError` unless it is exactly that. Ownership: copies. Every bit pattern is a
 * key; unknown flag bits are kept.
 *
 * @since 0.1.0
 */
export const fromBytes: {
  (family: "ipv4", bytes: Uint8Array, scope?: Scope): Result.Result<CtKey4, CodecError>
  (family: "ipv6", bytes: Uint8Array, scope?: Scope): Result.Result<CtKey6, CodecError>
  (family: Family, bytes: Uint8Array, scope?: Scope): Result.Result<CtKey, CodecError>
} = (family: Family, bytes: Uint8Array, keyScope: Scope = "global"): Result.Result<never, CodecError> =>
  Result.try({
    try: () => {
      checkSize(`${family} tuple`, bytes, Tuple.shape(family).size)
      return readAt(family, viewOf(bytes), keyScope) as never
    },
    catch: (error) => error as CodecError
  })

const readAt = (family: Family, view: DataView, keyScope: Scope): CtKey =>
  family === "ipv4"
    ? new CtKey4({ ...readTuple(Tuple.v4, ipv4At, view), scope: keyScope }, { disableChecks: true })
    : new CtKey6({ ...readTuple(Tuple.v6, ipv6At, view), scope: keyScope }, { disableChecks: true })

/**
 * Encodes one key into fresh bytes, ports in network order whatever order the object holds them in.
 *
 * @since 0.1.0
 */
export const toBytes = (key: CtKey): Uint8Array<ArrayBuffer> => {
  const tuple = Tuple.shape(key.family)
  const bytes = new Uint8Array(tuple.size)
  writeTuple(key, tuple, viewOf(bytes))
  return bytes
}

/**
 * A key of a family with every field zero: Cilium's `New`.
 *
 * @since 0.1.0
 */
export const zero = (family: Family, keyScope: Scope = "global"): CtKey =>
  readAt(family, new DataView(new ArrayBuffer(Tuple.shape(family).size)), keyScope)

/**
 * The true ends of the flow that a key stands for: who sent the first packet, and to whom. Host-order ports.
 *
 * **Example** (The client of a service)
 *
 * ```ts
 * import { CtKey } from "ctmap-core"
 * import * as Hex from "effect/encoding/Hex"
 * import * as NetAddress from "effect/net/NetAddress"
 * import * as Result from "effect/Result"
 *
 * const bytes = Result.getOrThrow(Hex.decode("0a6000010a000163c35001bb0604"))
 * const { source, destination } = CtKey.ends(Result.getOrThrow(CtKey.fromBytes("ipv4", bytes)))
 * NetAddress.formatIp(source.address) // => "10.0.1.99"
 * source.port // => 50000
 * destination.port // => 443
 * ```
 *
 * @since 0.1.0
 */
export const ends = (key: CtKey): { readonly source: End; readonly destination: End } => {
  const { daddr, saddr, dport, sport, flags } = key.toHost()
  return TupleFlags.direction(flags) === "service"
    ? { source: { address: saddr, port: dport }, destination: { address: daddr, port: sport } }
    : { source: { address: daddr, port: sport }, destination: { address: saddr, port: dport } }
}

/**
 * One end of a flow.
 *
 * @since 0.1.0
 */
export interface End {
  readonly address: NetAddress.IpAddress
  /** Host order. */
  readonly port: number
}
