/**
 * The `#define` lines that tell the datapath's C code which maps to use: Cilium's `WriteBPFMacros`.
 *
 * @since 0.1.0
 */
import * as MapKind from "./MapKind.ts"
import * as MapLimits from "./MapLimits.ts"
import * as MapName from "./MapName.ts"

/**
 * Six lines, each with its newline: four map names (both families always) and the two sizes.
 *
 * **Example** (Maps of one endpoint)
 *
 * ```ts
 * import { BpfMacros } from "ctmap-core"
 *
 * BpfMacros.format({ endpointId: 1234 }).split("\n").slice(0, 2)
 * // => ["#define CT_MAP_TCP4 cilium_ct4_01234", "#define CT_MAP_ANY4 cilium_ct_any4_01234"]
 * BpfMacros.format().split("\n")[4] // => "#define CT_MAP_SIZE_TCP 524288"
 * ```
 *
 * @since 0.1.0
 */
export const format = (
  options: {
    /** Use this endpoint's own maps; without it, the global ones. */
    readonly endpointId?: bigint | number
    readonly limits?: MapLimits.MapLimits
  } = {}
): string => {
  const kinds = options.endpointId === undefined ? MapKind.globals : MapKind.locals
  const [tcp, any] = kinds
  return [
    ...kinds.map((kind) => `${MapKind.macro(kind)} ${MapName.of(kind, options.endpointId)}`),
    `CT_MAP_SIZE_TCP ${MapLimits.ctMaxEntries(tcp, options.limits)}`,
    `CT_MAP_SIZE_ANY ${MapLimits.ctMaxEntries(any, options.limits)}`
  ]
    .map((line) => `#define ${line}\n`)
    .join("")
}
