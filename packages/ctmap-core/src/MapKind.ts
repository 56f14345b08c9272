/**
 * The kinds of CT map: which family, which protocols, one endpoint's or everybody's.
 *
 * A kind is plain data with its own fields, so code asks `kind.family` instead of decoding a number. Cilium numbers
 * its kinds; the numbers are here for those who meet them in logs.
 *
 * @see `pkg/maps/ctmap/types.go` of Cilium, `mapType`
 * @since 0.1.0
 */
import type { Scope } from "./CtKey.ts"
import type { Family } from "./Family.ts"
import * as Protocol from "./Protocol.ts"

/**
 * Which protocols a map holds: `"tcp"` only TCP, `"any"` everything else. The API list calls the second "Any".
 *
 * @since 0.1.0
 */
export type Transport = "tcp" | "any"

/**
 * A kind of CT map.
 *
 * @since 0.1.0
 */
export interface MapKind {
  readonly family: Family
  readonly transport: Transport
  readonly scope: Scope
}

/**
 * The short name of a kind, the same for local and global maps.
 *
 * @since 0.1.0
 */
export type ShortName = "tcp4" | "any4" | "tcp6" | "any6"

const kind = (family: Family, transport: Transport, scope: Scope): MapKind => ({ family, transport, scope })

/**
 * The kinds of global maps in the order of every list: TCP4, Any4, TCP6, Any6.
 *
 * @since 0.1.0
 */
export const globals: readonly [tcp4: MapKind, any4: MapKind, tcp6: MapKind, any6: MapKind] = [
  kind("ipv4", "tcp", "global"),
  kind("ipv4", "any", "global"),
  kind("ipv6", "tcp", "global"),
  kind("ipv6", "any", "global")
]

/**
 * The kinds of one endpoint's maps, in the same order.
 *
 * @since 0.1.0
 */
export const locals: readonly [tcp4: MapKind, any4: MapKind, tcp6: MapKind, any6: MapKind] = [
  kind("ipv4", "tcp", "local"),
  kind("ipv4", "any", "local"),
  kind("ipv6", "tcp", "local"),
  kind("ipv6", "any", "local")
]

/**
 * Kinds of the families that are switched on, in list order: Cilium's `GlobalMaps` and `LocalMaps` before anything is
 * opened.
 *
 * **Example** (IPv6 only)
 *
 * ```ts
 * import { MapKind } from "ctmap-core"
 *
 * MapKind.select("global", { ipv4: false, ipv6: true }).map(MapKind.shortName) // => ["tcp6", "any6"]
 * ```
 *
 * @since 0.1.0
 */
export const select = (
  scope: Scope,
  families: { readonly ipv4: boolean; readonly ipv6: boolean }
): ReadonlyArray<MapKind> => (scope === "global" ? globals : locals).filter(({ family }) => families[family])

/**
 * Which map a protocol's entries live in: 6 is TCP, everything else is not.
 *
 * @since 0.1.0
 */
export const transportOf = (protocol: number): Transport => (protocol === Protocol.TCP ? "tcp" : "any")

/** `tcp4`, `any4`, `tcp6` or `any6`. @since 0.1.0 */
export const shortName = (self: MapKind): ShortName => `${self.transport}${self.family === "ipv4" ? 4 : 6}`

/**
 * The macro under which BPF programs know the map.
 *
 * **Example** (Macro and description)
 *
 * ```ts
 * import { MapKind } from "ctmap-core"
 *
 * MapKind.macro(MapKind.globals[1]) // => "CT_MAP_ANY4"
 * MapKind.describe(MapKind.locals[2]) // => "Local IPv6 TCP CT map"
 * ```
 *
 * @since 0.1.0
 */
export const macro = (self: MapKind): string => `CT_MAP_${shortName(self).toUpperCase()}`

/** Cilium's `String` of a kind, e.g. `Global IPv6 non-TCP CT map`. @since 0.1.0 */
export const describe = (self: MapKind): string =>
  `${self.scope === "global" ? "Global" : "Local"} ${self.family === "ipv4" ? "IPv4" : "IPv6"} ${self.transport === "tcp" ? "TCP" : "non-TCP"} CT map`

/**
 * The number Cilium 1.17 gives the kind, 0..7.
 *
 * @since 0.1.0
 */
export const number = (self: MapKind): number =>
  (self.transport === "any" ? 4 : 0) + (self.scope === "global" ? 2 : 0) + (self.family === "ipv6" ? 1 : 0)

/**
 * The kind with Cilium 1.17's number, or `undefined` where there is none.
 *
 * @since 0.1.0
 */
export const fromNumber = (n: number): MapKind | undefined => [...locals, ...globals].find((k) => number(k) === n)

/** The `protocol` label of Cilium's metrics. @since 0.1.0 */
export const metricProtocol = (self: MapKind): "TCP" | "non-TCP" => (self.transport === "tcp" ? "TCP" : "non-TCP")
