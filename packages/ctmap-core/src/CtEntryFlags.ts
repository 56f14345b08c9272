/**
 * The 16-bit flag word of a CT value (offset 36, little-endian bit-field of `struct ct_entry`).
 *
 * Bits without a name are kept by every codec. Big-endian hosts allocate the bit-field from the other end; ctmap
 * refuses such hosts when it opens the kernel, so this table is the only one.
 *
 * @since 0.1.0
 */

/** The reply direction saw FIN or RST. @since 0.1.0 */
export const RxClosing = 0x0001
/** The original direction saw FIN or RST. @since 0.1.0 */
export const TxClosing = 0x0002
/** NAT46/64; unused since 1.12. @since 0.1.0 */
export const Nat64 = 0x0004
/** A service whose backend is the client itself. @since 0.1.0 */
export const LBLoopback = 0x0008
/** Something other than a SYN was seen: the handshake got past its first packet. @since 0.1.0 */
export const SeenNonSyn = 0x0010
/** The flow came through a NodePort service. @since 0.1.0 */
export const NodePort = 0x0020
/** The flow is redirected to the L7 proxy. @since 0.1.0 */
export const ProxyRedirect = 0x0040
/** Direct server return on the backend's node: NAT clean-up uses the swapped mapping. @since 0.1.0 */
export const DSRInternal = 0x0080
/** The flow comes from the L7 load balancer. @since 0.1.0 */
export const FromL7LB = 0x0100
/** Unused since 1.14; printed neither by name nor as unknown. @since 0.1.0 */
export const Reserved1 = 0x0200
/** The flow arrived through the tunnel. @since 0.1.0 */
export const FromTunnel = 0x0400
/** Not a flag: one past the last. @since 0.1.0 */
export const MaxFlags = 0x0800

/** Bits 11..15: no name in any release. @since 0.1.0 */
export const UNKNOWN_MASK = 0xf800

/**
 * The named flags in the order in which they print. `Reserved1` is missing on purpose.
 *
 * @since 0.1.0
 */
export const named: ReadonlyArray<{ readonly name: string; readonly bit: number }> = [
  { name: "RxClosing", bit: RxClosing },
  { name: "TxClosing", bit: TxClosing },
  { name: "Nat64", bit: Nat64 },
  { name: "LBLoopback", bit: LBLoopback },
  { name: "SeenNonSyn", bit: SeenNonSyn },
  { name: "NodePort", bit: NodePort },
  { name: "ProxyRedirect", bit: ProxyRedirect },
  { name: "DSRInternal", bit: DSRInternal },
  { name: "FromL7LB", bit: FromL7LB },
  { name: "FromTunnel", bit: FromTunnel }
]

/**
 * Names of the flags that are set, in print order.
 *
 * **Example** (A connection that is closing)
 *
 * ```ts
 * import { CtEntryFlags } from "ctmap-core"
 *
 * CtEntryFlags.names(0x0011) // => ["RxClosing", "SeenNonSyn"]
 * CtEntryFlags.names(0x0200) // => []
 * ```
 *
 * @since 0.1.0
 */
export const names = (flags: number): Array<string> =>
  named.filter(({ bit }) => (flags & bit) !== 0).map(({ name }) => name)

/**
 * The flag word as Cilium prints it.
 *
 * **Example** (Known, unknown and silent bits)
 *
 * ```ts
 * import { CtEntryFlags } from "ctmap-core"
 *
 * CtEntryFlags.format(0x0011) // => "Flags=0x0011 [ RxClosing SeenNonSyn ]"
 * CtEntryFlags.format(0x0800) // => "Flags=0x0800 [ Unknown=0x0800 ]"
 * CtEntryFlags.format(0x0200) // => "Flags=0x0200 [ ]"
 * ```
 *
 * @since 0.1.0
 */
export const format = (flags: number): string => {
  let text = `Flags=0x${hex4(flags)} [ `
  for (const { name, bit } of named) if ((flags & bit) !== 0) text += `${name} `
  const unknown = flags & UNKNOWN_MASK
  if (unknown !== 0) text += `Unknown=0x${hex4(unknown)} `
  return `${text}]`
}

const hex4 = (n: number): string => n.toString(16).padStart(4, "0")
