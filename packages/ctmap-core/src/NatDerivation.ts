/**
 * Which NAT entries belong to a CT entry, and the other way round, as functions on key bytes.
 *
 * Owns the six derivations that clean-up and the orphan purge live by. In the pictures below a key is
 * `D S dp sp proto flags`: destination, source, their ports.
 *
 * @see `pkg/maps/nat` of Cilium, `DeleteMapping4`, `DeleteSwappedMapping4`, and `pkg/maps/ctmap`
 * @since 0.1.0
 */
import { checkSize } from "./CodecError.ts"
import * as CtEntryFlags from "./CtEntryFlags.ts"
import * as NatEntry from "./NatEntry.ts"
import type * as Tuple from "./Tuple.ts"
import * as TupleFlags from "./TupleFlags.ts"

/**
 * What goes from the NAT map when a CT entry is deleted.
 *
 * @since 0.1.0
 */
export type CleanUp = "none" | "mapping" | "swapped-mapping"

/**
 * What goes from the NAT map together with a CT entry.
 *
 * **Details**
 *
 * Only plain egress entries own a mapping: any other tuple flag, known or not, means none. A direct-server-return
 * entry owns the swapped one, which has no reverse half.
 *
 * **Example** (By tuple flags and entry flags)
 *
 * ```ts
 * import { CtEntryFlags, NatDerivation, TupleFlags } from "ctmap-core"
 *
 * NatDerivation.cleanUp(TupleFlags.OUT, 0) // => "mapping"
 * NatDerivation.cleanUp(TupleFlags.OUT, CtEntryFlags.DSRInternal) // => "swapped-mapping"
 * NatDerivation.cleanUp(TupleFlags.SERVICE, 0) // => "none"
 * ```
 *
 * @since 0.1.0
 */
export const cleanUp = (tupleFlags: number, entryFlags: number): CleanUp =>
  tupleFlags !== TupleFlags.OUT ? "none" : (entryFlags & CtEntryFlags.DSRInternal) !== 0 ? "swapped-mapping" : "mapping"

/**
 * The OUT mapping of an egress CT entry: `D S dp sp` becomes `S D dp sp`, flags OUT.
 *
 * **Details**
 *
 * Shape: both arrays are one key of the tuple's size, and must not overlap. Errors: throws `CodecError` for any other
 * size. Ownership: writes `into`, allocates nothing. The same holds for all derivations here.
 *
 * @since 0.1.0
 */
export const natOutOfCt = (tuple: Tuple.Shape, ctKey: Uint8Array, into: Uint8Array): void => {
  begin(tuple, ctKey, into)
  copyAddress(tuple, into, tuple.daddr, ctKey, tuple.saddr)
  copyAddress(tuple, into, tuple.saddr, ctKey, tuple.daddr)
  into[tuple.flags] = TupleFlags.OUT
}

/**
 * The OUT mapping of a direct-server-return CT entry: `D S dp sp` becomes `D S sp dp`, flags OUT.
 *
 * @since 0.1.0
 */
export const swappedNatOutOfCt = (tuple: Tuple.Shape, ctKey: Uint8Array, into: Uint8Array): void => {
  begin(tuple, ctKey, into)
  copyPort(into, tuple.dport, ctKey, tuple.sport)
  copyPort(into, tuple.sport, ctKey, tuple.dport)
  into[tuple.flags] = TupleFlags.OUT
}

/**
 * The IN half of a mapping, from its OUT key and value: source `D:dp`, destination the translated address, flags IN.
 *
 * @since 0.1.0
 */
export const natInOfNatOut = (
  tuple: Tuple.Shape,
  natOut: { readonly key: Uint8Array; readonly value: Uint8Array },
  into: Uint8Array
): void => {
  const nat = beginWithValue(tuple, natOut, into)
  copyAddress(tuple, into, tuple.daddr, natOut.value, nat.address)
  copyAddress(tuple, into, tuple.saddr, natOut.key, tuple.daddr)
  copyPort(into, tuple.dport, natOut.value, nat.port)
  copyPort(into, tuple.sport, natOut.key, tuple.dport)
  into[tuple.flags] = TupleFlags.IN
}

/**
 * The CT entry behind an IN mapping: `value.address S sp value.port`, flags OUT.
 *
 * @since 0.1.0
 */
export const ctOfNatIn = (
  tuple: Tuple.Shape,
  natIn: { readonly key: Uint8Array; readonly value: Uint8Array },
  into: Uint8Array
): void => {
  const nat = beginWithValue(tuple, natIn, into)
  copyAddress(tuple, into, tuple.daddr, natIn.value, nat.address)
  copyAddress(tuple, into, tuple.saddr, natIn.key, tuple.saddr)
  copyPort(into, tuple.dport, natIn.key, tuple.sport)
  copyPort(into, tuple.sport, natIn.value, nat.port)
  into[tuple.flags] = TupleFlags.OUT
}

/**
 * The CT entry behind an OUT mapping: `D S dp sp` becomes `S D dp sp`, flags OUT. The same exchange as
 * {@link natOutOfCt}, which undoes itself.
 *
 * @since 0.1.0
 */
export const ctOfNatOut = natOutOfCt

/**
 * The CT entry behind an OUT mapping that direct server return made: `D S dp sp` becomes `D S sp dp`, flags OUT. Such an
 * entry keeps the mapping alive only if it carries `DSRInternal`.
 *
 * @since 0.1.0
 */
export const dsrCtOfNatOut = swappedNatOutOfCt

const begin = (tuple: Tuple.Shape, from: Uint8Array, into: Uint8Array): void => {
  checkSize(`${tuple.family} tuple`, from, tuple.size)
  checkSize(`${tuple.family} tuple`, into, tuple.size)
  into.set(from)
}

const beginWithValue = (
  tuple: Tuple.Shape,
  from: { readonly key: Uint8Array; readonly value: Uint8Array },
  into: Uint8Array
): NatEntry.Shape => {
  const nat = NatEntry.shape(tuple.family)
  checkSize(`${tuple.family} NAT entry`, from.value, nat.size)
  begin(tuple, from.key, into)
  return nat
}

const copyAddress = (tuple: Tuple.Shape, into: Uint8Array, at: number, from: Uint8Array, fromAt: number): void => {
  for (let i = 0; i < tuple.addressSize; i++) into[at + i] = from[fromAt + i]!
}

const copyPort = (into: Uint8Array, at: number, from: Uint8Array, fromAt: number): void => {
  into[at] = from[fromAt]!
  into[at + 1] = from[fromAt + 1]!
}
