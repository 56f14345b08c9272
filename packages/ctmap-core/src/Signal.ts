/**
 * The messages the datapath sends through the `cilium_signals` perf event array: a table is full, collect now.
 *
 * Owns the 8 leading bytes of a sample. The kernel pads samples, so more bytes may follow and mean nothing. Numbers
 * outside the two enumerations are refused: acting on one would be a guess.
 *
 * @see `bpf/lib/signal.h` and `pkg/signal` of Cilium
 * @since 0.1.0
 */
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { checkRoom, CodecError } from "./CodecError.ts"
import { Family } from "./Family.ts"
import { bytesCodec, viewOf } from "./internal/schemas.ts"

/** Bytes of a fill-up message: signal number u32, protocol u32, host order. @since 0.1.0 */
export const SIZE = 8

/** No free port was found for a NAT mapping within the threshold. @since 0.1.0 */
export const NAT_FILL_UP = 0
/** A CT entry could not be inserted. @since 0.1.0 */
export const CT_FILL_UP = 1
/** Authentication is required; carries a 12-byte key that ctmap does not read. @since 0.1.0 */
export const AUTH_REQUIRED = 2

/** Signal names, by number. @since 0.1.0 */
export const names: ReadonlyArray<string> = ["nat_fill_up", "ct_fill_up", "auth_required"]

/**
 * A table of one family is full.
 *
 * **Example** (Decoding what the ring hands over)
 *
 * ```ts
 * import { Signal } from "ctmap-core"
 * import * as Result from "effect/Result"
 *
 * const sample = new Uint8Array([1, 0, 0, 0, 1, 0, 0, 0, 0xaa, 0xbb, 0xcc, 0xdd])
 * const message = Result.getOrThrow(Signal.fromBytes(sample))
 * message.signal // => "ct_fill_up"
 * message.family // => "ipv6"
 * ```
 *
 * @since 0.1.0
 */
export class FillUp extends Schema.Class<FillUp>("ctmap-core/Signal/FillUp")({
  signal: Schema.Literals(["nat_fill_up", "ct_fill_up"]),
  family: Family
}) {}

/**
 * A message that is not a fill-up of a known family.
 *
 * @since 0.1.0
 */
export class UnknownSignal extends Schema.TaggedError<UnknownSignal>()("UnknownSignal", {
  signal: Schema.Int,
  /** The protocol word; `undefined` where the message carries something else. */
  protocol: Schema.UndefinedOr(Schema.Int)
}) {
  override get message(): string {
    return this.protocol === undefined
      ? this.signal === AUTH_REQUIRED
        ? `signal 2 (auth_required) is not about a map: leave it to the agent that owns it`
        : `signal number not supported: ${this.signal}`
      : `signal ${this.signal} (${names[this.signal]}) names protocol ${this.protocol}, but only 0 (ipv4) and 1 (ipv6) exist: the message is not from a datapath ctmap knows`
  }
}

/** The signal number at `at`: enough to tell whose message it is. Errors: throws `CodecError`. @since 0.1.0 */
export const readNumber = (view: DataView, at: number): number => {
  checkRoom("signal number", view, at, 4)
  return view.getUint32(at, true)
}

/** The protocol word of the message at `at`. Errors: throws `CodecError`. @since 0.1.0 */
export const readProtocol = (view: DataView, at: number): number => {
  checkRoom("signal message", view, at, SIZE)
  return view.getUint32(at + 4, true)
}

/** Writes a message at `at`. Errors: throws `CodecError` when there is no room. @since 0.1.0 */
export const write = (signal: number, protocol: number, view: DataView, at: number): void => {
  checkRoom("signal message", view, at, SIZE)
  view.setUint32(at, signal, true)
  view.setUint32(at + 4, protocol, true)
}

/**
 * Decodes the leading 8 bytes of a sample; longer samples are fine.
 *
 * **Details**
 *
 * Errors: `CodecError` when there are fewer, `UnknownSignal` for a number or protocol that does not exist.
 *
 * @since 0.1.0
 */
export const fromBytes = (bytes: Uint8Array): Result.Result<FillUp, CodecError | UnknownSignal> =>
  Result.try({
    try: () => {
      const view = viewOf(bytes)
      const signal = readNumber(view, 0)
      if (signal !== NAT_FILL_UP && signal !== CT_FILL_UP) throw new UnknownSignal({ signal, protocol: undefined })
      const protocol = readProtocol(view, 0)
      if (protocol > 1) throw new UnknownSignal({ signal, protocol })
      return new FillUp({
        signal: signal === CT_FILL_UP ? "ct_fill_up" : "nat_fill_up",
        family: protocol === 0 ? "ipv4" : "ipv6"
      })
    },
    catch: (error) => error as CodecError | UnknownSignal
  })

/** Encodes a message into 8 fresh bytes. @since 0.1.0 */
export const toBytes = (message: FillUp): Uint8Array<ArrayBuffer> => {
  const bytes = new Uint8Array(SIZE)
  write(message.signal === "ct_fill_up" ? CT_FILL_UP : NAT_FILL_UP, message.family === "ipv4" ? 0 : 1, viewOf(bytes), 0)
  return bytes
}

/** Between exactly 8 bytes and {@link FillUp}, as a schema. @since 0.1.0 */
export const Bytes: Schema.Codec<FillUp, Uint8Array> = bytesCodec(FillUp, {
  fromBytes: (bytes) =>
    bytes.byteLength === SIZE
      ? fromBytes(bytes)
      : Result.fail(new CodecError({ structure: "signal message", expected: SIZE, actual: bytes.byteLength, at: 0 })),
  toBytes: (message) => toBytes(message)
})
