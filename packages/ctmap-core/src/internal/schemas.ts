/** Integers and addresses of the kernel structures, as schemas with generators. */
import * as Schema from "effect/Schema"
import * as SchemaTransformation from "effect/SchemaTransformation"
import * as Effect from "effect/Effect"
import * as SchemaIssue from "effect/SchemaIssue"
import * as NetAddress from "effect/net/NetAddress"
import type * as Result from "effect/Result"

const unsigned = (maximum: number) => Schema.Int.check(Schema.isBetween({ minimum: 0, maximum }))

export const U8 = unsigned(0xff)
export const U16 = unsigned(0xffff)
export const U32 = unsigned(0xffff_ffff)
export const U64 = Schema.BigInt.check(Schema.isBetweenBigInt({ minimum: 0n, maximum: (1n << 64n) - 1n }))

const octets = (length: 4 | 16) => Schema.Array(U8).check(Schema.isMinLength(length), Schema.isMaxLength(length))

export const Ipv4 = Schema.Ipv4AddressFromString.annotate({
  toCodecArbitrary: () =>
    Schema.link<NetAddress.Ipv4Address>()(
      octets(4),
      SchemaTransformation.transform({
        decode: (o: ReadonlyArray<number>) => NetAddress.ipv4FromBytesUnsafe(Uint8Array.from(o)),
        encode: (ip): ReadonlyArray<number> => NetAddress.ipv4ToOctets(ip)
      })
    )
})

export const Ipv6 = Schema.Ipv6AddressFromString.annotate({
  toCodecArbitrary: () =>
    Schema.link<NetAddress.Ipv6Address>()(
      octets(16),
      SchemaTransformation.transform({
        decode: (o: ReadonlyArray<number>) => NetAddress.ipv6FromBytesUnsafe(Uint8Array.from(o)),
        encode: (ip): ReadonlyArray<number> => NetAddress.ipv6ToOctets(ip)
      })
    )
})

/** A codec between bytes and a class, from its own two functions; what they refuse is an issue in their words. */
export const bytesCodec = <S extends Schema.Top>(
  target: S,
  options: {
    readonly fromBytes: (bytes: Uint8Array) => Result.Result<S["Type"], { readonly message: string }>
    readonly toBytes: (value: S["Type"]) => Uint8Array
  }
): Schema.Codec<S["Type"], Uint8Array> =>
  Schema.Uint8Array.pipe(
    Schema.decodeTo(
      Schema.toType(target),
      SchemaTransformation.transformEffect<S["Type"], Uint8Array>({
        decode: (bytes, parseOptions) =>
          Effect.mapError(
            Effect.fromResult(options.fromBytes(bytes)),
            ({ message }) => new SchemaIssue.InvalidValue({ message }, bytes, parseOptions)
          ),
        encode: (value) => Effect.sync(() => options.toBytes(value))
      })
    )
  )

export const viewOf = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
