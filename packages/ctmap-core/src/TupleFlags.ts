/**
 * The flag byte of a tuple: `TUPLE_F_*` of Cilium's `bpf/lib/common.h`.
 *
 * @since 0.1.0
 */

/** Egress: the entry was made by a packet that left an endpoint. It is the absence of {@link IN}. @since 0.1.0 */
export const OUT = 0

/** Ingress: the entry was made by a packet that entered an endpoint. @since 0.1.0 */
export const IN = 1

/** The companion entry of a flow that admits its ICMP errors. @since 0.1.0 */
export const RELATED = 2

/** A load-balanced service: which backend a client's connection to a virtual address uses. @since 0.1.0 */
export const SERVICE = 4

/**
 * What a flag byte says of the direction, in Cilium's order of precedence: service, then in, then out.
 *
 * @since 0.1.0
 */
export type Direction = "out" | "in" | "service"

/**
 * The direction of a tuple. Unknown bits do not matter.
 *
 * **Example** (The service bit wins)
 *
 * ```ts
 * import { TupleFlags } from "ctmap-core"
 *
 * TupleFlags.direction(TupleFlags.OUT | TupleFlags.RELATED) // => "out"
 * TupleFlags.direction(TupleFlags.SERVICE | TupleFlags.IN) // => "service"
 * ```
 *
 * @since 0.1.0
 */
export const direction = (flags: number): Direction =>
  (flags & SERVICE) !== 0 ? "service" : (flags & IN) !== 0 ? "in" : "out"

/**
 * Whether the tuple is the companion entry that admits ICMP errors.
 *
 * @since 0.1.0
 */
export const isRelated = (flags: number): boolean => (flags & RELATED) !== 0
