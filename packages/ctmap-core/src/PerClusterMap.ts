/**
 * Key and value of the outer per-cluster maps (arrays of maps indexed by cluster id), CT and NAT alike.
 *
 * @see `pkg/maps/ctmap/per_cluster_ctmap.go` of Cilium, `PerClusterCTMapKey` and `PerClusterCTMapVal`
 * @since 0.1.0
 */
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { checkRoom, checkSize, type CodecError } from "./CodecError.ts"
import { bytesCodec, U32, viewOf } from "./internal/schemas.ts"

/** Bytes of the key, and of the value. @since 0.1.0 */
export const SIZE = 4

/**
 * The key: the cluster id, u32 in host order.
 *
 * **Example** (Its text is the number)
 *
 * ```ts
 * import { PerClusterMap } from "ctmap-core"
 *
 * new PerClusterMap.Key({ clusterId: 7 }).toString() // => "7"
 * ```
 *
 * @since 0.1.0
 */
export class Key extends Schema.Class<Key>("ctmap-core/PerClusterMap/Key")({ clusterId: U32 }) {
  override toString(): string {
    return String(this.clusterId)
  }
}

/**
 * The value: u32 in host order. On update it is the **fd** of the inner map; a look-up returns the inner map's **id**.
 *
 * **Example** (Its text)
 *
 * ```ts
 * import { PerClusterMap } from "ctmap-core"
 *
 * new PerClusterMap.Value({ fd: 12 }).toString() // => "fd=12"
 * ```
 *
 * @since 0.1.0
 */
export class Value extends Schema.Class<Value>("ctmap-core/PerClusterMap/Value")({ fd: U32 }) {
  override toString(): string {
    return `fd=${this.fd}`
  }
}

/** Key and value with every field zero: Cilium's `New`. @since 0.1.0 */
export const zero = { key: new Key({ clusterId: 0 }), value: new Value({ fd: 0 }) } as const

/** Between 4 bytes and {@link Key}, as a schema. @since 0.1.0 */
export const KeyBytes: Schema.Codec<Key, Uint8Array> = bytesCodec(Key, {
  fromBytes: (bytes) => keyFromBytes(bytes),
  toBytes: (key) => toBytes(key.clusterId)
})

/** Between 4 bytes and {@link Value}, as a schema. @since 0.1.0 */
export const ValueBytes: Schema.Codec<Value, Uint8Array> = bytesCodec(Value, {
  fromBytes: (bytes) => valueFromBytes(bytes),
  toBytes: (value) => toBytes(value.fd)
})

/**
 * The fast form: the u32 at `at`. Errors: throws `CodecError` when fewer than 4 bytes are left.
 *
 * @since 0.1.0
 */
export const read = (view: DataView, at: number): number => {
  checkRoom("per-cluster word", view, at, SIZE)
  return view.getUint32(at, true)
}

/** The fast form of writing. Errors: throws `CodecError` when there is no room. @since 0.1.0 */
export const write = (word: number, view: DataView, at: number): void => {
  checkRoom("per-cluster word", view, at, SIZE)
  view.setUint32(at, word, true)
}

/** Decodes one key. Errors: `CodecError` unless there are exactly 4 bytes. @since 0.1.0 */
export const keyFromBytes = (bytes: Uint8Array): Result.Result<Key, CodecError> =>
  Result.map(word("per-cluster key", bytes), (clusterId) => new Key({ clusterId }))

/** Decodes one value. Errors: `CodecError` unless there are exactly 4 bytes. @since 0.1.0 */
export const valueFromBytes = (bytes: Uint8Array): Result.Result<Value, CodecError> =>
  Result.map(word("per-cluster value", bytes), (fd) => new Value({ fd }))

const toBytes = (word: number): Uint8Array => {
  const bytes = new Uint8Array(SIZE)
  write(word, viewOf(bytes), 0)
  return bytes
}

const word = (structure: string, bytes: Uint8Array): Result.Result<number, CodecError> =>
  Result.try({
    try: () => {
      checkSize(structure, bytes, SIZE)
      return read(viewOf(bytes), 0)
    },
    catch: (error) => error as CodecError
  })
