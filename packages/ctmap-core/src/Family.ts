/**
 * The two address families. Everything that differs between IPv4 and IPv6 maps follows from the width of an address,
 * so the rest of the package is written once and takes a family.
 *
 * @since 0.1.0
 */
import * as Schema from "effect/Schema"

/**
 * `"ipv4"` or `"ipv6"`: the spelling of Cilium's metric labels. The API list calls it `CTMapIPVersion` (0 and 1).
 *
 * @since 0.1.0
 */
export const Family = Schema.Literals(["ipv4", "ipv6"])

/**
 * See {@link Family}.
 *
 * @since 0.1.0
 */
export type Family = typeof Family.Type

/**
 * Both families, IPv4 first: the order of every list of maps.
 *
 * @since 0.1.0
 */
export const all: ReadonlyArray<Family> = ["ipv4", "ipv6"]

/**
 * Bytes of one address: 4 or 16.
 *
 * **Example** (Address widths)
 *
 * ```ts
 * import { Family } from "ctmap-core"
 *
 * Family.addressSize("ipv4") // => 4
 * Family.addressSize("ipv6") // => 16
 * ```
 *
 * @since 0.1.0
 */
export const addressSize = (family: Family): 4 | 16 => (family === "ipv4" ? 4 : 16)
