/**
 * Golden vectors for codecs, renderers and decisions, see `data/README.md`.
 *
 * @since 0.1.0
 */
import { readFileSync } from "node:fs"

/** @since 0.1.0 */
export interface KeyVector {
  readonly name: string
  readonly hex: string
  readonly len: number
  readonly hostString_global: string
  readonly rawString_global_LE: string
  readonly hostString_local: string
  readonly dump_global_reverse: string | null
  readonly dump_global_forward: string | null
  readonly dump_local_reverse: string | null
  readonly dump_local_forward: string | null
  readonly nat_dump_forward: string | null
}

/** @since 0.1.0 */
export interface EntryVector {
  readonly name: string
  readonly hex: string
  readonly string_117: string
  readonly string_120: string
  readonly string_117_remaining_21603: string
}

/** @since 0.1.0 */
export interface NatVector {
  readonly name: string
  readonly keyHex: string
  readonly valHex: string
  readonly line_42s: string
  readonly line_raw: string
}

/** Which fields a derivation has depends on the case. @since 0.1.0 */
export interface DerivationVector {
  readonly name: string
  readonly ct?: string
  readonly ctFlags?: number
  readonly natOut?: string
  readonly natOutVal?: string
  readonly natIn?: string
  readonly natInVal?: string
  readonly ctFromNatIn?: string
  readonly ctFromNatOut?: string
  readonly dsrCtFromNatOut?: string
  readonly egressCtFromNatOut?: string
}

/** @since 0.1.0 */
export interface Vectors {
  readonly keys: ReadonlyArray<KeyVector>
  readonly ctEntries: ReadonlyArray<EntryVector>
  readonly flags: ReadonlyArray<{ readonly value: number; readonly text: string }>
  readonly nat: ReadonlyArray<NatVector>
  readonly natDerivations: ReadonlyArray<DerivationVector>
  readonly calculateInterval: ReadonlyArray<{ readonly prevSec: number; readonly ratio: number; readonly sec: number }>
  readonly idleGrowthSec: ReadonlyArray<number>
  readonly jiffiesConvert: { readonly hz: number; readonly in_hex: string; readonly out_hex: string }
  readonly startingChunkSize: Readonly<Record<string, number>>
}

/** The vectors, read once. @since 0.1.0 */
export const vectors: Vectors = JSON.parse(readFileSync(new URL("../data/vectors.json", import.meta.url), "utf8"))

/** Bytes of a hex string. @since 0.1.0 */
export const hex = (text: string): Uint8Array<ArrayBuffer> => Uint8Array.from(Buffer.from(text, "hex"))

/** Hex of bytes. @since 0.1.0 */
export const toHex = (bytes: Uint8Array): string =>
  Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("hex")
