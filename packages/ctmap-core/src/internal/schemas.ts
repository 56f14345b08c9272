/** Integers and addresses of the kernel structures, as schemas with generators. */
import * as Schema from "effect/Schema"
import * as SchemaTransformation from "effect/SchemaTransformation"
import * as Effect from "effect/Effect"
import * as SchemaIssue from "effect/SchemaIssue"
import * as NetAddress from "effect/net/NetAddress"
import { CodecError } from "../CodecError.ts"

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

/** A codec between bytes and a class, from two plain functions; a wrong size is an issue that says both sizes. */
export const bytesCodec = <S extends Schema.Top>(
  target: S,
  options: {
    readonly structure: string
    readonly size: number
    readonly read: (view: DataView) => S["Type"]
    readonly write: (value: S["Type"], view: DataView) => void
  }
): Schema.Codec<S["Type"], Uint8Array> =>
  Schema.Uint8Array.pipe(
    Schema.decodeTo(
      Schema.toType(target),
      SchemaTransformation.transformEffect<S["Type"], Uint8Array>({
        decode: (bytes, parseOptions) =>
          bytes.byteLength === options.size
            ? Effect.succeed(options.read(viewOf(bytes)))
            : Effect.fail(
                new SchemaIssue.InvalidValue(
                  {
                    message: new CodecError({
                      structure: options.structure,
                      expected: options.size,
                      actual: bytes.byteLength,
                      at: 0
                    }).message
                  },
                  bytes,
                  parseOptions
                )
              ),
        encode: (value) =>
          Effect.sync(() => {
            const bytes = new Uint8Array(options.size)
            options.write(value, viewOf(bytes))
            return bytes
          })
      })
    )
  )

export const viewOf = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
