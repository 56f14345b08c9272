/**
 * The Cilium release whose byte layout and wording is meant.
 *
 * Owns one literal type and nothing else. Layouts, renderers and JSON writers take a `Release` where the two
 * supported generations differ; everything that does not take one is the same in both.
 *
 * @since 0.1.0
 */
import * as Schema from "effect/Schema"

/**
 * `"1.17"` stands for Cilium 1.17 and 1.18, `"1.20"` for 1.20.
 *
 * **Details**
 *
 * The differences are four: bytes 0..15 and 40..41 of a CT value (plain fields before, a union with the NAT address
 * and `nat_port` since), the last words of the entry's text line, the protocol names that are known, and whether an
 * IPv4-mapped IPv6 address prints as a bare dotted quad (1.17) or with `::ffff:` (1.20).
 *
 * **Example** (Checking a value from outside)
 *
 * ```ts
 * import { Release } from "ctmap-core"
 * import * as Schema from "effect/Schema"
 *
 * Schema.is(Release.Release)("1.17") // => true
 * Schema.is(Release.Release)("1.9") // => false
 * ```
 *
 * @since 0.1.0
 */
export const Release = Schema.Literals(["1.17", "1.20"])

/**
 * See {@link Release}.
 *
 * @since 0.1.0
 */
export type Release = typeof Release.Type

/**
 * Every release, oldest first.
 *
 * @since 0.1.0
 */
export const all: ReadonlyArray<Release> = ["1.17", "1.20"]
